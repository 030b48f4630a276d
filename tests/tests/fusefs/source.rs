//! Sources of blobs that delay, fail and lie on demand.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use lacewing_format::Digest;
use lacewing_fusefs::{BlobSource, Class, SourceError};

/// What the source does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Good,
    Unavailable,
    Missing,
    Forbidden,
    /// Flips a bit in every answer.
    Corrupt,
    /// Flips a bit in every other answer.
    SometimesCorrupt,
    /// Answers less than was asked for.
    Short,
    /// Never answers.
    Stalled,
}

struct State {
    blobs: HashMap<Digest, Bytes>,
    mood: Mood,
    delay: Duration,
    asks_around: bool,
    hurried: usize,
    asked: Vec<(Range<u64>, Class)>,
}

/// Blobs in memory.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Mutex<State>>);

impl Memory {
    pub(crate) fn new() -> Memory {
        Memory(Arc::new(Mutex::new(State {
            blobs: HashMap::new(),
            mood: Mood::Good,
            delay: Duration::ZERO,
            asks_around: false,
            hurried: 0,
            asked: vec![],
        })))
    }

    pub(crate) fn put(&self, digest: Digest, blob: Vec<u8>) {
        self.0.lock().unwrap().blobs.insert(digest, blob.into());
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.0.lock().unwrap().mood = mood;
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.0.lock().unwrap().delay = delay;
    }

    pub(crate) fn asks_around(&self, yes: bool) {
        self.0.lock().unwrap().asks_around = yes;
    }

    /// How many reads it was told to hurry with.
    pub(crate) fn hurried(&self) -> usize {
        self.0.lock().unwrap().hurried
    }

    /// What was asked for since the last call.
    pub(crate) fn asked(&self) -> Vec<(Range<u64>, Class)> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }
}

impl BlobSource for Memory {
    fn read(
        &self,
        blob: Digest,
        range: Range<u64>,
        class: Class,
    ) -> BoxFuture<'static, Result<Bytes, SourceError>> {
        let (bytes, mut mood, delay, count) = {
            let mut state = self.0.lock().unwrap();
            state.asked.push((range.clone(), class));
            let bytes = state.blobs.get(&blob).cloned();
            (bytes, state.mood, state.delay, state.asked.len())
        };
        if mood == Mood::SometimesCorrupt {
            mood = if count % 2 == 1 { Mood::Corrupt } else { Mood::Good };
        }
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            let bytes = bytes.ok_or_else(|| SourceError::Missing("no such blob".into()))?;
            let mut part = bytes.slice(range.start as usize..range.end as usize);
            match mood {
                Mood::Good | Mood::SometimesCorrupt => {}
                Mood::Unavailable => return Err(SourceError::Unavailable("it rests".into())),
                Mood::Missing => return Err(SourceError::Missing("it is gone".into())),
                Mood::Forbidden => return Err(SourceError::Forbidden("go away".into())),
                Mood::Corrupt => {
                    let mut bad = part.to_vec();
                    let middle = bad.len() / 2;
                    bad[middle] ^= 4;
                    part = bad.into();
                }
                Mood::Short => part = part.slice(..part.len() - 1),
                Mood::Stalled => std::future::pending().await,
            }
            Ok(part)
        })
    }

    fn hurry(&self, _blob: Digest, _range: Range<u64>) {
        self.0.lock().unwrap().hurried += 1;
    }

    fn asks_around(&self) -> bool {
        self.0.lock().unwrap().asks_around
    }
}

/// Blobs in files of a directory, for servers in other processes.
pub(crate) struct Files {
    pub(crate) dir: PathBuf,
    pub(crate) delay: Duration,
}

impl BlobSource for Files {
    fn read(
        &self,
        blob: Digest,
        range: Range<u64>,
        _: Class,
    ) -> BoxFuture<'static, Result<Bytes, SourceError>> {
        let path = self.dir.join(blob.hex());
        let delay = self.delay;
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            let bytes = std::fs::read(&path).map_err(|e| SourceError::Unavailable(e.to_string()))?;
            Ok(Bytes::from(bytes).slice(range.start as usize..range.end as usize))
        })
    }
}
