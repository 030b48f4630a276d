//! Layers come in and go: their index, their entry in the catalogue, their packs.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use lacewing_format::Digest;

use super::{Engine, lock_of};
use crate::catalogue::{Catalogue, LayerEntry, PackEntry};
use crate::error::{Error, Result};
use crate::indexes::MappedIndex;
use crate::layer::Layer;
use crate::report::LayerId;
use crate::store::pack::{Identity, Pack};
use crate::volumes::Volume;

impl Engine {
    /// Takes in a layer's index in its stored form, whose digest the caller has verified. All of
    /// it is checked before anything is kept. Does nothing if the layer is known.
    pub fn add_layer(&self, stored: &[u8], digest: Digest) -> Result<LayerId> {
        if let Some(reason) = self.trees.obstacle() {
            return Err(Error::Unsupported {
                reason: reason.to_owned(),
            });
        }
        if let Some(known) = self.layer(&digest) {
            return Ok(known);
        }
        let index = Arc::new(self.indexes.add(stored, digest)?);
        let mut catalogue = lock_of(&self.catalogue);
        if let Some(known) = self.layer(&digest) {
            return Ok(known);
        }
        let before = catalogue.clone();
        let added = self.enter(&mut catalogue, &index, digest);
        let Ok((number, volumes)) = added else {
            *catalogue = before;
            return added.map(|(number, _)| LayerId(number));
        };
        volumes
            .iter()
            .for_each(|volume| self.volumes.insert(volume.clone()));
        let id = LayerId(number);
        let layer = Arc::new(Layer::new(id, digest, index, volumes));
        self.layers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, layer);
        Ok(id)
    }

    /// Enters a layer into the catalogue and finds or makes its packs.
    fn enter(
        &self,
        catalogue: &mut Catalogue,
        index: &MappedIndex,
        digest: Digest,
    ) -> Result<(u64, Vec<Arc<Volume>>)> {
        let view = index.view();
        let present = self.volumes.all();
        let dir = self.options.root.join("packs");
        let mut volumes: Vec<Arc<Volume>> = Vec::new();
        for (number, device) in view.devices().iter().enumerate() {
            let usable = |volume: &&Arc<Volume>| {
                volume.pack.identity().blob == device.blob()
                    && !volumes.iter().any(|taken| Arc::ptr_eq(taken, volume))
                    && volume.agrees(&view, number)
            };
            if let Some(volume) = present.iter().find(usable) {
                volumes.push(volume.clone());
                continue;
            }
            let entry = PackEntry {
                blob: device.blob(),
                blocks: device.blocks(),
            };
            let number = catalogue.add_pack(entry).ok_or_else(|| Error::Store {
                path: dir.clone(),
                reason: "all pack numbers are used up".into(),
            })?;
            let identity = Identity {
                number,
                blob: entry.blob,
                blocks: entry.blocks,
            };
            Pack::delete(&dir, number);
            let pack = Pack::open(&dir, identity, self.boot, &self.keeping.space)?;
            volumes.push(Arc::new(Volume::new(pack)));
        }
        let packs = volumes.iter().map(|volume| volume.pack.number()).collect();
        let plain_len = view.bytes().len() as u64;
        let number = catalogue.add_layer(LayerEntry {
            index: digest,
            plain_len,
            packs,
        });
        catalogue.save()?;
        Ok((number, volumes))
    }

    /// Unmounts and forgets a layer; packs that no other layer names are deleted.
    pub fn remove(&self, layer: LayerId) -> Result<()> {
        let layer = self.get(layer)?;
        self.hide(&layer)?;
        let mut catalogue = lock_of(&self.catalogue);
        let before = catalogue.clone();
        let orphans = catalogue.remove_layer(layer.id.0);
        if let Err(error) = catalogue.save() {
            *catalogue = before;
            return Err(error);
        }
        layer.gone.store(true, Ordering::Release);
        self.layers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&layer.id);
        for pack in &orphans {
            self.volumes.remove(*pack);
        }
        for part in &layer.parts {
            part.volume.detach(layer.id)?;
        }
        for pack in orphans {
            Pack::delete(&self.options.root.join("packs"), pack);
        }
        self.indexes.remove(&layer.digest);
        Ok(())
    }
}
