//! Where the daemon's credentials come from, beside docker's config and its helpers.
//!
//! | source | asked |
//! |---|---|
//! | [`plugins`]: kubelet's credential providers | whenever a registry wants a log-in, at 401 again |
//! | [`pulls`]: what kubelet sent with PullImage, through [`image_service`] | likewise; the latest pull counts |
//! | docker's `config.json` and helpers (`lacewing-oci`) | last |
//!
//! Invariant: a secret is in memory only. It goes to the registry whose image it was given for, or to the token server
//! that this registry names; never into a log line, an error, status or a file.

pub(crate) mod image_service;
mod matching;
mod plugins;
pub(crate) mod pulls;

use std::sync::Arc;

use anyhow::Result;
use lacewing_oci::Credentials;

use crate::config::Config;
use plugins::Plugins;
use pulls::Pulls;

/// The sources, in the order in which they are asked.
///
/// # Errors
/// kubelet's configuration of providers is configured and cannot be read.
pub(crate) fn sources(config: &Config, pulls: &Arc<Pulls>) -> Result<Vec<Arc<dyn Credentials>>> {
    let mut sources: Vec<Arc<dyn Credentials>> = Vec::new();
    if let Some((file, dir)) = &config.credential_providers {
        sources.push(Arc::new(Plugins::load(file, dir)?));
    }
    sources.push(pulls.clone());
    Ok(sources)
}
