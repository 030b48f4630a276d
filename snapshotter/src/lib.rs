//! containerd's snapshots contract.

mod error;
mod layer_ref;
mod layers;
mod restore;
mod service;
mod snapshot;
mod snapshotter;

pub use error::Error;
pub use layer_ref::{
    CHAIN_ID_LABEL, IMAGE_LABEL, IMAGE_LAYERS_LABEL, LAYER_LABEL, LayerRef, LayerRefError, MANIFEST_LABEL,
    REMOTE_LABEL, SOURCE_LABEL_PREFIX,
};
pub use layers::{LayerRequest, Layers, MountError, Offer, ShownLayer};
pub use restore::Restored;
pub use service::{Service, service};
pub use snapshot::Usage;
pub use snapshotter::{LayerEntry, Options, Snapshotter};
