//! System calls that may wait for this very process's FUSE service, made by a child process.
//!
//! A mount of EROFS over a FUSE device looks the device up and opens it, and waits for the answers in a sleep that no
//! signal ends. A process that is killed in that sleep is not dead before it is answered, and nobody answers it: a
//! process that still sleeps keeps all its descriptors, a FUSE connection of its own among them, and its successor is
//! only started once it is gone. So another process sleeps in its place. It holds no descriptor that anybody waits
//! for, and ends when the successor answers or the connection breaks.
#![allow(unsafe_code)]

// JUSTIFICATION: std starts programs, not copies of the process; a program would have to be found and started for
// each mount, and tests have none.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

/// Makes system calls in a child process that has no descriptor but `keep`, and waits for their result.
///
/// `calls` runs between fork and exit of a process with many threads: it may make system calls on memory that is
/// there already, and nothing else. It must not allocate, lock or panic.
///
/// # Errors
/// That of `calls`, or of fork. `EINTR` if the child was killed.
pub(crate) fn run(
    keep: Option<BorrowedFd<'_>>,
    calls: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let keep = keep.map(|fd| fd.as_raw_fd());
    // SAFETY: the child makes system calls only (close_range, those of `calls`, _exit), none of which depends on a
    // lock or an allocation of another thread.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        0 => {
            close_others(keep);
            let status = calls().map_or_else(Errno::raw_os_error, |()| 0);
            // SAFETY: ends the child without running anything of the parent's (exit handlers, buffers).
            unsafe { libc::_exit(status) }
        }
        child => wait(child),
    }
}

fn close_others(keep: Option<i32>) {
    let close = |first: u32, last: u32| {
        if first <= last {
            // SAFETY: the child has its own table of descriptors, and uses none of these.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    };
    match keep.and_then(|keep| u32::try_from(keep).ok()) {
        None => close(0, u32::MAX),
        Some(keep) => {
            if keep > 0 {
                close(0, keep - 1);
            }
            close(keep.saturating_add(1), u32::MAX);
        }
    }
}

fn wait(child: i32) -> Result<(), Errno> {
    let ended = loop {
        match waitpid(Pid::from_raw(child), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(ended) => break ended,
        }
    };
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(errno) => Err(Errno::from_raw_os_error(errno)),
        None => Err(Errno::INTR),
    }
}

fn last_error() -> Errno {
    let error = std::io::Error::last_os_error();
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_result_comes_back() {
        assert_eq!(run(None, || Ok(())), Ok(()));
        for errno in [Errno::NOENT, Errno::NOTCONN, Errno::IO] {
            assert_eq!(run(None, || Err(errno)), Err(errno));
        }
    }

    #[test]
    fn only_the_kept_descriptor_is_there() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let (kept, other) = (writer.as_fd(), reader.as_fd());
        let both =
            |a: BorrowedFd<'_>, b: BorrowedFd<'_>| rustix::io::fcntl_getfd(a).and(rustix::io::fcntl_getfd(b));
        assert_eq!(
            run(Some(kept), || rustix::io::fcntl_getfd(kept).map(drop)),
            Ok(())
        );
        assert_eq!(run(Some(kept), || both(kept, other).map(drop)), Err(Errno::BADF));
    }

    #[test]
    fn what_the_child_writes_is_seen() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let sent = run(Some(writer.as_fd()), || {
            rustix::io::write(&writer, b"x").map(drop)
        });
        assert_eq!(sent, Ok(()));
        let mut byte = [0];
        assert_eq!(rustix::io::read(&reader, &mut byte[..]), Ok(1));
        assert_eq!(&byte, b"x");
    }
}
