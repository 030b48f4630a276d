//! The half that writes: what waits in the outbox, as fast as the pace and the network allow.

use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::time::timeout;

use super::{Context, SMALL, Shared, lock};
use crate::transport::limits::{MAX_DATA, STUCK};
use crate::transport::message::Message;
use crate::transport::outbox::Next;
use crate::transport::{Happening, Stream, TransportError};

/// Bytes written at a time.
const MAX_WRITE: usize = 64 << 10;

/// Writes until the other node takes nothing any more.
pub(super) async fn write(
    shared: &Shared,
    mut stream: WriteHalf<Box<dyn Stream>>,
    context: &Context,
) -> Result<(), TransportError> {
    let mut out = BytesMut::new();
    // Whether `out` holds bytes that somebody waits for.
    let mut urgent = false;
    let pace = context.pace.of_link().unwrap_or_else(|| context.pace.clone());
    loop {
        let next_is_part = lock(&shared.outbox).next_is_part();
        if let Some(blocking) = next_is_part {
            // A blocked reader or a message may come while a prefetch waits for its turn.
            tokio::select! {
                biased;
                () = pace.pass(blocking, MAX_DATA) => {}
                () = shared.wake.notified() => continue,
            }
        }
        let next = lock(&shared.outbox).pop();
        let Some(next) = next else {
            flush(&mut stream, &mut out).await?;
            if out.capacity() > SMALL {
                out = BytesMut::new();
            }
            shared.wake.notified().await;
            continue;
        };
        match next {
            Next::Message(message) => message.encode(&mut out),
            Next::Part {
                message, blocking, ..
            } => {
                message.encode(&mut out);
                urgent |= blocking;
            }
            Next::End { id, hint, len, begun } => {
                Message::Done { id, hint }.encode(&mut out);
                flush(&mut stream, &mut out).await?;
                let what = Happening::Sent(id, begun.elapsed(), len);
                context.tell(shared.id, what).await;
            }
        }
        if out.len() >= MAX_WRITE {
            let begun = Instant::now();
            flush(&mut stream, &mut out).await?;
            if std::mem::take(&mut urgent) {
                pace.wrote(begun.elapsed());
            }
        }
    }
}

/// Hands what was gathered to the kernel.
async fn flush(stream: &mut WriteHalf<Box<dyn Stream>>, out: &mut BytesMut) -> Result<(), TransportError> {
    if out.is_empty() {
        return Ok(());
    }
    // A peer that takes nothing is a peer that is gone.
    let written = timeout(STUCK, async {
        stream.write_all(out).await?;
        stream.flush().await
    });
    written.await.map_err(|_| TransportError::Silent)??;
    out.clear();
    Ok(())
}
