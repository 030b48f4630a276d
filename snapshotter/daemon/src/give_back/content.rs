//! containerd's images and content, as far as giving blobs needs them: what an image begins with, what is there, writing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use lacewing_format::Digest;
use lacewing_rpc::containerd::services::content::v1::content_client::ContentClient;
use lacewing_rpc::containerd::services::content::v1::{
    AbortRequest, InfoRequest, ReadContentRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use lacewing_rpc::containerd::services::images::v1::GetImageRequest;
use lacewing_rpc::containerd::services::images::v1::images_client::ImagesClient;
use lacewing_rpc::containerd::types::Descriptor;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::adapters::content::connect;

/// containerd answers from its own database or disk; a commit hashes nothing anew, but syncs the file.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes in one message: containerd takes 16 MiB at most, its own client sends 1 MiB.
const PART: usize = 1 << 20;

/// A containerd.
#[derive(Clone)]
pub(super) struct Content {
    channel: Channel,
    address: PathBuf,
}

impl Content {
    /// Connects when first asked. Needs a runtime around it.
    pub(super) fn new(address: &Path) -> Content {
        Content {
            channel: connect(address),
            address: address.to_owned(),
        }
    }

    /// What an image begins with.
    ///
    /// # Errors
    /// `NotFound` if the namespace has no image of that name; containerd's.
    pub(super) async fn target(&self, namespace: &str, name: &str) -> Result<Descriptor, Status> {
        let request = GetImageRequest {
            name: name.to_owned(),
        };
        let mut images = ImagesClient::new(self.channel.clone());
        let answer = self.in_time(images.get(within(namespace, request)?)).await?;
        let target = answer.into_inner().image.and_then(|image| image.target);
        target.ok_or_else(|| Status::not_found(format!("{name} has no target")))
    }

    /// Whether content is there.
    ///
    /// # Errors
    /// containerd's.
    pub(super) async fn has(&self, namespace: &str, digest: &Digest) -> Result<bool, Status> {
        let request = InfoRequest {
            digest: digest.to_string(),
        };
        let mut content = self.content();
        match self.in_time(content.info(within(namespace, request)?)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// Reads content of `size` bytes, verified.
    ///
    /// # Errors
    /// `DataLoss` if it is not what its digest says; containerd's.
    pub(super) async fn read(&self, namespace: &str, digest: &Digest, size: u64) -> Result<Bytes, Status> {
        let request = ReadContentRequest {
            digest: digest.to_string(),
            offset: 0,
            size: 0,
        };
        let mut content = self.content();
        let answer = self.in_time(content.read(within(namespace, request)?)).await?;
        let (mut parts, mut bytes) = (answer.into_inner(), BytesMut::new());
        while let Some(part) = parts.message().await? {
            bytes.extend_from_slice(&part.data);
            if bytes.len() as u64 > size {
                break;
            }
        }
        match bytes.len() as u64 == size && Digest::of(&bytes) == *digest {
            true => Ok(bytes.freeze()),
            false => Err(Status::data_loss(format!("containerd's {digest} is damaged"))),
        }
    }

    /// Writes content; containerd verifies it, and shows it only whole. What is there by now is as good.
    ///
    /// # Errors
    /// Those of `parts`, and containerd's; nothing stays of it then.
    pub(super) async fn write(
        &self,
        namespace: &str,
        what: (&Digest, u64),
        labels: HashMap<String, String>,
        parts: BoxStream<'_, Result<Bytes, Status>>,
    ) -> Result<(), Status> {
        let name = format!("lacewing-{}", what.0);
        // What a daemon left that ended while it wrote.
        self.abort(namespace, &name).await?;
        let (sender, receiver) = mpsc::channel(1);
        let mut writing = Writing {
            template: WriteContentRequest {
                r#ref: name.clone(),
                total: i64::try_from(what.1).map_err(|_| Status::data_loss("a size that is none"))?,
                expected: what.0.to_string(),
                ..WriteContentRequest::default()
            },
            sender,
            offset: 0,
        };
        // The answer's stream begins when containerd has read the first message.
        writing
            .say(WriteAction::Stat, Bytes::new(), HashMap::new())
            .await?;
        let request = within(namespace, ReceiverStream::new(receiver))?;
        let mut content = self.content();
        let written = async {
            let mut answers = self.in_time(content.write(request)).await?.into_inner();
            self.heard(&mut answers).await?;
            self.parts(&mut writing, &mut answers, parts).await?;
            writing.say(WriteAction::Commit, Bytes::new(), labels).await?;
            self.heard(&mut answers).await
        };
        match written.await {
            Ok(()) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => {
                drop(writing);
                let _ = self.abort(namespace, &name).await;
                Err(status)
            }
        }
    }

    async fn parts(
        &self,
        writing: &mut Writing,
        answers: &mut Streaming<WriteContentResponse>,
        mut parts: BoxStream<'_, Result<Bytes, Status>>,
    ) -> Result<(), Status> {
        while let Some(part) = parts.next().await {
            let mut part = part?;
            while !part.is_empty() {
                let data = part.split_to(part.len().min(PART));
                writing.say(WriteAction::Write, data, HashMap::new()).await?;
                self.heard(answers).await?;
            }
        }
        Ok(())
    }

    /// Waits for the answer to one message.
    async fn heard(&self, answers: &mut Streaming<WriteContentResponse>) -> Result<(), Status> {
        let answer = tokio::time::timeout(TIMEOUT, answers.message()).await;
        match answer.map_err(|_| self.late())?? {
            Some(_) => Ok(()),
            None => Err(Status::unavailable(format!(
                "containerd at {} ended the write",
                self.address.display()
            ))),
        }
    }

    async fn abort(&self, namespace: &str, name: &str) -> Result<(), Status> {
        let request = AbortRequest {
            r#ref: name.to_owned(),
        };
        let mut content = self.content();
        match self.in_time(content.abort(within(namespace, request)?)).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone())
    }

    fn late(&self) -> Status {
        Status::deadline_exceeded(format!(
            "containerd at {} did not answer within {TIMEOUT:?}",
            self.address.display()
        ))
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        let answer = tokio::time::timeout(TIMEOUT, call).await;
        answer.map_err(|_| self.late())?
    }
}

/// A write under way.
struct Writing {
    template: WriteContentRequest,
    sender: mpsc::Sender<WriteContentRequest>,
    offset: i64,
}

impl Writing {
    async fn say(
        &mut self,
        action: WriteAction,
        data: Bytes,
        labels: HashMap<String, String>,
    ) -> Result<(), Status> {
        let len = data.len() as i64;
        let message = WriteContentRequest {
            action: action.into(),
            offset: self.offset,
            data: data.into(),
            labels,
            ..self.template.clone()
        };
        self.offset += len;
        let sent = self.sender.send(message).await;
        sent.map_err(|_| Status::unavailable("containerd ended the write"))
    }
}

/// A request in a namespace.
fn within<T>(namespace: &str, message: T) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    let value = namespace
        .parse()
        .map_err(|_| Status::invalid_argument(format!("namespace {namespace:?} is no header value")))?;
    request.metadata_mut().insert("containerd-namespace", value);
    Ok(request)
}
