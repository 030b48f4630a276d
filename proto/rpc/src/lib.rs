//! What Lacewing's processes and containerd say to each other: gRPC messages, clients and servers,
//! generated from the `.proto` files beside this crate.
//!
//! - [`containerd`]: containerd's own snapshots, content and images services (its API of 1.6, plus
//!   `Mount.target` and `Commit.parent` of later releases; the field numbers are containerd's).
//! - [`control`]: what a daemon tells about itself.
//!
//! Invariant: no behaviour lives here. Names, limits and defaults belong to the crates that use them.
//!
//! The published crate `containerd-snapshots` (0.3.0, of 2023) holds the same service and is not used.
//! It stands on tonic 0.9 with an HTTP/2 stack of that time, so it cannot share a server with a service
//! of today's tonic and brings a second stack, one with an open security advisory
//! (RUSTSEC-2026-0258, h2 before 0.4.16). Its trait knows neither the call's metadata (the containerd
//! namespace) nor `Commit.parent`: a client that relies on the latter would get a chain without its
//! parent, with no error.

#![allow(
    missing_docs,
    reason = "generated code carries the comments of the .proto files and no others"
)]

/// containerd's API, as far as it is spoken here.
pub mod containerd {
    /// Types that several services share.
    pub mod types {
        tonic::include_proto!("containerd.types");
    }
    /// The services.
    pub mod services {
        /// Snapshots: what containerd calls on this snapshotter.
        pub mod snapshots {
            /// The only version there is.
            pub mod v1 {
                tonic::include_proto!("containerd.services.snapshots.v1");
            }
        }
        /// Images: what containerd calls them, and where they begin.
        pub mod images {
            /// The only version there is.
            pub mod v1 {
                tonic::include_proto!("containerd.services.images.v1");
            }
        }
        /// Content: what this snapshotter asks containerd, and gives it.
        pub mod content {
            /// The only version there is.
            pub mod v1 {
                tonic::include_proto!("containerd.services.content.v1");
            }
        }
    }
}

/// What a daemon tells about itself.
pub mod control {
    tonic::include_proto!("lacewing.v1");

    /// Encodes what one node tells another of itself.
    pub fn encode_node(node: &SwarmNode) -> Vec<u8> {
        prost::Message::encode_to_vec(node)
    }

    /// Decodes what another node told of itself.
    ///
    /// # Errors
    /// The bytes are no such message.
    pub fn decode_node(bytes: &[u8]) -> Result<SwarmNode, prost::DecodeError> {
        prost::Message::decode(bytes)
    }
}

/// What is read of Kubernetes' CRI calls.
pub mod cri {
    tonic::include_proto!("runtime.v1");

    /// Decodes a PullImageRequest; other fields than those here are passed over.
    ///
    /// # Errors
    /// The bytes are no such message.
    pub fn decode_pull(bytes: &[u8]) -> Result<PullImageRequest, prost::DecodeError> {
        prost::Message::decode(bytes)
    }

    /// Encodes a PullImageRequest.
    pub fn encode_pull(request: &PullImageRequest) -> Vec<u8> {
        prost::Message::encode_to_vec(request)
    }
}
