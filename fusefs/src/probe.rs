//! Finds out what the kernel really does, by small mounts of our own.
//!
//! Version numbers lie (backports, configurations, security modules), so each feature is used once
//! on a tiny image and the result compared byte by byte.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fuse_backend_rs::abi::fuse_abi::FsOptions;
use futures::future::BoxFuture;
use lacewing_format::limits::BLOCK;
use lacewing_format::{
    Body, Chunk, ChunkId, Codec, Device, Digest, Extent, FileBody, Frame, Inode, InodeId, Tables, Time, Tree,
    write_index,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::runtime::Handle;

use crate::aside;
use crate::clock::Clock;
use crate::connection::mount_data;
use crate::erofs;
use crate::error::{Error, IoContext, Result};
use crate::fetch::{Fetcher, FetcherOptions};
use crate::fuse::Server;
use crate::mounted::unmount_all;
use crate::options::{Feature, Features};
use crate::serving::Serving;
use crate::source::{BlobSource, Class, SourceError};
use crate::store::pack::{BootId, Identity, Pack, PackNumber};
use crate::store::places::Places;
use crate::store::space::Space;
use crate::tally::Tally;
use crate::trees::fuse::ALLOW_IDMAP;
use crate::volumes::{Volume, Volumes};
use crate::wire;

/// Bytes of the probe's file: more than a block, and no whole number of them.
const LEN: usize = 5000;

/// Probes the kernel, with files below `dir`, which is removed in the end.
pub(crate) fn probe(dir: &Path, deny: &[Feature], runtime: &Handle) -> Features {
    let probed = probe_in(dir, deny, runtime);
    let mount = dir.join("tree");
    let _ = unmount_all(&mount);
    let _ = unmount_all(&dir.join("fuse"));
    let _ = std::fs::remove_dir_all(dir);
    probed.unwrap_or_else(|error| Features {
        erofs_file: Some(Err(format!("the probe failed: {error}"))),
        ..Features::default()
    })
}

fn probe_in(dir: &Path, deny: &[Feature], runtime: &Handle) -> Result<Features> {
    let target = dir.join("tree");
    for leftover in [&target, &dir.join("fuse")] {
        unmount_all(leftover)?;
    }
    std::fs::create_dir_all(&target).at("make", &target)?;
    let image = dir.join("image");
    let bytes = index(&plain()).map_err(|error| Error::Unsupported {
        reason: error.to_string(),
    })?;
    std::fs::write(&image, bytes).at("write", &image)?;
    let plain_file = Pack::path_in(&dir.join("packs"), PACK);
    let fuse = dir.join("fuse");
    let (resend, offered, serving) = serve(dir, runtime)?;
    let denied = |feature| deny.contains(&feature);
    // Both kinds of devices that layers get: a pack through FUSE, and its plain file.
    let tree = |directio| {
        read_back(&image, &plain_file, directio, &target)?;
        read_back(&image, &fuse.join(PACK.to_string()), directio, &target)
    };
    let allowed = !denied(Feature::ErofsFile);
    let directio = allowed && !denied(Feature::DirectIo) && tree(true).is_ok();
    // What works with the option is not used without it.
    let erofs_file = match (allowed, directio) {
        (false, _) => Err("EROFS mounts of files are switched off".to_owned()),
        (true, true) => Ok(()),
        (true, false) => tree(false),
    };
    let resend = resend && !denied(Feature::Resend);
    let offers = |flag: u64, feature| offered & flag != 0 && !denied(feature);
    serving.stop();
    Ok(Features {
        erofs_file: Some(erofs_file),
        directio,
        resend,
        readdirplus: offers(FsOptions::DO_READDIRPLUS.bits(), Feature::Readdirplus),
        no_opendir: offers(FsOptions::ZERO_MESSAGE_OPENDIR.bits(), Feature::NoOpendir),
        idmap: offers(ALLOW_IDMAP, Feature::Idmap),
    })
}

/// Whether this process is in another user namespace than the initial one, where EROFS cannot be mounted and `trusted.*`
/// xattrs cannot be read. The initial one maps all ids to themselves (user_namespaces(7)).
pub fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<&str> = map.split_whitespace().collect();
    words != ["0", "0", "4294967295"]
}

/// Mounts and serves the probe's pack by the very code that serves all packs. Says whether the
/// kernel knows how to send requests again, and what it offered.
fn serve(dir: &Path, runtime: &Handle) -> Result<(bool, u64, Serving)> {
    let volumes = Arc::new(Volumes::default());
    volumes.insert(Arc::new(Volume::new(pack(dir)?)));
    let places = Places::open(&dir.join("places"))?;
    let tally = Arc::new(Tally::default());
    let options = FetcherOptions {
        source: Arc::new(Nothing),
        runtime: runtime.clone(),
        read_timeout: Duration::from_secs(1),
        clock: Clock::default(),
    };
    let fetcher = Arc::new(Fetcher::new(options, places, volumes.clone(), tally.clone())?);
    let connection = mount_data(&dir.join("fuse"))?;
    let resend = wire::resend(&connection.fd).unwrap_or(false);
    let offered = connection.offered;
    let server = Server::new(connection, volumes, fetcher, tally)?;
    Ok((resend, offered, Serving::start(Arc::new(server), 1)?))
}

/// Number of the probe's pack.
const PACK: PackNumber = 1;

/// Makes a complete pack.
fn pack(dir: &Path) -> Result<Pack> {
    let packs = dir.join("packs");
    std::fs::create_dir_all(&packs).at("make", &packs)?;
    let mut padded = plain();
    padded.resize(2 * BLOCK, 0);
    let identity = Identity {
        number: PACK,
        blob: Digest::of(&padded),
        blocks: 2,
    };
    let pack = Pack::open(&packs, identity, BootId([0; 16]), &Arc::new(Space::unbounded()))?;
    pack.store(0, &padded).at("write", &packs)?;
    Ok(pack)
}

/// A source that has nothing: all bytes of the probe's pack are there.
struct Nothing;

impl BlobSource for Nothing {
    fn read(&self, _: Digest, _: Range<u64>, _: Class) -> BoxFuture<'static, Result<Bytes, SourceError>> {
        let error = SourceError::Missing("the probe has no source".into());
        Box::pin(std::future::ready(Err(error)))
    }
}

fn plain() -> Vec<u8> {
    (0..LEN).map(|n| (n * 7 % 251) as u8).collect()
}

/// An index with one file.
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
        recorded: false,
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
    let read = same(&target.join("file"), &plain());
    unmount_all(target).map_err(|error| error.to_string())?;
    match read {
        Ok(()) => Ok(()),
        Err(WRONG) => Err("EROFS from a file gives wrong bytes".into()),
        Err(error) => Err(format!("EROFS from a file cannot be read: {error}")),
    }
}

/// Stands for wrong bytes among error numbers.
const WRONG: Errno = Errno::ILSEQ;

/// Reads a file that this process serves, and compares.
fn same(file: &Path, expected: &[u8]) -> std::result::Result<(), Errno> {
    let file = CString::new(file.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    let mut found = vec![0; expected.len() + 1];
    aside::run(None, || {
        let file = rustix::fs::open(file.as_c_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut len = 0;
        while len < found.len() {
            match rustix::io::read(&file, &mut found[len..])? {
                0 => break,
                read => len += read,
            }
        }
        if found[..len] == *expected {
            Ok(())
        } else {
            Err(WRONG)
        }
    })
}
