//! Verified pieces on this node, in their stored form: bounded in bytes and in age.
//!
//! Rollouts come in bursts, so what was fetched is asked for by others soon or not at all. Pieces go to a folder, the
//! latest ones are in memory too. Nothing is flushed and nothing outlives the process: what is lost is fetched again.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::debug;

use crate::piece::PieceId;

/// Pieces in memory: what a parent sends to four children while it is new.
const MEMORY: u64 = 16 << 20;

/// By then a file was written, or could not be.
const WRITTEN: Duration = Duration::from_secs(10);

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all pieces; the one not used for longest goes first.
    pub bytes: u64,
    /// A piece that nobody used for so long goes.
    pub age: Duration,
}

#[derive(Debug)]
struct Entry {
    memory: Option<Bytes>,
    on_disk: bool,
    /// Place in the order of use.
    used: u64,
    at: Instant,
}

#[derive(Debug)]
struct State {
    pieces: HashMap<PieceId, Entry>,
    /// By use, oldest first.
    order: BTreeMap<u64, PieceId>,
    uses: u64,
    bytes: u64,
    in_memory: u64,
    limits: Limits,
}

/// The piece store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PieceStore {
    dir: Arc<PathBuf>,
    state: Arc<Mutex<State>>,
}

/// What the store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Pieces.
    pub pieces: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl PieceStore {
    /// Begins with nothing: what an earlier process left in `dir` is deleted.
    ///
    /// # Errors
    /// The folder cannot be made or emptied.
    pub fn open(dir: &Path, limits: Limits) -> io::Result<PieceStore> {
        std::fs::create_dir_all(dir)?;
        for entry in std::fs::read_dir(dir)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(PieceStore {
            dir: Arc::new(dir.to_owned()),
            state: Arc::new(Mutex::new(State {
                pieces: HashMap::new(),
                order: BTreeMap::new(),
                uses: 0,
                bytes: 0,
                in_memory: 0,
                limits,
            })),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the bounds; they hold from the next piece or sweep on.
    pub fn set_limits(&self, limits: Limits) {
        self.state().limits = limits;
    }

    /// Whether a piece is here.
    pub fn contains(&self, piece: &PieceId) -> bool {
        self.state().pieces.contains_key(piece)
    }

    /// What is here.
    pub fn held(&self) -> Held {
        let state = self.state();
        Held {
            pieces: state.pieces.len() as u64,
            bytes: state.bytes,
        }
    }

    /// Keeps a verified piece. It can be read when this returns; the file is written later, and a disk that is full
    /// only shortens the time for which the piece is here. Needs a runtime around it.
    pub fn put(&self, piece: PieceId, bytes: Bytes) {
        let gone = self.state().insert(piece, bytes.clone());
        let (this, path) = (self.clone(), self.path(&piece));
        tokio::task::spawn_blocking(move || {
            this.delete(gone);
            let written = std::fs::write(&path, &bytes);
            let mut state = this.state();
            match (written, state.pieces.get_mut(&piece)) {
                (Ok(()), Some(entry)) => entry.on_disk = true,
                (Ok(()), None) => {
                    drop(state);
                    let _ = std::fs::remove_file(&path);
                }
                (Err(error), _) => {
                    debug!("a piece stays in memory only: {error}");
                    drop(state);
                    let _ = std::fs::remove_file(&path);
                }
            }
        });
    }

    /// Reads a piece. `None`: it is not here, or not any more.
    pub async fn get(&self, piece: &PieceId) -> Option<Bytes> {
        let memory = self.state().touch(piece)?;
        if memory.is_some() {
            return memory;
        }
        let path = self.path(piece);
        let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
        match read {
            Ok(Ok(bytes)) if bytes.len() == piece.len as usize => Some(bytes.into()),
            _ => {
                self.remove(piece);
                None
            }
        }
    }

    /// Takes a piece out: it turned out to be unusable.
    pub fn remove(&self, piece: &PieceId) {
        let gone = self.state().remove(piece);
        self.delete(gone);
    }

    /// Takes out what nobody used for long. Blocks on the disk; to be called every minute or so.
    pub fn sweep(&self, now: Instant) {
        let gone = self.state().expire(now);
        self.delete(gone);
    }

    fn delete(&self, pieces: Vec<PieceId>) {
        for piece in pieces {
            let _ = std::fs::remove_file(self.path(&piece));
        }
    }

    fn path(&self, piece: &PieceId) -> PathBuf {
        self.dir
            .join(format!("{}-{}-{}", piece.blob.hex(), piece.offset, piece.len))
    }
}

impl State {
    /// Returns what had to make room.
    fn insert(&mut self, piece: PieceId, bytes: Bytes) -> Vec<PieceId> {
        if self.pieces.contains_key(&piece) {
            return Vec::new();
        }
        self.uses += 1;
        self.bytes += u64::from(piece.len);
        self.in_memory += u64::from(piece.len);
        self.order.insert(self.uses, piece);
        let entry = Entry {
            memory: Some(bytes),
            on_disk: false,
            used: self.uses,
            at: Instant::now(),
        };
        self.pieces.insert(piece, entry);
        let mut gone = Vec::new();
        while self.bytes > self.limits.bytes && self.pieces.len() > 1 {
            let Some((_, oldest)) = self.order.first_key_value() else {
                break;
            };
            let oldest = *oldest;
            gone.extend(self.remove(&oldest));
        }
        self.forget_memory(&mut gone);
        gone
    }

    /// Lets go of the memory of the oldest pieces; of one that is not on disk, all.
    fn forget_memory(&mut self, gone: &mut Vec<PieceId>) {
        if self.in_memory <= MEMORY {
            return;
        }
        let order: Vec<PieceId> = self.order.values().copied().collect();
        for piece in order {
            if self.in_memory <= MEMORY {
                return;
            }
            let Some(entry) = self.pieces.get_mut(&piece) else {
                continue;
            };
            if entry.on_disk {
                if entry.memory.take().is_some() {
                    self.in_memory -= u64::from(piece.len);
                }
            } else if entry.at.elapsed() > WRITTEN {
                gone.extend(self.remove(&piece));
            }
        }
    }

    fn touch(&mut self, piece: &PieceId) -> Option<Option<Bytes>> {
        let entry = self.pieces.get_mut(piece)?;
        self.order.remove(&entry.used);
        self.uses += 1;
        entry.used = self.uses;
        entry.at = Instant::now();
        self.order.insert(self.uses, *piece);
        Some(entry.memory.clone())
    }

    fn remove(&mut self, piece: &PieceId) -> Vec<PieceId> {
        let Some(entry) = self.pieces.remove(piece) else {
            return Vec::new();
        };
        self.order.remove(&entry.used);
        self.bytes -= u64::from(piece.len);
        if entry.memory.is_some() {
            self.in_memory -= u64::from(piece.len);
        }
        vec![*piece]
    }

    fn expire(&mut self, now: Instant) -> Vec<PieceId> {
        let mut gone = Vec::new();
        while let Some((_, piece)) = self.order.first_key_value() {
            let piece = *piece;
            let entry = self.pieces.get(&piece);
            let idle = entry.map(|entry| now.saturating_duration_since(entry.at));
            if idle.is_some_and(|idle| idle <= self.limits.age) {
                break;
            }
            gone.extend(self.remove(&piece));
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lacewing_format::Digest;

    fn piece(number: u64, len: u32) -> PieceId {
        PieceId {
            blob: Digest::of(b"blob"),
            offset: number * 100_000,
            len,
        }
    }

    fn limits(bytes: u64) -> Limits {
        Limits {
            bytes,
            age: Duration::from_secs(60),
        }
    }

    #[tokio::test]
    async fn pieces_are_bounded_and_the_least_used_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = PieceStore::open(dir.path(), limits(300)).unwrap();
        for number in 0..3 {
            store.put(piece(number, 100), Bytes::from(vec![number as u8; 100]));
        }
        assert_eq!(store.get(&piece(0, 100)).await.unwrap()[..], [0; 100]);
        store.put(piece(3, 100), Bytes::from(vec![3; 100]));
        let here: Vec<bool> = (0..4).map(|number| store.contains(&piece(number, 100))).collect();
        assert_eq!(here, [true, false, true, true]);
        assert_eq!(
            store.held(),
            Held {
                pieces: 3,
                bytes: 300
            }
        );
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_rest_is_read_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let store = PieceStore::open(dir.path(), limits(1 << 30)).unwrap();
        let len = 1 << 20;
        for number in 0..40 {
            store.put(
                piece(number * 100, len),
                Bytes::from(vec![number as u8; len as usize]),
            );
            // The file is there before the next piece comes, as with any network.
            while !store.state().pieces[&piece(number * 100, len)].on_disk {
                tokio::task::yield_now().await;
            }
        }
        assert!(store.state().in_memory <= MEMORY);
        for number in 0..40 {
            let bytes = store.get(&piece(number * 100, len)).await.unwrap();
            assert!(bytes.iter().all(|byte| *byte == number as u8));
        }
    }

    #[tokio::test]
    async fn what_nobody_uses_goes_and_what_a_process_left_too() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("left"), "x").unwrap();
        let store = PieceStore::open(dir.path(), limits(1 << 20)).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        store.put(piece(0, 10), Bytes::from_static(b"0123456789"));
        store.sweep(Instant::now());
        assert!(store.contains(&piece(0, 10)));
        store.sweep(Instant::now() + Duration::from_secs(61));
        assert!(!store.contains(&piece(0, 10)));
        assert_eq!(store.held(), Held::default());
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_a_piece_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = PieceStore::open(dir.path(), limits(1 << 20)).unwrap();
        store.put(piece(0, 10), Bytes::from_static(b"0123456789"));
        while !store.state().pieces[&piece(0, 10)].on_disk {
            tokio::task::yield_now().await;
        }
        store.state().pieces.get_mut(&piece(0, 10)).unwrap().memory = None;
        store.state().in_memory = 0;
        std::fs::remove_file(store.path(&piece(0, 10))).unwrap();
        assert_eq!(store.get(&piece(0, 10)).await, None);
        assert!(!store.contains(&piece(0, 10)));
    }
}
