//! Metrics, health, the status page and a dump for bug reports, over HTTP/1.
//!
//! Reading only: nothing can be changed here. What names images (the page, status, the dump) is for this node: a peer
//! that is not on the loopback gets metrics and health alone. Nothing here is needed for containers to read, so what
//! goes wrong is told and lived with.

mod dump;
mod listener;
mod peers;
mod routes;

pub(crate) use routes::{Site, is_local_name};

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::{debug, info, warn};

use crate::accept;
use listener::{Listener, Stream};

/// Connections at once: a scraper, some pages.
const MAX_CONNECTIONS: usize = 32;
/// Whoever has not said what it wants by then is gone.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// From the first byte of a request to the last of its answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Serves in the background until the process ends. An address that cannot be had is told in the log.
pub(crate) async fn serve(site: Site) {
    let Some(listen) = site.listen() else { return };
    match Listener::bind(&listen).await {
        Ok(listener) => {
            info!("metrics and status at {listener}");
            let site = Arc::new(site);
            tokio::spawn(follow_peers(Arc::clone(&site)));
            tokio::spawn(accept(listener, site));
        }
        Err(error) => warn!("no metrics and no status page: {listen:?}: {error}"),
    }
}

/// Sees peers come and go, whether or not somebody looks at the page. Ends where there are none.
async fn follow_peers(site: Arc<Site>) {
    let mut every = tokio::time::interval(peers::EVERY);
    while site.look_at_peers().await {
        every.tick().await;
    }
}

async fn accept(listener: Listener, site: Arc<Site>) {
    let answer = |(stream, local)| {
        let answered = answer(stream, local, Arc::clone(&site));
        async move {
            let _ = tokio::time::timeout(TIMEOUT, answered).await;
        }
    };
    accept::each(MAX_CONNECTIONS, || listener.accept(), answer).await;
}

/// One request; connections are not kept, so that idle ones need no care.
async fn answer(stream: Stream, local: bool, site: Arc<Site>) {
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.answer(&request, local).await) }
    });
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false);
    let served = match stream {
        Stream::Tcp(stream) => server.serve_connection(TokioIo::new(stream), service).await,
        Stream::Unix(stream) => server.serve_connection(TokioIo::new(stream), service).await,
    };
    if let Err(error) = served {
        debug!("HTTP: {error}");
    }
}
