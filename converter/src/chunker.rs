//! Contents of files become chunks, new chunks become frames.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use lacewing_format::{ChunkId, Extent, FileBody};

use crate::Error;
use crate::apply::{Contents, Data};
use crate::blob::{Dedup, NewChunk, NewFrame, Place, Plan, padded};
use crate::compress::Effort;
use crate::early::Early;
use crate::hot::{self, Hints, Hot, RANKS};
use crate::limits::MAX_CHUNKS;
use crate::record::Record;
use crate::small::{SMALL, Shelf};
use crate::spool::{Compressors, Spool};
use crate::tar::Run;

/// Most plain bytes of a larger file in one frame. A program or library is read in many places at its start, so that its
/// frames may be as large as frames get: they compress 5 % better than those of 256 KiB.
const FRAME: usize = 1 << 20;

/// Files from this length on are data that is read here and there: databases, models, archives. Their frames stay small,
/// because a random read has to fetch and decode a whole one.
const RANDOM_FILE: u64 = 64 << 20;

/// Most plain bytes in a frame of such a file.
const RANDOM_FRAME: usize = 256 << 10;

/// A file's last bytes of at most this length join the frame before, even if that is full.
const TAIL: u64 = 64 << 10;

/// Files of more chunks than this get larger chunks, so that a sparse giant does not need a giant index.
const MANY_CHUNKS: u64 = 1 << 16;

/// How many times the bytes found in earlier images must outweigh the new ones for these to deserve more time. Reading what
/// is found takes time, too: at this share a later version never takes much longer than a first one.
const MOSTLY_KNOWN: u64 = 3;

/// What went where, in plain bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) new: u64,
    pub(crate) dedup: u64,
    pub(crate) dedup_earlier: u64,
    pub(crate) hole: u64,
    /// Of all but holes, what the record names.
    pub(crate) recorded: u64,
}

impl Counts {
    /// Adds what happened to another layer.
    pub(crate) fn add(&mut self, other: &Self) {
        self.new += other.new;
        self.dedup += other.dedup;
        self.dedup_earlier += other.dedup_earlier;
        self.hole += other.hole;
        self.recorded += other.recorded;
    }
}

/// New chunks of one file that will share a frame.
#[derive(Default)]
struct Pending {
    plain: Vec<u8>,
    /// Their numbers.
    chunks: Vec<u32>,
}

/// A record, and what is to be done about it.
#[derive(Clone, Copy)]
pub(crate) struct Recorded<'a> {
    pub(crate) record: &'a Record,
    /// Chunks of earlier images in frames that hold nothing but what a record named. Others are stored anew if the
    /// record names them: who fetches one would fetch its cold neighbours with it.
    pub(crate) stored: &'a HashSet<Place>,
    /// Where bytes wait.
    pub(crate) dir: &'a Path,
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
    pending: Pending,
    small: [Shelf; RANKS],
    recorded: Option<Recorded<'a>>,
    early: Early,
    /// Paths that the record names and the layer has.
    pub(crate) found: HashSet<Vec<u8>>,
    pub(crate) plan: Plan,
    pub(crate) counts: Counts,
    /// What happened to the layers before.
    pub(crate) before: Counts,
    /// What should be fetched ahead.
    pub(crate) hot: Hot,
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
        recorded: Option<Recorded<'a>>,
    ) -> Self {
        Self {
            chunk_size: chunk_size as usize,
            blob,
            first_own,
            dedup,
            compressors,
            spool,
            hints,
            pending: Pending::default(),
            small: Default::default(),
            recorded,
            early: Early::default(),
            found: HashSet::new(),
            plan: Plan::default(),
            counts: Counts::default(),
            before: Counts::default(),
            hot: Hot {
                recorded: recorded.is_some(),
                ..Hot::default()
            },
            extents: 0,
        }
    }

    /// Sends what is left of small files, and what the record names.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        let mut early = std::mem::take(&mut self.early);
        early.frames(|plain, chunks| self.send(hot::RECORDED, plain, chunks))?;
        (0..RANKS).try_for_each(|rank| self.send_small(rank as u8, true))
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

    /// Reads a chunk behind the pending ones. What is a hole, or known already, leaves no bytes there, nor does what the
    /// record names (`line`): that waits elsewhere.
    fn chunk(&mut self, data: &mut dyn Data, len: usize, line: Option<u32>) -> Result<Option<Place>, Error> {
        if let Some(Run::Hole(hole)) = data.run()
            && hole >= len as u64
        {
            data.skip_hole(len as u64);
            self.counts.hole += len as u64;
            return Ok(None);
        }
        let start = self.pending.plain.len();
        self.pending.plain.resize(start + len, 0);
        data.read(&mut self.pending.plain[start..])?;
        let plain = &self.pending.plain[start..];
        let known = if is_zero(plain) {
            self.counts.hole += len as u64;
            Some(None)
        } else {
            let id = ChunkId::of(plain);
            let line = line.filter(|_| self.early.has_room(padded(len)));
            match (self.find(id, len, line.is_some()), line) {
                (Some(place), _) => Some(Some(place)),
                (None, None) => return Ok(Some(self.note(id, len))),
                (None, Some(line)) => Some(Some(self.note_early(id, len, line)?)),
            }
        };
        self.pending.plain.truncate(start);
        Ok(known.flatten())
    }

    /// Looks a chunk up; nothing if it is to be stored, which one that is to come `first` is where it stands among others.
    fn find(&mut self, id: ChunkId, len: usize, first: bool) -> Option<Place> {
        let place = *self.dedup.get(&id)?;
        let earlier = place.blob < self.first_own;
        if let Some(recorded) = self.recorded.filter(|_| first && earlier)
            && !recorded.stored.contains(&place)
        {
            return None;
        }
        *(if earlier {
            &mut self.counts.dedup_earlier
        } else {
            &mut self.counts.dedup
        }) += len as u64;
        Some(place)
    }

    /// Takes a new chunk into the plan.
    fn add(&mut self, id: ChunkId, len: usize) -> Place {
        let place = Place {
            blob: self.blob,
            chunk: self.plan.chunks.len() as u32,
        };
        self.plan.chunks.push(NewChunk { id, len: len as u32 });
        self.dedup.insert(id, place);
        self.counts.new += len as u64;
        let padded = padded(self.pending.plain.len());
        self.pending.plain.resize(padded, 0);
        place
    }

    /// Notes the chunk down that stands last among the pending ones. It gets its frame when that is sent.
    fn note(&mut self, id: ChunkId, len: usize) -> Place {
        let place = self.add(id, len);
        self.pending.chunks.push(place.chunk);
        place
    }

    /// The same for one that the record names. Its bytes may be dropped from the pending ones.
    fn note_early(&mut self, id: ChunkId, len: usize, line: u32) -> Result<Place, Error> {
        let place = self.add(id, len);
        let plain = &self.pending.plain[self.pending.plain.len() - padded(len)..];
        if let Some(recorded) = self.recorded {
            self.early.put(recorded.dir, line, place.chunk, plain)?;
        }
        Ok(place)
    }

    fn send(&mut self, rank: u8, plain: Vec<u8>, chunks: Vec<u32>) -> Result<(), Error> {
        let frame = self.plan.frames.len() as u32;
        self.plan.frames.push(NewFrame { rank, chunks });
        self.compressors.send(&self.spool, frame, plain, self.effort())
    }

    /// What a frame deserves that is sent now. Depends on what was read so far and on nothing else, so that equal input
    /// gives equal bytes.
    fn effort(&self) -> Effort {
        let new = self.before.new + self.counts.new;
        let earlier = self.before.dedup_earlier + self.counts.dedup_earlier;
        if earlier / MOSTLY_KNOWN > new {
            Effort::Thorough
        } else {
            Effort::Usual
        }
    }

    /// Sends the pending chunks as a frame.
    fn send_pending(&mut self, rank: u8) -> Result<(), Error> {
        let buffer = self.compressors.buffer();
        let plain = std::mem::replace(&mut self.pending.plain, buffer);
        let chunks = std::mem::take(&mut self.pending.chunks);
        self.send(rank, plain, chunks)
    }

    /// Ends a file: few pending bytes go to the other small files, more become a frame.
    fn end_file(&mut self, path: &[u8], rank: u8) -> Result<(), Error> {
        if self.pending.chunks.is_empty() {
            return Ok(());
        }
        if self.pending.plain.len() > SMALL {
            return self.send_pending(rank);
        }
        let chunks = std::mem::take(&mut self.pending.chunks);
        let plain = std::mem::take(&mut self.pending.plain);
        self.small[usize::from(rank)].put(path, rank == hot::COLD, &plain, chunks);
        self.pending.plain = plain;
        self.pending.plain.clear();
        self.send_small(rank, false)
    }

    /// Sends frames of small files: all there are, or those that are full once there is enough to choose from.
    fn send_small(&mut self, rank: u8, all: bool) -> Result<(), Error> {
        let shelf = &mut self.small[usize::from(rank)];
        if !all && !shelf.is_full() {
            return Ok(());
        }
        for frame in shelf.frames(all) {
            let mut plain = self.compressors.buffer();
            self.small[usize::from(rank)].copy(&frame, &mut plain);
            self.send(
                rank,
                plain,
                frame.into_iter().flat_map(|file| file.chunks).collect(),
            )?;
        }
        self.small[usize::from(rank)].tidy();
        Ok(())
    }

    fn extent(&mut self, place: Option<Place>, hot: Option<u32>, extents: &mut Vec<Extent>) {
        extents.push(match place {
            None => Extent::Hole,
            Some(place) => Extent::Data {
                device: place.blob,
                block: place.chunk,
            },
        });
        if let (Some(place), Some(order)) = (place, hot) {
            self.hot.chunks.push((order, place));
        }
    }
}

impl Contents for Chunker<'_> {
    fn file(&mut self, path: &[u8], mode: u32, data: &mut dyn Data) -> Result<FileBody, Error> {
        let size = data.size();
        let rank = hot::rank(path, mode, size, self.hints);
        let reads = self.recorded.and_then(|recorded| recorded.record.of(path));
        if reads.is_some() {
            self.found.insert(path.to_vec());
        }
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
        let frame = if size >= RANDOM_FILE { RANDOM_FRAME } else { FRAME };
        let mut extents = Vec::with_capacity(count as usize);
        let mut left = size;
        while left > 0 {
            let len = left.min(chunk_size);
            let at = size - left;
            left -= len;
            let line = reads.and_then(|reads| reads.first(at..at + len));
            let place = self.chunk(data, usize::try_from(len).unwrap_or(usize::MAX), line)?;
            if line.is_some() && place.is_some() {
                self.counts.recorded += len;
            }
            let guess = Some(u32::from(rank)).filter(|_| self.recorded.is_none() && rank <= hot::LIKELY);
            self.extent(place, line.or(guess), &mut extents);
            if self.pending.plain.len() >= frame && left > TAIL {
                self.send_pending(rank)?;
            }
        }
        self.end_file(path, rank)?;
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
