//! Bounds on everything that comes from outside, each with its reason.

/// Smallest chunk size: below it the tables outgrow what dedup saves.
pub const MIN_CHUNK_SIZE: u32 = 64 << 10;

/// Largest chunk size: the format's bound on what one cold read may decode.
pub const MAX_CHUNK_SIZE: u32 = lacewing_format::limits::MAX_CHUNK;

/// Longest PAX header, GNU long name or long link. As in Go's archive/tar, by which containerd unpacks.
pub const MAX_SPECIAL_FILE: u64 = 1 << 20;

/// Most bytes of PAX headers and long names in a row before a file. Go has no bound here; nobody writes more than three.
pub const MAX_META_RUN: u32 = 64;

/// Most runs in a sparse file's map: 16 MiB of memory. A file with more runs is denser than it is sparse.
pub const MAX_SPARSE_RUNS: usize = 1 << 20;

/// Longest path in a layer in bytes, a PATH_MAX without the NUL: no kernel opens more.
pub const MAX_PATH: usize = 4095;

/// Most plain bytes in a layer's tar, 2 TiB: an image beyond is a mistake or a bomb.
pub const MAX_LAYER_PLAIN: u64 = 2 << 40;

/// Most bytes a layer's tar may hold for each stored byte, once it is larger than [`RATIO_FREE`]. Deflate cannot exceed
/// 1032; zstd can exceed any number.
pub const MAX_RATIO: u64 = 20_000;

/// Plain bytes that are allowed whatever the ratio.
pub const RATIO_FREE: u64 = 1 << 30;

/// Most inodes in a layer: some 4 GiB of memory here, and more than any node can show.
pub const MAX_INODES: usize = 16 << 20;

/// Most chunks in a layer: the format's bound.
pub const MAX_CHUNKS: usize = lacewing_format::limits::MAX_CHUNKS;

/// Symbolic links followed on the way to one name. As in containerd.
pub const MAX_LINKS: u32 = 255;

/// Most layers of an image. containerd's overlay fails long before (mount options, about 500).
pub const MAX_LAYERS: usize = 1000;

/// Most manifests in an image index.
pub const MAX_MANIFESTS: usize = 1000;

/// Largest image config: as large as a manifest may be.
pub const MAX_CONFIG: u64 = lacewing_oci::limits::MAX_MANIFEST;

/// Most blobs of earlier images that one image may point to. With its own blobs it stays below the format's bound on
/// devices, and each is an open file on the node.
pub const MAX_EARLIER_BLOBS: usize = 64;

/// Most plain bytes of all indexes of one image, which are in memory together; 100 layers of 100,000 files have 2 GiB.
/// Without it, a thousand layers could point to as many stored indexes of a few KiB that decode to 1 GiB each.
pub const MAX_INDEXES: u64 = 4 << 30;

/// Plain bytes of queued frames, all queues together: bounds memory whatever the layer's size.
pub const QUEUE_BYTES: usize = 32 << 20;

/// Longest record of a start: what [`MAX_READS`] lines of usual paths take.
pub const MAX_RECORD: u64 = 64 << 20;

/// Most reads in a record: one for each chunk of 128 GiB. A start that reads more is a job.
pub const MAX_READS: u64 = 512 << 10;

/// Most plain bytes of a layer that come first because a record names them; they wait in a file until their order is known.
/// Beyond it a start is bound by the link whatever the order.
pub const MAX_RECORDED: u64 = 2 << 30;
