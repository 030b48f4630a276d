//! The members of the piece layer that the status page shows, and those that went away.
//!
//! A member that does not answer is struck off the list after some seconds; who looks at the page later wants to know that it
//! was there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lacewing_p2p::driver::PeerStatus;
use serde::Serialize;

/// Between two looks at the members. One costs a message to the piece layer's task.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// A peer that has been away for longer is history, in milliseconds.
const REMEMBERED_MS: u64 = 24 * 3600 * 1000;
/// Peers away that are remembered: a page that can be read. The latest are kept.
const MAX_GONE: usize = 100;

/// What a peer is to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// There is a connection to it.
    Connected,
    /// A member that is not needed now.
    Member,
    /// No member any more.
    Gone,
}

/// One row of the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Peer {
    /// HOST:PORT, as a member.
    pub(super) address: SocketAddr,
    pub(super) zone: String,
    pub(super) state: State,
    /// When it came, or went; milliseconds since 1970.
    pub(super) since_ms: u64,
    /// Verified bytes from it.
    pub(super) from_bytes: u64,
    /// Bytes to it.
    pub(super) to_bytes: u64,
}

/// All that were seen.
#[derive(Debug, Default)]
pub(super) struct Roll {
    peers: BTreeMap<SocketAddr, Peer>,
}

impl Roll {
    /// Takes down who is there at `now_ms`.
    pub(super) fn look(&mut self, members: Vec<PeerStatus>, now_ms: u64) {
        let mut before = std::mem::take(&mut self.peers);
        for member in members {
            let state = match member.linked {
                true => State::Connected,
                false => State::Member,
            };
            let known = before
                .remove(&member.address)
                .filter(|peer| peer.state != State::Gone);
            let peer = Peer {
                address: member.address,
                zone: member.zone,
                state,
                since_ms: known.map_or(now_ms, |peer| peer.since_ms),
                from_bytes: member.traffic.from,
                to_bytes: member.traffic.to,
            };
            self.peers.insert(peer.address, peer);
        }
        let mut gone: Vec<Peer> = before
            .into_values()
            .map(|peer| match peer.state {
                State::Gone => peer,
                State::Connected | State::Member => Peer {
                    state: State::Gone,
                    since_ms: now_ms,
                    ..peer
                },
            })
            .filter(|peer| now_ms.saturating_sub(peer.since_ms) < REMEMBERED_MS)
            .collect();
        gone.sort_by_key(|peer| std::cmp::Reverse(peer.since_ms));
        gone.truncate(MAX_GONE);
        self.peers
            .extend(gone.into_iter().map(|peer| (peer.address, peer)));
    }

    /// By address.
    pub(super) fn all(&self) -> Vec<Peer> {
        self.peers.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lacewing_p2p::driver::Traffic;

    fn member(number: u16, linked: bool) -> PeerStatus {
        PeerStatus {
            address: SocketAddr::from(([127, 0, 0, 1], number)),
            zone: "z".to_owned(),
            leaf: false,
            linked,
            traffic: Traffic { from: 7, to: 8 },
        }
    }

    fn states(roll: &Roll) -> Vec<(State, u64)> {
        roll.all()
            .iter()
            .map(|peer| (peer.state, peer.since_ms))
            .collect()
    }

    #[test]
    fn who_went_away_is_remembered_and_may_come_back() {
        let mut roll = Roll::default();
        roll.look(vec![member(1, true), member(2, false)], 10);
        assert_eq!(states(&roll), [(State::Connected, 10), (State::Member, 10)]);
        roll.look(vec![member(1, false)], 20);
        assert_eq!(states(&roll), [(State::Member, 10), (State::Gone, 20)]);
        roll.look(vec![member(1, false)], 30);
        assert_eq!(states(&roll)[1], (State::Gone, 20));
        assert_eq!(roll.all()[1].from_bytes, 7);
        roll.look(vec![member(1, false), member(2, true)], 40);
        assert_eq!(states(&roll), [(State::Member, 10), (State::Connected, 40)]);
    }

    #[test]
    fn what_is_remembered_has_bounds() {
        let mut roll = Roll::default();
        roll.look((1..=300).map(|number| member(number, true)).collect(), 1);
        roll.look(vec![], 2);
        assert_eq!(roll.all().len(), MAX_GONE);
        roll.look(vec![], 2 + REMEMBERED_MS);
        assert_eq!(roll.all(), []);
    }
}
