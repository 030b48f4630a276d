//! A registry's pull API on the loopback: containerd, Docker and others pull ordinary images through the swarm.
//!
//! ```text
//!   containerd ──/v2/app/blobs/sha256:…?ns=registry──► path ──► rights ──HEAD, the client's log-in──► registry
//!                                                                 │ may read it
//!                                                                 ▼
//!                                                              Peers::stream ──► pieces of the swarm
//! ```
//!
//! Tags, and whether a client may read something, are the registry's to say, each time; bytes come from the swarm.

mod path;
mod range;
mod reply;
mod rights;
mod site;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info, warn};

use crate::accept;
use crate::adapters::p2p::Peers;
use crate::config::mirror::Mirror;
use site::Site;

/// Connections at once: a client makes three to six per image.
const MAX_CONNECTIONS: usize = 256;
/// Between two requests on a connection, too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves in the background until the process ends. An address that cannot be had is told in the log: clients go to the
/// registry themselves then.
pub(crate) async fn serve(config: &Mirror, peers: Arc<Peers>) {
    match TcpListener::bind(config.listen).await {
        Ok(listener) => {
            info!("mirror of registries at http://{}", config.listen);
            let site = Arc::new(Site::new(peers, config.registry.clone()));
            tokio::spawn(accept(listener, site));
        }
        Err(error) => warn!("no mirror at {}: {error}", config.listen),
    }
}

async fn accept(listener: TcpListener, site: Arc<Site>) {
    let answer = |(stream, _)| answer(stream, Arc::clone(&site));
    accept::each(MAX_CONNECTIONS, || listener.accept(), answer).await;
}

async fn answer(stream: TcpStream, site: Arc<Site>) {
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.answer(&request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        debug!("mirror: {error}");
    }
}
