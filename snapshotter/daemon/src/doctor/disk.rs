//! The root's file system: of a kind that layers can be mounted over, with room.

use nix::sys::statfs::{FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};

use super::Finding;
use crate::config::Config;
use crate::output::bytes;

/// Below this a pull of one large image fills the disk.
const LITTLE: u64 = 1 << 30;
/// Below this nothing that is fetched is kept.
const NONE: u64 = 64 << 20;

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let Some(dir) = config.root.ancestors().find(|dir| dir.is_dir()) else {
        return Vec::new();
    };
    let found = match statfs(dir) {
        Ok(found) => found,
        Err(error) => {
            let advice = "check the file system that holds the root";
            return vec![Finding::problem(
                "disk",
                format!("{}: {error}", dir.display()),
                advice,
            )];
        }
    };
    let block = u64::try_from(found.block_size()).unwrap_or(4096);
    let free = found.blocks_available().saturating_mul(block);
    vec![
        kind(found.filesystem_type(), &config.root.display().to_string()),
        room(free),
    ]
}

fn kind(kind: FsType, root: &str) -> Finding {
    match kind {
        OVERLAYFS_SUPER_MAGIC => Finding::problem(
            "disk",
            format!("{root} is on an overlay, as inside a container"),
            "put the root on the host's own disk (ext4, xfs, btrfs): overlays cannot stand on one another",
        ),
        TMPFS_MAGIC => Finding::problem(
            "disk",
            format!("{root} is on a tmpfs"),
            "put the root on a disk (ext4, xfs, btrfs): a tmpfs is gone at the next boot, and containerd's images with it",
        ),
        _ => Finding::ok("disk", format!("{root} is on a disk")),
    }
}

fn room(free: u64) -> Finding {
    let found = format!("{} are free", bytes(free));
    match free {
        0..NONE => Finding::problem(
            "disk space",
            found,
            "free some space: containers read on, but nothing that is fetched is kept, and writes fail",
        ),
        NONE..LITTLE => Finding::warning(
            "disk space",
            found,
            "free some space, or remove images that are not used",
        ),
        _ => Finding::ok("disk space", found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn little_room_is_seen() {
        assert_eq!(room(0).verdict, Verdict::Problem);
        assert_eq!(room(NONE).verdict, Verdict::Warning);
        assert_eq!(room(LITTLE).verdict, Verdict::Ok);
        assert_eq!(kind(TMPFS_MAGIC, "/r").verdict, Verdict::Problem);
    }
}
