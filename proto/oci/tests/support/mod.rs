//! An HTTP server that behaves as a test tells it to, and remembers what it was asked.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::{BodyExt, BodyStream, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Body as _, Frame, Incoming},
    header::HeaderMap,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use lacewing_format::Digest;
use lacewing_oci::{Access, Client, Descriptor, Error, MediaType, Options, Reference, Store, describe};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap_or("?"))
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// "GET /path" without the query.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path())
    }
}

/// What the server does.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Bytes,
    /// Break the connection after so many bytes of the body.
    cut: Option<usize>,
    /// Never answer.
    hang: bool,
    /// Send without a length.
    chunked: bool,
    /// Send byte by byte, with this time between them.
    drip: Option<Duration>,
}

impl Reply {
    pub fn new(status: u16) -> Reply {
        Reply {
            status,
            ..Reply::default()
        }
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Reply {
        self.body = body.into();
        self
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Reply {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn cut(mut self, after: usize) -> Reply {
        self.cut = Some(after);
        self
    }

    pub fn chunked(mut self) -> Reply {
        self.chunked = true;
        self
    }

    pub fn drip(mut self, every: Duration) -> Reply {
        self.drip = Some(every);
        self
    }

    pub fn hang() -> Reply {
        Reply {
            hang: true,
            ..Reply::new(200)
        }
    }

    /// A right answer for content, whole or in part, as the request asks.
    pub fn content(seen: &Seen, content: &[u8]) -> Reply {
        let Some(range) = seen.header("range") else {
            return Reply::new(200).body(content.to_vec());
        };
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let first: usize = first.parse().unwrap();
        let last = last.parse().unwrap_or(usize::MAX).min(content.len() - 1);
        if first >= content.len() {
            return Reply::new(416);
        }
        Reply::new(206)
            .header("content-range", format!("bytes {first}-{last}/{}", content.len()))
            .body(content[first..=last].to_vec())
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;
/// How many bytes of a request's body to take before the connection is broken; `None`: all of it.
type Taker = dyn Fn(&str, &HeaderMap) -> Option<usize> + Send + Sync;

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Connections accepted so far.
    pub connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
        Server::start_with(handler, |_, _| None).await
    }

    pub async fn start_with(
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        taker: impl Fn(&str, &HeaderMap) -> Option<usize> + Send + Sync + 'static,
    ) -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (handler, taker): (Arc<Handler>, Arc<Taker>) = (Arc::new(handler), Arc::new(taker));
        let log = seen.clone();
        let connections: Arc<AtomicUsize> = Arc::default();
        let count = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (handler, taker, log) = (handler.clone(), taker.clone(), log.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        answer(request, handler.clone(), taker.clone(), log.clone())
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Server {
            address,
            seen,
            connections,
            task,
        }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// "METHOD path" of all requests so far, in order; forgets them.
    pub fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
            .iter()
            .map(Seen::line)
            .collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: Arc<Handler>,
    taker: Arc<Taker>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<UnsyncBoxBody<Bytes, std::io::Error>>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let limit = taker(parts.method.as_str(), &parts.headers);
    let mut bytes = BytesMut::new();
    let mut frames = BodyStream::new(body);
    while limit.is_none_or(|limit| bytes.len() < limit) {
        let Some(Ok(frame)) = frames.next().await else {
            break;
        };
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    let seen = Seen {
        method: parts.method.to_string(),
        target: parts
            .uri
            .path_and_query()
            .map(|p| p.to_string())
            .unwrap_or_default(),
        headers: parts.headers,
        body: bytes.freeze(),
    };
    log.lock().unwrap().push(seen.clone());
    let reply = handler(&seen);
    if limit.is_some() {
        return Err(std::io::Error::other("cut as the test asked"));
    }
    if reply.hang {
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, hyper::header::HeaderValue::from_bytes(value).unwrap());
    }
    if let Some(every) = reply.drip {
        response = response.header("content-length", reply.body.len());
        let bytes = reply.body;
        let drops = futures::stream::iter(0..bytes.len()).then(move |at| {
            let drop = bytes.slice(at..at + 1);
            async move {
                tokio::time::sleep(every).await;
                Ok(Frame::data(drop))
            }
        });
        return Ok(response.body(StreamBody::new(drops).boxed_unsync()).unwrap());
    }
    let body = match (reply.cut, reply.chunked) {
        (Some(after), _) => {
            response = response.header("content-length", reply.body.len());
            let part = reply.body.slice(..after);
            let frames = futures::stream::iter([
                Ok(Frame::data(part)),
                Err(std::io::Error::other("cut as the test asked")),
            ]);
            // The part is flushed before the break, so that the client surely gets it.
            let slow = frames.enumerate().then(|(index, frame)| async move {
                if index > 0 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                frame
            });
            StreamBody::new(slow).boxed_unsync()
        }
        (None, true) => {
            let frames = futures::stream::iter([Ok(Frame::data(reply.body))]);
            StreamBody::new(frames).boxed_unsync()
        }
        (None, false) => http_body_util::Full::new(reply.body)
            .map_err(|never: Infallible| match never {})
            .boxed_unsync(),
    };
    assert!(body.size_hint().upper().is_none_or(|upper| upper < u64::MAX));
    Ok(response.body(body).unwrap())
}

/// Settings with short waits.
pub fn quick() -> Options {
    Options {
        first_wait: Duration::from_millis(10),
        retry_for: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        ..Options::default()
    }
}

pub async fn open(options: Options, reference: &str, access: Access) -> Store {
    let reference: Reference = reference.parse().unwrap();
    Store::open(&Client::new(options).unwrap(), &reference, access)
        .await
        .unwrap()
}

pub async fn reader(server: &Server) -> Store {
    open(quick(), &format!("{}/a/b:1", server.host()), Access::Read).await
}

pub async fn writer(server: &Server) -> Store {
    open(quick(), &format!("{}/a/b:1", server.host()), Access::Write).await
}

/// Writes a hosts.toml for `host` into `root`.
pub fn write_hosts(root: &Path, host: &str, text: &str) {
    let folder = root.join(host);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
}

/// Bytes that repeat nowhere, so that a wrong offset shows.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(len);
    bytes
}

/// The descriptor of a layer.
pub fn layer(content: &[u8]) -> Descriptor {
    let len = content.len() as u64;
    describe(MediaType::ImageLayerGzip, &Digest::of(content), len)
}

/// Reads a blob to its end.
pub async fn whole(store: &Store, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut blob = store.blob(descriptor).await?;
    let mut bytes = Vec::new();
    while let Some(part) = blob.next().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes)
}
