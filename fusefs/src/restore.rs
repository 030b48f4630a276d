//! Opening what an earlier process left: packs, layers, and nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tracing::error;

use crate::catalogue::{Catalogue, LayerEntry};
use crate::error::Result;
use crate::indexes::Indexes;
use crate::layer::Layer;
use crate::report::LayerId;
use crate::store::pack::{BootId, Identity, Pack};
use crate::store::space::Space;
use crate::volumes::{Volume, Volumes};

/// What there is.
pub(crate) struct Restored {
    /// Packs by number.
    pub(crate) volumes: Arc<Volumes>,
    /// Layers by number.
    pub(crate) layers: BTreeMap<LayerId, Arc<Layer>>,
}

/// Opens all packs and layers of the catalogue and deletes files that it does not name.
pub(crate) fn restore(
    root: &Path,
    indexes: &Indexes,
    catalogue: &mut Catalogue,
    boot: BootId,
    space: &Arc<Space>,
) -> Result<Restored> {
    let mut loaded = Vec::new();
    let entries: Vec<(u64, LayerEntry)> = catalogue
        .layers()
        .iter()
        .map(|(number, entry)| (*number, entry.clone()))
        .collect();
    let catalogue_len = entries.len();
    for (number, entry) in entries {
        match indexes.load(entry.index, entry.plain_len, catalogue.checked()) {
            Ok(index) => loaded.push((LayerId(number), entry, Arc::new(index))),
            Err(error) => {
                error!(layer = number, %error, "a layer is lost and must be pulled again");
                catalogue.remove_layer(number);
            }
        }
    }
    // Nothing is flushed at an ordinary start: readers may be waiting for us.
    if !catalogue.checked() || loaded.len() != catalogue_len {
        catalogue.save()?;
    }
    let dir = root.join("packs");
    let volumes = Arc::new(Volumes::default());
    for (number, entry) in catalogue.packs() {
        let identity = Identity {
            number: *number,
            blob: entry.blob,
            blocks: entry.blocks,
        };
        volumes.insert(Arc::new(Volume::new(Pack::open(&dir, identity, boot, space)?)));
    }
    let mut layers = BTreeMap::new();
    for (id, entry, index) in loaded {
        let packs = entry.packs.iter().filter_map(|pack| volumes.get(*pack)).collect();
        layers.insert(id, Arc::new(Layer::new(id, entry.index, index, packs)));
    }
    for volume in volumes.all() {
        volume.give_up_undescribed()?;
    }
    clean_up(&dir, &volumes);
    indexes.retain(|name| layers.values().any(|layer| layer.digest.hex() == name));
    Ok(Restored { volumes, layers })
}

/// Deletes files of packs that the catalogue does not name.
fn clean_up(dir: &Path, volumes: &Volumes) {
    let Ok(files) = std::fs::read_dir(dir) else { return };
    for file in files.flatten() {
        let name = file.file_name();
        let number = name
            .to_string_lossy()
            .split('.')
            .next()
            .and_then(|text| text.parse().ok());
        if number.is_none_or(|number| volumes.get(number).is_none()) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}
