//! One connection: a task that reads, a task that writes, and what is known between them.

mod asked;
mod liveness;
mod reading;
mod writing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use self::asked::Asked;
use self::liveness::Liveness;
pub use self::liveness::Timing;
use self::reading::read;
use self::writing::write;
use super::message::{Message, VERSION, Wish};
use super::outbox::Outbox;
use super::{Event, Happening, Pace, Stream, TransportError};
use crate::swarm::{Hint, RequestId};

/// Names a connection of this process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Buffers of connections that carry messages only; there are hundreds, and most do nothing.
const SMALL: usize = 1 << 10;

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

impl Context {
    /// Tells the node what came; `false` if it listens no more.
    async fn tell(&self, link: LinkId, what: Happening) -> bool {
        self.events.send(Event { link, what }).await.is_ok()
    }
}

/// What the link and its two tasks have in common.
struct Shared {
    id: LinkId,
    outbox: Mutex<Outbox>,
    wake: Notify,
    asked: Mutex<Asked>,
    end: CancellationToken,
    liveness: Liveness,
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
        let (peer, buffer) = greet(&mut stream, own_address).await?;
        let shared = Arc::new(Shared {
            id,
            outbox: Mutex::default(),
            wake: Notify::new(),
            asked: Mutex::default(),
            end: CancellationToken::new(),
            liveness: Liveness::new(),
        });
        let (reading, writing) = tokio::io::split(stream);
        tokio::spawn(run(shared.clone(), reading, buffer, writing, context.clone()));
        Ok(Link { shared, peer })
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
        let opened = lock(&self.shared.asked).open(id, wish.piece.len as usize);
        if opened {
            self.send(Message::Request { id, wish });
        }
        opened
    }

    /// Takes a request of ours back.
    pub fn cancel(&self, id: RequestId) {
        if lock(&self.shared.asked).close(id) {
            self.send(Message::Cancel { id });
        }
    }

    /// Says that somebody is blocked for a request of ours.
    pub fn promote(&self, id: RequestId) {
        self.send(Message::Promote { id });
    }

    /// Sends a message that is not a piece.
    pub fn send(&self, message: Message) {
        if !self.shared.queue(message) {
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
        self.shared.wake.notify_one(); // it may be held back as what nobody waits for
    }

    /// How long nothing has come.
    pub fn silent(&self) -> Duration {
        self.shared.liveness.silent()
    }
}

impl Shared {
    /// Queues a message; `false` if there is no room for it.
    fn queue(&self, message: Message) -> bool {
        let queued = lock(&self.outbox).push(message);
        if queued {
            self.wake.notify_one();
        }
        queued
    }
}

/// Exchanges `Hello`: where the other node listens, and what came behind its greeting.
async fn greet(
    stream: &mut Box<dyn Stream>,
    own_address: &str,
) -> Result<(String, BytesMut), TransportError> {
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
    match first {
        Message::Hello { version, address } if version == VERSION => Ok((address, buffer)),
        Message::Hello { version, .. } => Err(TransportError::Version(version)),
        _ => Err(TransportError::Protocol("it does not begin with a greeting")),
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
        ended = liveness::watch(&shared, context.timing) => ended,
        () = shared.end.cancelled() => Err(TransportError::Closed),
    };
    shared.end.cancel();
    let what = Happening::Closed(ended.err().unwrap_or(TransportError::Closed));
    context.tell(shared.id, what).await;
}
