//! A web server of one file.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

/// A web server of one file, that counts what it gives and can be gone, or ask for patience.
pub(super) struct Server {
    pub(super) url: String,
    pub(super) bytes: Arc<AtomicU64>,
    pub(super) gone: Arc<AtomicBool>,
    pub(super) limits: Arc<AtomicBool>,
    /// Answers that asked for patience.
    pub(super) put_off: Arc<AtomicU64>,
}

impl Server {
    pub(super) async fn start(content: Bytes) -> Server {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let (bytes, gone) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (limits, put_off) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (count, is_gone) = (bytes.clone(), gone.clone());
        let (is_limited, put_off_count) = (limits.clone(), put_off.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (content, count, is_gone) = (content.clone(), count.clone(), is_gone.clone());
                let (is_limited, put_off) = (is_limited.clone(), put_off_count.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                        let refusal = |status| Response::builder().status(status);
                        let reply = if is_limited.load(Ordering::Relaxed) {
                            put_off.fetch_add(1, Ordering::Relaxed);
                            refusal(429)
                                .header("retry-after", "20")
                                .body(Full::new(Bytes::new()))
                        } else if is_gone.load(Ordering::Relaxed) {
                            refusal(503).body(Full::new(Bytes::new()))
                        } else {
                            part(&request, &content, &count)
                        };
                        async move { Ok::<_, Infallible>(reply.unwrap()) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Server {
            url,
            bytes,
            gone,
            limits,
            put_off,
        }
    }
}

fn part(
    request: &Request<hyper::body::Incoming>,
    content: &Bytes,
    count: &AtomicU64,
) -> hyper::http::Result<Response<Full<Bytes>>> {
    let range = request.headers()["range"].to_str().unwrap();
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let last = last.min(content.len() - 1);
    if last > first {
        count.fetch_add((last + 1 - first) as u64, Ordering::Relaxed);
    }
    Response::builder()
        .status(206)
        .header("content-range", format!("bytes {first}-{last}/{}", content.len()))
        .header("etag", "\"1\"")
        .body(Full::new(content.slice(first..=last)))
}
