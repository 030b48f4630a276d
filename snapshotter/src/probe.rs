//! What the kernel and the root's file system can do, found once at start.

use std::fs;
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, openat};

use crate::error::Error;
use crate::mounts::OverlayOptions;

/// statfs(2) type of tmpfs, on which overlayfs cannot use `userxattr`.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Finds the options that every overlay mount here needs, by the rules of containerd's overlayfs snapshotter.
pub(crate) fn overlay_options(root: &Path) -> OverlayOptions {
    load_overlay();
    OverlayOptions {
        index_off: Path::new("/sys/module/overlay/parameters/index").exists(),
        userxattr: in_user_namespace() && !on_tmpfs(root) && kernel_has_userxattr(),
    }
}

/// Asks for the file system, so that the kernel loads its module and its parameters can be seen. Otherwise
/// the answer would be another one right after a reboot, and a snapshot's mounts would change with it.
fn load_overlay() {
    drop(rustix::mount::fsopen(
        "overlay",
        rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC,
    ));
}

/// The first namespace maps all ids to themselves (user_namespaces(7)).
fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_everything(&map))
}

fn maps_everything(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

fn on_tmpfs(root: &Path) -> bool {
    rustix::fs::statfs(root)
        .is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == TMPFS_MAGIC))
}

/// `userxattr` came with Linux 5.11. Older kernels that allow overlays in user namespaces do without.
fn kernel_has_userxattr() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    at_least(&release, (5, 11))
}

fn at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

/// Checks that a folder can hold upper directories and be named in mount options.
///
/// # Errors
/// [`Error::InvalidArgument`] if it cannot, [`Error::Io`] if it cannot be read. `folder` must not be empty.
pub(crate) fn check_root(root: &Path) -> Result<(), Error> {
    let text = root
        .to_str()
        .filter(|text| root.is_absolute() && !text.contains([':', ',', '\\']));
    if text.is_none() {
        let what = "the root must be an absolute path of UTF-8 text without ':', ',' and '\\'";
        return Err(Error::invalid(format!("{}: {what}", root.display())));
    }
    let io = |error: rustix::io::Errno| Error::io("read", root)(error.into());
    let folder = openat(
        CWD,
        root,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(io)?;
    for entry in Dir::read_from(folder).map_err(io)? {
        if entry.map_err(io)?.file_type() == FileType::Unknown {
            let what =
                "its file system tells no types of directory entries, overlayfs needs them (xfs: ftype=1)";
            return Err(Error::invalid(format!("{}: {what}", root.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        for (release, expected) in [
            ("5.11.0", true),
            ("5.10.46-1-amd64", false),
            ("6.18.2+deb12", true),
            ("4.19", false),
            ("nonsense", false),
        ] {
            assert_eq!(at_least(release, (5, 11)), expected, "{release}");
        }
    }

    #[test]
    fn the_first_namespace_is_known_by_its_map() {
        assert!(maps_everything("         0          0 4294967295\n"));
        assert!(!maps_everything("         0     100000      65536\n"));
        assert!(!maps_everything(""));
    }

    #[test]
    fn roots_that_mount_options_cannot_name_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_root(dir.path()).is_ok());
        for name in ["a:b", "a,b", "a\\b"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            assert!(
                matches!(check_root(&path), Err(Error::InvalidArgument { .. })),
                "{name}"
            );
        }
        assert!(check_root(Path::new("relative")).is_err());
    }
}
