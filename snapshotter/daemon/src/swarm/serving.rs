//! The daemon's side of `get`, `top`, `explain` and `pull --nodes`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use lacewing_format::Digest;
use lacewing_p2p::driver::{Explained, Source};
use lacewing_p2p::swarm::Standing;
use lacewing_p2p::{FetchError, PieceId};
use lacewing_rpc::control::{
    Candidate, ExplainRequest, ExplainResponse, ExplainedPiece, GetPart, GetRequest, PreheatRequest,
    PreheatResponse, Preheated, SwarmRequest, SwarmResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::desk;
use crate::adapters::p2p::Peers;
use crate::foreign::Failure;

/// Members asked at a time.
const AT_ONCE: usize = 64;

/// Pieces explained at a time: 16 GiB in runs of 4 MiB.
const MOST_PIECES: usize = 4096;

/// Bytes of a file on their way.
pub(crate) type GetStream = Pin<Box<dyn Stream<Item = Result<GetPart, Status>> + Send>>;

/// Brings a file.
pub(crate) async fn get(peers: &Arc<Peers>, request: GetRequest) -> Result<GetStream, Status> {
    let digest = match request.digest.as_str() {
        "" => None,
        text => Some(
            text.parse::<Digest>()
                .map_err(|error| Status::invalid_argument(error.to_string()))?,
        ),
    };
    let blob = peers
        .file(&request.url, digest)
        .await
        .map_err(|error| match &error {
            lacewing_oci::Error::Invalid { .. } => Status::invalid_argument(error.to_string()),
            _ => status(&Failure::from(&error)),
        })?;
    let (id, len) = (blob.id.to_string(), blob.len);
    let offset = if request.id == id {
        request.offset.min(len)
    } else {
        0
    };
    let head = GetPart {
        id,
        len,
        offset,
        data: Vec::new(),
    };
    let parts = ReceiverStream::new(peers.stream(blob, offset..len)).map(|part| match part {
        Ok(data) => Ok(GetPart {
            data: data.into(),
            ..GetPart::default()
        }),
        Err(failure) => Err(status(&failure)),
    });
    Ok(Box::pin(futures::stream::iter([Ok(head)]).chain(parts)))
}

fn status(failure: &Failure) -> Status {
    let text = failure.to_string();
    match failure.class {
        FetchError::Missing => Status::not_found(text),
        FetchError::Forbidden => Status::permission_denied(text),
        FetchError::Corrupt => Status::data_loss(text),
        _ => Status::unavailable(text),
    }
}

/// Tells what this node and others do.
pub(crate) async fn swarm(peers: &Arc<Peers>, request: SwarmRequest) -> SwarmResponse {
    let mut nodes = vec![desk::own(peers).await];
    if request.all {
        let members = peers.node.status().await.peers;
        let asking = members
            .into_iter()
            .map(|peer| desk::other(peers, peer.address, peer.zone, peer.leaf));
        nodes.extend(
            futures::stream::iter(asking)
                .buffered(AT_ONCE)
                .collect::<Vec<_>>()
                .await,
        );
    }
    SwarmResponse { nodes }
}

/// Tells about pieces of a blob.
pub(crate) async fn explained(
    peers: &Arc<Peers>,
    request: ExplainRequest,
) -> Result<ExplainResponse, Status> {
    let blob: Digest = request
        .blob
        .parse()
        .map_err(|error: lacewing_format::DigestParseError| Status::invalid_argument(error.to_string()))?;
    let mut wanted = peers.node.pieces_of(blob).await;
    if request.len > 0 {
        let len = u32::try_from(request.len).map_err(|_| Status::invalid_argument("a piece is shorter"))?;
        wanted = vec![PieceId {
            blob,
            offset: request.offset,
            len,
        }];
    } else {
        wanted.extend(peers.listed(&blob, MOST_PIECES).await);
        wanted.sort_unstable();
        wanted.dedup();
    }
    if wanted.is_empty() {
        return Err(Status::not_found(
            "this node has asked for no piece of it lately, and no index of its own lists any; name one: DIGEST@OFFSET+LENGTH",
        ));
    }
    let mut pieces = Vec::new();
    for piece in wanted.into_iter().take(MOST_PIECES) {
        pieces.push(told(&piece, peers.node.explain(piece).await));
    }
    Ok(ExplainResponse { pieces })
}

fn told(piece: &PieceId, found: Explained) -> ExplainedPiece {
    let name =
        |address: &Option<SocketAddr>| address.map_or_else(|| "unknown".to_owned(), |at| at.to_string());
    let standing = |standing| match standing {
        Standing::PassedOver => "passed over",
        Standing::CutOff => "cut off",
        _ => "good",
    };
    let candidates = found.swarm.candidates.iter().zip(&found.candidates);
    let trail = found.trail;
    let source = trail.as_ref().and_then(|trail| trail.source);
    ExplainedPiece {
        offset: piece.offset,
        len: u64::from(piece.len),
        here: found.here,
        tree: found.swarm.tree.map_or(0, |tree| u32::from(tree.0)),
        rank: found.swarm.rank,
        candidates: candidates
            .map(|(candidate, address)| Candidate {
                address: name(address),
                standing: standing(candidate.standing).to_owned(),
            })
            .collect(),
        registry_at_once: found.swarm.origin_at_once,
        waits_for: found.asked.iter().map(name).collect(),
        waits_for_registry: found.swarm.at_origin,
        asked: trail
            .iter()
            .flat_map(|trail| trail.asked.iter().map(SocketAddr::to_string))
            .collect(),
        asked_registry: trail.as_ref().map_or(0, |trail| trail.origin_asked),
        source: match source {
            Some((Source::Peer(peer), _)) => peer.to_string(),
            Some((Source::Origin, _)) => "registry".to_owned(),
            None => String::new(),
        },
        took_ms: source.map_or(0, |(_, took)| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        wrong: trail
            .iter()
            .flat_map(|trail| trail.wrong.iter().map(SocketAddr::to_string))
            .collect(),
    }
}

/// Has an image pulled on other nodes; with none of them named, on this one.
pub(crate) async fn preheat(
    peers: &Arc<Peers>,
    containerd: Option<PathBuf>,
    request: PreheatRequest,
) -> Result<PreheatResponse, Status> {
    let members = peers.node.status().await.peers;
    let mut addresses: Vec<SocketAddr> = members.iter().map(|peer| peer.address).collect();
    let own = request.nodes == "all";
    match request.nodes.as_str() {
        "all" => {}
        "seeds" => {
            let seeds = peers.seeds.clone();
            let found = tokio::task::spawn_blocking(move || resolved(&seeds)).await;
            let found = found.unwrap_or_default();
            addresses.retain(|address| found.contains(address));
        }
        count => {
            let count: usize = count
                .parse()
                .map_err(|_| Status::invalid_argument("--nodes: all, seeds, or a number"))?;
            addresses.truncate(count);
        }
    }
    let image = request.image.as_str();
    let asking = addresses.into_iter().map(|address| async move {
        Preheated {
            address: address.to_string(),
            error: desk::preheat(peers, address, image)
                .await
                .err()
                .unwrap_or_default(),
        }
    });
    let mut nodes: Vec<Preheated> = futures::stream::iter(asking).buffered(AT_ONCE).collect().await;
    if own {
        nodes.insert(
            0,
            Preheated {
                address: peers.address.to_string(),
                error: desk::pull(containerd, image).await.err().unwrap_or_default(),
            },
        );
    }
    Ok(PreheatResponse { nodes })
}

fn resolved(seeds: &[String]) -> Vec<SocketAddr> {
    let found = seeds.iter().filter_map(|seed| seed.to_socket_addrs().ok());
    found.flatten().collect()
}
