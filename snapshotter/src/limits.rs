//! Bounds, each with its reason.

/// Bytes of a key or name. containerd's own store (bolt) has this bound, so nothing longer can come from it.
pub(crate) const MAX_NAME: usize = 32_768;

/// Snapshots in one message of a List, as containerd sends them.
pub(crate) const LIST_BATCH: usize = 100;

/// Encoded bytes after which a message of a List is sent, full or not. Clients accept 4 MiB a message; a
/// snapshot's labels take a few tens of KiB at most, so that one more always fits.
pub(crate) const LIST_BYTES: usize = 1 << 20;

/// List messages made ahead of a slow client.
pub(crate) const LIST_AHEAD: usize = 2;

/// Memory that the metadata store may keep as cache. A node has some hundred snapshots of a few KiB; the
/// store's own default is 1 GiB.
pub(crate) const STORE_CACHE: usize = 2 << 20;

/// Layers in one chain. The kernel unites at most 500 (OVL_MAX_STACK); the bound here only ends a loop that
/// corrupt metadata could make.
pub(crate) const MAX_CHAIN: usize = 4096;

/// Characters of a `traceparent`: those of today's version, and room for later ones.
pub(crate) const MAX_TRACEPARENT: usize = 256;
