//! The registry: what nodes tell it, and whether it answers.

use std::time::Duration;

use lacewing_p2p::error::FetchError;

use super::super::link::Transfer;
use super::super::scenario::Fault;
use super::*;

/// A client without a route to the registry gives up after this.
const NO_ROUTE: Nanos = 50_000_000;

impl World {
    pub(super) fn tell_registry(&mut self, from: u32, call: Call) {
        if !self.parted(from, REGISTRY) {
            let at = self.now + self.one_way();
            self.push(at, What::AtRegistry(from, call));
        } else if let Call::Fetch(piece, _) = call {
            self.fail_at_registry(from, piece, None, self.now + NO_ROUTE);
        }
    }

    fn fail_at_registry(&mut self, to: u32, piece: PieceId, retry_after: Option<Duration>, at: Nanos) {
        let error = FetchError::Unavailable;
        let failed = Event::OriginFailed {
            piece,
            error,
            retry_after,
        };
        self.push(at, What::Message(to, failed));
    }

    pub(super) fn at_registry(&mut self, from: u32, call: Call) {
        let name = |world: &Self, piece: &PieceId| RequestId(world.number(piece) as u64);
        match call {
            Call::Fetch(piece, class) => {
                if let Some(retry_after) = self.registry_refuses() {
                    let at = self.now + self.one_way();
                    self.fail_at_registry(from, piece, retry_after, at);
                    return;
                }
                self.registry_pieces += 1;
                let number = self.number(&piece) as u32;
                let transfer = Transfer::new(from, name(self, &piece), number, piece.len, self.now);
                // A real one knows no classes.
                let class = self.scenario.daemon.map_or(class, |_| Class::Prefetch);
                self.registry.add(transfer, class as usize);
                self.start_link(REGISTRY);
            }
            Call::Cancel(piece) => self.registry.remove(from, name(self, &piece)),
            Call::Promote(_) if self.scenario.daemon.is_some() => {}
            Call::Promote(piece) => self.registry.promote(from, name(self, &piece)),
        }
    }

    /// Whether it answers with an error now, and how long it then wants to be left alone.
    fn registry_refuses(&self) -> Option<Option<Duration>> {
        self.scenario.faults.iter().find_map(|fault| match fault {
            Fault::RegistryGoneAfter(copies) => {
                (self.registry_pieces as f64 >= copies * self.scenario.pieces as f64).then_some(None)
            }
            Fault::RegistryLimits { until, retry_after } => {
                (self.now < nanos(*until)).then(|| Some(Duration::from_secs_f64(*retry_after)))
            }
            _ => None,
        })
    }
}
