//! The crate's front: layers in, directories out.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lacewing_format::Digest;

use crate::error::Result;
use crate::session::{Connection, Serving};
use crate::source::BlobSource;

/// A layer's number on this node: kept on disk, never used again for another layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub u64);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Features that [`Options::deny`] can switch off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feature {
    /// EROFS mounts of plain files.
    ErofsFile,
    /// The EROFS mount option `directio`.
    DirectIo,
    /// Asking the kernel to send requests in flight again.
    Resend,
}

/// How to open an [`Engine`].
#[derive(Clone)]
pub struct Options {
    /// Everything the engine keeps lies below this directory; made if it is not there.
    pub root: PathBuf,
    /// Where missing bytes come from.
    pub source: Arc<dyn BlobSource>,
    /// Runs the source's futures. It must outlive the engine.
    pub runtime: tokio::runtime::Handle,
    /// How long a read may wait for unavailable bytes before it fails. Default 60 s: longer than a
    /// registry's restart, shorter than most liveness probes' patience.
    pub read_timeout: Duration,
    /// Whether shown layers are completed in the background. Default true.
    pub background: bool,
    /// Threads that answer the kernel. Default 2: more gained nothing on two cores, and four is
    /// the most that ever paid.
    pub threads: usize,
    /// Features to do without even where the kernel has them (tests, workarounds).
    pub deny: Vec<Feature>,
}

impl Options {
    /// The defaults, for a root, a source and a runtime.
    pub fn new(
        root: impl Into<PathBuf>,
        source: Arc<dyn BlobSource>,
        runtime: tokio::runtime::Handle,
    ) -> Options {
        Options {
            root: root.into(),
            source,
            runtime,
            read_timeout: Duration::from_secs(60),
            background: true,
            threads: 2,
            deny: Vec::new(),
        }
    }
}

/// What the kernel really does, found out by small mounts of our own at start.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// Whether EROFS mounts plain files; else the reason why layers cannot be shown here.
    pub erofs_file: Option<Result<(), String>>,
    /// Whether EROFS reads its devices without a second copy in memory.
    pub directio: bool,
    /// Whether requests in flight are sent again to the next process.
    pub resend: bool,
}

/// Where a layer is to be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The directory.
    pub path: PathBuf,
    /// Whether it works without any process: all bytes are in plain files.
    pub direct: bool,
}

/// One layer, for people and monitors.
#[derive(Clone, Debug)]
pub struct LayerStatus {
    /// Its number.
    pub id: LayerId,
    /// Digest of its stored index.
    pub index: Digest,
    /// Digest of the original layer.
    pub layer: Digest,
    /// Plain bytes that are here.
    pub present: u64,
    /// Plain bytes in all.
    pub total: u64,
    /// Whether all bytes are here.
    pub complete: bool,
    /// Where it is mounted, incomplete and direct.
    pub mounts: Vec<PathBuf>,
    /// Why its completion does not get on, if it does not.
    pub trouble: Option<String>,
}

/// Running totals since the engine was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// READ requests answered.
    pub reads: u64,
    /// Plain bytes of these answers.
    pub read_bytes: u64,
    /// READ requests that had to wait for bytes.
    pub misses: u64,
    /// READ requests that failed.
    pub read_errors: u64,
    /// Requests that the kernel sent again after a change of process.
    pub resent: u64,
    /// Stored bytes that the source delivered.
    pub source_bytes: u64,
    /// Calls of the source.
    pub source_reads: u64,
    /// Plain bytes decoded and verified.
    pub decoded_bytes: u64,
    /// Plain bytes taken from packs already here.
    pub dedup_bytes: u64,
    /// Chunks or frames whose bytes were not what the index says.
    pub corrupt: u64,
    /// Frames that could not be kept, for want of space or for a failing disk.
    pub unstored: u64,
}

/// Shows layers and supplies their bytes. All methods may block on local files and mounts, never on
/// the network: call them from a thread that may wait.
pub struct Engine {
    _options: Options,
}

impl Engine {
    /// Opens the store below the root and probes the kernel. Needs no connection.
    pub fn open(options: Options) -> Result<Engine> {
        let _ = options;
        unimplemented!()
    }

    /// Answers the kernel's requests on `connection` until it ends or is stopped.
    pub fn serve(&self, connection: Connection) -> Result<Serving> {
        let _ = connection;
        unimplemented!()
    }

    /// What the kernel can do.
    pub fn features(&self) -> &Features {
        unimplemented!()
    }

    /// Takes in a layer's index in its stored form, whose digest the caller has verified.
    pub fn add_layer(&self, stored: &[u8], digest: Digest) -> Result<LayerId> {
        let _ = (stored, digest);
        unimplemented!()
    }

    /// Finds a layer by the digest of its stored index.
    pub fn layer(&self, digest: &Digest) -> Option<LayerId> {
        let _ = digest;
        unimplemented!()
    }

    /// Lists the data blobs that a layer's index points to; empty for an unknown layer. Callers keep beside
    /// each blob where it can be read.
    pub fn blobs(&self, layer: LayerId) -> Vec<Digest> {
        let _ = layer;
        unimplemented!()
    }

    /// Mounts a layer, directly if it is complete. Does nothing if it is mounted already.
    pub fn show(&self, layer: LayerId) -> Result<Shown> {
        let _ = layer;
        unimplemented!()
    }

    /// Mounts a layer as it was before a restart. A layer that was direct and has lost bytes since
    /// is mounted as an incomplete one: use the path that is returned.
    pub fn show_as(&self, layer: LayerId, direct: bool) -> Result<PathBuf> {
        let _ = (layer, direct);
        unimplemented!()
    }

    /// Unmounts and forgets a layer; packs that no other layer names are deleted.
    pub fn remove(&self, layer: LayerId) -> Result<()> {
        let _ = layer;
        unimplemented!()
    }

    /// Starts to complete a layer in the background, whatever [`Options::background`] says.
    pub fn complete(&self, layer: LayerId) -> Result<()> {
        let _ = layer;
        unimplemented!()
    }

    /// All layers.
    pub fn status(&self) -> Vec<LayerStatus> {
        unimplemented!()
    }

    /// Running totals.
    pub fn counters(&self) -> Counters {
        unimplemented!()
    }

    /// The directory on which the FUSE connection must be mounted.
    pub fn data_dir(root: &Path) -> PathBuf {
        root.join("data")
    }
}
