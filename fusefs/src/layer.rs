//! A layer: its index, its packs, how much of it is here.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lacewing_format::Digest;
use lacewing_format::limits::BLOCK;

use crate::indexes::MappedIndex;
use crate::report::LayerId;
use crate::volumes::{Description, Volume, frame_blocks};

/// The layers of a node.
pub(crate) type Layers = RwLock<BTreeMap<LayerId, Arc<Layer>>>;

/// A device of a layer.
pub(crate) struct Part {
    /// The pack.
    pub(crate) volume: Arc<Volume>,
    /// The layer's index as a description of it.
    pub(crate) of: Arc<Description>,
}

/// A layer of the catalogue.
pub(crate) struct Layer {
    /// Its number.
    pub(crate) id: LayerId,
    /// Digest of its stored index.
    pub(crate) digest: Digest,
    /// Its index.
    pub(crate) index: Arc<MappedIndex>,
    /// Its devices, in the index's order.
    pub(crate) parts: Vec<Part>,
    /// Held while it is mounted or unmounted.
    pub(crate) mounting: Mutex<()>,
    /// Whether it was removed.
    pub(crate) gone: AtomicBool,
    /// All frames before this one have been seen valid, and in which epoch of its packs.
    seen: Mutex<(u64, usize)>,
}

impl Layer {
    /// Makes a layer and attaches its index to its packs.
    pub(crate) fn new(
        id: LayerId,
        digest: Digest,
        index: Arc<MappedIndex>,
        volumes: Vec<Arc<Volume>>,
    ) -> Layer {
        let parts = volumes.into_iter().enumerate().map(|(device, volume)| {
            let of = Arc::new(Description {
                layer: id,
                index: index.clone(),
                device,
            });
            volume.attach(of.clone());
            Part { volume, of }
        });
        let parts = parts.collect();
        Layer {
            id,
            digest,
            index,
            parts,
            mounting: Mutex::new(()),
            gone: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    /// Whether a frame is here.
    pub(crate) fn has(&self, frame: usize) -> bool {
        let view = self.index.view();
        let part = self.parts.get(view.frame_device(frame));
        part.is_some_and(|part| part.volume.pack.bits().all(frame_blocks(&view, frame)))
    }

    /// Whether all its frames are here. Looks at each frame once as long as nothing is given up.
    pub(crate) fn complete(&self) -> bool {
        let count = self.index.view().frames().len();
        let epochs = self.parts.iter().map(|part| part.volume.pack.epoch());
        let epoch = epochs.fold(0_u64, u64::wrapping_add);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != epoch {
            *seen = (epoch, 0);
        }
        if seen.1 == count {
            return true;
        }
        while seen.1 < count && self.has(seen.1) {
            seen.1 += 1;
        }
        if seen.1 == count {
            self.index.relax();
        }
        seen.1 == count
    }

    /// Plain bytes that are here, and in all, padding included.
    pub(crate) fn present(&self) -> (u64, u64) {
        let view = self.index.view();
        let (mut present, mut total) = (0, 0);
        for (device, part) in self.parts.iter().enumerate() {
            for frame in view.device_frames(device) {
                let blocks = frame_blocks(&view, frame);
                total += u64::from(blocks.end - blocks.start);
                present += u64::from(part.volume.pack.bits().count(blocks));
            }
        }
        (present * BLOCK as u64, total * BLOCK as u64)
    }

    /// Takes checkpoints of its packs.
    pub(crate) fn checkpoint(&self) -> crate::error::Result<()> {
        self.parts
            .iter()
            .try_for_each(|part| part.volume.pack.checkpoint())
    }
}
