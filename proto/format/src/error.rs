//! Why bytes are no index, or a tree cannot become one.

/// Everything this crate refuses. No variant changes state, and none is cured by trying again with
/// the same bytes: a reader's error means the bytes are damaged or made by something newer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end before something that must be there, or are no index at all.
    #[error("not a Lacewing index: {what}")]
    NotAnIndex {
        /// What is missing.
        what: &'static str,
    },
    /// The index is of a major version this reader does not know. A newer release may read it.
    #[error("index format version {major}.{minor} is not supported (this reader knows 1.x)")]
    Version {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// The index needs features this reader does not know. A newer release may read it.
    #[error("index needs unknown features in {place}: {bits:#x}")]
    Feature {
        /// Which feature word.
        place: &'static str,
        /// The unknown bits or value.
        bits: u64,
    },
    /// A checksum does not match: the bytes were damaged after they were written.
    #[error("checksum of {what} does not match")]
    Checksum {
        /// What the checksum covers.
        what: &'static str,
    },
    /// A bound of [`crate::limits`] is exceeded.
    #[error("{what} is {value}, the limit is {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The value found.
        value: u64,
        /// The bound.
        limit: u64,
    },
    /// A record of the tables or of the superblock contradicts the rules.
    #[error("invalid {table} {index}: {what}")]
    Table {
        /// Which table.
        table: &'static str,
        /// Which record of it.
        index: u64,
        /// Which rule.
        what: &'static str,
    },
    /// An inode of the EROFS image contradicts the rules.
    #[error("invalid inode (nid {nid}): {what}")]
    Inode {
        /// EROFS number of the inode.
        nid: u64,
        /// Which rule.
        what: &'static str,
    },
    /// The tree given to the writer cannot be written.
    #[error("inode {inode} of the tree cannot be written: {what}")]
    Input {
        /// Position in [`crate::Tree::inodes`].
        inode: u32,
        /// Which rule.
        what: &'static str,
    },
}
