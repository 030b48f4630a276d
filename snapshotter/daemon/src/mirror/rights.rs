//! Whether a client may read something: asked at the registry, with what the client shows, never with this node's log-in.
//!
//! A yes is believed for a minute, as clients ask for the parts of a layer one after the other; and longer while the
//! registry does not answer at all, so that a pull which has begun can end. A no is never remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lacewing_format::Digest;
use lacewing_oci::{Answer, Passage, Verb};

use crate::adapters::origins::Place;
use crate::adapters::p2p::Peers;
use crate::foreign::{Failure, MANIFESTS};

/// A yes is good for so long.
const FRESH: Duration = Duration::from_secs(60);
/// And for so long while the registry cannot be asked.
const STALE: Duration = Duration::from_secs(600);
/// Answers remembered.
const MOST: usize = 8192;

/// Who asks for what: repository, content, and the digest of what the client shows.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question(Place, Digest, Digest);

/// What the registry says of something that may be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Bytes.
    pub(super) len: u64,
    /// Of a manifest.
    pub(super) media_type: Option<String>,
}

/// Why not.
pub(super) enum No {
    /// The registry says no: to be passed on.
    Answer(Answer),
    /// It cannot be asked.
    Failure(Failure),
}

/// What registries have said.
#[derive(Default)]
pub(super) struct Rights {
    known: Mutex<HashMap<Question, (Found, Instant)>>,
}

impl Rights {
    /// Asks for a blob, or a manifest by digest.
    pub(super) async fn check(
        &self,
        peers: &Arc<Peers>,
        place: &Place,
        digest: Digest,
        manifest: bool,
        authorization: Option<&str>,
    ) -> Result<Found, No> {
        let shown = Digest::of(authorization.unwrap_or("").as_bytes());
        let question = Question(place.clone(), digest, shown);
        let known = self.known(&question);
        if let Some((found, _)) = known.as_ref().filter(|(_, age)| *age < FRESH) {
            return Ok(found.clone());
        }
        match ask(peers, place, digest, manifest, authorization).await {
            Ok(Ok(found)) => {
                peers.knows_host(&place.host);
                if let Some(authorization) = authorization {
                    peers.lent().lend(place, authorization);
                }
                self.learn(question, found.clone());
                Ok(found)
            }
            Ok(Err(answer)) if answer.status < 500 => Err(No::Answer(answer)),
            Ok(Err(answer)) => known.map(|(found, _)| found).ok_or(No::Answer(answer)),
            Err(failure) => known.map(|(found, _)| found).ok_or(No::Failure(failure)),
        }
    }

    fn known(&self, question: &Question) -> Option<(Found, Duration)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, since) = known.get(question)?;
        let age = since.elapsed();
        (age < STALE).then(|| (found.clone(), age))
    }

    fn learn(&self, question: Question, found: Found) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, (_, since)| since.elapsed() < STALE);
            if known.len() >= MOST {
                known.clear();
            }
        }
        known.insert(question, (found, Instant::now()));
    }
}

async fn ask(
    peers: &Arc<Peers>,
    place: &Place,
    digest: Digest,
    manifest: bool,
    authorization: Option<&str>,
) -> Result<Result<Found, Answer>, Failure> {
    let fail = |error: lacewing_oci::Error| Failure::from(&error);
    let passage = Passage::open(peers.client(), &place.host, &place.repository).await;
    let passage = passage.map_err(fail)?;
    if !manifest {
        let len = passage.blob_len(&digest, authorization).await.map_err(fail)?;
        return Ok(len.map(|len| Found {
            len,
            media_type: None,
        }));
    }
    let (tail, accept) = (format!("manifests/{digest}"), [("accept", MANIFESTS)]);
    let head = passage
        .send(Verb::Head, &tail, &accept, authorization)
        .await
        .map_err(fail)?;
    let media_type = head.header("content-type").map(str::to_owned);
    match (head.status, head.len) {
        (200, Some(len)) => Ok(Ok(Found { len, media_type })),
        (200, None) => {
            let got = passage
                .send(Verb::Get, &tail, &accept, authorization)
                .await
                .map_err(fail)?;
            let len = got.body.len() as u64;
            Ok(Ok(Found { len, media_type }))
        }
        _ => Ok(Err(head)),
    }
}
