//! Two system calls for idmapped mounts that no crate here wraps: a user namespace to map by, and
//! mount_setattr(2).

#![allow(unsafe_code)]
// JUSTIFICATION: a mapping is given to the kernel as a user namespace, and a namespace is only to be had by making
// a process in it. A program with threads cannot enter one itself (unshare(2)), and running another program for
// it would make the daemon depend on what is installed. mount_setattr(2) has no safe wrapper.

use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::idmap::Maps;

/// A process that waits in its own user namespace. Dropped, it is ended and reaped.
struct Holder(Pid);

impl Holder {
    fn start() -> io::Result<Self> {
        // SAFETY: getpid has no preconditions.
        let parent = unsafe { libc::getpid() };
        let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
        // SAFETY: without CLONE_VM this is a fork: the child has its own copy of all memory. The child does nothing
        // but the system calls below, so no lock that another thread held at this moment is waited for, and it
        // never returns from this block.
        let pid = unsafe {
            let pid = libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize);
            if pid == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // The parent may have died before the line above.
                while libc::getppid() == parent {
                    libc::pause();
                }
                libc::_exit(0);
            }
            pid
        };
        match i32::try_from(pid).ok().and_then(Pid::from_raw) {
            Some(pid) if pid.as_raw_nonzero().get() > 0 => Ok(Self(pid)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It is a child and not yet reaped, so the pid is its own.
        let _ = kill_process(self.0, Signal::KILL);
        while let Err(rustix::io::Errno::INTR) = waitpid(Some(self.0), WaitOptions::empty()) {}
    }
}

/// Makes a user namespace with these mappings. Takes about a millisecond: a process is made for it and ended again.
///
/// # Errors
/// The system's: no privilege, namespaces switched off, mappings that overlap or are too many.
pub(crate) fn user_namespace(maps: &Maps) -> io::Result<OwnedFd> {
    let holder = Holder::start()?;
    let proc = format!("/proc/{}", holder.0.as_raw_nonzero());
    fs::write(format!("{proc}/uid_map"), &maps.uids)?;
    fs::write(format!("{proc}/gid_map"), &maps.gids)?;
    File::open(format!("{proc}/ns/user")).map(OwnedFd::from)
}

/// Makes a cloned mount that is not yet attached show its files with mapped owners, read-only.
///
/// # Errors
/// The system's: EINVAL if the file system cannot be mapped.
pub(crate) fn map_owners(mount: BorrowedFd<'_>, namespace: &OwnedFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: u64::try_from(namespace.as_fd().as_raw_fd()).unwrap_or(u64::MAX),
    };
    // SAFETY: both descriptors are open for the call, the path is an empty C string, and the kernel reads as many bytes
    // of the structure as it has.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn namespaces_outlive_their_process() {
        let maps = Maps {
            uids: "0 100000 65536\n".to_owned(),
            gids: "0 200000 65536\n".to_owned(),
        };
        if !rustix::process::geteuid().is_root() {
            return; // writing mappings of several ids needs privilege
        }
        let one = user_namespace(&maps).unwrap();
        let other = user_namespace(&maps).unwrap();
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_ne!(inode(&one), inode(&other));
        let own = fs::metadata("/proc/self/ns/user").unwrap();
        assert_ne!(std::os::unix::fs::MetadataExt::ino(&own), inode(&one));
    }

    #[test]
    fn mappings_that_the_kernel_refuses_are_errors() {
        let maps = Maps {
            uids: "0 1 2\n0 5 6\n".to_owned(),
            gids: "0 1 2\n".to_owned(),
        };
        assert!(user_namespace(&maps).is_err());
    }
}
