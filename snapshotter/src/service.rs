//! containerd's snapshots service over a [`Snapshotter`].

use lacewing_rpc::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;

use crate::snapshotter::Snapshotter;

/// Makes the gRPC service, to be added to a tonic server.
pub fn service(snapshotter: Snapshotter) -> SnapshotsServer<Service> {
    SnapshotsServer::new(Service { snapshotter })
}

/// The implementation of the generated trait.
#[derive(Clone)]
pub struct Service {
    #[allow(dead_code)]
    snapshotter: Snapshotter,
}
