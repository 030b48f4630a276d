//! One connection: a task that reads, a task that writes, and what is known between them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::TransportError;
use super::limits::{HANDSHAKE, MAX_REQUESTS, PING_EVERY, SILENCE, STUCK};
use super::message::{Message, VERSION, Wish};
use super::outbox::{Next, Outbox};
use crate::swarm::{Hint, PeerId, Refusal, RequestId};

/// Names a connection of this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Anything that bytes go over: TLS on TCP, or TCP alone where that was asked for.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Decides when piece bytes may go out: rate limits and the number of uploads at a time.
pub trait Pace: Send + Sync + 'static {
    /// Resolves when `len` bytes of a piece may be written.
    fn pass(&self, blocking: bool, len: usize) -> BoxFuture<'_, ()>;

    /// The same for one connection, if each has a limit of its own.
    fn of_link(&self) -> Option<Arc<dyn Pace>> {
        None
    }
}

/// When a connection is asked for a sign of life, and when it is given up.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A connection on which nothing came is asked after so long.
    pub ping_every: Duration,
    /// Without a sign of life for so long it is closed.
    pub silence: Duration,
    /// TCP, TLS and greeting have so long.
    pub handshake: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            ping_every: PING_EVERY,
            silence: SILENCE,
            handshake: HANDSHAKE,
        }
    }
}

/// What came over a connection.
#[derive(Debug)]
pub enum Happening {
    /// The other node wants a piece.
    Requested(RequestId, Wish),
    /// The other node does not want it any more.
    Cancelled(RequestId),
    /// The other node has a blocked reader for it now.
    Promoted(RequestId),
    /// A piece of ours was handed to the kernel whole; how long it took, and how many bytes it was.
    Sent(RequestId, Duration, usize),
    /// Our request is being worked on.
    Acknowledged(RequestId, Hint),
    /// Bytes of the answer to our request come; told now and then.
    Progressed(RequestId, u32),
    /// Our request is answered: as many bytes as asked for, not verified.
    Arrived(RequestId, Bytes, Hint),
    /// Ask another node.
    Redirected(RequestId, PeerId, Hint),
    /// Our request is refused.
    Refused(RequestId, Refusal),
    /// Members and gossip.
    Exchanged(Bytes),
    /// The connection has ended, and with it all requests over it.
    Closed(TransportError),
}

/// A happening and where it came from.
#[derive(Debug)]
pub struct Event {
    /// The connection.
    pub link: LinkId,
    /// What happened.
    pub what: Happening,
}

/// Progress over a connection is told so often: less than a peer has to take a request.
const TELL_EVERY_MS: u64 = 10;

/// Bytes of a piece that has begun to come.
struct Partial {
    len: usize,
    bytes: BytesMut,
}

struct Shared {
    id: LinkId,
    outbox: Mutex<Outbox>,
    wake: Notify,
    asked: Mutex<HashMap<RequestId, Partial>>,
    end: CancellationToken,
    begun: Instant,
    /// Milliseconds since `begun` when bytes last came.
    heard: AtomicU64,
    /// The same of when progress was last told.
    told: AtomicU64,
}

/// A connection to another node. Dropping it closes it.
pub struct Link {
    shared: Arc<Shared>,
    /// Where the other node says it listens.
    peer: String,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.end.cancel();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a link needs from the node it is part of.
#[derive(Clone)]
pub struct Context {
    /// Takes what comes. Bounded: a full channel stops the reading, and so the sender.
    pub events: mpsc::Sender<Event>,
    /// When piece bytes may go out.
    pub pace: Arc<dyn Pace>,
    /// Signs of life.
    pub timing: Timing,
}

impl Link {
    /// Exchanges `Hello` over a stream and starts the tasks. The caller bounds the time.
    ///
    /// # Errors
    /// The stream's; another protocol or version.
    pub async fn open(
        mut stream: Box<dyn Stream>,
        id: LinkId,
        own_address: &str,
        context: &Context,
    ) -> Result<Link, TransportError> {
        let mut out = BytesMut::new();
        let hello = Message::Hello {
            version: VERSION,
            address: own_address.to_owned(),
        };
        hello.encode(&mut out);
        stream.write_all(&out).await?;
        stream.flush().await?;
        let mut buffer = BytesMut::with_capacity(4 << 10);
        let first = loop {
            if let Some(message) = Message::decode(&mut buffer)? {
                break message;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(TransportError::Closed);
            }
        };
        let Message::Hello { version, address } = first else {
            return Err(TransportError::Protocol("it does not begin with a greeting"));
        };
        if version != VERSION {
            return Err(TransportError::Version(version));
        }
        let shared = Arc::new(Shared {
            id,
            outbox: Mutex::default(),
            wake: Notify::new(),
            asked: Mutex::default(),
            end: CancellationToken::new(),
            begun: Instant::now(),
            heard: AtomicU64::new(0),
            told: AtomicU64::new(0),
        });
        let (reading, writing) = tokio::io::split(stream);
        tokio::spawn(run(shared.clone(), reading, buffer, writing, context.clone()));
        Ok(Link {
            shared,
            peer: address,
        })
    }

    /// Its name.
    pub fn id(&self) -> LinkId {
        self.shared.id
    }

    /// Where the other node says it listens. The caller holds it against what TLS proved.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Asks for a piece; `false` if too many requests are open here. An `id` is used once.
    pub fn request(&self, id: RequestId, wish: Wish) -> bool {
        {
            let mut asked = lock(&self.shared.asked);
            if asked.len() >= MAX_REQUESTS {
                return false;
            }
            let partial = Partial {
                len: wish.piece.len as usize,
                bytes: BytesMut::new(),
            };
            asked.insert(id, partial);
        }
        self.send(Message::Request { id, wish });
        true
    }

    /// Takes a request of ours back.
    pub fn cancel(&self, id: RequestId) {
        if lock(&self.shared.asked).remove(&id).is_some() {
            self.send(Message::Cancel { id });
        }
    }

    /// Says that somebody is blocked for a request of ours.
    pub fn promote(&self, id: RequestId) {
        self.send(Message::Promote { id });
    }

    /// Sends a message that is not a piece.
    pub fn send(&self, message: Message) {
        if lock(&self.shared.outbox).push(message) {
            self.shared.wake.notify_one();
        } else {
            self.shared.end.cancel();
        }
    }

    /// Answers a request with its piece.
    pub fn answer(&self, id: RequestId, bytes: Bytes, blocking: bool, hint: Hint) {
        lock(&self.shared.outbox).push_piece(id, bytes, blocking, hint);
        self.shared.wake.notify_one();
    }

    /// Stops sending a piece.
    pub fn stop(&self, id: RequestId) {
        lock(&self.shared.outbox).cancel(id);
    }

    /// Sends a piece before others.
    pub fn hurry(&self, id: RequestId) {
        lock(&self.shared.outbox).promote(id);
    }

    /// How long nothing has come.
    pub fn silent(&self) -> Duration {
        self.shared.silent()
    }
}

impl Shared {
    fn silent(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(heard)
    }

    /// Whether progress was not told for a while.
    fn time_to_tell(&self) -> bool {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = now.saturating_sub(self.told.load(Ordering::Relaxed)) >= TELL_EVERY_MS;
        if due {
            self.told.store(now, Ordering::Relaxed);
        }
        due
    }

    fn hear(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }
}

/// Runs both halves until one ends, then says so.
async fn run(
    shared: Arc<Shared>,
    reading: ReadHalf<Box<dyn Stream>>,
    buffer: BytesMut,
    writing: WriteHalf<Box<dyn Stream>>,
    context: Context,
) {
    let ended = tokio::select! {
        ended = read(&shared, reading, buffer, &context) => ended,
        ended = write(&shared, writing, &context) => ended,
        ended = watch(&shared, context.timing) => ended,
        () = shared.end.cancelled() => Err(TransportError::Closed),
    };
    shared.end.cancel();
    let what = Happening::Closed(ended.err().unwrap_or(TransportError::Closed));
    let _ = context
        .events
        .send(Event {
            link: shared.id,
            what,
        })
        .await;
}

/// Asks for signs of life, and ends when none came.
async fn watch(shared: &Shared, timing: Timing) -> Result<(), TransportError> {
    // How long nothing had come when it was asked last, and when that was that something had come.
    let (mut asked, mut since) = (Duration::ZERO, 0);
    loop {
        let heard = shared.heard.load(Ordering::Relaxed);
        if heard != since {
            (asked, since) = (Duration::ZERO, heard);
        }
        let silent = shared.silent();
        if silent >= timing.silence {
            return Err(TransportError::Silent);
        }
        if silent >= asked + timing.ping_every {
            asked = silent;
            if lock(&shared.outbox).push(Message::Ping) {
                shared.wake.notify_one();
            }
        }
        // Exactly when something may have to be done: an idle node has hundreds of connections.
        let next = (asked + timing.ping_every).min(timing.silence);
        tokio::time::sleep(next.saturating_sub(silent)).await;
    }
}

async fn read(
    shared: &Shared,
    mut stream: ReadHalf<Box<dyn Stream>>,
    mut buffer: BytesMut,
    context: &Context,
) -> Result<(), TransportError> {
    let mut read = 0;
    loop {
        while let Some(message) = Message::decode(&mut buffer)? {
            if let Some(what) = take(shared, message)? {
                let event = Event {
                    link: shared.id,
                    what,
                };
                if context.events.send(event).await.is_err() {
                    return Ok(());
                }
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
        shared.hear();
    }
}

/// What a message means here; nothing if it needs no attention.
fn take(shared: &Shared, message: Message) -> Result<Option<Happening>, TransportError> {
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
        Message::Ack { id, hint } => asked
            .contains_key(&id)
            .then_some(Happening::Acknowledged(id, hint)),
        Message::Data { id, offset, bytes } => {
            // What was cancelled may still be on its way.
            let Some(partial) = asked.get_mut(&id) else {
                return Ok(None);
            };
            partial.add(offset, &bytes)?;
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            shared.time_to_tell().then_some(Happening::Progressed(id, len))
        }
        Message::Done { id, hint } => match asked.remove(&id) {
            Some(partial) if partial.bytes.len() == partial.len => {
                Some(Happening::Arrived(id, partial.bytes.freeze(), hint))
            }
            Some(_) => return Err(TransportError::Protocol("half a piece")),
            None => None,
        },
        Message::Redirect { id, to, hint } => asked.remove(&id).map(|_| Happening::Redirected(id, to, hint)),
        Message::Refused { id, why } => asked.remove(&id).map(|_| Happening::Refused(id, why)),
        Message::Ping => {
            if lock(&shared.outbox).push(Message::Pong) {
                shared.wake.notify_one();
            }
            None
        }
        Message::Pong => None,
        Message::Exchange { bytes } => Some(Happening::Exchanged(bytes)),
    })
}

impl Partial {
    fn add(&mut self, offset: u32, bytes: &[u8]) -> Result<(), TransportError> {
        if offset as usize != self.bytes.len() || bytes.len() > self.len - self.bytes.len() {
            return Err(TransportError::Protocol("bytes that do not belong there"));
        }
        if self.bytes.is_empty() {
            // Only now: a peer that never sends costs no memory.
            self.bytes.reserve(self.len.min(2 << 20));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

async fn write(
    shared: &Shared,
    mut stream: WriteHalf<Box<dyn Stream>>,
    context: &Context,
) -> Result<(), TransportError> {
    let mut out = BytesMut::new();
    let pace = context.pace.of_link().unwrap_or_else(|| context.pace.clone());
    loop {
        let next_is_part = lock(&shared.outbox).next_is_part();
        if let Some(blocking) = next_is_part {
            // A blocked reader or a message may come while a prefetch waits for its turn.
            tokio::select! {
                biased;
                () = pace.pass(blocking, super::limits::MAX_DATA) => {}
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
            Next::Part { message, .. } => message.encode(&mut out),
            Next::End { id, hint, len, begun } => {
                Message::Done { id, hint }.encode(&mut out);
                flush(&mut stream, &mut out).await?;
                let what = Happening::Sent(id, begun.elapsed(), len);
                let _ = context
                    .events
                    .send(Event {
                        link: shared.id,
                        what,
                    })
                    .await;
            }
        }
        if out.len() >= MAX_WRITE {
            flush(&mut stream, &mut out).await?;
        }
    }
}

/// Bytes written at a time.
const MAX_WRITE: usize = 64 << 10;

/// Bytes read at a time while a piece comes.
const MAX_READ: usize = 64 << 10;

/// Buffers of connections that carry messages only; there are hundreds, and most do nothing.
const SMALL: usize = 1 << 10;

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
