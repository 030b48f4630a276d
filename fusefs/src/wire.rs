//! FUSE messages as bytes: the types of fuse-backend-rs, read and written without a heap.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;

use fuse_backend_rs::abi::fuse_abi::OutHeader;
use vm_memory::ByteValued;

/// Bytes of the header of an answer.
pub(crate) const OUT_HEADER: usize = size_of::<OutHeader>();

/// Marks a request that the kernel sends for the second time (uapi/linux/fuse.h).
pub(crate) const RESENT: u64 = 1 << 63;

/// Asks the kernel to send requests in flight again (uapi/linux/fuse.h, FUSE_NOTIFY_RESEND).
const NOTIFY_RESEND: i32 = 7;

/// Reads a message type from the start of `bytes`; returns it with what follows.
pub(crate) fn take<T: ByteValued + Default>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = bytes.split_at_checked(size_of::<T>())?;
    let mut value = T::default();
    value.as_mut_slice().copy_from_slice(head);
    Some((value, rest))
}

/// Appends a message type.
pub(crate) fn put<T: ByteValued>(to: &mut Vec<u8>, value: T) {
    to.extend_from_slice(value.as_slice());
}

/// The header of an answer with `len` bytes behind it.
pub(crate) fn out_header(unique: u64, error: i32, len: usize) -> OutHeader {
    OutHeader {
        len: (OUT_HEADER + len) as u32,
        error: -error,
        unique,
    }
}

/// Sends an answer.
pub(crate) fn answer(fd: &OwnedFd, unique: u64, error: i32, body: &[u8]) -> io::Result<()> {
    let header = out_header(unique, error, body.len());
    let parts = [IoSlice::new(header.as_slice()), IoSlice::new(body)];
    settle(rustix::io::writev(
        fd,
        &parts[..if body.is_empty() { 1 } else { 2 }],
    ))
}

/// Sends an answer whose header has its place at the start of `message`.
pub(crate) fn answer_in_place(fd: &OwnedFd, unique: u64, message: &mut [u8]) -> io::Result<()> {
    let Some((head, body)) = message.split_at_mut_checked(OUT_HEADER) else {
        return Ok(());
    };
    head.copy_from_slice(out_header(unique, 0, body.len()).as_slice());
    settle(rustix::io::write(fd, message))
}

/// Errors of writing an answer that mean something else than a broken connection.
fn settle(written: rustix::io::Result<usize>) -> io::Result<()> {
    match written {
        // ENOENT: the request is gone, or another process answered it before.
        Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Asks the kernel to send requests in flight again; `false` if it does not know how.
pub(crate) fn resend(fd: &OwnedFd) -> io::Result<bool> {
    let header = OutHeader {
        len: OUT_HEADER as u32,
        error: NOTIFY_RESEND,
        unique: 0,
    };
    match rustix::io::write(fd, header.as_slice()) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
