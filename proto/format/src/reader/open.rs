//! First look at an index: trailer, checksum, superblock.

use zerocopy::FromBytes;

use super::{Index, Layout, Nid, Span};
use crate::digest::Digest;
use crate::erofs::{self, DeviceSlot, SuperBlock};
use crate::error::FormatError;
use crate::limits::{BLOCK, BLOCK_BITS, MAX_INDEX};
use crate::tables::{Chunk, Device, Frame};
use crate::trailer::{self, TRAILER_LEN, Trailer};
use crate::tree::Time;

/// Finds all parts of an index and checks that they are inside of it and whole.
pub(super) fn layout(bytes: &[u8]) -> Result<Layout, FormatError> {
    let trailer = read_trailer(bytes)?;
    let end = bytes.len() - TRAILER_LEN;
    let erofs_len = usize::try_from(trailer.erofs_len.get()).unwrap_or(usize::MAX);
    if erofs_len == 0 || erofs_len > end || erofs_len % BLOCK != 0 {
        return Err(invalid_trailer("the length of the EROFS image is out of range"));
    }
    let mut from = erofs_len;
    let mut span = |offset: u64, count: u32, record: usize| {
        let found = table_span(offset, count, record, from, end)?;
        from = found.end;
        Ok(found)
    };
    let devices = span(
        trailer.devices_offset.get(),
        trailer.device_count.get(),
        size_of::<Device>(),
    )?;
    let frames = span(
        trailer.frames_offset.get(),
        trailer.frame_count.get(),
        size_of::<Frame>(),
    )?;
    let chunks = span(
        trailer.chunks_offset.get(),
        trailer.chunk_count.get(),
        size_of::<Chunk>(),
    )?;
    let prefetch = span(trailer.prefetch_offset.get(), trailer.prefetch_count.get(), 4)?;
    if trailer::checksum(bytes) != trailer.checksum {
        return Err(FormatError::Checksum { what: "the index" });
    }
    let device_count = trailer.device_count.get() as usize;
    let first_block = bytes.get(..BLOCK).unwrap_or_default();
    let sb = read_superblock(first_block)?;
    check_superblock(&sb, erofs_len, device_count)?;
    let inodes_start = inodes_start(device_count);
    let xattrs_start = match sb.xattr_blkaddr.get() as usize {
        0 => erofs_len,
        block => block.saturating_mul(BLOCK),
    };
    if inodes_start > xattrs_start || xattrs_start > erofs_len {
        return Err(invalid_super("the parts of the image overlap"));
    }
    Ok(Layout {
        len: bytes.len(),
        erofs_len,
        devices,
        frames,
        chunks,
        prefetch,
        recorded: trailer.feature_compat.get() & trailer::COMPAT_RECORDED != 0,
        layer: Digest(trailer.layer),
        diff_id: Digest(trailer.diff_id),
        root: Nid(sb.root_nid.get().into()),
        inode_count: sb.inos.get(),
        epoch: Time {
            secs: sb.epoch.get().cast_signed(),
            nanos: sb.fixed_nsec.get(),
        },
        inodes_start,
        xattrs_start,
    })
}

/// Returns the first byte behind the superblock and a device table of `devices` slots.
pub(crate) fn inodes_start(devices: usize) -> usize {
    erofs::DEVICE_TABLE_OFFSET.saturating_add(devices.saturating_mul(erofs::DEVICE_SLOT))
}

fn read_trailer(bytes: &[u8]) -> Result<Trailer, FormatError> {
    if bytes.len() as u64 > MAX_INDEX {
        return Err(FormatError::Limit {
            what: "index length",
            value: bytes.len() as u64,
            limit: MAX_INDEX,
        });
    }
    if !bytes.ends_with(&trailer::MAGIC) {
        return Err(FormatError::NotAnIndex {
            what: "no magic number at the end",
        });
    }
    let Ok((_, trailer)) = Trailer::read_from_suffix(bytes) else {
        return Err(FormatError::NotAnIndex {
            what: "shorter than its trailer",
        });
    };
    if trailer.major.get() != trailer::MAJOR {
        return Err(FormatError::Version {
            major: trailer.major.get(),
            minor: trailer.minor.get(),
        });
    }
    if trailer.feature_incompat.get() != 0 {
        return Err(FormatError::Feature {
            place: "the trailer",
            bits: trailer.feature_incompat.get(),
        });
    }
    if trailer.trailer_len.get() as usize != TRAILER_LEN {
        return Err(invalid_trailer("its length is not that of version 1"));
    }
    Ok(trailer)
}

/// Checks that a table starts at or behind `from` and ends at or before `end`.
fn table_span(offset: u64, count: u32, record: usize, from: usize, end: usize) -> Result<Span, FormatError> {
    let span = || {
        let start = usize::try_from(offset).ok()?;
        let len = (count as usize).checked_mul(record)?;
        let table_end = start.checked_add(len)?;
        (start >= from && table_end <= end).then_some(Span {
            start,
            end: table_end,
        })
    };
    span().ok_or(invalid_trailer("a table is out of order or out of range"))
}

fn read_superblock(first_block: &[u8]) -> Result<SuperBlock, FormatError> {
    let at = first_block.get(erofs::SUPER_OFFSET..).unwrap_or_default();
    let Ok((sb, _)) = SuperBlock::read_from_prefix(at) else {
        return Err(FormatError::NotAnIndex {
            what: "shorter than a superblock",
        });
    };
    if sb.magic.get() != erofs::SUPER_MAGIC {
        return Err(FormatError::NotAnIndex {
            what: "no EROFS superblock",
        });
    }
    if sb.checksum.get() != erofs::super_checksum(first_block) {
        return Err(FormatError::Checksum {
            what: "the EROFS superblock",
        });
    }
    Ok(sb)
}

fn check_superblock(sb: &SuperBlock, erofs_len: usize, devices: usize) -> Result<(), FormatError> {
    let incompat = sb.feature_incompat.get();
    let unknown = incompat & !(erofs::INCOMPAT_CHUNKED_FILE | erofs::INCOMPAT_DEVICE_TABLE);
    if unknown != 0 {
        return Err(FormatError::Feature {
            place: "the EROFS superblock",
            bits: unknown.into(),
        });
    }
    let compat = sb.feature_compat.get();
    if compat != erofs::COMPAT_SB_CHKSUM | erofs::COMPAT_MTIME {
        return Err(FormatError::Feature {
            place: "the EROFS superblock (compatible)",
            bits: compat.into(),
        });
    }
    // What later kernels give a meaning to must be zero, so that all kernels see the same tree.
    let unused = sb.sb_extslots != 0
        || sb.meta_blkaddr.get() != 0
        || sb.available_compr_algs.get() != 0
        || sb.dirblkbits != 0
        || sb.xattr_prefix_count != 0
        || sb.xattr_prefix_start.get() != 0
        || sb.packed_nid.get() != 0
        || sb.reserved != [0; 24];
    let has_table = incompat & erofs::INCOMPAT_DEVICE_TABLE != 0;
    let table_slot = if devices == 0 {
        0
    } else {
        erofs::DEVICE_TABLE_OFFSET / erofs::DEVICE_SLOT
    };
    let rules = [
        (unused, "a field of a feature that is not used is set"),
        (sb.blkszbits != BLOCK_BITS, "the block size is not 4096"),
        (
            sb.blocks.get() as usize != erofs_len / BLOCK,
            "its count of blocks is not that of the image",
        ),
        (
            has_table != (devices > 0)
                || sb.extra_devices.get() as usize != devices
                || sb.devt_slotoff.get() as usize != table_slot,
            "its device table is not that of the index",
        ),
        (
            sb.fixed_nsec.get() >= 1_000_000_000,
            "its nanoseconds are out of range",
        ),
        (
            sb.inos.get() == 0 || sb.inos.get() > erofs_len as u64 / erofs::ISLOT,
            "its count of inodes is out of range",
        ),
    ];
    match rules.iter().find(|rule| rule.0) {
        Some(&(_, what)) => Err(invalid_super(what)),
        None => Ok(()),
    }
}

/// Checks that the EROFS device table says what the index's own says.
pub(super) fn check_device_slots(index: &Index<'_>) -> Result<(), FormatError> {
    let end = index.layout.inodes_start;
    let table = index
        .bytes
        .get(erofs::DEVICE_TABLE_OFFSET..end)
        .unwrap_or_default();
    let slots = <[DeviceSlot]>::ref_from_bytes(table).unwrap_or_default();
    for (number, (slot, device)) in slots.iter().zip(index.devices()).enumerate() {
        let mut tag = [0; 64];
        let same = hex::encode_to_slice(device.blob().0, &mut tag).is_ok()
            && slot.tag == tag
            && slot.blocks.get() == device.blocks()
            && slot.uniaddr.get() == 0
            && slot.reserved == [0; 56];
        if !same {
            return Err(FormatError::Table {
                table: "EROFS device slot",
                index: number as u64,
                what: "it is not that of the device table",
            });
        }
    }
    Ok(())
}

fn invalid_trailer(what: &'static str) -> FormatError {
    FormatError::Table {
        table: "trailer",
        index: 0,
        what,
    }
}

fn invalid_super(what: &'static str) -> FormatError {
    FormatError::Table {
        table: "EROFS superblock",
        index: 0,
        what,
    }
}
