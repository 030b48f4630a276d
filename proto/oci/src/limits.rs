//! Bounds on what comes from outside, each with its reason.

/// Largest manifest or image index, in bytes: what registries and containerd accept at most (4 MiB).
pub const MAX_MANIFEST: u64 = 4 << 20;

/// Most tags listed of one repository: more than a person or a retention job can use, and some 10 MB of memory.
pub const MAX_TAGS: usize = 100_000;
