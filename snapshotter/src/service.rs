//! containerd's snapshots service over a [`Snapshotter`].

use lacewing_rpc::containerd::services::snapshots::v1 as api;
use lacewing_rpc::containerd::types;
use prost::Message;
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::filter::Filters;
use crate::limits::{LIST_AHEAD, LIST_BATCH, LIST_BYTES, MAX_TRACEPARENT};
use crate::mounts::Mount;
use crate::snapshot::{Kind, Record, Stamp};
use crate::snapshotter::{NewCall, Snapshotter};

/// The call's containerd namespace. Calls of the garbage collector have none.
const NAMESPACE: &str = "containerd-namespace";

/// Makes the gRPC service, to be added to a tonic server.
///
/// The requests' field `snapshotter` is ignored: it holds the name that containerd's configuration gave this
/// socket.
pub fn service(snapshotter: Snapshotter) -> api::snapshots_server::SnapshotsServer<Service> {
    api::snapshots_server::SnapshotsServer::new(Service { snapshotter })
}

/// The ten methods.
#[derive(Clone)]
pub struct Service {
    snapshotter: Snapshotter,
}

#[tonic::async_trait]
impl api::snapshots_server::Snapshots for Service {
    type ListStream = ReceiverStream<Result<api::ListSnapshotsResponse, Status>>;

    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        let namespace = namespace(request.metadata());
        let traceparent = traceparent(request.metadata());
        let api::PrepareSnapshotRequest {
            key, parent, labels, ..
        } = request.into_inner();
        let mounts = self
            .snapshotter
            .prepare(NewCall {
                namespace: namespace.or_else(|| namespace_of(&key)),
                key,
                parent,
                labels,
                traceparent,
            })
            .await?;
        Ok(Response::new(api::PrepareSnapshotResponse {
            mounts: to_mounts(mounts),
        }))
    }

    async fn view(
        &self,
        request: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        let namespace = namespace(request.metadata());
        let api::ViewSnapshotRequest {
            key, parent, labels, ..
        } = request.into_inner();
        let mounts = self
            .snapshotter
            .view(NewCall {
                namespace: namespace.or_else(|| namespace_of(&key)),
                key,
                parent,
                labels,
                traceparent: None,
            })
            .await?;
        Ok(Response::new(api::ViewSnapshotResponse {
            mounts: to_mounts(mounts),
        }))
    }

    async fn mounts(
        &self,
        request: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        let mounts = self.snapshotter.mounts(request.into_inner().key).await?;
        Ok(Response::new(api::MountsResponse {
            mounts: to_mounts(mounts),
        }))
    }

    async fn commit(&self, request: Request<api::CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let api::CommitSnapshotRequest {
            name,
            key,
            labels,
            parent,
            ..
        } = request.into_inner();
        self.snapshotter.commit((name, key, parent), labels).await?;
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<api::RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        self.snapshotter.remove(request.into_inner().key).await?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let record = self.snapshotter.stat(key.clone()).await?;
        Ok(Response::new(api::StatSnapshotResponse {
            info: Some(to_info(key, record)),
        }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        let api::UpdateSnapshotRequest {
            info, update_mask, ..
        } = request.into_inner();
        let info = info.unwrap_or_default();
        let paths = update_mask.unwrap_or_default().paths;
        let record = self
            .snapshotter
            .update(info.name.clone(), info.labels, paths)
            .await?;
        Ok(Response::new(api::UpdateSnapshotResponse {
            info: Some(to_info(info.name, record)),
        }))
    }

    async fn list(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = Filters::parse(&request.into_inner().filters)?;
        let (sender, receiver) = mpsc::channel(LIST_AHEAD);
        let snapshotter = self.snapshotter.clone();
        tokio::spawn(async move {
            let failed = sender.clone();
            if let Err(error) = snapshotter
                .run(move |inner| list(&inner.store, &filters, &sender))
                .await
            {
                // A client that went away needs no answer.
                drop(failed.send(Err(error.into())).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn usage(
        &self,
        request: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        let usage = self.snapshotter.usage(request.into_inner().key).await?;
        let clamp = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Ok(Response::new(api::UsageResponse {
            size: clamp(usage.size),
            inodes: clamp(usage.inodes),
        }))
    }

    async fn cleanup(&self, _: Request<api::CleanupRequest>) -> Result<Response<()>, Status> {
        self.snapshotter.cleanup().await?;
        Ok(Response::new(()))
    }
}

/// Where a List's messages go.
type Messages = mpsc::Sender<Result<api::ListSnapshotsResponse, Status>>;

/// Sends what matches, in messages of bounded size. Blocking: it waits for a slow client, with nothing locked.
fn list(store: &crate::metastore::Metastore, filters: &Filters, messages: &Messages) -> Result<(), Error> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut listening = true;
    store.walk(|name, record| {
        if filters.matches(name, &record) {
            let info = to_info(name.to_owned(), record);
            bytes += info.encoded_len();
            batch.push(info);
            if batch.len() >= LIST_BATCH || bytes >= LIST_BYTES {
                listening = send(messages, std::mem::take(&mut batch));
                bytes = 0;
            }
        }
        listening
    })?;
    if listening && !batch.is_empty() {
        send(messages, batch);
    }
    Ok(())
}

/// Answers whether somebody still listens.
fn send(messages: &Messages, info: Vec<api::Info>) -> bool {
    messages
        .blocking_send(Ok(api::ListSnapshotsResponse { info }))
        .is_ok()
}

fn namespace(metadata: &MetadataMap) -> Option<String> {
    let value = metadata.get(NAMESPACE)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

/// The caller's span (W3C Trace Context, version 00, has 55 characters; later versions may have more).
fn traceparent(metadata: &MetadataMap) -> Option<String> {
    let value = metadata.get("traceparent")?.to_str().ok()?;
    (value.len() <= MAX_TRACEPARENT).then(|| value.to_owned())
}

/// What containerd's metadata store makes of keys is `<namespace>/<number>/<key>`. Its 1.6 sends no header with the calls
/// it passes on, and only the namespace's own content store knows where an image came from. A hint, never relied on.
fn namespace_of(key: &str) -> Option<String> {
    let mut parts = key.splitn(3, '/');
    let (namespace, number, _key) = (parts.next()?, parts.next()?, parts.next()?);
    let plausible =
        !namespace.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    plausible.then(|| namespace.to_owned())
}

fn to_mounts(mounts: Vec<Mount>) -> Vec<types::Mount> {
    let to_mount = |mount: Mount| types::Mount {
        r#type: mount.kind.to_owned(),
        source: mount.source,
        target: String::new(),
        options: mount.options,
    };
    mounts.into_iter().map(to_mount).collect()
}

fn to_info(name: String, record: Record) -> api::Info {
    let kind = match record.kind {
        Kind::View => api::Kind::View,
        Kind::Active => api::Kind::Active,
        Kind::Committed => api::Kind::Committed,
    };
    api::Info {
        name,
        parent: record.parent,
        kind: kind.into(),
        created_at: Some(to_timestamp(record.created)),
        updated_at: Some(to_timestamp(record.updated)),
        labels: record.labels.into_iter().collect(),
    }
}

fn to_timestamp(stamp: Stamp) -> Timestamp {
    Timestamp {
        seconds: stamp.secs,
        nanos: i32::try_from(stamp.nanos).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn what_metadata_tell() {
        let mut metadata = MetadataMap::new();
        assert_eq!((namespace(&metadata), traceparent(&metadata)), (None, None));
        let span = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        metadata.insert("traceparent", MetadataValue::from_static(span));
        metadata.insert(NAMESPACE, MetadataValue::from_static("k8s.io"));
        assert_eq!(namespace(&metadata).as_deref(), Some("k8s.io"));
        assert_eq!(traceparent(&metadata).as_deref(), Some(span));
        let long = MetadataValue::try_from("0".repeat(MAX_TRACEPARENT + 1)).ok();
        metadata.insert("traceparent", long.unwrap_or(MetadataValue::from_static("")));
        assert_eq!(traceparent(&metadata), None);
    }

    #[test]
    fn the_namespace_in_a_key() {
        for (key, namespace) in [
            ("default/12/extract-1-ab sha256:00", Some("default")),
            ("k8s.io/3/a/b", Some("k8s.io")),
            ("default/x/y", None),
            ("/1/y", None),
            ("default/12", None),
            ("key", None),
        ] {
            assert_eq!(namespace_of(key).as_deref(), namespace, "{key}");
        }
    }
}
