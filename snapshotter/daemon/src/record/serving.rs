//! The daemon's side: a recording lasts as long as its client listens.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::BoxStream;
use lacewing_fusefs::{Engine, LayerId, Recording};
use lacewing_rpc::control::{FileRead, RecordRequest, RecordResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Reads in one answer: with the longest paths still below the 4 MiB that a gRPC message may have.
const IN_ONE: usize = 500;

/// What a client gets.
pub(crate) type RecordStream = BoxStream<'static, Result<RecordResponse, Status>>;

/// Begins to record. `layers` finds those of the image when it ends: they may come meanwhile.
///
/// # Errors
/// The engine's, for people.
pub(crate) fn serve(
    engine: Arc<Engine>,
    mut requests: Streaming<RecordRequest>,
    layers: impl FnOnce() -> Result<BTreeSet<LayerId>, Status> + Send + 'static,
) -> Result<RecordStream, Status> {
    let recording = engine
        .record()
        .map_err(|error| Status::resource_exhausted(error.to_string()))?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        if sender.send(Ok(RecordResponse::default())).await.is_err() {
            return;
        }
        loop {
            match requests.message().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                // The client is gone.
                Err(_) => return,
            }
        }
        for answer in answers(engine, recording, layers).await {
            if sender.send(answer).await.is_err() {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

async fn answers(
    engine: Arc<Engine>,
    recording: Recording,
    layers: impl FnOnce() -> Result<BTreeSet<LayerId>, Status> + Send + 'static,
) -> Vec<Result<RecordResponse, Status>> {
    let reads = tokio::task::spawn_blocking(move || Ok(engine.recorded(recording, &layers()?))).await;
    let reads = match reads {
        Ok(Ok(reads)) => reads,
        Ok(Err(status)) => return vec![Err(status)],
        Err(error) => return vec![Err(Status::internal(error.to_string()))],
    };
    let answer = |reads: &[lacewing_fusefs::FileRead]| {
        let reads = reads.iter().map(|read| FileRead {
            path: read.path.clone(),
            offset: read.range.start,
            length: read.range.end - read.range.start,
        });
        Ok(RecordResponse {
            reads: reads.collect(),
        })
    };
    reads.chunks(IN_ONE).map(answer).collect()
}
