//! When each part of a pack was last of use, for evicting by last use.
//!
//! The path of a hit knows nothing of it: which blocks were served is noted there in a bitmap that
//! is needed anyway, and carried over here every few seconds. Lost with the process: after a restart
//! all parts are equally old until they are read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

/// Blocks of a region, the unit of last use: 1 MiB, the plain bytes of the largest usual frame. At
/// some 12 bytes each, the regions of 100 GiB take about a megabyte.
pub(crate) const REGION: u32 = 256;

/// Last uses of a pack's regions, in seconds as [`now`] tells them.
#[derive(Debug, Default)]
pub(crate) struct Uses(Mutex<HashMap<u32, u32>>);

/// Seconds since the process first asked, counted from 1.
fn now() -> u32 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u32::try_from(START.elapsed().as_secs())
        .unwrap_or(u32::MAX)
        .saturating_add(1)
}

impl Uses {
    /// Notes that blocks are of use now.
    pub(super) fn note(&self, blocks: Range<u32>) {
        if blocks.is_empty() {
            return;
        }
        let now = now();
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for region in blocks.start / REGION..=(blocks.end - 1) / REGION {
            uses.insert(region, now);
        }
    }

    /// When a region was of use; 0 if that is not known.
    pub(crate) fn last(&self, region: u32) -> u32 {
        let uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uses.get(&region).copied().unwrap_or(0)
    }

    /// Forgets regions that have nothing left.
    pub(super) fn forget(&self, blocks: Range<u32>) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for region in blocks.start.div_ceil(REGION)..blocks.end / REGION {
            uses.remove(&region);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_a_range_touches_are_used() {
        let uses = Uses::default();
        uses.note(255..257);
        uses.note(5 * REGION..5 * REGION);
        let known: Vec<bool> = (0..6).map(|region| uses.last(region) > 0).collect();
        assert_eq!(known, [true, true, false, false, false, false]);
        uses.forget(1..2 * REGION);
        assert!(uses.last(0) > 0 && uses.last(1) == 0);
    }
}
