//! What is kept and what goes: the store's book, without its files.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Limits;
use super::file::Left;
use crate::piece::PieceId;

/// Pieces in memory: what a parent sends to four children while it is new.
pub(super) const MEMORY: u64 = 16 << 20;

/// By then a file was written, or could not be.
const WRITTEN: Duration = Duration::from_secs(10);

/// A piece that is kept.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) memory: Option<Bytes>,
    pub(super) on_disk: bool,
    /// Place in the order of use.
    used: u64,
    at: Instant,
}

/// The book.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) pieces: HashMap<PieceId, Entry>,
    /// By use, oldest first.
    order: BTreeMap<u64, PieceId>,
    /// Those in memory, by use.
    pub(super) warm: BTreeMap<u64, PieceId>,
    uses: u64,
    pub(super) bytes: u64,
    pub(super) in_memory: u64,
    pub(super) limits: Limits,
}

impl Shelf {
    pub(super) fn new(limits: Limits) -> Shelf {
        Shelf {
            pieces: HashMap::new(),
            order: BTreeMap::new(),
            warm: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            in_memory: 0,
            limits,
        }
    }

    /// Takes in a piece on disk. Returns what had to make room.
    pub(super) fn adopt(&mut self, left: &Left, now: Instant) -> Vec<PieceId> {
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
    pub(super) fn insert(&mut self, piece: PieceId, bytes: Bytes) -> Vec<PieceId> {
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

    pub(super) fn touch(&mut self, piece: &PieceId) -> Option<Option<Bytes>> {
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

    pub(super) fn remove(&mut self, piece: &PieceId) -> Vec<PieceId> {
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

    pub(super) fn expire(&mut self, now: Instant) -> Vec<PieceId> {
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
