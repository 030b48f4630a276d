//! Contents of files become chunks, new chunks become frames.

use std::sync::Arc;

use lacewing_format::{ChunkId, Extent, FileBody};

use crate::Error;
use crate::apply::{Contents, Data};
use crate::blob::{Dedup, NewChunk, Place, Plan, padded};
use crate::hot::{self, Hints, RANKS};
use crate::limits::MAX_CHUNKS;
use crate::spool::{Compressors, Spool};
use crate::tar::Run;

/// Most plain bytes of small files in one frame, without padding. Small files that lie together resemble each other and
/// are read together: frames of 1 MiB make an image of many small files 5 % smaller than frames of 256 KiB
/// (misc/docs/decisions.md), and a start makes fewer requests.
const SMALL_FRAME: usize = 1 << 20;

/// Most bytes of small files in one frame with their padding, which a reader writes to the pack: many tiny files take a
/// block each.
const SMALL_FRAME_PADDED: usize = 2 << 20;

/// Longer chunks get a frame of their own, and so do all that are as long as a chunk can be: somebody may read them one
/// by one.
const SMALL_CHUNK: usize = 256 << 10;

/// A file's last chunk of at most this length joins the frame of the one before it.
const TAIL: u64 = 64 << 10;

/// Files of more chunks than this get larger chunks, so that a sparse giant does not need a giant index.
const MANY_CHUNKS: u64 = 1 << 16;

/// What went where, in plain bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) new: u64,
    pub(crate) dedup: u64,
    pub(crate) dedup_earlier: u64,
    pub(crate) hole: u64,
}

/// A frame of small chunks that is being filled.
#[derive(Default)]
struct Open {
    number: u32,
    plain: Vec<u8>,
    /// Bytes without padding.
    len: usize,
}

/// Makes a layer's chunks. In the tree that it fills, an extent's `device` is the number of the blob in the image and its
/// `block` the number of the chunk in that blob.
pub(crate) struct Chunker<'a> {
    chunk_size: usize,
    blob: u16,
    /// Blobs of a lower number are those of earlier images.
    first_own: u16,
    dedup: &'a mut Dedup,
    compressors: &'a Compressors,
    spool: Arc<Spool>,
    hints: &'a Hints,
    open: [Option<Open>; RANKS],
    pub(crate) plan: Plan,
    pub(crate) counts: Counts,
    /// Chunks of files that should be fetched ahead, with the file's rank.
    pub(crate) hot: Vec<(u8, Place)>,
    extents: usize,
}

impl<'a> Chunker<'a> {
    pub(crate) fn new(
        chunk_size: u32,
        (blob, first_own): (u16, u16),
        dedup: &'a mut Dedup,
        compressors: &'a Compressors,
        spool: Arc<Spool>,
        hints: &'a Hints,
    ) -> Self {
        Self {
            chunk_size: chunk_size as usize,
            blob,
            first_own,
            dedup,
            compressors,
            spool,
            hints,
            open: Default::default(),
            plan: Plan::default(),
            counts: Counts::default(),
            hot: Vec::new(),
            extents: 0,
        }
    }

    /// Sends what is left in open frames.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        (0..RANKS).try_for_each(|rank| self.close(rank))
    }

    /// log2 of the chunk size for a file. One that is a hole from end to end gets a single chunk as far as EROFS goes.
    fn chunk_bits(&self, data: &dyn Data) -> u8 {
        let size = data.size();
        if data.run() == Some(Run::Hole(size)) {
            let whole = 64 - size.saturating_sub(1).leading_zeros() as u8;
            return whole.clamp(12, lacewing_format::limits::MAX_HOLE_CHUNK_BITS);
        }
        let usual = self.chunk_size.trailing_zeros() as u8;
        if size >> usual > MANY_CHUNKS {
            lacewing_format::limits::MAX_CHUNK_BITS.max(usual)
        } else {
            usual
        }
    }

    /// Reads a chunk, unless it is in a hole as a whole.
    fn read(&self, data: &mut dyn Data, len: usize) -> Result<Option<Vec<u8>>, Error> {
        if let Some(Run::Hole(hole)) = data.run()
            && hole >= len as u64
        {
            data.skip_hole(len as u64);
            return Ok(None);
        }
        let mut buffer = self.compressors.buffer();
        buffer.resize(len, 0);
        data.read(&mut buffer)?;
        Ok((!is_zero(&buffer)).then_some(buffer))
    }

    /// Looks a chunk up; nothing if it is new.
    fn find(&mut self, id: ChunkId, len: usize) -> Option<Place> {
        let place = *self.dedup.get(&id)?;
        let earlier = place.blob < self.first_own;
        *(if earlier {
            &mut self.counts.dedup_earlier
        } else {
            &mut self.counts.dedup
        }) += len as u64;
        Some(place)
    }

    /// Notes a new chunk of a frame down.
    fn note(&mut self, id: ChunkId, len: usize, frame: u32) -> Place {
        let place = Place {
            blob: self.blob,
            chunk: self.plan.chunks.len() as u32,
        };
        self.plan.chunks.push(NewChunk {
            id,
            len: len as u32,
            frame,
        });
        self.dedup.insert(id, place);
        self.counts.new += len as u64;
        place
    }

    fn new_frame(&mut self, rank: u8) -> u32 {
        self.plan.ranks.push(rank);
        self.plan.ranks.len() as u32 - 1
    }

    /// Stores one chunk, unless it is known.
    fn store(&mut self, plain: Vec<u8>, rank: u8) -> Result<Place, Error> {
        let id = ChunkId::of(&plain);
        match self.find(id, plain.len()) {
            Some(place) => Ok(place),
            None => self.store_new(id, plain, rank),
        }
    }

    fn store_new(&mut self, id: ChunkId, mut plain: Vec<u8>, rank: u8) -> Result<Place, Error> {
        if plain.len() <= SMALL_CHUNK && plain.len() < self.chunk_size {
            return self.store_small(id, &plain, rank);
        }
        let frame = self.new_frame(rank);
        let place = self.note(id, plain.len(), frame);
        plain.resize(padded(plain.len()), 0);
        self.compressors.send(&self.spool, frame, plain)?;
        Ok(place)
    }

    fn store_small(&mut self, id: ChunkId, plain: &[u8], rank: u8) -> Result<Place, Error> {
        let fits = |open: &Open| {
            open.len + plain.len() <= SMALL_FRAME
                && open.plain.len() + padded(plain.len()) <= SMALL_FRAME_PADDED
        };
        if self.open[usize::from(rank)]
            .as_ref()
            .is_some_and(|open| !fits(open))
        {
            self.close(usize::from(rank))?;
        }
        let mut open = match self.open[usize::from(rank)].take() {
            Some(open) => open,
            None => Open {
                number: self.new_frame(rank),
                plain: self.compressors.buffer(),
                len: 0,
            },
        };
        let place = self.note(id, plain.len(), open.number);
        open.plain.extend_from_slice(plain);
        open.plain.resize(padded(open.plain.len()), 0);
        open.len += plain.len();
        self.open[usize::from(rank)] = Some(open);
        Ok(place)
    }

    fn close(&mut self, rank: usize) -> Result<(), Error> {
        match self.open[rank].take() {
            Some(open) => self.compressors.send(&self.spool, open.number, open.plain),
            None => Ok(()),
        }
    }

    /// Stores a file's last two chunks in one frame, if both are new.
    fn store_with_tail(&mut self, mut plain: Vec<u8>, tail: Vec<u8>, rank: u8) -> Result<[Place; 2], Error> {
        let (id, tail_id) = (ChunkId::of(&plain), ChunkId::of(&tail));
        if self.dedup.contains_key(&id) || self.dedup.contains_key(&tail_id) {
            return Ok([self.store(plain, rank)?, self.store(tail, rank)?]);
        }
        let frame = self.new_frame(rank);
        let places = [
            self.note(id, plain.len(), frame),
            self.note(tail_id, tail.len(), frame),
        ];
        plain.extend_from_slice(&tail);
        plain.resize(padded(plain.len()), 0);
        self.compressors.send(&self.spool, frame, plain)?;
        Ok(places)
    }

    fn extent(&mut self, place: Option<Place>, rank: u8, extents: &mut Vec<Extent>) {
        extents.push(match place {
            None => Extent::Hole,
            Some(place) => Extent::Data {
                device: place.blob,
                block: place.chunk,
            },
        });
        if let Some(place) = place.filter(|_| rank <= hot::LIKELY) {
            self.hot.push((rank, place));
        }
    }
}

impl Contents for Chunker<'_> {
    fn file(&mut self, path: &[u8], mode: u32, data: &mut dyn Data) -> Result<FileBody, Error> {
        let size = data.size();
        let rank = hot::rank(path, mode, size, self.hints);
        let chunk_bits = self.chunk_bits(data);
        let chunk_size = 1u64 << chunk_bits;
        let count = size.div_ceil(chunk_size);
        self.extents = self
            .extents
            .saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
        if self.extents > MAX_CHUNKS {
            let (value, limit) = (self.extents as u64, MAX_CHUNKS as u64);
            return Err(Error::Limit {
                what: "count of chunks in the layer",
                value,
                limit,
            });
        }
        let mut extents = Vec::with_capacity(count as usize);
        let mut left = size;
        while left > 0 {
            let len = left.min(chunk_size);
            left -= len;
            let Some(plain) = self.read(data, usize::try_from(len).unwrap_or(usize::MAX))? else {
                self.counts.hole += len;
                self.extent(None, rank, &mut extents);
                continue;
            };
            if left == 0 || left > TAIL.min(chunk_size) {
                let place = self.store(plain, rank)?;
                self.extent(Some(place), rank, &mut extents);
                continue;
            }
            let tail = self.read(data, left as usize)?;
            match tail {
                Some(tail) => {
                    for place in self.store_with_tail(plain, tail, rank)? {
                        self.extent(Some(place), rank, &mut extents);
                    }
                }
                None => {
                    let place = self.store(plain, rank)?;
                    self.extent(Some(place), rank, &mut extents);
                    self.counts.hole += left;
                    self.extent(None, rank, &mut extents);
                }
            }
            left = 0;
        }
        Ok(FileBody {
            size,
            chunk_bits,
            extents,
        })
    }
}

/// Is every byte zero? Looks at runs that the compiler turns into wide instructions.
fn is_zero(bytes: &[u8]) -> bool {
    let (runs, rest) = bytes.as_chunks::<128>();
    runs.iter()
        .all(|run| run.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}
