//! A request of the kernel, with all that answering it needs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::InHeader;
use tracing::debug;

use crate::buffer::AlignedBuffer;
use crate::error::ReadError;
use crate::fetch::{Answer, Fetcher};
use crate::packfs::Refusal;
use crate::tally::{Tally, add};
use crate::volumes::Volumes;
use crate::wire;

/// What all requests of a connection are answered from.
pub(crate) struct Shared {
    /// The connection.
    pub(crate) fd: Arc<OwnedFd>,
    /// The packs.
    pub(crate) volumes: Arc<Volumes>,
    /// Gets what is missing.
    pub(crate) fetcher: Arc<Fetcher>,
    /// Counters.
    pub(crate) tally: Arc<Tally>,
}

/// A request, and one thread's room for the answer.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) header: &'a InHeader,
    pub(crate) body: &'a [u8],
    /// The answer's body, empty at first.
    pub(crate) answer: &'a mut Vec<u8>,
    /// Room for header and bytes of a READ.
    pub(crate) blocks: &'a mut AlignedBuffer,
}

/// How a request ends.
pub(crate) enum Outcome {
    /// With the bytes in the thread's answer buffer.
    Body,
    /// With an error.
    Error(i32),
    /// Later, or never.
    Silent,
}

impl From<Result<(), Refusal>> for Outcome {
    fn from(answered: Result<(), Refusal>) -> Outcome {
        match answered {
            Ok(()) => Outcome::Body,
            Err(refusal) => Outcome::from(refusal),
        }
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Outcome {
        Outcome::Error(errno(refusal))
    }
}

/// Error number of a refusal.
fn errno(refusal: Refusal) -> i32 {
    match refusal {
        Refusal::NotFound => libc::ENOENT,
        Refusal::NotADirectory => libc::ENOTDIR,
        Refusal::IsADirectory => libc::EISDIR,
        Refusal::ReadOnly => libc::EROFS,
        Refusal::Unsupported => libc::ENOSYS,
        Refusal::Gone => libc::ESTALE,
        Refusal::NoXattr => libc::ENODATA,
        Refusal::TooSmall => libc::ERANGE,
        Refusal::Invalid => libc::EINVAL,
        Refusal::Damaged => libc::EIO,
    }
}

/// A READ that is answered later.
pub(crate) struct LateAnswer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) unique: u64,
}

impl Answer for LateAnswer {
    fn data(self: Box<Self>, bytes: &[u8]) {
        add(&self.shared.tally.read_bytes, bytes.len() as u64);
        settle(wire::answer(&self.shared.fd, self.unique, 0, bytes));
    }

    fn fail(self: Box<Self>, error: ReadError) {
        add(&self.shared.tally.read_errors, 1);
        settle(wire::answer(&self.shared.fd, self.unique, error.errno(), &[]));
    }
}

/// Takes note of an answer that was sent: that it was not taken is no failure of the one who sends it.
pub(crate) fn settle(sent: std::io::Result<()>) {
    if let Err(error) = sent {
        debug!(%error, "an answer was not taken");
    }
}
