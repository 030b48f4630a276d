//! Records: what is kept of a snapshot.

/// Disk space that a snapshot takes by itself, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Bytes of disk blocks.
    pub size: u64,
    /// Inodes.
    pub inodes: u64,
}
