//! The half that writes: what waits in the outbox, as fast as the pace and the network allow.

use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::time::timeout;

use super::{Context, SMALL, Shared, lock};
use crate::transport::limits::{MAX_DATA, STUCK};
use crate::transport::message::Message;
use crate::transport::outbox::Next;
use crate::transport::{Happening, Pace, Stream, TransportError};

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
            // Messages go before pieces, and do not wait with them.
            flush(&mut stream, &mut out, &mut urgent, &*pace).await?;
            // A blocked reader or a message may come while a prefetch waits for its turn.
            tokio::select! {
                biased;
                () = pace.pass(blocking, MAX_DATA) => {}
                () = shared.wake.notified() => continue,
            }
        }
        let next = lock(&shared.outbox).pop();
        let Some(next) = next else {
            flush(&mut stream, &mut out, &mut urgent, &*pace).await?;
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
                flush(&mut stream, &mut out, &mut urgent, &*pace).await?;
                let what = Happening::Sent(id, begun.elapsed(), len);
                context.tell(shared.id, what).await;
            }
        }
        if out.len() >= MAX_WRITE {
            flush(&mut stream, &mut out, &mut urgent, &*pace).await?;
        }
    }
}

/// Hands what was gathered to the kernel, and tells the pace if somebody waits for it.
async fn flush(
    stream: &mut WriteHalf<Box<dyn Stream>>,
    out: &mut BytesMut,
    urgent: &mut bool,
    pace: &dyn Pace,
) -> Result<(), TransportError> {
    if out.is_empty() {
        return Ok(());
    }
    let begun = Instant::now();
    // A peer that takes nothing is a peer that is gone.
    let written = timeout(STUCK, async {
        stream.write_all(out).await?;
        stream.flush().await
    });
    written.await.map_err(|_| TransportError::Silent)??;
    out.clear();
    if std::mem::take(urgent) {
        pace.wrote(begun.elapsed());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use tokio::sync::mpsc;

    use super::*;
    use crate::swarm::{Hint, RequestId};
    use crate::transport::{Link, LinkId, Timing};

    /// Lets nothing pass that nobody waits for.
    struct Held;

    impl Pace for Held {
        fn pass(&self, blocking: bool, _: usize) -> BoxFuture<'_, ()> {
            match blocking {
                true => std::future::ready(()).boxed(),
                false => std::future::pending().boxed(),
            }
        }
    }

    /// The story: an answer stood in the buffer while the prefetched piece behind it waited for its turn, and its node was
    /// passed over as one that does not answer.
    #[tokio::test]
    async fn a_message_does_not_wait_with_the_piece_behind_it() {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (events, mut happened) = mpsc::channel(64);
        let context = Context {
            events,
            pace: Arc::new(Held),
            timing: Timing::default(),
        };
        let (near, far) = tokio::join!(
            Link::open(Box::new(near), LinkId(1), "10.0.0.1:1", &context),
            Link::open(Box::new(far), LinkId(2), "10.0.0.2:1", &context),
        );
        let (near, _far) = (near.unwrap(), far.unwrap());
        near.answer(
            RequestId(1),
            Bytes::from_static(b"a piece"),
            false,
            Hint::default(),
        );
        near.send(Message::Promote { id: RequestId(2) });
        let told = tokio::time::timeout(Duration::from_secs(10), happened.recv()).await;
        let told = told.unwrap().unwrap();
        assert_eq!(told.link, LinkId(2));
        assert!(matches!(told.what, Happening::Promoted(RequestId(2))), "{told:?}");
    }
}
