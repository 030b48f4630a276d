//! A blob on its way to this node: its runs in order, hashed as they come, for all who read it here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use lacewing_format::Digest;
use lacewing_p2p::{Class, FetchError, PieceId};
use sha2::Digest as _;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{Blob, Failure, Source, Voucher};
use crate::adapters::p2p::Peers;

/// Runs asked for at a time, at first and at most: 32 MiB are some seconds' worth of a slow link and keep a fast one busy.
/// It begins with few, because nobody knows yet how long one takes, and what takes longer than thought is asked for twice.
const WINDOW: (usize, usize) = (2, 8);

/// How far it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Runs that are here, from the first on.
    runs: u64,
    /// What the whole turned out to be.
    verdict: Option<Result<(), Failure>>,
}

/// A blob that is being fetched. When nobody holds it any more, the fetch ends; what came stays for a while.
pub(super) struct Whole {
    progress: watch::Receiver<Progress>,
}

/// Blobs that are being fetched.
#[derive(Default)]
pub(crate) struct Wholes(Mutex<HashMap<Digest, Weak<Whole>>>);

impl Whole {
    /// Waits until a run is here, or is found out to be right: of what is not wanted whole, every run but the last.
    pub(super) async fn wait(&self, run: u64) -> Result<(), Failure> {
        let mut progress = self.progress.clone();
        let reached = |now: &Progress| now.runs > run || now.verdict.is_some();
        match progress.wait_for(reached).await {
            Ok(now) => match &now.verdict {
                Some(Err(failure)) => Err(failure.clone()),
                _ => Ok(()),
            },
            Err(_) => Err(stopped()),
        }
    }

    /// Waits until it is known whether the whole is right.
    pub(super) async fn verdict(&self) -> Result<(), Failure> {
        let mut progress = self.progress.clone();
        match progress.wait_for(|now| now.verdict.is_some()).await {
            Ok(now) => now.verdict.clone().unwrap_or(Ok(())),
            Err(_) => Err(stopped()),
        }
    }
}

fn stopped() -> Failure {
    Failure::new(FetchError::Unavailable, "the fetch was given up")
}

impl Peers {
    /// The fetch of a blob, begun if nobody has.
    pub(super) fn whole(self: &Arc<Self>, blob: &Blob) -> Arc<Whole> {
        let mut wholes = self.wholes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(whole) = wholes.get(&blob.id).and_then(Weak::upgrade) {
            return whole;
        }
        wholes.retain(|_, whole| whole.strong_count() > 0);
        let (tell, progress) = watch::channel(Progress::default());
        let whole = Arc::new(Whole { progress });
        if self.sums().knows(&blob.id) {
            tell.send_replace(Progress {
                runs: blob.runs(),
                verdict: Some(Ok(())),
            });
            return whole;
        }
        wholes.insert(blob.id, Arc::downgrade(&whole));
        let (this, blob, wanted) = (Arc::clone(self), blob.clone(), Arc::downgrade(&whole));
        tokio::spawn(async move {
            let verdict = this.fetch_whole(&blob, &tell, &wanted).await;
            if let Some(verdict) = verdict {
                if let Err(failure) = &verdict {
                    warn!(blob = %blob.id, "not to be had: {failure}");
                }
                tell.send_modify(|now| now.verdict = Some(verdict));
            }
        });
        whole
    }

    /// `None`: nobody wants it any more.
    async fn fetch_whole(
        self: &Arc<Self>,
        blob: &Blob,
        tell: &watch::Sender<Progress>,
        wanted: &Weak<Whole>,
    ) -> Option<Result<(), Failure>> {
        let mut pieces = (0..blob.runs()).map_while(|run| blob.piece(run));
        let (mut arriving, mut window) = (FuturesOrdered::new(), WINDOW.0);
        let (mut hash, mut sums) = (sha2::Sha256::new(), Vec::new());
        loop {
            let more = window.saturating_sub(arriving.len());
            arriving.extend(pieces.by_ref().take(more).map(|piece| self.run(blob, piece)));
            let Some(got) = arriving.next().await else {
                break;
            };
            window = (window + 1).min(WINDOW.1);
            if wanted.strong_count() == 0 {
                debug!(blob = %blob.id, "nobody reads it any more");
                return None;
            }
            let bytes = match got {
                Ok(bytes) => bytes,
                Err(failure) => return Some(Err(failure)),
            };
            let hashing = tokio::task::spawn_blocking(move || {
                hash.update(&bytes);
                (hash, Digest::of(&bytes))
            });
            let Ok((hashed, sum)) = hashing.await else {
                return Some(Err(stopped()));
            };
            hash = hashed;
            sums.push(sum);
            tell.send_modify(|now| now.runs += 1);
        }
        // A file whose digest nobody told is what its server said at every single read.
        let told = !matches!(&blob.source, Source::File { digest: false, .. });
        if told && Digest(hash.finalize().into()) != blob.id {
            return Some(Err(self.repair(blob).await));
        }
        self.sums().learn(blob.id, sums);
        Some(Ok(()))
    }

    /// A run from the swarm. If that does not have it, and the tree's root may not read it, from its origin: this node's
    /// client may have shown a log-in that others lack.
    pub(super) async fn run(self: &Arc<Self>, blob: &Blob, piece: PieceId) -> Result<Bytes, Failure> {
        let of = blob.provenance();
        let failed = match self.node.get(piece, Arc::clone(&of), Class::Prefetch).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        debug!(?piece, "not from the swarm: {failed}");
        match self.read_here(piece, &of).await {
            Ok(bytes) => {
                if let Some(sum) = self.sums().of(&piece)
                    && Digest::of(&bytes) != sum
                {
                    let reason = format!("{} has changed at its origin", blob.id);
                    return Err(Failure::new(FetchError::Corrupt, reason));
                }
                self.words().note(piece, Digest::of(&bytes), Voucher::Own);
                self.node.keep(piece, bytes.clone());
                Ok(bytes)
            }
            Err(failure) => Err(failure),
        }
    }

    /// The whole is not what its digest says: reads every run anew from the origin, to find out who is at fault, and
    /// leaves right ones behind, or none.
    async fn repair(self: &Arc<Self>, blob: &Blob) -> Failure {
        let of = blob.provenance();
        let (mut hash, mut sums, mut wrong) = (sha2::Sha256::new(), Vec::new(), 0_u64);
        let mut liars = Vec::new();
        for piece in (0..blob.runs()).map_while(|run| blob.piece(run)) {
            let Ok(right) = self.read_here(piece, &of).await else {
                break;
            };
            let sum = Digest::of(&right);
            if let Some((said, Voucher::First(voucher))) = self.words().of(&piece)
                && said != sum
            {
                liars.push((voucher, piece));
            }
            self.words().note(piece, sum, Voucher::Own);
            if self.node.stored(&piece).await.is_none_or(|had| had != right) {
                wrong += 1;
                self.node.forget(&piece);
                self.node.keep(piece, right.clone());
            }
            sums.push(sum);
            hash.update(&right);
        }
        if Digest(hash.finalize().into()) == blob.id {
            self.sums().learn(blob.id, sums);
            info!(blob = %blob.id, wrong, "runs were wrong and are replaced");
            liars
                .iter()
                .for_each(|(voucher, piece)| self.node.distrust(*voucher, *piece));
            return Failure::new(
                FetchError::Corrupt,
                "other nodes sent wrong bytes; asking again helps",
            );
        }
        for piece in (0..blob.runs()).map_while(|run| blob.piece(run)) {
            self.node.forget(&piece);
            self.words().forget(&piece);
        }
        let reason = if sums.len() as u64 == blob.runs() {
            format!("its origin's bytes are not those of {}", blob.id)
        } else {
            format!("what came is not {}, and its origin does not answer", blob.id)
        };
        Failure::new(FetchError::Corrupt, reason)
    }
}
