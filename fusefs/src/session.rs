//! The life of the FUSE connection: mount, INIT, hand-over, service.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::error::Result;

/// An initialised FUSE connection. Whoever holds its descriptor keeps the mount alive.
#[derive(Debug)]
pub struct Connection {
    /// The descriptor of /dev/fuse.
    pub fd: OwnedFd,
}

impl Connection {
    /// Takes a descriptor that [`mount_data`] gave to another process.
    pub fn from_fd(fd: OwnedFd) -> Connection {
        Connection { fd }
    }

    /// A second handle on the same connection, to hold while another process or engine serves it.
    pub fn try_clone(&self) -> std::io::Result<Connection> {
        Ok(Connection {
            fd: self.fd.try_clone()?,
        })
    }
}

/// Mounts a new FUSE connection on `dir` and answers its INIT. A dead mount that stands there is
/// taken away first.
pub fn mount_data(dir: &Path) -> Result<Connection> {
    let _ = dir;
    unimplemented!()
}

/// A connection in service.
pub struct Serving {}

impl Serving {
    /// Stops answering and waits for the threads; the connection stays alive as long as somebody
    /// holds its descriptor. Requests that wait for bytes stay unanswered: the next process gets
    /// them again.
    pub fn stop(self) {
        unimplemented!()
    }

    /// Waits until the connection ends (unmounted or aborted).
    pub fn wait(&self) {
        unimplemented!()
    }
}
