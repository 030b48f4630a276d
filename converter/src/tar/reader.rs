//! The stream of entries.

use std::io::{ErrorKind, Read};

use lacewing_format::Time;

use super::header::{self, BLOCK, Block, Raw, Reason};
use super::{kind, pax, sparse};
use crate::Error;
use crate::limits::{MAX_META_RUN, MAX_SPECIAL_FILE};

/// One entry: a file, or a global PAX header (type `g`).
#[derive(Clone, Debug)]
pub struct Entry {
    /// Type flag, see [`kind`].
    pub kind: u8,
    /// Name as it stands in the archive.
    pub name: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Length of the file, its holes included.
    pub size: u64,
    /// The 07777 bits.
    pub mode: u32,
    /// Owner, cut to the 32 bits that chown takes; `u32::MAX` leaves the owner as it is.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Time of modification, any value.
    pub mtime: Time,
    /// Major number, cut to the 12 bits of the kernel.
    pub major: u32,
    /// Minor number, cut to 20 bits.
    pub minor: u32,
    /// Extended attributes with their full names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What lies at the present position of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// So many bytes that are in the archive.
    Data(u64),
    /// So many zeros that are not.
    Hole(u64),
}

/// Reads entries and their data from a plain tar stream.
pub struct Reader<R> {
    input: R,
    /// Plain bytes read so far.
    offset: u64,
    /// Bytes of the present entry that are still in the stream, without padding.
    stored: u64,
    /// Padding behind them.
    padding: usize,
    /// Present position and size of the file.
    position: u64,
    size: u64,
    /// Runs of a sparse file that are not read yet, last first.
    runs: Option<sparse::Runs>,
}

/// What ends a look for the next header.
enum Stop {
    End,
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl<R: Read> Reader<R> {
    /// Starts at the beginning of a tar.
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            stored: 0,
            padding: 0,
            position: 0,
            size: 0,
            runs: None,
        }
    }

    /// Plain bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Gives the stream back, to read what is behind the end of the archive.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// Reads the next entry; none at the end of the archive. What is left of the present one is skipped.
    ///
    /// # Errors
    /// [`Error::Tar`] for what is no tar or ends too early; the stream's own errors.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        match self.advance() {
            Ok(entry) => Ok(Some(entry)),
            Err(Stop::End) => Ok(None),
            Err(Stop::Error(error)) => Err(error),
        }
    }

    fn advance(&mut self) -> Result<Entry, Stop> {
        let mut records = pax::Records::new();
        let (mut long_name, mut long_link) = (Vec::new(), Vec::new());
        for _ in 0..MAX_META_RUN {
            self.skip()?;
            let block = self.header()?;
            let mut raw = header::parse(&block).map_err(|reason| self.malformed(reason))?;
            self.begin(&raw)?;
            match raw.kind {
                kind::PAX | kind::PAX_GLOBAL => {
                    let data = self.special()?;
                    records = pax::parse(&data).map_err(|reason| self.malformed(reason))?;
                    if raw.kind == kind::PAX_GLOBAL {
                        // Only a name could matter; a value that cannot be taken over is passed by.
                        let _ = pax::merge(&mut raw, &records);
                        return Ok(entry(raw, Vec::new()));
                    }
                }
                kind::GNU_LONG_NAME => long_name = header::text(&self.special()?).to_vec(),
                kind::GNU_LONG_LINK => long_link = header::text(&self.special()?).to_vec(),
                _ => return Ok(self.file(raw, &records, long_name, long_link)?),
            }
        }
        Err(self.malformed("too many extended headers in a row").into())
    }

    fn file(
        &mut self,
        mut raw: Raw,
        records: &pax::Records,
        long_name: Vec<u8>,
        long_link: Vec<u8>,
    ) -> Result<Entry, Error> {
        pax::merge(&mut raw, records).map_err(|reason| self.malformed(reason))?;
        if !long_name.is_empty() {
            raw.name = long_name;
        }
        if !long_link.is_empty() {
            raw.link = long_link;
        }
        if raw.kind == kind::REGULAR_OLD {
            raw.kind = if raw.name.ends_with(b"/") {
                kind::DIR
            } else {
                kind::REGULAR
            };
        }
        self.begin(&raw)?;
        if raw.kind != kind::GNU_SPARSE {
            self.sparse(&mut raw, records)?;
        }
        Ok(entry(raw, pax::xattrs(records)))
    }

    /// Reads the map, if the file is sparse.
    fn sparse(&mut self, raw: &mut Raw, records: &pax::Records) -> Result<(), Error> {
        let version = sparse::detect(raw, records).map_err(|reason| self.malformed(reason))?;
        let Some(version) = version else { return Ok(()) };
        if kind::is_header_only(raw.kind) {
            return Err(self.malformed("sparse map of an entry that has no data"));
        }
        let runs = match version {
            sparse::Version::InRecords => sparse::from_records(records),
            sparse::Version::InData => sparse::from_data(|block| self.read_stored(block))?,
        };
        let runs = runs.and_then(|runs| sparse::validate(runs, raw.size, self.stored));
        let mut runs = runs.map_err(|reason| self.malformed(reason))?;
        runs.reverse();
        self.runs = Some(runs);
        self.size = raw.size.unsigned_abs();
        Ok(())
    }

    /// Sets the present entry up by its header.
    fn begin(&mut self, raw: &Raw) -> Result<(), Error> {
        let size = if kind::is_header_only(raw.kind) {
            0
        } else {
            raw.size
        };
        self.size = u64::try_from(size).map_err(|_| self.malformed("size is negative"))?;
        self.stored = self.size;
        self.padding = (BLOCK - (self.size % BLOCK as u64) as usize) % BLOCK;
        self.position = 0;
        self.runs = None;
        Ok(())
    }

    /// Skips the rest of the present entry. A stream that ends within padding ends the archive, as in Go.
    fn skip(&mut self) -> Result<(), Stop> {
        let mut sink = [0; 16 << 10];
        while self.stored > 0 {
            let len = sink.len().min(usize::try_from(self.stored).unwrap_or(usize::MAX));
            self.read_stored(&mut sink[..len])?;
        }
        let padding = std::mem::take(&mut self.padding);
        if self.fill(&mut sink[..padding])? < padding {
            return Err(Stop::End);
        }
        Ok(())
    }

    /// Reads the next header block that is not zero.
    fn header(&mut self) -> Result<Block, Stop> {
        let mut block = [0; BLOCK];
        for zeros in 0..2 {
            match self.fill(&mut block)? {
                0 => return Err(Stop::End),
                BLOCK if block != [0; BLOCK] && zeros == 0 => return Ok(block),
                BLOCK if block != [0; BLOCK] => {
                    return Err(self
                        .malformed("a block of zeros is followed by something else")
                        .into());
                }
                BLOCK => {}
                _ => return Err(self.malformed("archive ends within a header").into()),
            }
        }
        Err(Stop::End)
    }

    /// Reads the whole data of an extended header.
    fn special(&mut self) -> Result<Vec<u8>, Error> {
        if self.stored > MAX_SPECIAL_FILE {
            return Err(self.malformed("extended header is longer than 1 MiB"));
        }
        let mut data = vec![0; self.stored as usize];
        self.read_stored(&mut data)?;
        Ok(data)
    }

    /// Length of the present file, its holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Says what lies at the present position, up to the end of that run; nothing at the end of the file.
    pub fn run(&self) -> Option<Run> {
        let left = self.size - self.position;
        if left == 0 {
            return None;
        }
        let Some(runs) = &self.runs else {
            return Some(Run::Data(left));
        };
        Some(match runs.last() {
            None => Run::Hole(left),
            Some(&(start, _)) if self.position < start => Run::Hole(start - self.position),
            Some(&(_, end)) => Run::Data(end - self.position),
        })
    }

    /// Reads the file's next bytes, zeros for holes. The caller asks for no more than is left.
    ///
    /// # Errors
    /// [`Error::Tar`] if the stream ends or the file does.
    pub fn read(&mut self, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            let (len, data) = match self.run() {
                None => return Err(self.malformed("read beyond the end of an entry")),
                Some(Run::Data(len)) => (len, true),
                Some(Run::Hole(len)) => (len, false),
            };
            let len = buffer.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let (now, later) = buffer.split_at_mut(len);
            if data {
                self.read_stored(now)?;
            } else {
                now.fill(0);
            }
            self.move_on(len as u64);
            buffer = later;
        }
        Ok(())
    }

    /// Passes over zeros of a hole, at most to its end.
    pub fn skip_hole(&mut self, len: u64) {
        if let Some(Run::Hole(hole)) = self.run() {
            self.move_on(len.min(hole));
        }
    }

    fn move_on(&mut self, len: u64) {
        self.position += len;
        if let Some(runs) = &mut self.runs {
            runs.pop_if(|&mut (_, end)| end <= self.position);
        }
    }

    fn read_stored(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let len = buffer.len() as u64;
        if len > self.stored {
            return Err(self.malformed("sparse map is cut off"));
        }
        if self.fill(buffer)? < buffer.len() {
            return Err(self.malformed("archive ends within an entry"));
        }
        self.stored -= len;
        Ok(())
    }

    /// Reads until the buffer is full or the stream ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < buffer.len() {
            match self.input.read(&mut buffer[done..]) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(stream_error(error)),
            }
        }
        self.offset += done as u64;
        Ok(done)
    }

    fn malformed(&self, reason: Reason) -> Error {
        Error::Tar {
            offset: self.offset,
            reason,
        }
    }
}

/// An error of the stream below: our own, if it is one.
pub(crate) fn stream_error(error: std::io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|source| Error::Io {
        what: "layer stream".to_owned(),
        source,
    })
}

fn entry(raw: Raw, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Entry {
    Entry {
        kind: raw.kind,
        name: raw.name,
        link: raw.link,
        size: if kind::is_header_only(raw.kind) {
            0
        } else {
            raw.size.unsigned_abs()
        },
        mode: (raw.mode & 0o7777) as u32,
        uid: raw.uid as u32,
        gid: raw.gid as u32,
        mtime: raw.mtime,
        major: raw.major as u32 & lacewing_format::limits::MAX_MAJOR,
        minor: raw.minor as u32 & lacewing_format::limits::MAX_MINOR,
        xattrs,
    }
}
