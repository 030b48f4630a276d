//! Finds out what the kernel really does, by small mounts of our own.
//!
//! Version numbers lie (backports, configurations, security modules), so each feature is used once
//! on a tiny image and the result compared byte by byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lacewing_format::{
    Body, Chunk, ChunkId, Codec, Device, Digest, Extent, FileBody, Frame, Inode, InodeId, Tables, Time, Tree,
    write_index,
};

use crate::engine::{Feature, Features};
use crate::erofs;
use crate::error::{Error, IoContext, Result};
use crate::session::{mount_data, unmount_all};
use crate::wire;

/// Bytes of the probe's file: more than a block, and no whole number of them.
const LEN: usize = 5000;

/// Probes the kernel, with files below `dir`, which is removed in the end.
pub(crate) fn probe(dir: &Path, deny: &[Feature]) -> Features {
    let probed = probe_in(dir, deny);
    let mount = dir.join("tree");
    let _ = unmount_all(&mount);
    let _ = unmount_all(&dir.join("fuse"));
    let _ = std::fs::remove_dir_all(dir);
    probed.unwrap_or_else(|error| Features {
        erofs_file: Some(Err(format!("the probe failed: {error}"))),
        ..Features::default()
    })
}

fn probe_in(dir: &Path, deny: &[Feature]) -> Result<Features> {
    unmount_all(&dir.join("tree"))?;
    let target = dir.join("tree");
    std::fs::create_dir_all(&target).at("make", &target)?;
    let (image, device) = write_files(dir)?;
    let denied = |feature| deny.contains(&feature);
    let tree = |directio| read_back(&image, &device, directio, &target);
    let erofs_file = if denied(Feature::ErofsFile) {
        Err("EROFS mounts of files are switched off".to_owned())
    } else {
        tree(false)
    };
    let directio = erofs_file.is_ok() && !denied(Feature::DirectIo) && tree(true).is_ok();
    let resend = !denied(Feature::Resend) && resends(&dir.join("fuse"));
    Ok(Features {
        erofs_file: Some(erofs_file),
        directio,
        resend,
    })
}

fn plain() -> Vec<u8> {
    (0..LEN).map(|n| (n * 7 % 251) as u8).collect()
}

/// Writes an index with one file and the plain device it points to.
fn write_files(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let plain = plain();
    let bytes = index(&plain).map_err(|error| Error::Unsupported {
        reason: error.to_string(),
    })?;
    let (image, device) = (dir.join("image"), dir.join("device"));
    std::fs::write(&image, bytes).at("write", &image)?;
    let mut padded = plain;
    padded.resize(2 * 4096, 0);
    std::fs::write(&device, padded).at("write", &device)?;
    Ok((image, device))
}

fn index(plain: &[u8]) -> Result<Vec<u8>, lacewing_format::FormatError> {
    let inode = |mode, body| Inode {
        mode,
        uid: 0,
        gid: 0,
        mtime: Time { secs: 0, nanos: 0 },
        xattrs: Vec::new(),
        body,
    };
    let root = Body::Dir(BTreeMap::from([(b"file".to_vec(), InodeId(1))]));
    let extents = vec![Extent::Data { device: 0, block: 0 }];
    let file = FileBody {
        size: plain.len() as u64,
        chunk_bits: 13,
        extents,
    };
    let tree = Tree {
        inodes: vec![
            inode(libc::S_IFDIR | 0o755, root),
            inode(libc::S_IFREG | 0o644, Body::File(file)),
        ],
    };
    let tables = Tables {
        devices: vec![Device::new(Digest::of(plain), 2 * 4096, 2, 0, 1)],
        frames: vec![Frame::new(0, 2 * 4096, 0, 1, Codec::Raw)],
        chunks: vec![Chunk::new(0, plain.len() as u32, ChunkId::of(plain))],
        prefetch: Vec::new(),
        layer: Digest::of(b""),
        diff_id: Digest::of(b""),
    };
    write_index(&tree, &tables)
}

/// Mounts the image, reads the file, compares, unmounts.
fn read_back(image: &Path, device: &Path, directio: bool, target: &Path) -> Result<(), String> {
    erofs::mount(image, &[device.to_owned()], directio, target).map_err(|error| match error {
        Error::Mount { reason, .. } => format!("the kernel does not mount EROFS from a file: {reason}"),
        error => error.to_string(),
    })?;
    let read = std::fs::read(target.join("file"));
    unmount_all(target).map_err(|error| error.to_string())?;
    match read {
        Ok(bytes) if bytes == plain() => Ok(()),
        Ok(_) => Err("EROFS from a file gives wrong bytes".into()),
        Err(error) => Err(format!("EROFS from a file cannot be read: {error}")),
    }
}

/// Whether the kernel knows how to send requests again.
fn resends(dir: &Path) -> bool {
    let knows = mount_data(dir).is_ok_and(|connection| wire::resend(&connection.fd).unwrap_or(false));
    let _ = unmount_all(dir);
    knows
}
