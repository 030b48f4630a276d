//! The half that reads: messages become happenings, parts of a piece become the piece.

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, ReadHalf};

use super::{Context, SMALL, Shared, lock};
use crate::transport::message::Message;
use crate::transport::{Happening, Stream, TransportError};

/// Progress over a connection is told so often: less than a peer has to take a request.
const TELL_EVERY_MS: u64 = 10;

/// Bytes read at a time while a piece comes.
const MAX_READ: usize = 64 << 10;

/// Reads until the stream ends, or what comes makes no sense.
pub(super) async fn read(
    shared: &Shared,
    mut stream: ReadHalf<Box<dyn Stream>>,
    mut buffer: BytesMut,
    context: &Context,
) -> Result<(), TransportError> {
    let (mut read, mut told_ms) = (0, 0);
    loop {
        while let Some(message) = Message::decode(&mut buffer)? {
            if let Some(what) = take(shared, &mut told_ms, message)?
                && !context.tell(shared.id, what).await
            {
                return Ok(());
            }
        }
        if buffer.is_empty() && buffer.capacity() > SMALL && read < SMALL {
            buffer = BytesMut::new();
        }
        buffer.reserve(if read < SMALL { SMALL } else { MAX_READ });
        read = stream.read_buf(&mut buffer).await?;
        if read == 0 {
            return Err(TransportError::Closed);
        }
        shared.liveness.hear();
    }
}

/// What a message means here; nothing if it needs no attention. Progress was told last when the connection had that age.
fn take(shared: &Shared, told_ms: &mut u64, message: Message) -> Result<Option<Happening>, TransportError> {
    let mut asked = lock(&shared.asked);
    Ok(match message {
        Message::Hello { .. } => return Err(TransportError::Protocol("a second greeting")),
        Message::Request { id, wish } => Some(Happening::Requested(id, wish)),
        Message::Cancel { id } => {
            lock(&shared.outbox).cancel(id);
            Some(Happening::Cancelled(id))
        }
        Message::Promote { id } => {
            lock(&shared.outbox).promote(id);
            Some(Happening::Promoted(id))
        }
        Message::Ack { id, hint } => asked.contains(id).then_some(Happening::Acknowledged(id, hint)),
        Message::Data { id, offset, bytes } => {
            if !asked.add(id, offset, &bytes)? {
                return Ok(None);
            }
            let now_ms = shared.liveness.age_ms();
            if now_ms.saturating_sub(*told_ms) < TELL_EVERY_MS {
                return Ok(None);
            }
            *told_ms = now_ms;
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            Some(Happening::Progressed(id, len))
        }
        Message::Done { id, hint } => {
            let piece = asked.finish(id)?;
            piece.map(|bytes| Happening::Arrived(id, bytes, hint))
        }
        Message::Redirect { id, to, hint } => asked.close(id).then_some(Happening::Redirected(id, to, hint)),
        Message::Refused { id, why } => asked.close(id).then_some(Happening::Refused(id, why)),
        Message::Ping => {
            shared.queue(Message::Pong);
            None
        }
        Message::Pong => None,
        Message::Exchange { bytes } => Some(Happening::Exchanged(bytes)),
    })
}
