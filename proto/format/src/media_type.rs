//! Media types of what Lacewing puts into a registry.

/// An index in its stored form: the plain index as one zstd frame.
pub const INDEX: &str = "application/vnd.lacewing.index.v1+zstd";

/// A data blob: frames end to end.
pub const BLOB: &str = "application/vnd.lacewing.blob.v1";

/// `artifactType` of the accelerator manifest that keeps indexes and blobs alive in a registry.
pub const ACCELERATOR: &str = "application/vnd.lacewing.accelerator.v1";

/// An index that stands in a native image in place of the original layer. Keeps the prefix that
/// makes containerd walk it as a layer.
pub const NATIVE_LAYER: &str = "application/vnd.oci.image.layer.v1.lacewing.index.v1+zstd";
