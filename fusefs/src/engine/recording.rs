//! What was read of layers, told as ranges of files.

mod files;

use std::collections::BTreeSet;

use super::Engine;
use crate::error::Result;
use crate::record::{FileRead, Recording};
use crate::report::LayerId;

impl Engine {
    /// Begins to note what is read of layers that are not shown as plain files. What the kernel has in its cache it does not
    /// ask for, and what is not asked for is not noted.
    ///
    /// # Errors
    /// [`crate::Error::TooManyRecordings`].
    pub fn record(&self) -> Result<Recording> {
        self.volumes().recorder.begin()
    }

    /// Ends a recording, and tells what was read of some layers, each byte once, in the order of first reads. Bytes that
    /// several files have are told for a few of them: which one was read cannot be known. Blocks while it walks the layers.
    pub fn recorded(&self, recording: Recording, layers: &BTreeSet<LayerId>) -> Vec<FileRead> {
        let reads = recording.take();
        drop(recording);
        let layers: Vec<_> = layers.iter().filter_map(|id| self.get(*id).ok()).collect();
        let told = files::of(&reads, &layers);
        layers.iter().for_each(|layer| layer.index.relax());
        told
    }
}
