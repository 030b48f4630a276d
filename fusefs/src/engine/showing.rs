//! Where layers are shown, and how they come there.

use std::path::PathBuf;

use super::{Engine, lock_of};
use crate::background::{self, Ask};
use crate::error::{Error, IoContext, Result};
use crate::layer::Layer;
use crate::mount_point::MountPoint;
use crate::options::Way;
use crate::report::{LayerId, Shown};
use crate::trees::TreeParts;

impl Engine {
    /// Mounts a layer, directly if it is complete. Does nothing if it is mounted already.
    pub fn show(&self, layer: LayerId) -> Result<Shown> {
        self.show_copy(layer, 0)
    }

    /// As [`Engine::show`], which is copy 0: an overlay that takes a layer several times needs as many copies, because it
    /// refuses the same mount twice. All of them last until the layer is removed.
    pub fn show_copy(&self, layer: LayerId, copy: u32) -> Result<Shown> {
        let layer = self.get(layer)?;
        let direct = self.trees.direct() && self.may_be_direct(&layer)?;
        let path = self.show_layer(&layer, copy, direct)?;
        if !direct && self.options.recorded {
            background::begin_recorded(&self.fetcher, &layer, &self.keeping.space);
        }
        if !direct && self.options.background {
            let _ = self.completing.send(Ask { layer, now: false });
        }
        Ok(Shown { path, direct })
    }

    /// Mounts a layer as it was before a restart. A layer that was direct and has lost bytes since
    /// is mounted as an incomplete one: use the path that is returned.
    pub fn show_as(&self, layer: LayerId, copy: u32, direct: bool) -> Result<PathBuf> {
        let layer = self.get(layer)?;
        let complete = layer.complete();
        // A direct mount that stands has all its bytes, whatever became of the bitmap.
        let point = MountPoint {
            layer: layer.id,
            copy,
            direct,
        };
        let stands = self.trees.shown(&self.path_of(&point));
        let direct = direct && (stands || self.trees.direct() && self.promise(&layer)?);
        let path = self.show_layer(&layer, copy, direct)?;
        if !complete && self.options.background {
            let _ = self.completing.send(Ask { layer, now: false });
        }
        Ok(path)
    }

    fn show_layer(&self, layer: &Layer, copy: u32, direct: bool) -> Result<PathBuf> {
        if let Some(reason) = self.trees.obstacle() {
            return Err(Error::Unsupported {
                reason: reason.to_owned(),
            });
        }
        let path = self.path_of(&MountPoint {
            layer: layer.id,
            copy,
            direct,
        });
        let _one = lock_of(&layer.mounting);
        if self.trees.shown(&path) {
            return Ok(path);
        }
        let needed = !layer.parts.is_empty() || self.way == Way::Fuse;
        if !direct && needed && !self.serving() {
            return Err(Error::NotServing(layer.id));
        }
        let data = Engine::data_dir(&self.options.root);
        let devices = layer.parts.iter().map(|part| {
            if direct {
                part.volume.pack.path().to_owned()
            } else {
                data.join(part.volume.pack.number().to_string())
            }
        });
        let devices: Vec<PathBuf> = devices.collect();
        let tree = TreeParts {
            index: layer.index.path(),
            view: layer.index.view(),
            devices: &devices,
        };
        self.trees.show(&tree, &path)?;
        Ok(path)
    }

    /// Takes a layer's mounts away, all copies of it.
    pub(super) fn hide(&self, layer: &Layer) -> Result<()> {
        let _one = lock_of(&layer.mounting);
        for point in self.points()?.iter().filter(|point| point.layer == layer.id) {
            self.trees.hide(&self.path_of(point))?;
        }
        Ok(())
    }

    pub(super) fn path_of(&self, point: &MountPoint) -> PathBuf {
        self.options.root.join("l").join(point.to_string())
    }

    /// The places where layers are shown, or were.
    pub(super) fn points(&self) -> Result<Vec<MountPoint>> {
        let dir = self.options.root.join("l");
        let mut points = Vec::new();
        for entry in std::fs::read_dir(&dir).at("list", &dir)? {
            let name = entry.at("list", &dir)?.file_name();
            points.extend(name.to_str().and_then(MountPoint::parse));
        }
        points.sort_unstable();
        Ok(points)
    }
}
