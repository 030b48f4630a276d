//! Shows converted layers as read-only directories and supplies their bytes on demand.

pub mod engine;
pub mod error;
pub mod session;
pub mod source;

mod aside;
mod background;
mod catalogue;
mod erofs;
mod fetch;
mod fuse;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod indexes;
mod layer;
mod lock;
mod packfs;
mod probe;
mod readahead;
mod signal;
mod store;
mod tally;
mod trees;
mod volumes;
mod wire;

pub use engine::{Counters, Engine, Feature, Features, LayerId, LayerStatus, Options, Shown};
pub use error::{Error, ReadError, Result};
pub use session::{Connection, Serving, mount_data};
pub use source::{BlobSource, Class, SourceError};
