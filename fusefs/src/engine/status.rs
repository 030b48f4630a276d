//! What the engine tells of its layers.

use std::sync::Arc;

use super::Engine;
use crate::layer::Layer;
use crate::mount_point::MountPoint;
use crate::report::{LayerId, LayerStatus};

impl Engine {
    /// All layers.
    pub fn status(&self) -> Vec<LayerStatus> {
        let points = self.points().unwrap_or_default();
        let status_of = |layer: &Arc<Layer>| self.status_of(layer, &points);
        self.all().iter().map(status_of).collect()
    }

    /// One layer.
    pub fn layer_status(&self, layer: LayerId) -> Option<LayerStatus> {
        let points = self.points().unwrap_or_default();
        self.get(layer).ok().map(|layer| self.status_of(&layer, &points))
    }

    /// `points` are those of all layers, in order.
    fn status_of(&self, layer: &Layer, points: &[MountPoint]) -> LayerStatus {
        let (present, total) = layer.present();
        let first = points.partition_point(|point| point.layer < layer.id);
        let own = points
            .iter()
            .skip(first)
            .take_while(|point| point.layer == layer.id);
        let mounts = own.map(|point| self.path_of(point));
        let mut troubles = layer
            .parts
            .iter()
            .filter_map(|part| self.fetcher.trouble(part.volume.pack.number()));
        let status = LayerStatus {
            id: layer.id,
            index: layer.digest,
            layer: layer.index.view().layer(),
            present,
            total,
            complete: present == total,
            mounts: mounts.filter(|path| self.trees.shown(path)).collect(),
            trouble: troubles.next(),
        };
        layer.index.relax();
        status
    }
}
