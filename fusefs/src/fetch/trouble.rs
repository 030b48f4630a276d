//! Says once what goes wrong with a pack, and again only after it went right.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use lacewing_format::Digest;
use tracing::warn;

use crate::error::ReadError;
use crate::store::pack::PackNumber;

/// The last failure of each pack that has one.
#[derive(Default)]
pub(crate) struct Trouble {
    /// Spares the common case the lock.
    any: AtomicBool,
    packs: Mutex<HashMap<PackNumber, ReadError>>,
}

impl Trouble {
    /// Notes a failure; logs it if the pack's last one was of another kind.
    pub(crate) fn note(&self, pack: PackNumber, blob: Digest, layer: Digest, error: &ReadError) {
        let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        let before = packs.insert(pack, error.clone());
        self.any.store(true, Ordering::Release);
        let kind = std::mem::discriminant(error);
        if before.is_none_or(|before| std::mem::discriminant(&before) != kind) {
            warn!(pack, %blob, %layer, %error, "bytes of a layer cannot be had");
        }
    }

    /// Notes that bytes came.
    pub(crate) fn over(&self, pack: PackNumber) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        packs.remove(&pack);
        self.any.store(!packs.is_empty(), Ordering::Release);
    }

    /// The last failure of a pack, if nothing came since.
    pub(crate) fn of(&self, pack: PackNumber) -> Option<String> {
        let packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        packs.get(&pack).map(ToString::to_string)
    }
}
