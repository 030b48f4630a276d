//! `lacewing pull --content`: gives the blobs of a lazily pulled image to containerd's content store, so that whatever needs
//! them there works: push, save, commit, build.
//!
//! From the image's target down: manifests are read from the content store, or fetched where containerd left them out (the
//! conversion's own, which makes the pushed image lazy, too); blobs that are missing are fetched from the image's
//! repository, verified on the way, and written; containerd verifies them once more.
//!
//! What keeps them there are the labels by which a manifest in the content store refers to its blobs. containerd sets them when it
//! pulls, also for blobs that it does not fetch; for manifests written here they are set here.

mod content;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use lacewing_format::{Digest, media_type};
use lacewing_oci::limits::MAX_MANIFEST;
use lacewing_oci::{Access, Descriptor, MediaType, Reference, RegistryRef, Store};
use lacewing_rpc::control::{GiveBackRequest, GivenBlob};
use serde::Deserialize;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::info;

use crate::adapters::repositories::Repositories;
use content::Content;

/// Documents of one image: platforms, and as many of the conversion's.
const MAX_DOCUMENTS: usize = 256;
/// Blobs of one image; registries and containerd bound manifests to 4 MiB, which is more.
const MAX_BLOBS: usize = 10_000;
/// Words about blobs that wait for a slow client.
const AHEAD: usize = 16;

/// What a client of the control service gets.
pub(crate) type GivenStream = BoxStream<'static, Result<GivenBlob, Status>>;

/// Gives one image at a time: what is bound by the network gains nothing from a second.
#[derive(Clone)]
pub(crate) struct Giver {
    content: Option<Content>,
    repositories: Arc<Repositories>,
    turn: Arc<Mutex<()>>,
}

impl Giver {
    /// `containerd`: its socket; None: nobody to give to. Needs a runtime around it.
    pub(crate) fn new(containerd: Option<&Path>, repositories: Arc<Repositories>) -> Giver {
        Giver {
            content: containerd.map(Content::new),
            repositories,
            turn: Arc::default(),
        }
    }

    /// Begins. It goes on as long as somebody listens.
    ///
    /// # Errors
    /// There is no containerd to give to, or the image's name is none.
    pub(crate) fn begin(&self, request: GiveBackRequest) -> Result<GivenStream, Status> {
        let no_one =
            || Status::failed_precondition("asking containerd is switched off: [containerd] address");
        let content = self.content.clone().ok_or_else(no_one)?;
        let reference = match request.image.parse::<Reference>() {
            Ok(Reference::Registry(reference)) => reference,
            _ => {
                let text = format!("{:?} is not the name of an image in a registry", request.image);
                return Err(Status::invalid_argument(text));
            }
        };
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (repositories, turn) = (Arc::clone(&self.repositories), Arc::clone(&self.turn));
        tokio::spawn(async move {
            let given = async {
                let _turn = turn.lock().await;
                let store = open(&repositories, &reference).await?;
                let giving = Giving {
                    content,
                    namespace: request.namespace,
                    store,
                    source: source_label(&reference),
                    all: request.all_platforms,
                    told: sender.clone(),
                };
                giving.image(&reference.to_string()).await
            };
            let done = tokio::select! {
                done = given => done,
                () = sender.closed() => Ok(()),
            };
            if let Err(status) = done {
                // A client that went away needs no answer.
                drop(sender.send(Err(status)).await);
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

async fn open(repositories: &Repositories, reference: &RegistryRef) -> Result<Store, Status> {
    let place = Reference::Registry(RegistryRef {
        tag: None,
        digest: None,
        ..reference.clone()
    });
    let opened = Store::open(repositories.client(), &place, Access::Read).await;
    opened.map_err(|error| status(&error))
}

/// By which containerd and the daemon know where content came from. containerd's labels have no ports.
fn source_label(reference: &RegistryRef) -> (String, String) {
    let host = match reference.host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => &reference.host,
    };
    let host = host.trim_matches(['[', ']']);
    (
        format!("containerd.io/distribution.source.{host}"),
        reference.repository.clone(),
    )
}

/// The four ways to fail stay four.
fn status(error: &lacewing_oci::Error) -> Status {
    use lacewing_oci::Error;
    let text = error.to_string();
    match error {
        Error::NotFound { .. } => Status::not_found(text),
        Error::Corrupt { .. } => Status::data_loss(text),
        Error::Forbidden { .. } => Status::permission_denied(text),
        Error::Invalid { .. } => Status::invalid_argument(text),
        _ => Status::unavailable(text),
    }
}

/// What of a manifest or image index leads on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    manifests: Vec<Member>,
    config: Option<Entry>,
    #[serde(default)]
    layers: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    #[serde(flatten)]
    entry: Entry,
    platform: Option<Platform>,
    artifact_type: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

impl Member {
    /// Whether this machine runs it, or it is the conversion's.
    fn is_ours(&self) -> bool {
        if self.artifact_type.as_deref() == Some(media_type::ACCELERATOR) {
            return true;
        }
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.platform
            .as_ref()
            .is_none_or(|platform| platform.os == "linux" && platform.architecture == architecture)
    }
}

impl Entry {
    /// # Errors
    /// A digest that is none.
    fn descriptor(&self) -> Result<(Descriptor, Digest), Status> {
        let digest: Digest = self.digest.parse().map_err(|_| {
            let shown: String = self.digest.chars().take(100).collect();
            Status::data_loss(format!("{shown:?} in the image is no digest"))
        })?;
        let kind = MediaType::from(self.media_type.as_str());
        Ok((lacewing_oci::describe(kind, &digest, self.size), digest))
    }
}

impl Document {
    /// The labels that keep what a document refers to, as containerd's `SetChildrenMappedLabels` sets them.
    fn labels(&self) -> HashMap<String, String> {
        let key = |rest: String| format!("containerd.io/gc.ref.content.{rest}");
        let members = self.manifests.iter().enumerate();
        let layers = self.layers.iter().enumerate();
        members
            .map(|(at, member)| (key(format!("m.{at}")), member.entry.digest.clone()))
            .chain(layers.map(|(at, layer)| (key(format!("l.{at}")), layer.digest.clone())))
            .chain(
                self.config
                    .iter()
                    .map(|config| (key("config".to_owned()), config.digest.clone())),
            )
            .collect()
    }
}

/// One image being given.
struct Giving {
    content: Content,
    namespace: String,
    store: Store,
    source: (String, String),
    all: bool,
    told: mpsc::Sender<Result<GivenBlob, Status>>,
}

impl Giving {
    async fn image(&self, name: &str) -> Result<(), Status> {
        let target = self.content.target(&self.namespace, name).await?;
        let mut documents = vec![Entry {
            media_type: target.media_type,
            digest: target.digest,
            size: u64::try_from(target.size).unwrap_or(0),
        }];
        let mut blobs: BTreeMap<String, Entry> = BTreeMap::new();
        let mut at = 0;
        while let Some(entry) = documents.get(at).cloned() {
            at += 1;
            let document = self.document(&entry).await?;
            let wanted = document
                .manifests
                .iter()
                .filter(|member| self.all || member.is_ours());
            documents.extend(wanted.map(|member| member.entry.clone()));
            for blob in document.config.into_iter().chain(document.layers) {
                blobs.insert(blob.digest.clone(), blob);
            }
            if documents.len() > MAX_DOCUMENTS || blobs.len() > MAX_BLOBS {
                return Err(Status::resource_exhausted("the image has too many parts"));
            }
        }
        for blob in blobs.values() {
            self.blob(blob).await?;
        }
        info!(
            image = name,
            namespace = self.namespace,
            blobs = blobs.len(),
            "given to containerd's content store"
        );
        Ok(())
    }

    /// Reads a manifest or image index from the content store; one that is not there is put there.
    async fn document(&self, entry: &Entry) -> Result<Document, Status> {
        let (descriptor, digest) = entry.descriptor()?;
        let bytes = match self.content.has(&self.namespace, &digest).await? {
            true if entry.size <= MAX_MANIFEST => {
                self.content.read(&self.namespace, &digest, entry.size).await?
            }
            true => return Err(Status::data_loss(format!("{digest} is no manifest"))),
            false => {
                let fetched = self.store.manifest(&descriptor).await;
                let bytes = fetched.map_err(|error| status(&error))?;
                let mut labels = parse(&digest, &bytes)?.labels();
                labels.insert(self.source.0.clone(), self.source.1.clone());
                let whole = futures::stream::iter([Ok(bytes.clone())]);
                let size = entry.size;
                self.content
                    .write(&self.namespace, (&digest, size), labels, Box::pin(whole))
                    .await?;
                bytes
            }
        };
        parse(&digest, &bytes)
    }

    async fn blob(&self, entry: &Entry) -> Result<(), Status> {
        let (descriptor, digest) = entry.descriptor()?;
        let known = self.content.has(&self.namespace, &digest).await?;
        if !known {
            let blob = self
                .store
                .blob(&descriptor)
                .await
                .map_err(|error| status(&error))?;
            let parts = futures::stream::unfold(blob, |mut blob| async {
                let part = blob.next().await?;
                Some((part.map_err(|error| status(&error)), blob))
            });
            let labels = HashMap::from([self.source.clone()]);
            self.content
                .write(&self.namespace, (&digest, entry.size), labels, Box::pin(parts))
                .await?;
        }
        let told = GivenBlob {
            digest: entry.digest.clone(),
            size: entry.size,
            known,
        };
        self.told
            .send(Ok(told))
            .await
            .map_err(|_| Status::cancelled("nobody listens"))
    }
}

fn parse(digest: &Digest, bytes: &Bytes) -> Result<Document, Status> {
    serde_json::from_slice(bytes)
        .map_err(|error| Status::data_loss(format!("{digest} is no manifest: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn document(text: &str) -> Document {
        parse(&Digest::of(b""), &Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    #[test]
    fn what_this_machine_needs_of_an_image_index() {
        let entry = |more: &str| format!(r#"{{"mediaType":"m","digest":"sha256:0","size":1{more}}}"#);
        let platform =
            |os: &str, arch: &str| format!(r#","platform":{{"os":"{os}","architecture":"{arch}"}}"#);
        let ours = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let accelerator = format!(
            r#"{},"artifactType":"{}""#,
            platform("unknown", "unknown"),
            media_type::ACCELERATOR
        );
        for (more, expected) in [
            (platform("linux", ours), true),
            (platform("linux", "s390x"), false),
            (platform("windows", ours), false),
            (platform("unknown", "unknown"), false),
            (accelerator, true),
            (String::new(), true),
        ] {
            let index = document(&format!(r#"{{"manifests":[{}]}}"#, entry(&more)));
            assert_eq!(index.manifests[0].is_ours(), expected, "{more}");
        }
    }

    #[test]
    fn labels_are_containerds() {
        let entry = |digest: &str| format!(r#"{{"mediaType":"m","digest":"{digest}","size":1}}"#);
        let manifest = document(&format!(
            r#"{{"config":{},"layers":[{},{}]}}"#,
            entry("c"),
            entry("a"),
            entry("b")
        ));
        let labels = manifest.labels();
        let label = |rest: &str| labels[&format!("containerd.io/gc.ref.content.{rest}")].as_str();
        assert_eq!((label("config"), label("l.0"), label("l.1")), ("c", "a", "b"));
    }

    #[test]
    fn the_source_has_no_port() {
        for (image, host) in [
            ("r.example/a", "r.example"),
            ("r.example:5000/a", "r.example"),
            ("[::1]:5000/a", "::1"),
        ] {
            let Ok(Reference::Registry(reference)) = image.parse() else {
                panic!("{image}")
            };
            let (label, repository) = source_label(&reference);
            assert_eq!(label, format!("containerd.io/distribution.source.{host}"));
            assert_eq!(repository, "a");
        }
    }
}
