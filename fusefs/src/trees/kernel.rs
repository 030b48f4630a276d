//! Layers shown by the kernel: EROFS mounts of index files.

use std::path::{Path, PathBuf};

use super::fuse::{TreeKind, tree_dir};
use super::{TreeParts, Trees};
use crate::erofs::mount;
use crate::error::{IoContext, Result};
use crate::mounted::place;

/// Type number of EROFS in statfs(2) (uapi/linux/magic.h).
const EROFS_MAGIC: u64 = 0xE0F5_E1E2;

/// Trees shown by the kernel.
pub(crate) struct KernelTrees {
    /// Why not, if not.
    pub(crate) obstacle: Option<String>,
    /// Whether devices are read without a second copy in memory.
    pub(crate) directio: bool,
    /// Where everything is kept.
    pub(crate) root: PathBuf,
}

impl Trees for KernelTrees {
    fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    fn direct(&self) -> bool {
        true
    }

    fn show(&self, tree: &TreeParts<'_>, target: &Path) -> Result<()> {
        if place(target).is_none() {
            std::fs::create_dir_all(target).at("make", target)?;
        }
        mount(tree.index, tree.devices, self.directio, target)
    }

    fn shown(&self, target: &Path) -> bool {
        let Some(place) = place(target).filter(|place| place.mounted) else {
            return false;
        };
        // A tree of ours in user space, shown before the way was changed: asking it would be asking this process.
        let other =
            |kind| self::place(&tree_dir(&self.root, kind)).is_some_and(|of| of.device == place.device);
        !TreeKind::ALL.into_iter().any(other)
            && rustix::fs::statfs(target).is_ok_and(|found| found.f_type as u64 == EROFS_MAGIC)
    }

    fn hide(&self, target: &Path) -> Result<()> {
        super::hide(target)
    }
}
