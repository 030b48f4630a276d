//! A pack's files beside its data: bits and checkpoint, byte for byte.
//!
//! ```text
//! bits     header of 4096 bytes, then a bit per block, pages of which may be holes
//! durable  header of 64 bytes, records of a page number (u32) and that page, BLAKE3 of it all
//! header   magic (8), pack number (u32), blocks (u32), blob digest (32), boot id (16)
//! ```
//!
//! Numbers are little-endian.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use lacewing_format::Digest;
use lacewing_format::limits::BLOCK;

use super::bitmap::{Bitmap, PAGE_BYTES};
use crate::error::{IoContext, Result};

/// Number of a pack on this node; 0 is never given.
pub(crate) type PackNumber = u32;

/// Identifies one boot of the machine (random, given by the kernel).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BootId(pub [u8; 16]);

impl BootId {
    /// The boot that is running.
    pub(crate) fn current() -> Result<BootId> {
        let path = "/proc/sys/kernel/random/boot_id";
        let text = std::fs::read_to_string(path).at("read", path)?;
        let digest = blake3::hash(text.trim().as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest.as_bytes()[..16]);
        Ok(BootId(id))
    }
}

/// What never changes about a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The pack's number.
    pub(crate) number: PackNumber,
    /// The blob whose plain bytes it holds.
    pub(crate) blob: Digest,
    /// Blocks of the blob's plain address space.
    pub(crate) blocks: u32,
}

const BITS_MAGIC: &[u8; 8] = b"LWBITS01";
const DURABLE_MAGIC: &[u8; 8] = b"LWDURA01";

/// Bits start behind one block of header.
pub(super) const HEADER: usize = BLOCK;

/// Identity of a pack in its files: magic, number, blocks, blob, boot.
fn header(magic: &[u8; 8], pack: &Identity, boot: BootId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&pack.number.to_le_bytes());
    bytes.extend_from_slice(&pack.blocks.to_le_bytes());
    bytes.extend_from_slice(&pack.blob.0);
    bytes.extend_from_slice(&boot.0);
    bytes
}

/// The mark of a pack that was read as a plain file in this boot.
pub(super) const WHOLE: &str = "whole";

/// Whether a pack is marked as read by others, in this boot. Mounts do not outlive it.
pub(super) fn is_whole(path: &Path, boot: BootId) -> bool {
    std::fs::read(path.with_extension(WHOLE)).is_ok_and(|found| found == boot.0)
}

/// Loads the bits of this boot; `false` if the file has none.
pub(super) fn load_bits(path: &Path, pack: &Identity, boot: BootId, bits: &Bitmap) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut found = [0; 64];
    let expected = header(BITS_MAGIC, pack, boot);
    if file.read_exact_at(&mut found, 0).is_err() || found[..] != expected[..] {
        return Ok(false);
    }
    let mut page = vec![0; PAGE_BYTES];
    let mut at = HEADER as u64;
    // Holes are skipped: a pack's map is as sparse as the pack.
    while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        let number = (data - HEADER as u64) / PAGE_BYTES as u64;
        if number >= u64::from(bits.page_count()) {
            break;
        }
        at = HEADER as u64 + number * PAGE_BYTES as u64;
        let len = read_up_to(&file, &mut page, at)?;
        bits.load_page(number as u32, &page[..len]);
        at += PAGE_BYTES as u64;
    }
    Ok(true)
}

fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// Loads the last checkpoint; a missing or damaged one means that nothing is known.
pub(super) fn load_durable(path: &Path, pack: &Identity, bits: &Bitmap) -> io::Result<()> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some((body, sum)) = bytes.split_last_chunk::<32>() else {
        return Ok(());
    };
    let identity = header(DURABLE_MAGIC, pack, BootId([0; 16]));
    let matches = body.len() >= 64 && body[..48] == identity[..48];
    if !matches || blake3::hash(body).as_bytes() != sum {
        return Ok(());
    }
    for record in body[64..].chunks_exact(4 + PAGE_BYTES) {
        let (number, page) = record.split_at(4);
        let number = u32::from_le_bytes(number.try_into().unwrap_or_default());
        bits.load_page(number, page);
    }
    Ok(())
}

/// Starts the bits file of this boot. No flush: it is believed in this boot only.
pub(super) fn start_bits(path: &Path, pack: &Identity, boot: BootId, bits: &Bitmap) -> io::Result<()> {
    let new = path.with_extension("bits-new");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&new)?;
    file.write_all_at(&header(BITS_MAGIC, pack, boot), 0)?;
    for number in bits.used_pages() {
        let at = HEADER as u64 + u64::from(number) * PAGE_BYTES as u64;
        file.write_all_at(&bits.page(number), at)?;
    }
    std::fs::rename(&new, path)
}

/// The bytes of a checkpoint with these pages.
pub(super) fn durable(pack: &Identity, boot: BootId, pages: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = header(DURABLE_MAGIC, pack, boot);
    for (number, page) in pages {
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(page);
    }
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    bytes
}
