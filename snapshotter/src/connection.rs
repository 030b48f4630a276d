//! Connections on the unix socket, from clients of every age.
//!
//! A gRPC client names its peer in the header `:authority`. On a unix socket there is no host to name, and
//! clients that are given the socket's path (grpc-go before 1.40 or so when dialled by path, grpc-java, csi
//! tools) send the path. The HTTP/2 library under tonic refuses a request whose authority is not a host
//! (<https://github.com/hyperium/h2/pull/487>), with nothing to switch that off. So the header is made harmless on
//! the way in: [`authority`] replaces the characters that no host may have.

mod authority;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::{Connected, UdsConnectInfo};

use authority::Rewriter;

/// Bytes read at once: a request of containerd's in most cases.
const READ: usize = 8192;

/// Accepts connections for a tonic server.
pub fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<Connection>> {
    UnixListenerStream::new(listener).map(|accepted| accepted.map(Connection::new))
}

/// A client's bytes as they reach the HTTP/2 library, for fuzzing.
#[cfg(feature = "fuzzing")]
pub(crate) fn rewritten(bytes: &[u8], part: usize) -> Vec<u8> {
    let (mut rewriter, mut out) = (Rewriter::default(), Vec::new());
    for part in bytes.chunks(part.max(1)) {
        rewriter.push(part, &mut out);
    }
    rewriter.finish(&mut out);
    out
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    rewriter: Rewriter,
    /// Bytes made ready for the reader, from `taken` on.
    ready: Vec<u8>,
    taken: usize,
}

impl Connection {
    /// Takes a connection that was accepted elsewhere.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            rewriter: Rewriter::default(),
            ready: Vec::new(),
            taken: 0,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.taken == this.ready.len() {
            this.ready.clear();
            this.taken = 0;
            let mut bytes = [0; READ];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                this.rewriter.finish(&mut this.ready);
                if this.ready.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.rewriter.push(buffer.filled(), &mut this.ready);
            }
        }
        let waiting = &this.ready[this.taken..];
        let count = waiting.len().min(out.remaining());
        out.put_slice(&waiting[..count]);
        this.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
