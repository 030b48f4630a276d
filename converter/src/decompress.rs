//! A layer blob becomes its plain tar, in a thread of its own.

use std::io::{BufRead, BufReader, Read};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use lacewing_format::Digest;
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::limits::{MAX_LAYER_PLAIN, MAX_RATIO, RATIO_FREE};
use crate::tar::stream_error;

/// Plain bytes handed over at once: large enough that the hand-over costs nothing, small enough for the cache.
const BLOCK: usize = 128 << 10;

/// Blocks that decompression may be ahead: 4 MiB, so that the next layer begins while one ends.
const AHEAD: usize = 32;

/// How a layer blob is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, any count of members.
    Gzip,
    /// zstd, any count of frames.
    Zstd,
}

impl Compression {
    /// Tells by the first bytes, as containerd does.
    #[must_use]
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Opens a compressed stream as a plain one.
///
/// # Errors
/// Those of reading the first bytes.
pub fn decoder<'a>(input: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>, Error> {
    let mut input = BufReader::with_capacity(BLOCK, input);
    let compression = Compression::sniff(input.fill_buf().map_err(stream_error)?);
    Ok(match compression {
        Compression::Plain => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input).map_err(damaged)?),
    })
}

fn damaged(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => Error::Decompress {
            reason: error.to_string(),
        },
    }
}

/// What a whole layer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Its length.
    pub len: u64,
}

/// The tar of a layer, decompressed in a thread of its own, a bounded way ahead of the reader.
pub struct PlainStream {
    blocks: Receiver<Result<Vec<u8>, Error>>,
    used: Sender<Vec<u8>>,
    block: Vec<u8>,
    at: usize,
    thread: Option<JoinHandle<Plain>>,
}

impl PlainStream {
    /// Starts on a layer of `stored_len` bytes.
    pub fn start(input: impl Read + Send + 'static, stored_len: u64) -> Self {
        let (to_reader, blocks) = bounded(AHEAD);
        let (used, back) = bounded(AHEAD);
        let thread = std::thread::spawn(move || run(input, stored_len, &to_reader, &back));
        Self {
            blocks,
            used,
            block: Vec::new(),
            at: 0,
            thread: Some(thread),
        }
    }

    /// Reads what is left and tells what the layer was.
    ///
    /// # Errors
    /// Those of the stream that have not been seen yet.
    pub fn finish(mut self) -> Result<Plain, Error> {
        while let Ok(block) = self.blocks.recv() {
            drop(self.used.try_send(block?));
        }
        let thread = self.thread.take().ok_or(Error::Stopped)?;
        thread.join().map_err(|_| Error::Stopped)
    }
}

impl Read for PlainStream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.block.len() {
            let Ok(next) = self.blocks.recv() else {
                return Ok(0);
            };
            let used = std::mem::replace(&mut self.block, next.map_err(std::io::Error::other)?);
            drop(self.used.try_send(used));
            self.at = 0;
        }
        let len = buffer.len().min(self.block.len() - self.at);
        buffer[..len].copy_from_slice(&self.block[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

fn run(
    input: impl Read + Send,
    stored_len: u64,
    out: &Sender<Result<Vec<u8>, Error>>,
    back: &Receiver<Vec<u8>>,
) -> Plain {
    let mut hash = Sha256::new();
    let mut len = 0u64;
    let limit = MAX_LAYER_PLAIN.min(stored_len.saturating_mul(MAX_RATIO).max(RATIO_FREE));
    let copy = || -> Result<(), Error> {
        let mut plain = decoder(input)?;
        loop {
            let mut block = back.try_recv().unwrap_or_default();
            block.resize(BLOCK, 0);
            let read = fill(&mut plain, &mut block)?;
            if read == 0 {
                return Ok(());
            }
            block.truncate(read);
            hash.update(&block);
            len += read as u64;
            if len > limit {
                return Err(Error::Limit {
                    what: "plain length of the layer",
                    value: len,
                    limit,
                });
            }
            if out.send(Ok(block)).is_err() {
                return Err(Error::Stopped);
            }
        }
    };
    if let Err(error) = copy() {
        drop(out.send(Err(error)));
    }
    Plain {
        diff_id: Digest(hash.finalize().into()),
        len,
    }
}

fn fill(input: &mut dyn Read, block: &mut [u8]) -> Result<usize, Error> {
    let mut done = 0;
    while done < block.len() {
        match input.read(&mut block[done..]) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(damaged(error)),
        }
    }
    Ok(done)
}
