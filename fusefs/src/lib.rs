//! Shows converted layers as read-only directories and supplies their bytes on demand.

pub mod engine;
pub mod error;
pub mod session;
pub mod source;

pub use engine::{Counters, Engine, Feature, Features, LayerId, LayerStatus, Options, Shown};
pub use error::{Error, Result};
pub use session::{Connection, Serving, mount_data};
pub use source::{BlobSource, Class, SourceError};
