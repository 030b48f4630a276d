//! Making and taking connections: TCP, TLS, greeting, each in bounded time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::debug;

use super::TransportError;
use super::limits::{MAX_HANDSHAKES, PATIENCE_OF_THE_ASKED, SEND_BUFFER};
use super::link::{Context, Link, LinkId};
use crate::identity::Identity;

/// A connection that another node made.
pub struct Incoming {
    /// The connection.
    pub link: Link,
    /// Where the other node listens: its address is the one that TCP and TLS proved, its port what it says.
    pub peer: SocketAddr,
}

/// Makes connections in the name of this node.
pub struct Endpoint {
    identity: Arc<Identity>,
    address: SocketAddr,
    context: Context,
    links: AtomicU64,
}

impl Endpoint {
    /// `address`: where others reach this node.
    pub fn new(identity: Arc<Identity>, address: SocketAddr, context: Context) -> Endpoint {
        Endpoint {
            identity,
            address,
            context,
            links: AtomicU64::new(1),
        }
    }

    /// Opens a listening socket.
    ///
    /// # Errors
    /// The address is not this machine's, or taken.
    pub fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
        let socket = socket(listen)?;
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        socket.listen(1024)
    }

    /// Connects to another node.
    ///
    /// # Errors
    /// Nobody is there, it is no member of the cluster, it does not answer in time.
    pub async fn connect(&self, peer: SocketAddr) -> Result<Link, TransportError> {
        let limit = self.context.timing.handshake;
        let opened = timeout(limit, async {
            let socket = socket(peer)?;
            if peer.is_ipv4() == self.address.is_ipv4() {
                // Machines with several addresses have to come from the one they are known by. Behind a translation of
                // addresses it is not theirs; the translation sees to it then.
                let _ = socket.bind(SocketAddr::new(self.address.ip(), 0));
            }
            let stream = socket.connect(peer).await?;
            stream.set_nodelay(true)?;
            let stream = self.identity.connect(stream, peer.ip()).await?;
            self.open(stream, &self.context).await
        });
        let link = opened.await.map_err(|_| TransportError::Late(limit))??;
        if link.peer() == peer.to_string() {
            Ok(link)
        } else {
            Err(TransportError::Stranger(format!(
                "{peer} calls itself {}",
                link.peer()
            )))
        }
    }

    async fn open(&self, stream: Box<dyn super::Stream>, context: &Context) -> Result<Link, TransportError> {
        let id = LinkId(self.links.fetch_add(1, Ordering::Relaxed));
        Link::open(stream, id, &self.address.to_string(), context).await
    }

    /// Takes connections until `incoming` is closed. Strangers and those who dawdle are dropped.
    pub async fn listen(self: Arc<Self>, listener: TcpListener, incoming: mpsc::Sender<Incoming>) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let Ok(permit) = handshakes.clone().acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = incoming.closed() => return,
            };
            let (stream, from) = match accepted {
                // A socket for both families tells IPv4 addresses in IPv6 form.
                Ok((stream, from)) => (stream, SocketAddr::new(from.ip().to_canonical(), from.port())),
                Err(error) => {
                    // Out of descriptors, most likely: others have to end first.
                    debug!("accepting a connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (this, incoming) = (self.clone(), incoming.clone());
            tokio::spawn(async move {
                let _permit = permit;
                match this.take(stream, from).await {
                    Ok(taken) => {
                        let _ = incoming.send(taken).await;
                    }
                    Err(error) => debug!(%from, "connection refused: {error}"),
                }
            });
        }
    }

    async fn take(&self, stream: TcpStream, from: SocketAddr) -> Result<Incoming, TransportError> {
        let limit = self.context.timing.handshake;
        let opened = timeout(limit, async {
            stream.set_nodelay(true)?;
            let stream = self.identity.accept(stream, from.ip()).await?;
            let mut context = self.context.clone();
            context.timing.ping_every = context.timing.ping_every.mul_f64(PATIENCE_OF_THE_ASKED);
            self.open(stream, &context).await
        });
        let link = opened.await.map_err(|_| TransportError::Late(limit))??;
        let peer: SocketAddr = match link.peer().parse() {
            Ok(peer) => peer,
            Err(_) => return Err(TransportError::Address(link.peer().to_owned())),
        };
        if peer.ip() != from.ip() {
            return Err(TransportError::Stranger(format!("{from} calls itself {peer}")));
        }
        Ok(Incoming { link, peer })
    }
}

fn socket(peer: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if peer.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    Ok(socket)
}
