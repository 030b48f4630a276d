//! CRI's image service in front of containerd's: all calls pass unchanged, and what a PullImage brings is learnt.
//!
//! kubelet is pointed here by `--image-service-endpoint=unix:///run/lacewing/lacewing.sock`; the runtime service stays
//! containerd's own. Messages are passed on as bytes, so that fields of later releases are not lost.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures::future::BoxFuture;
use lacewing_rpc::cri::decode_pull;
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http;
use tonic::server::{Grpc as Server, NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::pulls::Pulls;
use crate::adapters::content::connect;

/// The method that brings credentials.
pub(crate) const PULL: &str = "/runtime.v1.ImageService/PullImage";
/// kubelet's own bound on messages of its runtime (pkg/kubelet/cri/remote: 16 MiB).
const MAX_MESSAGE: usize = 16 << 20;

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The service.
#[derive(Clone)]
pub(crate) struct ImageService {
    containerd: Channel,
    pulls: Arc<Pulls>,
}

impl ImageService {
    /// In front of the containerd at `address`. Connects when first asked. Needs a runtime around it.
    pub(crate) fn new(address: &Path, pulls: Arc<Pulls>) -> ImageService {
        ImageService {
            containerd: connect(address),
            pulls,
        }
    }

    async fn pass(
        self,
        path: http::uri::PathAndQuery,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Status> {
        if path.path() == PULL
            && let Ok(pull) = decode_pull(request.get_ref())
        {
            // Before it is passed on: containerd asks this daemon for the layers while it pulls.
            self.pulls.learn(&pull);
        }
        call(self.containerd, path, request).await
    }
}

/// Makes one call.
pub(crate) async fn call(
    channel: Channel,
    path: http::uri::PathAndQuery,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, Status> {
    let mut client = Client::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(format!("containerd: {error}")))?;
    client.unary(request, path, Raw).await
}

impl NamedService for ImageService {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl tower::Service<http::Request<Body>> for ImageService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        struct Pass(ImageService, http::uri::PathAndQuery);
        impl UnaryService<Bytes> for Pass {
            type Response = Bytes;
            type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

            fn call(&mut self, request: Request<Bytes>) -> Self::Future {
                Box::pin(self.0.clone().pass(self.1.clone(), request))
            }
        }
        let this = self.clone();
        Box::pin(async move {
            let path = request.uri().path_and_query().cloned();
            let path = path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
            let mut server = Server::new(Raw)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            Ok(server.unary(Pass(this, path), request).await)
        })
    }
}
