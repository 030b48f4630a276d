//! Where the daemon's credentials come from, beside docker's config and its helpers.
//!
//! | source | asked |
//! |---|---|
//! | [`helper_socket`]: a program that listens on a unix socket | whenever a registry wants a log-in, at 401 again |
//! | [`plugins`]: kubelet's credential providers | likewise |
//! | [`pulls`]: what kubelet sent with PullImage, through [`image_service`] | likewise; the latest pull counts |
//! | [`pull_secrets`]: those of service accounts, from the API server | likewise |
//! | docker's `config.json` and helpers (`lacewing-oci`) | last |
//!
//! Invariant: a secret is in memory only; where the configuration says so, what pulls brought is on disk as well, sealed
//! ([`seal`]). It goes to the registry whose image it was given for, or to the token server that this registry names; never into
//! a log line, an error, status, a trace or another file.

mod helper_socket;
pub(crate) mod image_service;
mod matching;
mod plugins;
mod protocol;
mod pull_secrets;
pub(crate) mod pulls;
mod seal;

use std::sync::Arc;

use anyhow::Result;
use lacewing_oci::Credentials;
use tracing::error;

use crate::config::Config;
use helper_socket::HelperSocket;
use plugins::Plugins;
use pull_secrets::PullSecrets;
use pulls::Pulls;
use seal::Seal;

/// The sources, in the order in which they are asked.
///
/// # Errors
/// kubelet's configuration of providers is configured and cannot be read.
pub(crate) fn sources(config: &Config, pulls: &Arc<Pulls>) -> Result<Vec<Arc<dyn Credentials>>> {
    let said = &config.credentials;
    let mut sources: Vec<Arc<dyn Credentials>> = Vec::new();
    if let Some(path) = &said.helper_socket {
        sources.push(Arc::new(HelperSocket::new(path)));
    }
    if let Some((file, dir)) = &said.providers {
        sources.push(Arc::new(Plugins::load(file, dir)?));
    }
    sources.push(pulls.clone());
    if let Some(kubernetes) = &said.kubernetes {
        sources.push(Arc::new(PullSecrets::new(kubernetes)));
    }
    Ok(sources)
}

/// What pulls bring: in memory, or sealed on disk too, with what earlier workers left there. With a key that cannot be used it
/// is memory alone: containers must read on, and nothing is written that the key should have protected.
pub(crate) fn open_pulls(config: &Config) -> Arc<Pulls> {
    let key = config.credentials.seal_key_file.as_deref();
    let seal = key.and_then(|key| match Seal::open(&config.root, key) {
        Ok(seal) => Some(seal),
        Err(error) => {
            error!("credentials of pulls are in memory only: {error:#}");
            None
        }
    });
    Arc::new(Pulls::open(seal))
}

/// Why the configured key cannot be used, if so.
pub(crate) fn unusable_key(config: &Config) -> Option<String> {
    let key = config.credentials.seal_key_file.as_deref()?;
    Seal::open(&config.root, key)
        .err()
        .map(|error| format!("{error:#}"))
}
