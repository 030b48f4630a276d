//! Registry clients with the settings of the daemon or of a command line.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lacewing_oci::{Client, Options};

use crate::cli::RegistryArgs;
use crate::config::Config;
use crate::credentials::{self, pulls::Pulls};

/// The store asks again until a read's deadline, so one request need not be patient by itself: a mirror that answers
/// later than this is not worth waiting for while the next one may answer now.
const RETRY_FOR: Duration = Duration::from_secs(5);

/// The daemon's client, for who is not the daemon.
///
/// # Errors
/// As [`serving_client`].
pub(crate) fn daemon_client(config: &Config) -> Result<Client> {
    serving_client(config, &Arc::default())
}

/// The daemon's client, with the credentials that pulls bring.
///
/// # Errors
/// The TLS set-up or the configuration of credential providers is refused.
pub(crate) fn serving_client(config: &Config, pulls: &Arc<Pulls>) -> Result<Client> {
    let environment = Options::from_environment();
    let options = Options {
        hosts_dir: config.hosts_dir.clone(),
        credentials: credentials::sources(config, pulls)?,
        docker_config: config
            .credentials
            .docker_config
            .clone()
            .or(environment.docker_config.clone()),
        not_through: config.mirror.iter().map(|mirror| mirror.listen).collect(),
        retry_for: RETRY_FOR.min(config.read_timeout),
        idle_timeout: environment.idle_timeout.min(config.read_timeout),
        connect_timeout: environment.connect_timeout.min(config.read_timeout),
        ..environment
    };
    Client::new(options).context("the registry client")
}

/// A command's client.
///
/// # Errors
/// As [`daemon_client`]; also if the folder that the user named is not there.
pub(crate) fn command_client(args: &RegistryArgs) -> Result<Client> {
    let mut options = Options::from_environment();
    if let Some(dir) = &args.hosts_dir {
        check_dir(dir)?;
        options.hosts_dir = Some(dir.clone());
    }
    Client::new(options).context("the registry client")
}

fn check_dir(dir: &Path) -> Result<()> {
    std::fs::read_dir(dir)
        .map(drop)
        .with_context(|| format!("--hosts-dir {}", dir.display()))
}
