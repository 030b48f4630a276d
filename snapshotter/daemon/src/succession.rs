//! A worker whose supervisor died hands its descriptors to the next supervisor.
//!
//! The orphan goes on serving, so containers notice nothing. It listens on `<address>.next`; whoever connects there is
//! sent the descriptors, and the orphan exits in the same breath: from then on they are the successor's alone, and
//! what was in flight is sent again by the kernel as after any worker's death.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::fds::{self, Descriptors, PassError};

/// Between two tries to reach an orphan that has not yet noticed.
const RETRY: Duration = Duration::from_millis(20);

fn socket_path(address: &Path) -> PathBuf {
    let mut path = address.as_os_str().to_owned();
    path.push(".next");
    path.into()
}

fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Blocks until the supervisor at the other end of `link` is gone.
pub(crate) fn wait_for_orphanage(link: BorrowedFd<'_>) {
    let mut byte = [0_u8];
    loop {
        match rustix::net::recv(link, &mut byte, RecvFlags::empty()) {
            Ok((_, 0)) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Blocks until a successor came and has the descriptors. The caller must exit then, at once.
///
/// # Errors
/// The socket cannot be made, or the descriptors could not be sent.
pub(crate) fn hand_over(address: &Path, descriptors: &Descriptors) -> Result<(), PassError> {
    let path = socket_path(address);
    let socket = socket()?;
    // Whatever stands there is an earlier orphan's: the lock says that we are the only worker.
    let _ = std::fs::remove_file(&path);
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
    rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::listen(&socket, 1)?;
    let successor = loop {
        match rustix::net::accept_with(&socket, SocketFlags::CLOEXEC) {
            Ok(successor) => break successor,
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let _ = std::fs::remove_file(&path);
    fds::send(successor.as_fd(), descriptors)
}

/// Asks an orphan for its descriptors; it exits after sending them.
///
/// # Errors
/// Nobody answered within `patience`, or with something else.
pub(crate) fn ask(address: &Path, patience: Duration) -> Result<Descriptors, PassError> {
    let name = SocketAddrUnix::new(socket_path(address))?;
    let end = Instant::now() + patience;
    loop {
        let socket = socket()?;
        match rustix::net::connect(&socket, &name) {
            Ok(()) => return fds::receive(socket.as_fd()),
            Err(error) if Instant::now() >= end => return Err(error.into()),
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fds::Fuse;

    #[test]
    fn an_orphan_hands_over() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("sock");
        let (ours, theirs) = fds::pair().unwrap();
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let fuse = Ok(Fuse {
            fd: file(),
            device: "0:7".to_owned(),
        });
        let descriptors = Descriptors {
            listener: file(),
            fuse,
            trees: vec![],
        };
        let place = address.clone();
        let orphan = std::thread::spawn(move || {
            wait_for_orphanage(theirs.as_fd());
            hand_over(&place, &descriptors).unwrap();
        });
        drop(ours);
        let received = ask(&address, Duration::from_secs(10)).unwrap();
        orphan.join().unwrap();
        assert_eq!(received.fuse.unwrap().device, "0:7");
        assert!(!socket_path(&address).exists());
    }

    #[test]
    fn nobody_there_is_an_error_in_time() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ask(&dir.path().join("sock"), Duration::from_millis(30)).is_err());
    }
}
