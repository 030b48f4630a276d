//! Tar streams, read as Go's archive/tar reads them, because containerd unpacks by it.
//!
//! Which numbers, magics, PAX records and sparse maps are accepted, what wins over what, and where a stream may end: all
//! of it decides what a layer means, and differs between readers. This one follows Go's `archive/tar` (Go 1.19 to 1.25
//! agree on all that is done here), apart from bounds of its own ([`crate::limits`]).

#[cfg(test)]
pub(crate) mod build;
mod header;
mod pax;
mod reader;
mod sparse;

pub(crate) use reader::stream_error;
pub use reader::{Entry, Reader, Run};

/// Type flags of a header.
pub mod kind {
    /// Regular file.
    pub const REGULAR: u8 = b'0';
    /// Regular file of old archives; a directory if the name ends with a slash.
    pub const REGULAR_OLD: u8 = 0;
    /// Hard link.
    pub const LINK: u8 = b'1';
    /// Symbolic link.
    pub const SYMLINK: u8 = b'2';
    /// Character device.
    pub const CHAR: u8 = b'3';
    /// Block device.
    pub const BLOCK: u8 = b'4';
    /// Directory.
    pub const DIR: u8 = b'5';
    /// FIFO.
    pub const FIFO: u8 = b'6';
    /// Contiguous file: refused.
    pub const CONTIGUOUS: u8 = b'7';
    /// PAX records of the next entry.
    pub const PAX: u8 = b'x';
    /// PAX records of all that follows: handed out as an entry, has no effect.
    pub const PAX_GLOBAL: u8 = b'g';
    /// Sparse file of old GNU tar: refused.
    pub const GNU_SPARSE: u8 = b'S';
    /// Long name of the next entry.
    pub const GNU_LONG_NAME: u8 = b'L';
    /// Long link name of the next entry.
    pub const GNU_LONG_LINK: u8 = b'K';

    /// Has this type no data, whatever its size field says?
    pub const fn is_header_only(kind: u8) -> bool {
        matches!(kind, LINK | SYMLINK | CHAR | BLOCK | DIR | FIFO)
    }
}
