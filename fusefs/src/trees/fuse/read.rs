//! READ of a file: its chunks lie in packs, often one behind the other; the answer is one run of bytes.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use fuse_backend_rs::abi::fuse_abi::ReadIn;
use lacewing_format::limits::BLOCK;
use lacewing_format::{Extent, InodeView};

use crate::call::{Call, LateAnswer, Outcome, Shared, settle};
use crate::connection::MAX_READ;
use crate::error::ReadError;
use crate::fetch::{Answer, Origin};
use crate::layer::Layer;
use crate::packfs::{Refusal, clamp};
use crate::tally::add;
use crate::volumes::Volume;
use crate::wire;

/// A part of a read that lies in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// Where its bytes belong in the answer.
    at: usize,
    len: usize,
    /// Device and offset there; nothing for a hole.
    place: Option<(usize, u64)>,
}

/// The parts of a read, in order; neighbours in one device are one part.
#[derive(Clone)]
struct Pieces<'a> {
    inode: InodeView<'a>,
    /// What is left of the read.
    range: Range<u64>,
    /// Bytes of the answer so far.
    done: usize,
}

impl<'a> Pieces<'a> {
    fn new(inode: InodeView<'a>, range: Range<u64>) -> Pieces<'a> {
        Pieces {
            inode,
            range,
            done: 0,
        }
    }

    fn piece(&mut self) -> Result<Option<Piece>, Refusal> {
        let bits = self.inode.chunk_bits();
        if self.range.is_empty() {
            return Ok(None);
        }
        let first = usize::try_from(self.range.start >> bits).map_err(|_| Refusal::Damaged)?;
        let extents = self.inode.extents().map_err(|_| Refusal::Damaged)?;
        let mut found: Option<(Option<(usize, u64)>, u64)> = None;
        let mut chunk_start = (first as u64) << bits;
        for extent in extents.skip(first) {
            let from = self.range.start.max(chunk_start);
            let to = self.range.end.min(chunk_start.saturating_add(1 << bits));
            if from >= to {
                break;
            }
            let place = match extent.map_err(|_| Refusal::Damaged)? {
                Extent::Hole => None,
                Extent::Data { device, block } => {
                    let offset = u64::from(block) * BLOCK as u64 + (from - chunk_start);
                    Some((usize::from(device), offset))
                }
            };
            found = match found {
                None => Some((place, to - from)),
                Some((before, len)) if follows(before, len, place) => Some((before, len + (to - from))),
                Some(_) => break,
            };
            chunk_start = chunk_start.saturating_add(1 << bits);
        }
        let (place, len) = found.ok_or(Refusal::Damaged)?;
        let at = self.done;
        self.range.start += len;
        let len = usize::try_from(len).map_err(|_| Refusal::Damaged)?;
        self.done += len;
        Ok(Some(Piece { at, len, place }))
    }
}

/// Whether a place goes on where a run of `len` bytes ends.
fn follows(before: Option<(usize, u64)>, len: u64, next: Option<(usize, u64)>) -> bool {
    match (before, next) {
        (None, None) => true,
        (Some((device, offset)), Some((next_device, next_offset))) => {
            device == next_device && offset.saturating_add(len) == next_offset
        }
        _ => false,
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        self.piece()
            .inspect_err(|_| self.range.end = self.range.start)
            .transpose()
    }
}

/// Answers a READ at once if all its bytes are here, else later.
pub(super) fn read(
    call: &mut Call<'_>,
    layer: &Layer,
    inode: &InodeView<'_>,
    wanted: &ReadIn,
) -> Result<Outcome, Refusal> {
    let tally = &call.shared.tally;
    add(&tally.reads, 1);
    let range = clamp(inode.size(), wanted.offset, wanted.size.min(MAX_READ));
    let len = (range.end - range.start) as usize;
    if hit(call, layer, Pieces::new(*inode, range.clone()), len)? {
        add(&tally.read_bytes, len as u64);
    } else {
        add(&tally.misses, 1);
        fetch(call, layer, Pieces::new(*inode, range.clone()), len)?;
    }
    for piece in Pieces::new(*inode, range) {
        go_ahead(call.shared, layer, piece?);
    }
    Ok(Outcome::Silent)
}

/// Answers a READ whose bytes are all here; `false` if some are not.
fn hit(call: &mut Call<'_>, layer: &Layer, mut pieces: Pieces<'_>, len: usize) -> Result<bool, Refusal> {
    let all = pieces.clone();
    if let Some(piece) = pieces.next()
        && let Piece {
            len: whole,
            place: Some((device, offset)),
            ..
        } = piece?
        && whole == len
        && offset.is_multiple_of(BLOCK as u64)
    {
        return hit_blocks(call, volume(layer, device)?, offset, len);
    }
    let message = call.blocks.message(len);
    let here = fill(layer, all, &mut message[wire::OUT_HEADER..])?;
    if here {
        settle(wire::answer_in_place(
            &call.shared.fd,
            call.header.unique,
            message,
        ));
    }
    Ok(here)
}

/// The same for one run of bytes that begins with a block. Its blocks are read whole, and past the page cache: the
/// reader has a copy.
fn hit_blocks(call: &mut Call<'_>, volume: &Volume, offset: u64, len: usize) -> Result<bool, Refusal> {
    let (fd, unique, pack) = (&call.shared.fd, call.header.unique, &volume.pack);
    let blocks = offset
        ..offset
            .saturating_add(len.next_multiple_of(BLOCK) as u64)
            .min(pack.len());
    if blocks.end < offset.saturating_add(len as u64) {
        return Err(Refusal::Damaged);
    }
    let windowed = call.shared.volumes.windows.answer(pack, &blocks, |bytes| {
        settle(wire::answer(fd, unique, 0, bytes.get(..len).unwrap_or_default()));
    });
    if !windowed.map_err(|_| Refusal::Damaged)? {
        let message = call.blocks.message((blocks.end - blocks.start) as usize);
        let here = pack.read(offset, &mut message[wire::OUT_HEADER..]);
        if !here.map_err(|_| Refusal::Damaged)? {
            return Ok(false);
        }
        let message = message
            .get_mut(..wire::OUT_HEADER + len)
            .ok_or(Refusal::Damaged)?;
        settle(wire::answer_in_place(fd, unique, message));
    }
    pack.note_served(offset, len);
    Ok(true)
}

fn volume(layer: &Layer, device: usize) -> Result<&Arc<Volume>, Refusal> {
    let part = layer.parts.get(device).ok_or(Refusal::Damaged)?;
    Ok(&part.volume)
}

/// Reads all pieces from packs; `false` if one is not here.
fn fill(layer: &Layer, pieces: Pieces<'_>, to: &mut [u8]) -> Result<bool, Refusal> {
    for piece in pieces {
        let piece = piece?;
        if !fill_piece(layer, piece, to)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn fill_piece(layer: &Layer, piece: Piece, to: &mut [u8]) -> Result<bool, Refusal> {
    let to = to
        .get_mut(piece.at..piece.at + piece.len)
        .ok_or(Refusal::Damaged)?;
    let Some((device, offset)) = piece.place else {
        to.fill(0);
        return Ok(true);
    };
    let pack = &volume(layer, device)?.pack;
    let here = pack.read(offset, to).map_err(|_| Refusal::Damaged)?;
    if here {
        pack.note_served(offset, piece.len);
    }
    Ok(here)
}

/// Notes who reads where, and fetches what will be read next.
fn go_ahead(shared: &Shared, layer: &Layer, piece: Piece) {
    let Some((device, offset)) = piece.place else {
        return;
    };
    let Ok(volume) = volume(layer, device) else { return };
    let range = offset..offset.saturating_add(piece.len as u64);
    shared.volumes.recorder.note(volume.pack.number(), range.clone());
    if let Some(ahead) = shared.fetcher.on_read(volume, &range) {
        shared.fetcher.ahead(volume, ahead);
    }
}

/// Has the missing pieces fetched; the last one that comes answers.
fn fetch(call: &Call<'_>, layer: &Layer, pieces: Pieces<'_>, len: usize) -> Result<(), Refusal> {
    let origin = Origin {
        unique: call.header.unique,
        pid: call.header.pid,
    };
    let late = LateAnswer {
        shared: call.shared.clone(),
        unique: call.header.unique,
    };
    let mut bytes = vec![0; len];
    let mut missing = Vec::new();
    for piece in pieces {
        let piece = piece?;
        if !fill_piece(layer, piece, &mut bytes)?
            && let Some((device, offset)) = piece.place
        {
            missing.push((piece, volume(layer, device)?, offset));
        }
    }
    if let [(piece, volume, offset)] = missing[..]
        && piece.len == len
    {
        let range = offset..offset + len as u64;
        call.shared.fetcher.read(volume, range, origin, Box::new(late));
        return Ok(());
    }
    let whole = Arc::new(Mutex::new(Some(Whole {
        late,
        bytes,
        missing: missing.len(),
    })));
    if missing.is_empty() {
        // All of it has come meanwhile.
        finish(&whole, |whole| whole.missing = 0);
    }
    for (piece, volume, offset) in missing {
        let part = Part {
            whole: whole.clone(),
            at: piece.at,
        };
        let range = offset..offset + piece.len as u64;
        call.shared.fetcher.read(volume, range, origin, Box::new(part));
    }
    Ok(())
}

/// A READ of several pieces that waits for some of them.
struct Whole {
    late: LateAnswer,
    bytes: Vec<u8>,
    missing: usize,
}

/// Takes one piece of it.
struct Part {
    whole: Arc<Mutex<Option<Whole>>>,
    at: usize,
}

/// Changes a waiting READ, and answers it if nothing is missing any more.
fn finish(whole: &Mutex<Option<Whole>>, change: impl FnOnce(&mut Whole)) {
    let mut held = whole.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(waiting) = held.as_mut() else { return };
    change(waiting);
    if waiting.missing > 0 {
        return;
    }
    let done = held.take();
    drop(held);
    if let Some(Whole { late, bytes, .. }) = done {
        Box::new(late).data(&bytes);
    }
}

impl Answer for Part {
    fn data(self: Box<Self>, bytes: &[u8]) {
        finish(&self.whole, |whole| {
            if let Some(to) = whole.bytes.get_mut(self.at..self.at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
            whole.missing = whole.missing.saturating_sub(1);
        });
    }

    fn fail(self: Box<Self>, error: ReadError) {
        let failed = self.whole.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(whole) = failed {
            Box::new(whole.late).fail(error);
        }
    }
}
