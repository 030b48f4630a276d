//! Verified pieces on this node, in their stored form: bounded in bytes and in age.
//!
//! Rollouts come in bursts, so what was fetched is asked for by others soon or not at all. Pieces go to a folder, the
//! latest ones are in memory too. Nothing is flushed, what a crash spoils or loses is fetched again; the rest outlives the
//! process.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
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

/// Behind the bytes of a piece on disk: the beginning of their BLAKE3. Only what an earlier process wrote whole is
/// believed, and a disk that forgets is no reason for others to take this node for a liar.
const SEAL: usize = 16;

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
    /// Those in memory, by use.
    warm: BTreeMap<u64, PieceId>,
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
    /// Begins with what an earlier process left in `dir`; what is no piece, or too old, is deleted. Blocks on the disk.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(dir: &Path, limits: Limits) -> io::Result<PieceStore> {
        std::fs::create_dir_all(dir)?;
        let mut state = State {
            pieces: HashMap::new(),
            order: BTreeMap::new(),
            warm: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            in_memory: 0,
            limits,
        };
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

/// Writes a piece and its seal.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.write_all(&seal(bytes))
}

fn seal(bytes: &[u8]) -> [u8; SEAL] {
    let mut seal = [0; SEAL];
    seal.copy_from_slice(&blake3::hash(bytes).as_bytes()[..SEAL]);
    seal
}

/// The piece in a file, if it is whole.
fn unsealed(file: Vec<u8>, len: usize) -> Option<Bytes> {
    let (bytes, found) = file.split_at_checked(len)?;
    (found == seal(bytes)).then(|| Bytes::from(file).slice(..len))
}

/// A file that an earlier process left.
struct Left {
    piece: PieceId,
    /// Since it was written.
    idle: Duration,
}

impl Left {
    /// `None`: it is no piece, or was not written to its end.
    fn of(entry: &std::fs::DirEntry) -> Option<Left> {
        let name = entry.file_name().into_string().ok()?;
        let mut parts = name.split('-');
        let piece = PieceId {
            blob: format!("sha256:{}", parts.next()?).parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            len: parts.next()?.parse().ok()?,
        };
        let data = entry.metadata().ok()?;
        let whole = data.len() == u64::from(piece.len).checked_add(SEAL as u64)?;
        // A clock that was put back: as if written now.
        let idle = data.modified().ok()?.elapsed().unwrap_or_default();
        let known = whole && data.is_file() && piece.len > 0 && name == file_name(&piece);
        known.then_some(Left { piece, idle })
    }
}

fn file_name(piece: &PieceId) -> String {
    format!("{}-{}-{}", piece.blob.hex(), piece.offset, piece.len)
}

impl State {
    /// Takes in a piece on disk. Returns what had to make room.
    fn adopt(&mut self, left: &Left, now: Instant) -> Vec<PieceId> {
        // A machine that runs for less than that: the sweep takes it later.
        let at = now.checked_sub(left.idle).unwrap_or(now);
        let entry = Entry {
            memory: None,
            on_disk: true,
            used: 0,
            at,
        };
        self.add(left.piece, entry)
    }

    /// Returns what had to make room.
    fn insert(&mut self, piece: PieceId, bytes: Bytes) -> Vec<PieceId> {
        if self.pieces.contains_key(&piece) {
            return Vec::new();
        }
        self.in_memory += u64::from(piece.len);
        let entry = Entry {
            memory: Some(bytes),
            on_disk: false,
            used: 0,
            at: Instant::now(),
        };
        let mut gone = self.add(piece, entry);
        self.forget_memory(&mut gone);
        gone
    }

    fn add(&mut self, piece: PieceId, entry: Entry) -> Vec<PieceId> {
        self.uses += 1;
        self.bytes += u64::from(piece.len);
        self.order.insert(self.uses, piece);
        if entry.memory.is_some() {
            self.warm.insert(self.uses, piece);
        }
        let used = self.uses;
        self.pieces.insert(piece, Entry { used, ..entry });
        let mut gone = Vec::new();
        while self.bytes > self.limits.bytes && self.pieces.len() > 1 {
            let Some((_, oldest)) = self.order.first_key_value() else {
                break;
            };
            let oldest = *oldest;
            gone.extend(self.remove(&oldest));
        }
        gone
    }

    /// Lets go of the memory of the oldest pieces; of one that is not on disk, all.
    fn forget_memory(&mut self, gone: &mut Vec<PieceId>) {
        if self.in_memory <= MEMORY {
            return;
        }
        let order: Vec<PieceId> = self.warm.values().copied().collect();
        for piece in order {
            if self.in_memory <= MEMORY {
                return;
            }
            let Some(entry) = self.pieces.get_mut(&piece) else {
                continue;
            };
            if entry.on_disk {
                if entry.memory.take().is_some() {
                    self.warm.remove(&entry.used);
                    self.in_memory -= u64::from(piece.len);
                }
            } else if entry.at.elapsed() > WRITTEN {
                gone.extend(self.remove(&piece));
            }
        }
    }

    fn touch(&mut self, piece: &PieceId) -> Option<Option<Bytes>> {
        let entry = self.pieces.get_mut(piece)?;
        let before = entry.used;
        self.order.remove(&before);
        self.uses += 1;
        entry.used = self.uses;
        entry.at = Instant::now();
        self.order.insert(self.uses, *piece);
        if let Some(warm) = self.warm.remove(&before) {
            self.warm.insert(self.uses, warm);
        }
        Some(entry.memory.clone())
    }

    fn remove(&mut self, piece: &PieceId) -> Vec<PieceId> {
        let Some(entry) = self.pieces.remove(piece) else {
            return Vec::new();
        };
        self.order.remove(&entry.used);
        self.bytes -= u64::from(piece.len);
        if entry.memory.is_some() {
            self.warm.remove(&entry.used);
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
        assert_eq!(store.state().warm.len() as u64, MEMORY / u64::from(len));
        for number in 0..40 {
            let bytes = store.get(&piece(number * 100, len)).await.unwrap();
            assert!(bytes.iter().all(|byte| *byte == number as u8));
        }
    }

    async fn written(store: &PieceStore, piece: &PieceId) {
        while !store.state().pieces[piece].on_disk {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_store_is_opened_with_what_it_held() {
        let dir = tempfile::tempdir().unwrap();
        let store = PieceStore::open(dir.path(), limits(1000)).unwrap();
        for number in 0..3 {
            store.put(piece(number, 100), Bytes::from(vec![number as u8; 100]));
            written(&store, &piece(number, 100)).await;
        }
        drop(store);
        for _ in 0..2 {
            let store = PieceStore::open(dir.path(), limits(1000)).unwrap();
            for number in 0..3 {
                let bytes = store.get(&piece(number, 100)).await.unwrap();
                assert_eq!(bytes[..], [number as u8; 100]);
            }
            assert_eq!(
                store.held(),
                Held {
                    pieces: 3,
                    bytes: 300
                }
            );
        }
        assert_eq!(
            PieceStore::open(dir.path(), limits(200)).unwrap().held().pieces,
            2
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn a_file_that_is_not_as_it_was_written_is_no_piece() {
        let dir = tempfile::tempdir().unwrap();
        let store = PieceStore::open(dir.path(), limits(1000)).unwrap();
        for number in 0..2 {
            store.put(piece(number, 100), Bytes::from(vec![1; 100]));
            written(&store, &piece(number, 100)).await;
        }
        let path = store.path(&piece(0, 100));
        let whole = std::fs::read(&path).unwrap();
        for at in [0, 99, 100, whole.len() - 1] {
            let mut spoiled = whole.clone();
            spoiled[at] ^= 1;
            std::fs::write(&path, &spoiled).unwrap();
            let store = PieceStore::open(dir.path(), limits(1000)).unwrap();
            assert!(store.contains(&piece(0, 100)), "nothing is read to open it");
            assert_eq!(store.get(&piece(0, 100)).await, None, "byte {at}");
            assert!(!path.exists());
            assert!(store.get(&piece(1, 100)).await.is_some());
        }
        for len in [0, 100, whole.len() - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(
                !PieceStore::open(dir.path(), limits(1000))
                    .unwrap()
                    .contains(&piece(0, 100))
            );
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn what_nobody_uses_goes_and_what_is_no_piece_too() {
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
