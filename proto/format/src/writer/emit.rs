//! Bytes: the image by its plan, then tables and trailer.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::dirblock::{self, Target};
use super::input::Order;
use super::place::{Place, Plan};
use super::xattrs::Xattrs;
use crate::erofs::{self, CHUNK_INDEX_LEN, ChunkIndex, DeviceSlot, InodeCompact, InodeExtended, SuperBlock};
use crate::limits::{BLOCK, BLOCK_BITS};
use crate::table_rules::TableView;
use crate::tables::{Device, Tables};
use crate::trailer::{self, TRAILER_LEN, Trailer};
use crate::tree::{Body, Extent, FileBody, Inode, InodeId, Tree};

/// Length of the tables and the trailer.
pub(super) fn tables_len(view: &TableView<'_>) -> usize {
    size_of_val(view.devices)
        + size_of_val(view.frames)
        + size_of_val(view.chunks)
        + size_of_val(view.prefetch)
        + TRAILER_LEN
}

/// Writes the EROFS image into a buffer that has room for `capacity` bytes.
pub(super) fn image(
    tree: &Tree,
    order: &Order,
    xattrs: &Xattrs<'_>,
    plan: &Plan,
    tables: &Tables,
    capacity: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    out.resize(plan.image_len(), 0);
    let mut chunked = false;
    for (number, &id) in order.inodes.iter().enumerate() {
        let Some(inode) = tree.inodes.get(id.0 as usize) else {
            continue;
        };
        let place = plan.place(id);
        let links = order.links.get(id.0 as usize).copied().unwrap_or_default();
        put(&mut out, place.start, &fixed_part(inode, &place, links, number));
        let body = place.start + place.fixed_len();
        put(&mut out, body, &xattrs.inode_bytes(tree, id));
        let behind = body + place.xattr_len;
        match &inode.body {
            Body::Dir(entries) => {
                let parent = order.parents.get(id.0 as usize).copied().unwrap_or(id);
                let resolve = |target| resolve(tree, plan, id, parent, target);
                put_flat(&mut out, &place, behind, &dirblock::content(entries, resolve));
            }
            Body::Symlink(target) => put_flat(&mut out, &place, behind, target),
            Body::File(file) if file.size > 0 => {
                chunked = true;
                put_extents(&mut out, behind.next_multiple_of(CHUNK_INDEX_LEN), file);
            }
            _ => {}
        }
    }
    put(&mut out, plan.xattrs_start, &xattrs.shared_bytes());
    put_devices(&mut out, &tables.devices);
    put_super(&mut out, order, plan, xattrs, tables, chunked);
    out
}

/// Returns the number and type of what a directory entry names.
fn resolve(tree: &Tree, plan: &Plan, own: InodeId, parent: InodeId, target: Target) -> (u64, u8) {
    let id = match target {
        Target::Own => own,
        Target::Parent => parent,
        Target::Child(child) => child,
    };
    let mode = tree.inodes.get(id.0 as usize).map_or(0, |inode| inode.mode);
    (plan.place(id).nid(), erofs::dirent_type(mode))
}

/// Returns an inode's fixed part. Casts lose nothing: the plan chose the form by the values.
fn fixed_part(inode: &Inode, place: &Place, links: u32, number: usize) -> Vec<u8> {
    let (layout, u) = match &inode.body {
        Body::File(file) if file.size > 0 => {
            let block_bits = u32::from(file.chunk_bits - BLOCK_BITS);
            (
                erofs::LAYOUT_CHUNK_BASED,
                erofs::CHUNK_FORMAT_INDEXES | block_bits,
            )
        }
        Body::Device { major, minor } => (erofs::LAYOUT_FLAT_PLAIN, erofs::encode_dev(*major, *minor)),
        _ if place.inline => (erofs::LAYOUT_FLAT_INLINE, place.block as u32),
        _ => (erofs::LAYOUT_FLAT_PLAIN, place.block as u32),
    };
    let format = layout << erofs::I_DATALAYOUT_SHIFT;
    let xattr_icount = match place.xattr_len {
        0 => 0,
        len => ((len - erofs::XATTR_HEADER_LEN) / 4 + 1) as u16,
    };
    let ino = number as u32 + 1;
    if place.extended {
        let inode = InodeExtended {
            format: (format | erofs::I_EXTENDED).into(),
            xattr_icount: xattr_icount.into(),
            mode: (inode.mode as u16).into(),
            reserved: 0.into(),
            size: place.size.into(),
            u: u.into(),
            ino: ino.into(),
            uid: inode.uid.into(),
            gid: inode.gid.into(),
            mtime: inode.mtime.secs.cast_unsigned().into(),
            mtime_nsec: inode.mtime.nanos.into(),
            nlink: links.into(),
            reserved2: [0; 16],
        };
        return inode.as_bytes().to_vec();
    }
    let inode = InodeCompact {
        format: format.into(),
        xattr_icount: xattr_icount.into(),
        mode: (inode.mode as u16).into(),
        nlink: (links as u16).into(),
        size: (place.size as u32).into(),
        reserved: 0.into(),
        u: u.into(),
        ino: ino.into(),
        uid: (inode.uid as u16).into(),
        gid: (inode.gid as u16).into(),
        reserved2: 0.into(),
    };
    inode.as_bytes().to_vec()
}

/// Writes a directory's or symlink's content: whole blocks, and the rest behind the inode.
fn put_flat(out: &mut [u8], place: &Place, behind: usize, content: &[u8]) {
    let in_blocks = match place.inline {
        true => content.len() / BLOCK * BLOCK,
        false => content.len(),
    };
    let (blocks, tail) = content.split_at(in_blocks);
    put(out, place.block * BLOCK, blocks);
    put(out, behind, tail);
}

fn put_extents(out: &mut [u8], at: usize, file: &FileBody) {
    for (number, extent) in file.extents.iter().enumerate() {
        let (device_id, block) = match *extent {
            Extent::Hole => (0, erofs::NULL_ADDR),
            Extent::Data { device, block } => (device + 1, block),
        };
        let chunk = ChunkIndex {
            startblk_hi: 0.into(),
            device_id: device_id.into(),
            startblk_lo: block.into(),
        };
        put(out, at + number * CHUNK_INDEX_LEN, chunk.as_bytes());
    }
}

fn put_devices(out: &mut [u8], devices: &[Device]) {
    for (number, device) in devices.iter().enumerate() {
        let mut slot = DeviceSlot {
            tag: [0; 64],
            blocks: device.blocks().into(),
            uniaddr: 0.into(),
            reserved: [0; 56],
        };
        slot.tag.copy_from_slice(device.blob().hex().as_bytes());
        let at = erofs::DEVICE_TABLE_OFFSET + number * erofs::DEVICE_SLOT;
        put(out, at, slot.as_bytes());
    }
}

fn put_super(
    out: &mut [u8],
    order: &Order,
    plan: &Plan,
    xattrs: &Xattrs<'_>,
    tables: &Tables,
    chunked: bool,
) {
    let devices = tables.devices.len();
    let mut incompat = 0;
    if chunked {
        incompat |= erofs::INCOMPAT_CHUNKED_FILE;
    }
    if devices > 0 {
        incompat |= erofs::INCOMPAT_DEVICE_TABLE;
    }
    let table_slot = if devices > 0 {
        erofs::DEVICE_TABLE_OFFSET / erofs::DEVICE_SLOT
    } else {
        0
    };
    let xattr_block = if xattrs.shared_len() > 0 {
        plan.xattrs_start / BLOCK
    } else {
        0
    };
    let mut sb = SuperBlock {
        magic: erofs::SUPER_MAGIC.into(),
        checksum: 0.into(),
        feature_compat: (erofs::COMPAT_SB_CHKSUM | erofs::COMPAT_MTIME).into(),
        blkszbits: BLOCK_BITS,
        sb_extslots: 0,
        root_nid: (plan.place(InodeId(0)).nid() as u16).into(),
        inos: (order.inodes.len() as u64).into(),
        epoch: order.epoch.secs.cast_unsigned().into(),
        fixed_nsec: order.epoch.nanos.into(),
        blocks: ((plan.image_len() / BLOCK) as u32).into(),
        meta_blkaddr: 0.into(),
        xattr_blkaddr: (xattr_block as u32).into(),
        uuid: uuid(tables),
        volume_name: [0; 16],
        feature_incompat: incompat.into(),
        available_compr_algs: 0.into(),
        extra_devices: (devices as u16).into(),
        devt_slotoff: (table_slot as u16).into(),
        dirblkbits: 0,
        xattr_prefix_count: 0,
        xattr_prefix_start: 0.into(),
        packed_nid: 0.into(),
        reserved: [0; 24],
    };
    put(out, erofs::SUPER_OFFSET, sb.as_bytes());
    sb.checksum = erofs::super_checksum(&out[..BLOCK]).into();
    put(out, erofs::SUPER_OFFSET, sb.as_bytes());
}

/// Makes a UUID (version 8, own rules) that differs from layer to layer: overlayfs tells lower
/// file systems apart by it.
fn uuid(tables: &Tables) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&tables.layer.0);
    hasher.update(&tables.diff_id.0);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Appends tables and trailer to a finished image.
pub(super) fn append_tables(out: &mut Vec<u8>, view: &TableView<'_>, tables: &Tables) {
    let erofs_len = out.len();
    let (minor, compat) = match tables.recorded {
        true => (trailer::MINOR_RECORDED, trailer::COMPAT_RECORDED),
        false => (trailer::MINOR, 0),
    };
    let mut append = |bytes: &[u8]| {
        let at = U64::new(out.len() as u64);
        out.extend_from_slice(bytes);
        at
    };
    let mut trailer = Trailer {
        erofs_len: (erofs_len as u64).into(),
        devices_offset: append(view.devices.as_bytes()),
        frames_offset: append(view.frames.as_bytes()),
        chunks_offset: append(view.chunks.as_bytes()),
        prefetch_offset: append(view.prefetch.as_bytes()),
        device_count: (view.devices.len() as u32).into(),
        frame_count: (view.frames.len() as u32).into(),
        chunk_count: (view.chunks.len() as u32).into(),
        prefetch_count: (view.prefetch.len() as u32).into(),
        feature_incompat: 0.into(),
        feature_compat: compat.into(),
        layer: tables.layer.0,
        diff_id: tables.diff_id.0,
        reserved: [0; 72],
        checksum: [0; 32],
        trailer_len: (TRAILER_LEN as u32).into(),
        major: trailer::MAJOR.into(),
        minor: minor.into(),
        magic: trailer::MAGIC,
    };
    let at = out.len();
    out.extend_from_slice(trailer.as_bytes());
    trailer.checksum = trailer::checksum(out);
    put(out, at, trailer.as_bytes());
}

/// Writes bytes at their planned place.
fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}
