//! Whose word counts for a run: asked for where a run came by another way, given where others ask.
//!
//! ```text
//!   registry ──► first of the tree ──► relay ──run──► this node
//!                        ▲                               │
//!                        └────── its digest, please ─────┘     over a connection with the first itself
//! ```
//!
//! The first of a run's tree reads it from the registry, so its word counts, and that of the second while the first gives
//! none. Where word and bytes differ, the registry is asked, and whoever is wrong is cut off. Whether the first tells the
//! truth, the digest of the whole blob tells in the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lacewing_format::Digest;
use lacewing_p2p::driver::{Origin, Verdict, Verifier};
use lacewing_p2p::transport::Provenance;
use lacewing_p2p::{Class, FetchError, Node, PieceId};
use tokio::time::timeout;
use tracing::debug;

use super::Ports;
use super::shared::Shared;
use crate::foreign::{Question, Said, Source, Voucher, Word, is_run};

/// How many of the beginning of a tree go to the registry without waiting: those that may vouch.
const ROOTS: usize = 2;

/// One node answers so many of all others: it has as many connections for that.
const CROWD: u32 = 512;

/// A node that is well answers from memory, or hashes 4 MiB; on a loaded machine behind a full link that takes its time.
const PATIENCE: Duration = Duration::from_secs(2);

/// For one that did not answer just now.
const SHORT_PATIENCE: Duration = Duration::from_millis(300);

/// A first node that has not got the run yet reads it from the registry: as long as a slow link may need.
const READING: Duration = Duration::from_secs(20);

/// All questions to others about a run while its origin is gone.
const STAND_INS: Duration = Duration::from_secs(10);

impl Shared {
    /// Whether a run is what the beginning of its tree says. `from`: who sent it, or its origin.
    pub(super) async fn vouched(
        self: &Arc<Self>,
        piece: PieceId,
        of: &Provenance,
        from: Option<SocketAddr>,
        bytes: Bytes,
    ) -> Verdict {
        let Some(sum) = hashed(bytes).await else {
            return Verdict::Unproven;
        };
        let known = self.words.of(&piece);
        let Some(from) = from else {
            // This node has read it itself.
            if let Some((said, voucher)) = known
                && said != sum
            {
                self.blame(voucher, piece);
            }
            self.words.note(piece, sum, Voucher::Own);
            return Verdict::Right;
        };
        let word = match known {
            Some(known) => Some(known),
            None => self.word(piece, of, from, sum).await,
        };
        match word {
            Some((said, voucher)) if said == sum => {
                self.words.note(piece, sum, voucher);
                Verdict::Right
            }
            Some((_, Voucher::Own)) => Verdict::Wrong,
            Some((said, voucher)) => self.settle(piece, of, sum, said, voucher).await,
            None => Verdict::Unproven,
        }
    }

    /// What a run's digest is, and on whose word.
    async fn word(
        self: &Arc<Self>,
        piece: PieceId,
        of: &Provenance,
        from: SocketAddr,
        sum: Digest,
    ) -> Option<Word> {
        let node = self.node.get()?;
        let firsts = node.firsts(piece).await;
        let earlier = firsts.peers.iter().filter(|(_, earlier)| *earlier);
        let earlier: Vec<SocketAddr> = earlier.map(|(peer, _)| *peer).collect();
        // In a crowd the first would get too many connections: the next ones, who have asked it, answer in its place.
        let one_of = self.words.choice(&piece, firsts.members / CROWD + 1);
        if let Some(instead) = earlier.get(one_of).filter(|peer| one_of > 0 && **peer != from)
            && let Some(said) = self.ask(node, *instead, piece, of).await
        {
            return Some((said, Voucher::StandIn(*instead)));
        }
        let vouchers = [Voucher::First, Voucher::StandIn];
        for (root, voucher) in earlier.iter().take(ROOTS).zip(vouchers) {
            if *root == from {
                return Some((sum, voucher(from)));
            }
            match self.ask(node, *root, piece, of).await {
                Some(said) => return Some((said, voucher(*root))),
                None => debug!(%root, ?piece, "the beginning of the tree does not vouch"),
            }
        }
        // Also where this node is the first, whoever it got the run from: its word will count.
        let gone = Source::read(&of.place).is_some_and(|source| self.gone.is(source.host(), Instant::now()));
        if !gone {
            match self.read_right(piece, of).await {
                Ok(read) => return Some((read, Voucher::Own)),
                Err(FetchError::Unavailable) => {}
                Err(_) => return None,
            }
        }
        // The origin is gone: the earliest that has the run stands in for it.
        let stand_in = async {
            for (peer, _) in &firsts.peers {
                if *peer == from {
                    return Some((sum, Voucher::StandIn(from)));
                }
                if let Said::Digest(said) = self.have(node, *peer, piece, of).await {
                    return Some((said, Voucher::StandIn(*peer)));
                }
            }
            None
        };
        timeout(STAND_INS, stand_in).await.ok().flatten()
    }

    /// Asks the beginning of a tree, which gets the run if it has not got it yet.
    async fn ask(&self, node: &Node, root: SocketAddr, piece: PieceId, of: &Provenance) -> Option<Digest> {
        match self.have(node, root, piece, of).await {
            Said::Digest(said) => Some(said),
            Said::Nothing => {
                let question = Question::Get(piece, of.clone()).written();
                match Said::read(&node.call(root, question, READING).await?)? {
                    Said::Digest(said) => Some(said),
                    _ => None,
                }
            }
            Said::NoAnswer => None,
        }
    }

    /// Asks a node for what it has now.
    async fn have(&self, node: &Node, peer: SocketAddr, piece: PieceId, of: &Provenance) -> Said {
        let patience = if self.words.is_silent(&peer) {
            SHORT_PATIENCE
        } else {
            PATIENCE
        };
        let question = Question::Have(piece, of.clone()).written();
        let answer = node.call(peer, question, patience).await;
        let said = answer
            .and_then(|answer| Said::read(&answer))
            .unwrap_or(Said::NoAnswer);
        self.words.answered(peer, said != Said::NoAnswer);
        said
    }

    /// Two nodes differ about a run: the registry decides, and the one that is wrong is cut off.
    async fn settle(
        self: &Arc<Self>,
        piece: PieceId,
        of: &Provenance,
        sum: Digest,
        said: Digest,
        voucher: Voucher,
    ) -> Verdict {
        let Ok(right) = self.read_right(piece, of).await else {
            debug!(?piece, ?voucher, "who is right about it cannot be found out now");
            return Verdict::Unproven;
        };
        if right != said {
            self.blame(voucher, piece);
        }
        if right == sum {
            Verdict::Right
        } else {
            Verdict::Wrong
        }
    }

    /// Reads a run from its origin to know its digest. Few at a time.
    async fn read_right(self: &Arc<Self>, piece: PieceId, of: &Provenance) -> Result<Digest, FetchError> {
        let read = async {
            let _turn = self.words.turn().await;
            if let Some((read, Voucher::Own)) = self.words.of(&piece) {
                return Ok(read);
            }
            let reading = Ports(self.clone()).read(piece, of.clone(), Class::Prefetch);
            let bytes = reading.await.map_err(|error| error.error)?;
            let right = hashed(bytes).await.ok_or(FetchError::Unavailable)?;
            self.words.note(piece, right, Voucher::Own);
            Ok(right)
        };
        timeout(READING, read).await.unwrap_or_else(|_| {
            if let Some(source) = Source::read(&of.place) {
                self.gone.note(source.host(), None, Instant::now());
            }
            Err(FetchError::Unavailable)
        })
    }

    /// Cuts off who has read a run wrong, if that is known to be who vouches for it.
    fn blame(&self, voucher: Voucher, piece: PieceId) {
        if let (Voucher::First(first), Some(node)) = (voucher, self.node.get()) {
            node.distrust(first, piece);
        }
    }

    /// Answers another node's question.
    pub(super) async fn say(self: &Arc<Self>, question: &[u8]) -> Option<Bytes> {
        let (piece, of, get) = match Question::read(question)? {
            Question::Have(piece, of) => (piece, of, false),
            Question::Get(piece, of) => (piece, of, true),
        };
        if !is_run(&piece, &of) {
            return None;
        }
        let node = self.node.get()?;
        let mut known = self.digest_of(node, &piece).await;
        if known.is_none() && get && Ports(self.clone()).permits(&piece, &of) {
            let of = Arc::new(of);
            known = match node.get(piece, of, Class::Blocking).await {
                Ok(_) => self.digest_of(node, &piece).await,
                Err(_) => None,
            };
        }
        Some(known.map_or(Said::Nothing, Said::Digest).written())
    }

    /// What this node believes a run's digest to be, if it has it or has had it.
    async fn digest_of(&self, node: &Node, piece: &PieceId) -> Option<Digest> {
        if let Some(sum) = self.sums.of(piece) {
            return Some(sum);
        }
        if let Some((sum, _)) = self.words.of(piece) {
            return Some(sum);
        }
        // From an earlier process.
        let sum = hashed(node.stored(piece).await?).await?;
        self.words.note(*piece, sum, Voucher::Own);
        Some(sum)
    }
}

async fn hashed(bytes: Bytes) -> Option<Digest> {
    let hashing = tokio::task::spawn_blocking(move || Digest::of(&bytes));
    hashing.await.ok()
}
