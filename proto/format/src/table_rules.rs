//! Rules that devices, frames, chunks and the prefetch list obey. The writer checks them before it
//! writes, the reader after it has read: one function for both.

use zerocopy::little_endian::U32;

use crate::error::FormatError;
use crate::limits::{
    BLOCK, MAX_CHUNK, MAX_CHUNKS, MAX_DEVICE_BLOCKS, MAX_DEVICES, MAX_FILE_SIZE, MAX_FRAME_PLAIN, MAX_FRAMES,
};
use crate::tables::{Chunk, Codec, Device, Frame};

/// The tables as slices of records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableView<'a> {
    pub(crate) devices: &'a [Device],
    pub(crate) frames: &'a [Frame],
    pub(crate) chunks: &'a [Chunk],
    pub(crate) prefetch: &'a [U32],
}

impl<'a> TableView<'a> {
    /// Checks every record. Cost: O(records); no allocation.
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        self.check_counts()?;
        let mut next_frame = 0;
        let mut next_chunk = 0;
        for (number, device) in self.devices.iter().enumerate() {
            next_frame = self.check_device(number, device, next_frame)?;
            next_chunk = self.check_device_frames(device, next_chunk)?;
        }
        if next_frame != self.frames.len() {
            return Err(table("frame", next_frame, "belongs to no device"));
        }
        if next_chunk != self.chunks.len() {
            return Err(table("chunk", next_chunk, "belongs to no frame"));
        }
        self.check_prefetch()
    }

    fn check_counts(&self) -> Result<(), FormatError> {
        limit("device count", self.devices.len(), MAX_DEVICES)?;
        limit("frame count", self.frames.len(), MAX_FRAMES)?;
        limit("chunk count", self.chunks.len(), MAX_CHUNKS)?;
        limit("prefetch count", self.prefetch.len(), self.frames.len())
    }

    /// Checks one device and returns the number of the frame behind its last one.
    fn check_device(&self, number: usize, device: &Device, first: usize) -> Result<usize, FormatError> {
        let bad = |what| Err(table("device", number, what));
        if device.kind != 0 || device.reserved != [0; 11] {
            return Err(FormatError::Feature {
                place: "device kind",
                bits: device.kind.into(),
            });
        }
        if device.blocks() == 0 || device.blocks() > MAX_DEVICE_BLOCKS {
            return bad("its count of blocks is out of range");
        }
        if device.stored_len() == 0 || device.stored_len() > MAX_FILE_SIZE {
            return bad("its stored length is out of range");
        }
        if device.first_frame() as usize != first || device.frame_count() == 0 {
            return bad("its frames do not follow those of the device before it");
        }
        let end = first.saturating_add(device.frame_count() as usize);
        if end > self.frames.len() {
            return bad("its frames are outside of the frame table");
        }
        let earlier = self.devices.get(..number).unwrap_or_default();
        if earlier.iter().any(|other| other.blob() == device.blob()) {
            return bad("its blob is listed twice");
        }
        Ok(end)
    }

    /// Checks the frames of a device whose frame numbers are in range, and returns the number of
    /// the chunk behind their last one.
    fn check_device_frames(&self, device: &Device, first_chunk: usize) -> Result<usize, FormatError> {
        let first = device.first_frame() as usize;
        let frames = self.frames.get(first..).unwrap_or_default();
        let mut chunk = first_chunk;
        let mut stored_end = 0;
        let mut block = 0;
        for (number, frame) in (first..).zip(frames.iter().take(device.frame_count() as usize)) {
            let bad = |what| Err(table("frame", number, what));
            if frame.reserved != [0; 3] {
                return bad("its reserved bytes are not zero");
            }
            if frame.first_chunk() as usize != chunk {
                return bad("its chunks do not follow those of the frame before it");
            }
            let chunks = self.frame_chunks(frame);
            if chunks.is_empty() || chunks.len() != frame.chunk_count() as usize {
                return bad("its chunks are outside of the chunk table");
            }
            let end = check_chunks(chunks, chunk, block)?;
            if end > device.blocks() {
                return bad("it ends outside of its device");
            }
            check_stored(frame, number, chunks, end)?;
            if frame.stored_offset() < stored_end {
                return bad("its stored bytes overlap those of the frame before it");
            }
            stored_end = match frame.stored_offset().checked_add(frame.stored_len().into()) {
                Some(end) if end <= device.stored_len() => end,
                _ => return bad("its stored bytes are outside of the blob"),
            };
            block = end;
            chunk += chunks.len();
        }
        Ok(chunk)
    }

    fn check_prefetch(&self) -> Result<(), FormatError> {
        let outside = |frame: &U32| frame.get() as usize >= self.frames.len();
        match self.prefetch.iter().position(outside) {
            Some(at) => Err(table("prefetch", at, "it names no frame")),
            None => Ok(()),
        }
    }

    /// Returns the chunks of a frame, cut at the end of the table.
    pub(crate) fn frame_chunks(&self, frame: &Frame) -> &'a [Chunk] {
        let rest = self
            .chunks
            .get(frame.first_chunk() as usize..)
            .unwrap_or_default();
        rest.get(..frame.chunk_count() as usize).unwrap_or(rest)
    }

    /// Finds the chunk that starts at a block of a device. `hint` is tried first: files mostly
    /// follow each other as their chunks do. Cost: O(log chunks).
    pub(crate) fn chunk_at(&self, device: usize, block: u32, hint: usize) -> Option<usize> {
        let device = self.devices.get(device)?;
        let first = self.frames.get(device.first_frame() as usize)?.first_chunk() as usize;
        let last_frame = (device.first_frame() as usize).checked_add(device.frame_count() as usize)?;
        let last = self.frames.get(last_frame.checked_sub(1)?)?;
        let end = (last.first_chunk() as usize).checked_add(last.chunk_count() as usize)?;
        if (first..end).contains(&hint) && self.chunks.get(hint).is_some_and(|c| c.block() == block) {
            return Some(hint);
        }
        let chunks = self.chunks.get(first..end)?;
        let at = chunks.binary_search_by_key(&block, Chunk::block).ok()?;
        Some(first + at)
    }
}

/// Checks that chunks lie back to back at or behind block `from`; returns the block behind them.
fn check_chunks(chunks: &[Chunk], first: usize, from: u32) -> Result<u32, FormatError> {
    let mut expected = None;
    for (number, chunk) in (first..).zip(chunks) {
        if chunk.len() == 0 || chunk.len() > MAX_CHUNK {
            return Err(table("chunk", number, "its length is out of range"));
        }
        let in_order = expected.map_or(chunk.block() >= from, |block| chunk.block() == block);
        if !in_order {
            return Err(table("chunk", number, "it does not lie behind the one before it"));
        }
        expected = chunk.block().checked_add(chunk.blocks());
        if expected.is_none() {
            return Err(table("chunk", number, "it ends outside of every device"));
        }
    }
    Ok(expected.unwrap_or(from))
}

/// Checks codec and lengths of a frame whose chunks end at block `end`.
fn check_stored(frame: &Frame, number: usize, chunks: &[Chunk], end: u32) -> Result<(), FormatError> {
    let blocks = end - chunks.first().map_or(end, Chunk::block);
    if blocks > MAX_FRAME_PLAIN / BLOCK as u32 {
        return Err(table("frame", number, "it has too many plain bytes"));
    }
    let plain_len = blocks * BLOCK as u32;
    match frame.codec() {
        Some(Codec::Raw) if frame.stored_len() != plain_len => {
            Err(table("frame", number, "stored raw, its two lengths differ"))
        }
        Some(Codec::Zstd) if frame.stored_len() == 0 || frame.stored_len() > plain_len => {
            Err(table("frame", number, "its stored length is out of range"))
        }
        Some(_) => Ok(()),
        None => Err(FormatError::Feature {
            place: "frame codec",
            bits: frame.codec_code().into(),
        }),
    }
}

fn table(table: &'static str, index: usize, what: &'static str) -> FormatError {
    FormatError::Table {
        table,
        index: index as u64,
        what,
    }
}

fn limit(what: &'static str, value: usize, limit: usize) -> Result<(), FormatError> {
    if value > limit {
        return Err(FormatError::Limit {
            what,
            value: value as u64,
            limit: limit as u64,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{ChunkId, Digest};

    struct Owned {
        devices: Vec<Device>,
        frames: Vec<Frame>,
        chunks: Vec<Chunk>,
        prefetch: Vec<U32>,
    }

    fn chunk(block: u32, len: u32) -> Chunk {
        Chunk::new(block, len, ChunkId([7; 32]))
    }

    /// Two devices: frames at blocks 0..4 and 10..11, and at 3..4.
    fn valid() -> Owned {
        Owned {
            devices: vec![
                Device::new(Digest([1; 32]), 20_000, 11, 0, 2),
                Device::new(Digest([2; 32]), 500, 4, 2, 1),
            ],
            frames: vec![
                Frame::new(0, 16_384, 0, 2, Codec::Raw),
                Frame::new(16_384, 100, 2, 1, Codec::Zstd),
                Frame::new(10, 400, 3, 1, Codec::Zstd),
            ],
            chunks: vec![chunk(0, 8_192), chunk(2, 4_097), chunk(10, 1), chunk(3, 4_096)],
            prefetch: vec![2.into(), 0.into()],
        }
    }

    impl Owned {
        fn check(&self) -> Result<(), FormatError> {
            self.view().check()
        }

        fn view(&self) -> TableView<'_> {
            TableView {
                devices: &self.devices,
                frames: &self.frames,
                chunks: &self.chunks,
                prefetch: &self.prefetch,
            }
        }
    }

    #[test]
    fn a_valid_set_passes() {
        assert_eq!(valid().check(), Ok(()));
        let empty = TableView {
            devices: &[],
            frames: &[],
            chunks: &[],
            prefetch: &[],
        };
        assert_eq!(empty.check(), Ok(()));
    }

    #[test]
    fn chunks_are_found_by_device_and_block() {
        let tables = valid();
        for hint in 0..5 {
            let find = |device, block| tables.view().chunk_at(device, block, hint);
            assert_eq!(find(0, 0), Some(0));
            assert_eq!(find(0, 2), Some(1));
            assert_eq!(find(0, 10), Some(2));
            assert_eq!(find(1, 3), Some(3));
            assert_eq!(find(0, 3), None);
            assert_eq!(find(1, 0), None);
            assert_eq!(find(2, 0), None);
        }
    }

    #[test]
    #[rustfmt::skip]
    fn each_broken_rule_is_found() {
        type Break = fn(&mut Owned);
        let rows: [(&str, Break); 24] = [
            ("no blocks", |t| t.devices[0] = Device::new(Digest([1; 32]), 20_000, 0, 0, 2)),
            ("blocks beyond the null address", |t| t.devices[0] = Device::new(Digest([1; 32]), 20_000, u32::MAX, 0, 2)),
            ("empty blob", |t| t.devices[0] = Device::new(Digest([1; 32]), 0, 11, 0, 2)),
            ("frames overlap another device's", |t| t.devices[1] = Device::new(Digest([2; 32]), 500, 4, 1, 1)),
            ("frames outside", |t| t.devices[1] = Device::new(Digest([2; 32]), 500, 4, 2, 2)),
            ("frame of no device", |t| { t.devices.pop(); }),
            ("device without frames", |t| t.devices.push(Device::new(Digest([3; 32]), 500, 4, 3, 0))),
            ("blob twice", |t| t.devices[1] = Device::new(Digest([1; 32]), 500, 4, 2, 1)),
            ("unknown kind", |t| t.devices[1].kind = 1),
            ("frame without chunks", |t| t.frames[1] = Frame::new(16_384, 100, 2, 0, Codec::Zstd)),
            ("chunk of no frame", |t| t.chunks.push(chunk(4, 1))),
            ("chunks outside", |t| t.frames[2] = Frame::new(10, 400, 3, 2, Codec::Zstd)),
            ("chunks of another frame", |t| t.frames[2] = Frame::new(10, 400, 2, 1, Codec::Zstd)),
            ("empty chunk", |t| t.chunks[2] = chunk(10, 0)),
            ("chunk too long", |t| t.chunks[2] = chunk(9, MAX_CHUNK + 1)),
            ("chunk outside of the device", |t| t.chunks[2] = chunk(10, 4_097)),
            ("chunk at the end of the numbers", |t| t.chunks[2] = chunk(u32::MAX, 4_097)),
            ("gap inside a frame", |t| t.chunks[1] = chunk(3, 4_096)),
            ("frame before its predecessor", |t| t.chunks[2] = chunk(3, 1)),
            ("raw frame of other length", |t| t.frames[0] = Frame::new(0, 16_383, 0, 2, Codec::Raw)),
            ("compressed frame longer than plain", |t| t.frames[1] = Frame::new(15_000, 4_097, 2, 1, Codec::Zstd)),
            ("stored bytes overlap", |t| t.frames[1] = Frame::new(16_383, 100, 2, 1, Codec::Zstd)),
            ("stored bytes outside of the blob", |t| t.frames[2] = Frame::new(101, 400, 3, 1, Codec::Zstd)),
            ("prefetch names no frame", |t| t.prefetch[1] = 3.into()),
        ];
        for (name, change) in rows {
            let mut tables = valid();
            change(&mut tables);
            assert!(tables.check().is_err(), "{name}");
        }
    }
}
