//! Registries, OCI layouts and OCI archives, as one kind of place that images are read from and written to.
//!
//! ```text
//!  Reference ──Store::open──► Store ─┬─ registry ── endpoints of hosts.toml, in order ── auth ── transport (retry, deadlines)
//!  "host/repo:tag"                   ├─ layout      blobs/sha256/.., index.json
//!  "oci:DIR[:TAG]"                   └─ archive     a tar of a layout
//!  "oci-archive:FILE[:TAG]"
//! ```
//!
//! Non-goals: what an image means (platforms, layers, annotations) and what is done with its bytes.
//!
//! Invariant: content named by a digest is handed out only after its bytes were compared with that digest, with two
//! exceptions that say so: [`Store::blob`] reports a difference at the end of the stream, and [`Store::read_at`] gives a
//! part of a blob, which only the caller can verify.
//!
//! Invariant: a secret is sent only to the host it belongs to, or to the token server which that host names; it never
//! appears in an error, a log line or a `Debug` text.

mod archive;
mod auth;
mod challenge;
mod client;
mod credentials;
mod docker_config;
mod download;
mod durable;
mod endpoint;
mod error;
mod fault;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hosts;
mod layout;
mod layout_index;
pub mod limits;
mod manifest_kind;
mod manifests;
mod passage;
mod range;
mod reference;
mod repository;
mod retry;
mod store;
mod transport;
mod upload;
mod verify;
mod web;

pub use client::{Client, Options, install_crypto_provider};
pub use credentials::{Credential, Credentials, Secret};
pub use error::Error;
pub use fault::reason_of;
pub use oci_spec::image::{Descriptor, MediaType};
pub use passage::{Answer, Passage, Verb};
pub use reference::{Reference, RegistryRef};
pub use store::{Access, Blob, Store};
pub use verify::{describe, digest_of};
pub use web::{WebFile, check_url};
