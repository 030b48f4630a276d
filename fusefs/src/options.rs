//! How an engine is opened, and what it finds the kernel able to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::error::Result;
use crate::pace::Pace;
use crate::source::BlobSource;

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
    /// Attributes in the answers to directory listings, for trees in user space.
    Readdirplus,
    /// Opening directories without a message, for trees in user space.
    NoOpendir,
    /// Idmapped clones of trees in user space.
    Idmap,
}

/// How layers are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// By the kernel where it can, else by this process.
    #[default]
    Auto,
    /// By EROFS mounts.
    Kernel,
    /// By this process, over FUSE.
    Fuse,
}

/// How to open an [`crate::Engine`].
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
    /// The clock for that. Default: the system's.
    pub clock: Clock,
    /// How layers are shown. Default: by the kernel where it can.
    pub trees: Way,
    /// Whether shown layers are completed in the background. Default true.
    pub background: bool,
    /// Whether what a recorded start of a layer has read is fetched as soon as the layer is shown, also without a background:
    /// whoever recorded it knows that it will be read. Default true.
    pub recorded: bool,
    /// When and how fast that is done. Default: always, as fast as may be.
    pub pace: Pace,
    /// Most bytes of disk that the store may take; what is of use longest ago is given up. Default: no bound.
    pub quota: Option<u64>,
    /// Bytes that must stay free on the store's disk; likewise. Default: none.
    pub free_floor: Option<u64>,
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
            clock: Clock::default(),
            trees: Way::Auto,
            background: true,
            recorded: true,
            pace: Pace::default(),
            quota: None,
            free_floor: None,
            threads: 2,
            deny: Vec::new(),
        }
    }
}

/// What the kernel really does, found out by small mounts of our own at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Whether EROFS mounts plain files; else the reason why layers cannot be shown here.
    pub erofs_file: Option<Result<(), String>>,
    /// Whether EROFS reads its devices without a second copy in memory.
    pub directio: bool,
    /// Whether requests in flight are sent again to the next process.
    pub resend: bool,
    /// Whether listings of trees in user space carry attributes.
    pub readdirplus: bool,
    /// Whether directories of trees in user space are opened without a message.
    pub no_opendir: bool,
    /// Whether trees in user space can be cloned with other owners.
    pub idmap: bool,
}
