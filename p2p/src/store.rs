//! Verified pieces on this node, in their stored form: bounded in bytes and in age.
//!
//! Rollouts come in bursts, so what was fetched is asked for by others soon or not at all. Pieces go to a folder, the
//! latest ones are in memory too. Nothing is flushed, what a crash spoils or loses is fetched again; the rest outlives the
//! process.

mod file;
mod shelf;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::debug;

use self::file::{Left, file_name, unsealed, write};
use self::shelf::Shelf;
use crate::piece::PieceId;

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all pieces; the one not used for longest goes first.
    pub bytes: u64,
    /// A piece that nobody used for so long goes.
    pub age: Duration,
}

/// The piece store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PieceStore {
    dir: Arc<PathBuf>,
    state: Arc<Mutex<Shelf>>,
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
    /// Begins with what an earlier process left in `dir`; what is no piece, or too old, is deleted. Blocks on the disk.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(dir: &Path, limits: Limits) -> io::Result<PieceStore> {
        std::fs::create_dir_all(dir)?;
        let mut state = Shelf::new(limits);
        let mut left = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            match Left::of(&entry) {
                Some(piece) => left.push(piece),
                None => std::fs::remove_file(entry.path())?,
            }
        }
        left.sort_unstable_by_key(|piece| std::cmp::Reverse(piece.idle));
        let now = Instant::now();
        let gone: Vec<PieceId> = (left.into_iter())
            .flat_map(|piece| state.adopt(&piece, now))
            .collect();
        let store = PieceStore {
            dir: Arc::new(dir.to_owned()),
            state: Arc::new(Mutex::new(state)),
        };
        store.delete(gone);
        store.sweep(now);
        Ok(store)
    }

    fn state(&self) -> MutexGuard<'_, Shelf> {
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
            let written = write(&path, &bytes);
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
        let len = piece.len as usize;
        let read = tokio::task::spawn_blocking(move || unsealed(std::fs::read(path).ok()?, len)).await;
        match read {
            Ok(Some(bytes)) => Some(bytes),
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
        self.dir.join(file_name(piece))
    }
}
