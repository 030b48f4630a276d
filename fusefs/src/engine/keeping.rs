//! What of the store is kept, and what may be given up.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use super::{Engine, lock_of};
use crate::background::Limits;
use crate::error::Result;
use crate::evict::{Bounds, Evictor, sweep_all, used};
use crate::layer::Layer;
use crate::options::Options;
use crate::pace::Pace;
use crate::report::{Cleaned, LayerId, StoreStatus};
use crate::store::space::Space;
use crate::volumes::Volumes;

/// The engine's part in eviction.
pub(super) struct Keeping {
    bounds: Bounds,
    pub(super) space: Arc<Space>,
    pinned: Arc<RwLock<BTreeSet<LayerId>>>,
    /// Held while layers are promised to be kept whole.
    promising: Mutex<()>,
}

impl Keeping {
    pub(super) fn new(options: &Options) -> Keeping {
        let bounds = Bounds {
            quota: options.quota,
            free_floor: options.free_floor,
        };
        Keeping {
            bounds,
            space: Arc::new(bounds.space()),
            pinned: Arc::default(),
            promising: Mutex::default(),
        }
    }

    pub(super) fn limits(&self, pace: Pace) -> Limits {
        Limits {
            pace,
            space: self.space.clone(),
        }
    }

    pub(super) fn evictor(&self, root: &Path, volumes: &Arc<Volumes>) -> Evictor {
        Evictor {
            root: root.to_owned(),
            bounds: self.bounds,
            space: self.space.clone(),
            volumes: Arc::downgrade(volumes),
            pinned: self.pinned.clone(),
        }
    }
}

impl Engine {
    /// Whether a layer can be read as plain files: it is whole, and near the bounds of the store nothing is promised.
    pub(super) fn may_be_direct(&self, layer: &Layer) -> Result<bool> {
        if !layer.complete() {
            return Ok(false);
        }
        let own = layer.parts.iter().map(|part| &part.volume.pack);
        let new: u64 = own
            .filter(|pack| !pack.is_whole())
            .map(|pack| pack.allocated())
            .sum();
        let bytes = if new == 0 { 0 } else { self.whole_bytes() + new };
        Ok(self.keeping.bounds.allow_whole(bytes, &self.keeping.space) && self.promise(layer)?)
    }

    /// Promises that nothing of a layer is given up; `false` if it is not whole (any more).
    pub(super) fn promise(&self, layer: &Layer) -> Result<bool> {
        let _one = lock_of(&self.keeping.promising);
        let mut new = Vec::new();
        for part in &layer.parts {
            if part.volume.pack.make_whole()? {
                new.push(&part.volume.pack);
            }
        }
        // Only now can it be known: until here blocks may have been given up.
        let whole = layer.complete();
        if !whole {
            new.into_iter().for_each(|pack| pack.make_evictable());
        }
        Ok(whole)
    }

    /// Promises it for layers that an earlier process shows as plain files.
    pub(super) fn promise_shown(&self) -> Result<()> {
        for point in self.points()?.iter().filter(|point| point.direct) {
            let Ok(layer) = self.get(point.layer) else {
                continue;
            };
            if !self.trees.shown(&self.path_of(point)) {
                continue;
            }
            for part in &layer.parts {
                part.volume.pack.make_whole()?;
            }
        }
        Ok(())
    }

    fn whole_bytes(&self) -> u64 {
        let volumes = self.volumes.all();
        let whole = volumes.iter().filter(|volume| volume.pack.is_whole());
        whole.map(|volume| volume.pack.allocated()).sum()
    }

    /// Says which layers nothing is given up of, in place of those named before. They may still be removed.
    pub fn pin(&self, layers: impl IntoIterator<Item = LayerId>) {
        let layers = layers.into_iter().collect();
        *self
            .keeping
            .pinned
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = layers;
    }

    /// What the store takes, and its bounds.
    pub fn store_status(&self) -> StoreStatus {
        StoreStatus {
            used: used(&self.options.root),
            whole: self.whole_bytes(),
            quota: self.keeping.bounds.quota,
            free_floor: self.keeping.bounds.free_floor,
        }
    }

    /// Gives back disk space that no valid byte uses. Blocks while it walks the store.
    pub fn clean_up(&self) -> Cleaned {
        let before = used(&self.options.root);
        sweep_all(&self.volumes);
        Cleaned {
            bytes: before.saturating_sub(used(&self.options.root)),
        }
    }
}
