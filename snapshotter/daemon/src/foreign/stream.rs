//! Part of a blob, or all of it, as a stream for one reader.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lacewing_p2p::FetchError;
use tokio::sync::mpsc;

use super::{Blob, Failure, RUN};
use crate::adapters::p2p::Peers;

/// Bytes handed on at a time.
const PART: usize = 256 << 10;

/// Parts that wait for a slow reader: 2 MiB.
const PARTS: usize = 8;

/// Runs that are asked for ahead of a reader of a blob that was found right before.
const AHEAD: u64 = 8;

impl Peers {
    /// Streams a range of a blob. The last run of the range comes only when the whole blob was found right; a stream that
    /// ends with an error has not given all of it.
    pub(crate) fn stream(
        self: &Arc<Self>,
        blob: Blob,
        range: Range<u64>,
    ) -> mpsc::Receiver<Result<Bytes, Failure>> {
        let (parts, receiver) = mpsc::channel(PARTS);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(failure) = this.send(&blob, range, &parts).await {
                let _ = parts.send(Err(failure)).await;
            }
        });
        receiver
    }

    async fn send(
        self: &Arc<Self>,
        blob: &Blob,
        range: Range<u64>,
        parts: &mpsc::Sender<Result<Bytes, Failure>>,
    ) -> Result<(), Failure> {
        if range.is_empty() || range.end > blob.len {
            return Ok(());
        }
        let (first, last) = (range.start / RUN, (range.end - 1) / RUN);
        let whole = self.whole(blob);
        for run in first..=last {
            tokio::select! {
                waited = async {
                    if run == last {
                        whole.verdict().await
                    } else {
                        whole.wait(run).await
                    }
                } => waited?,
                () = parts.closed() => return Ok(()),
            }
            for next in run + 1..=(run + AHEAD).min(last) {
                if let Some(piece) = blob.piece(next) {
                    self.node.prefetch(piece, blob.provenance());
                }
            }
            let piece = blob
                .piece(run)
                .ok_or_else(|| Failure::new(FetchError::Missing, "the blob is too long"))?;
            let bytes = self.run(blob, piece).await?;
            let from = range.start.saturating_sub(piece.offset).min(u64::from(piece.len));
            let to = (range.end - piece.offset).min(u64::from(piece.len));
            let mut rest = bytes.slice(from as usize..to as usize);
            while !rest.is_empty() {
                let part = rest.split_to(PART.min(rest.len()));
                if parts.send(Ok(part)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A small blob at once.
    pub(crate) async fn small(self: &Arc<Self>, blob: &Blob) -> Result<Bytes, Failure> {
        let mut parts = self.stream(blob.clone(), 0..blob.len);
        let mut all = bytes::BytesMut::new();
        while let Some(part) = parts.recv().await {
            all.extend_from_slice(&part?);
        }
        if all.len() as u64 != blob.len {
            return Err(Failure::new(FetchError::Unavailable, "it ends early"));
        }
        Ok(all.freeze())
    }
}
