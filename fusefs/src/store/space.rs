//! How much the store may still take, as one number that every store takes from without a lock.
//!
//! Whoever watches the disk sets it now and then from what is really used; in between it is counted
//! down and up. At nothing, bytes are still delivered, only not kept.

use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::Notify;

/// Stands for no bound. Far from the ends of the type, so that counting cannot overflow.
const UNBOUNDED: i64 = i64::MAX / 2;

/// Room in the store.
#[derive(Debug)]
pub(crate) struct Space {
    /// Bytes that may be stored before the next measurement.
    room: AtomicI64,
    /// Below this much room the watcher is woken, and nothing is fetched ahead of need.
    low: i64,
    /// Wakes the watcher.
    woken: Notify,
    /// Bytes given up since the start.
    evicted: AtomicU64,
}

impl Space {
    /// Without bound.
    pub(crate) fn unbounded() -> Space {
        Space::below(UNBOUNDED, 0)
    }

    /// With this much room, and little of it below `low`.
    pub(crate) fn below(room: i64, low: i64) -> Space {
        Space {
            room: AtomicI64::new(room),
            low,
            woken: Notify::new(),
            evicted: AtomicU64::new(0),
        }
    }

    /// Takes room for `len` bytes.
    ///
    /// # Errors
    /// `QuotaExceeded` if there is not so much.
    pub(crate) fn take(&self, len: u64) -> io::Result<()> {
        let len = i64::try_from(len).unwrap_or(UNBOUNDED);
        let taken = self
            .room
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |room| {
                (room >= len).then(|| room - len)
            });
        match taken {
            Ok(before) if before - len >= self.low => Ok(()),
            Ok(_) => {
                self.woken.notify_one();
                Ok(())
            }
            Err(_) => {
                self.woken.notify_one();
                Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    "the room that the store may take is used up",
                ))
            }
        }
    }

    /// Gives room back.
    pub(crate) fn give(&self, len: u64) {
        let len = i64::try_from(len).unwrap_or(UNBOUNDED);
        let add = |room: i64| Some(room.saturating_add(len).min(UNBOUNDED));
        let _ = self.room.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
    }

    /// Notes bytes that were given up, and their room.
    pub(crate) fn evicted(&self, len: u64) {
        self.evicted.fetch_add(len, Ordering::Relaxed);
        self.give(len);
    }

    /// Bytes given up since the start.
    pub(crate) fn evicted_bytes(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// Sets the room to what was measured.
    pub(crate) fn set(&self, room: i64) {
        self.room.store(room.min(UNBOUNDED), Ordering::Release);
    }

    /// Bytes that may be stored; negative if too much is.
    pub(crate) fn room(&self) -> i64 {
        self.room.load(Ordering::Acquire)
    }

    /// Whether there is room for what nobody waits for.
    pub(crate) fn roomy(&self) -> bool {
        self.room() >= self.low
    }

    /// Has the watcher look at once.
    pub(crate) fn wake(&self) {
        self.woken.notify_one();
    }

    /// Waits until the watcher should look.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn room_is_taken_and_given_back() {
        let space = Space::below(100, 30);
        space.take(70).unwrap();
        assert!(space.roomy());
        space.take(20).unwrap();
        assert!(!space.roomy());
        let error = space.take(11).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        space.take(10).unwrap();
        space.give(40);
        assert_eq!(space.room(), 40);
        space.set(-5);
        assert!(space.take(1).is_err());
        space.evicted(7);
        assert_eq!((space.room(), space.evicted_bytes()), (2, 7));
    }

    #[test]
    fn no_bound_stays_none() {
        let space = Space::unbounded();
        for _ in 0..10 {
            space.take(u64::from(u32::MAX)).unwrap();
        }
        space.give(u64::MAX);
        assert_eq!(space.room(), UNBOUNDED);
        assert!(space.roomy());
    }
}
