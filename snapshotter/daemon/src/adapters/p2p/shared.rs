//! What a node knows of indexes and of places, and how it reads there.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use lacewing_format::Digest;
use lacewing_oci::{Error, MediaType, Passage, Store, Verb};
use lacewing_p2p::transport::Provenance;
use lacewing_p2p::{Node, PieceId};

use super::book::{Book, MAX_FOREIGN_INDEX, Tables};
use super::gone::Gone;
use crate::adapters::origins::{Origins, Place};
use crate::adapters::repositories::Repositories;
use crate::foreign::{self, Lent, Source, Sums, Words};

/// What the node's own ports need.
pub(super) struct Shared {
    pub(super) book: Arc<Book>,
    pub(super) origins: Arc<Origins>,
    pub(super) repositories: Arc<Repositories>,
    /// Stored lengths of indexes that were pulled by this worker.
    pub(super) lengths: Mutex<HashMap<Digest, u64>>,
    /// Hosts that this worker pulls from, which may not have given anything yet.
    pub(super) hosts: Mutex<HashSet<String>>,
    /// Registries that pieces may be got from for other nodes, beside those this node has pulled from.
    pub(super) registries: Vec<String>,
    pub(super) node: OnceLock<Node>,
    /// Log-ins of this node's own clients.
    pub(super) lent: Lent,
    pub(super) sums: Sums,
    pub(super) words: Words,
    pub(super) gone: Gone,
}

impl Shared {
    pub(super) fn lengths(&self) -> MutexGuard<'_, HashMap<Digest, u64>> {
        self.lengths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hosts(&self) -> MutexGuard<'_, HashSet<String>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An index of this node that lists a range's frames.
    pub(super) async fn describing(
        &self,
        blob: &Digest,
        range: &Range<u64>,
    ) -> Option<(Arc<Provenance>, Arc<Tables>)> {
        for index in self.origins.indexes_of(blob) {
            let Some(tables) = self.book.own(index).await else {
                continue;
            };
            let Some(place) = self.origins.of_index(&index).pop() else {
                continue;
            };
            if tables.tiling(blob, range).is_some() {
                let index_len = self.lengths().get(&index).copied().unwrap_or(0);
                let of = Provenance {
                    index,
                    index_len,
                    place: place.to_string(),
                };
                return Some((Arc::new(of), tables));
            }
        }
        None
    }

    /// The tables of an index, got from other nodes if need be.
    pub(super) async fn tables(&self, of: &Provenance) -> Option<Arc<Tables>> {
        if let Some(tables) = self.book.own(of.index).await {
            return Some(tables);
        }
        let piece = index_piece(of)?;
        let node = self.node.get()?.clone();
        let got = node.get(piece, Arc::new(of.clone()), lacewing_p2p::Class::Blocking);
        let stored = got.await.ok()?;
        self.book.take(of.index, stored).await
    }

    /// Whether this node may be made to talk to a registry.
    pub(super) fn is_known_place(&self, place: &str) -> bool {
        Source::read(place).is_some_and(|source| self.is_known_host(source.host()))
    }

    pub(super) fn is_known_host(&self, host: &str) -> bool {
        self.registries.iter().any(|known| known == host)
            || self.hosts().contains(host)
            || self.origins.knows_host(host)
    }

    /// Reads from a place with the log-in that a client of this node has shown for it; nothing if none has.
    pub(super) async fn read_lent(&self, source: &Source, piece: &PieceId) -> Option<Result<Bytes, Error>> {
        let place = source.place()?;
        let authorization = self.lent.of(place)?;
        let read = async {
            let passage = Passage::open(self.repositories.client(), &place.host, &place.repository).await?;
            if let Source::Manifest(_) = source {
                let tail = format!("manifests/{}", piece.blob);
                let accept = [("accept", foreign::MANIFESTS)];
                let answer = passage
                    .send(Verb::Get, &tail, &accept, Some(&authorization))
                    .await?;
                return Ok((answer.status == 200).then_some(answer.body));
            }
            let range = piece.offset..piece.offset.saturating_add(u64::from(piece.len));
            passage
                .read_at(&piece.blob, range, Some(&authorization))
                .await
                .map(Some)
        };
        match read.await {
            Ok(bytes) => bytes.map(Ok),
            Err(Error::Forbidden { .. }) => {
                self.lent.forget(place, &authorization);
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Reads from a place with this node's own log-in.
    pub(super) async fn read_own(
        &self,
        source: &Source,
        piece: &PieceId,
        patience: Patience,
    ) -> Result<Bytes, Error> {
        let range = piece.offset..piece.offset.saturating_add(u64::from(piece.len));
        match source {
            Source::Blob(place) => {
                self.store(place, patience)
                    .await?
                    .read_at(&piece.blob, range)
                    .await
            }
            Source::Manifest(place) => {
                let kind = MediaType::ImageManifest;
                let described = lacewing_oci::describe(kind, &piece.blob, u64::from(piece.len));
                self.store(place, patience).await?.manifest(&described).await
            }
            // One try, which waits for nothing.
            Source::File { url, digest } => {
                let (bytes, file) = self.repositories.client().web_read(url, range).await?;
                if !digest && file.identity(url) != Some(piece.blob) {
                    let reason = "the file has changed at its server".to_owned();
                    return Err(Error::Corrupt {
                        place: source.host().to_owned(),
                        what: "file".to_owned(),
                        reason,
                    });
                }
                Ok(bytes)
            }
        }
    }

    async fn store(&self, place: &Place, patience: Patience) -> Result<Store, Error> {
        let store = self.repositories.store(place).await?;
        Ok(match patience {
            Patience::Waits => store,
            Patience::TurnsElsewhere => store.impatient(),
        })
    }
}

/// What becomes of a read where the registry asks for time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It waits for as long, and asks again.
    Waits,
    /// It fails and tells for how long: the swarm leaves the registry alone then, and has other nodes to ask.
    TurnsElsewhere,
}

/// The piece that an index as a whole is, if its length is known and not too great for a foreign one.
pub(super) fn index_piece(of: &Provenance) -> Option<PieceId> {
    let sound = (1..=MAX_FOREIGN_INDEX).contains(&of.index_len);
    sound.then_some(PieceId {
        blob: of.index,
        offset: 0,
        len: u32::try_from(of.index_len).ok()?,
    })
}

pub(super) fn is_index(piece: &PieceId, of: &Provenance) -> bool {
    piece.blob == of.index && piece.offset == 0 && u64::from(piece.len) == of.index_len
}
