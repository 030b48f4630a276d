//! Media types: OCI's, and docker's names for the same.

use lacewing_oci::MediaType;

/// Media type of an image manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image index.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an image config.
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type and bytes of the config of what needs none.
pub(crate) const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");

/// Docker's media types and the OCI ones of the same content.
pub(super) const DOCKER: [(&str, &str); 8] = [
    ("application/vnd.docker.distribution.manifest.v2+json", MANIFEST),
    ("application/vnd.docker.distribution.manifest.list.v2+json", INDEX),
    ("application/vnd.docker.container.image.v1+json", CONFIG),
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.oci.image.layer.v1.tar",
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
    ),
];

/// The OCI media type for a media type.
pub(crate) fn oci_type(media_type: &str) -> &str {
    DOCKER
        .iter()
        .find(|(docker, _)| *docker == media_type)
        .map_or(media_type, |(_, oci)| oci)
}

/// A media type for descriptors.
pub(crate) fn media(name: &str) -> MediaType {
    MediaType::from(name)
}
