//! Signs of life: when a connection is asked for one, and when it is given up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Shared;
use crate::transport::TransportError;
use crate::transport::limits::{HANDSHAKE, PING_EVERY, SILENCE};
use crate::transport::message::Message;

/// When a connection is asked for a sign of life, and when it is given up.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A connection on which nothing came is asked after so long.
    pub ping_every: Duration,
    /// Without a sign of life for so long it is closed.
    pub silence: Duration,
    /// TCP, TLS and greeting have so long.
    pub handshake: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            ping_every: PING_EVERY,
            silence: SILENCE,
            handshake: HANDSHAKE,
        }
    }
}

/// When something came last.
pub(super) struct Liveness {
    begun: Instant,
    /// Milliseconds since `begun` when bytes last came.
    heard: AtomicU64,
}

impl Liveness {
    /// Something came just now.
    pub(super) fn new() -> Liveness {
        Liveness {
            begun: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }

    /// Milliseconds of the connection's life.
    pub(super) fn age_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Something came.
    pub(super) fn hear(&self) {
        self.heard.store(self.age_ms(), Ordering::Relaxed);
    }

    /// How long nothing has come.
    pub(super) fn silent(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(heard)
    }
}

/// Asks for signs of life, and ends when none came.
pub(super) async fn watch(shared: &Shared, timing: Timing) -> Result<(), TransportError> {
    // How long nothing had come when it was asked last, and when that was that something had come.
    let (mut asked, mut since) = (Duration::ZERO, 0);
    loop {
        let heard = shared.liveness.heard.load(Ordering::Relaxed);
        if heard != since {
            (asked, since) = (Duration::ZERO, heard);
        }
        let silent = shared.liveness.silent();
        if silent >= timing.silence {
            return Err(TransportError::Silent);
        }
        if silent >= asked + timing.ping_every {
            asked = silent;
            shared.queue(Message::Ping);
        }
        // Exactly when something may have to be done: an idle node has hundreds of connections.
        let next = (asked + timing.ping_every).min(timing.silence);
        tokio::time::sleep(next.saturating_sub(silent)).await;
    }
}
