//! A layer on disk: checked by erofs-utils, mounted by the kernel, compared with its tree.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lacewing_format::{Body, Index, Inode, InodeId, Tables, write_index};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::layer::{Layer, ROOT};

/// Files above this size are compared at a few places only.
const WHOLE_FILE_LIMIT: u64 = 64 << 20;

/// An index and its packs as files.
pub(crate) struct OnDisk {
    dir: tempfile::TempDir,
    packs: Vec<PathBuf>,
    mounted: bool,
}

/// Writes a layer, has erofs-utils check it, mounts it and compares every file.
pub(crate) fn verify(layer: &Layer) -> Result<()> {
    let mut disk = OnDisk::write(layer, &layer.tables())?;
    disk.fsck()?;
    disk.dump()?;
    for directio in [false, true] {
        disk.mount(directio)?;
        disk.compare(layer)?;
        disk.unmount()?;
    }
    Ok(())
}

impl OnDisk {
    /// Writes index and packs into a new directory.
    pub(crate) fn write(layer: &Layer, tables: &Tables) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let bytes = write_index(&layer.tree, tables)?;
        let index = Index::parse(&bytes)?;
        let summary = index.check_tree()?;
        ensure!(summary.inodes == index.inode_count());
        fs::write(dir.path().join("index"), &bytes)?;
        // The image alone: what `lacewing inspect --export` gives.
        fs::write(dir.path().join("erofs"), index.erofs())?;
        let mut packs = Vec::new();
        for (number, pack) in layer.packs.iter().enumerate() {
            let path = dir.path().join(format!("pack{number}"));
            fs::write(&path, &pack.plain)?;
            packs.push(path);
        }
        fs::create_dir(dir.path().join("mnt"))?;
        Ok(Self {
            dir,
            packs,
            mounted: false,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fsck(&self) -> Result<()> {
        for image in ["index", "erofs"] {
            let mut command = Command::new("fsck.erofs");
            for pack in &self.packs {
                command.arg(format!("--device={}", pack.display()));
            }
            let output = command.arg(self.path(image)).output().context("fsck.erofs")?;
            let text = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success() && !text.contains("<E>"),
                "fsck.erofs: {text}"
            );
        }
        Ok(())
    }

    fn dump(&self) -> Result<()> {
        let mut command = Command::new("dump.erofs");
        for pack in &self.packs {
            command.arg(format!("--device={}", pack.display()));
        }
        let output = command
            .arg("-s")
            .arg(self.path("erofs"))
            .output()
            .context("dump.erofs")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() && text.contains("sb_csum"),
            "dump.erofs: {text}"
        );
        Ok(())
    }

    /// Mounts the index by fsopen(2): mount(8) would put a loop device between.
    pub(crate) fn mount(&mut self, directio: bool) -> Result<()> {
        let fs = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen")?;
        fsconfig_set_string(fs.as_fd(), "source", self.path("index"))?;
        for pack in &self.packs {
            fsconfig_set_string(fs.as_fd(), "device", pack)?;
        }
        if directio {
            fsconfig_set_flag(fs.as_fd(), "directio")?;
        }
        fsconfig_create(fs.as_fd()).context("the kernel refuses the image")?;
        let mount = fsmount(
            fs.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_RDONLY,
        )?;
        let to = self.path("mnt");
        move_mount(
            mount.as_fd(),
            "",
            rustix::fs::CWD,
            &to,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )?;
        self.mounted = true;
        Ok(())
    }

    pub(crate) fn unmount(&mut self) -> Result<()> {
        unmount(self.path("mnt"), UnmountFlags::DETACH)?;
        self.mounted = false;
        Ok(())
    }

    /// Compares the mounted tree with the layer's, attribute by attribute.
    pub(crate) fn compare(&self, layer: &Layer) -> Result<()> {
        let mut walk = Walk {
            layer,
            links: count_links(layer),
            numbers: BTreeMap::new(),
        };
        let mut todo = vec![(self.path("mnt"), ROOT)];
        while let Some((path, id)) = todo.pop() {
            let inode = &layer.tree.inodes[id.0 as usize];
            walk.inode(&path, id, inode)
                .with_context(|| format!("{path:?}"))?;
            if let Body::Dir(entries) = &inode.body {
                let mut found: Vec<Vec<u8>> = Vec::new();
                for entry in fs::read_dir(&path)? {
                    let entry = entry?;
                    ensure!(entry.file_type()? == entry.metadata()?.file_type(), "{entry:?}");
                    found.push(entry.file_name().as_bytes().to_vec());
                }
                found.sort_unstable();
                ensure!(found.iter().eq(entries.keys()), "{path:?}: names differ");
                ensure!(!path.join("no such name").exists());
                todo.extend(
                    entries
                        .iter()
                        .map(|(name, &child)| (path.join(OsStr::from_bytes(name)), child)),
                );
            }
        }
        Ok(())
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = self.unmount();
        }
    }
}

struct Walk<'a> {
    layer: &'a Layer,
    links: Vec<u64>,
    /// Inode numbers by inode: names of one inode have one number.
    numbers: BTreeMap<InodeId, u64>,
}

impl Walk<'_> {
    fn inode(&mut self, path: &Path, id: InodeId, inode: &Inode) -> Result<()> {
        let meta = fs::symlink_metadata(path)?;
        ensure!(meta.mode() == inode.mode, "mode {:o}", meta.mode());
        ensure!(
            (meta.uid(), meta.gid()) == (inode.uid, inode.gid),
            "owner {}:{}",
            meta.uid(),
            meta.gid()
        );
        let mtime = (meta.mtime(), meta.mtime_nsec());
        ensure!(
            mtime == (inode.mtime.secs, inode.mtime.nanos.into()),
            "mtime {mtime:?}"
        );
        ensure!(
            meta.nlink() == self.links[id.0 as usize],
            "{} links",
            meta.nlink()
        );
        ensure!(
            *self.numbers.entry(id).or_insert(meta.ino()) == meta.ino(),
            "inode number"
        );
        ensure!(
            read_xattrs(path)? == inode.xattrs,
            "xattrs {:?}",
            read_xattrs(path)?
        );
        match &inode.body {
            Body::File(file) => {
                ensure!(meta.size() == file.size, "size {}", meta.size());
                self.content(path, id, file.size)
            }
            Body::Symlink(target) => {
                ensure!(fs::read_link(path)?.as_os_str().as_bytes() == target, "target");
                Ok(())
            }
            Body::Device { major, minor } => {
                let device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
                ensure!(device == (*major, *minor), "device {device:?}");
                Ok(())
            }
            Body::Dir(_) | Body::Fifo | Body::Socket => Ok(()),
        }
    }

    fn content(&self, path: &Path, id: InodeId, size: u64) -> Result<()> {
        if size > WHOLE_FILE_LIMIT {
            // Only files without data are so large here.
            let file = File::open(path)?;
            for at in [0, size / 2, size - 1] {
                let mut byte = [1];
                ensure!(file.read_at(&mut byte, at)? == 1 && byte == [0], "byte {at}");
            }
            return Ok(());
        }
        let none = Vec::new();
        let expected = self.layer.contents.get(&id).unwrap_or(&none);
        let found = fs::read(path)?;
        let first = found.iter().zip(expected).position(|(a, b)| a != b);
        ensure!(found == *expected, "content differs, first at {first:?}");
        Ok(())
    }
}

fn count_links(layer: &Layer) -> Vec<u64> {
    let mut links = vec![0; layer.tree.inodes.len()];
    links[0] = 2;
    for (number, inode) in layer.tree.inodes.iter().enumerate() {
        let Body::Dir(entries) = &inode.body else {
            continue;
        };
        for child in entries.values() {
            let child_is_dir = matches!(layer.tree.inodes[child.0 as usize].body, Body::Dir(_));
            links[child.0 as usize] += if child_is_dir { 2 } else { 1 };
            links[number] += u64::from(child_is_dir);
        }
    }
    links
}

fn read_xattrs(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0_u8; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut list[..])?;
    list.truncate(len);
    let mut xattrs = Vec::new();
    for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 1 << 16];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(len);
        xattrs.push((name.to_vec(), value));
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}
