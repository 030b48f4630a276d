//! EROFS mounts of files, by the new mount calls.
//!
//! mount(8) would go through a loop device; fsopen takes the file as it is (Linux 6.12 and later)
//! and has no limit on the length of options.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::aside;
use crate::error::{Error, Result};

/// Mounts an EROFS image on a directory that is there.
pub(crate) fn mount(image: &Path, devices: &[PathBuf], directio: bool, target: &Path) -> Result<()> {
    let failed = |context: Option<&OwnedFd>, errno: Errno| Error::Mount {
        what: "mount",
        path: target.to_owned(),
        reason: reason(context, errno),
    };
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| failed(None, errno))?;
    let failed = |errno| failed(Some(&context), errno);
    fsconfig_set_flag(&context, "ro").map_err(failed)?;
    fsconfig_set_string(&context, "source", image).map_err(failed)?;
    for device in devices {
        fsconfig_set_string(&context, "device", device).map_err(failed)?;
    }
    if directio {
        fsconfig_set_flag(&context, "directio").map_err(failed)?;
    }
    // This looks devices up, which may be answered by nobody but this process.
    aside::run(Some(context.as_fd()), || fsconfig_create(&context)).map_err(failed)?;
    // Devices, set-user-id programs and execution stay allowed, as in any lower directory of an
    // overlay: the container's own mount decides.
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mount, "", CWD, target, flags).map_err(failed)
}

/// The kernel's own words about a failed mount, if it left any, else the error number's.
fn reason(context: Option<&OwnedFd>, errno: Errno) -> String {
    let mut words = Vec::new();
    let mut line = [0; 512];
    while let Some(Ok(len)) = context.map(|context| rustix::io::read(context, &mut line[..])) {
        if len == 0 || words.len() > 8 {
            break;
        }
        let text = String::from_utf8_lossy(&line[..len]);
        words.push(text.trim().trim_start_matches(['e', 'w', 'i', ' ']).to_owned());
    }
    let error = std::io::Error::from(errno);
    if words.is_empty() {
        error.to_string()
    } else {
        format!("{} ({error})", words.join("; "))
    }
}
