//! The daemon: what an operator starts it with, and what it starts its worker with.

use std::path::PathBuf;

use clap::Args;

use crate::places::{DEFAULT_ADDRESS, DEFAULT_FILE, DEFAULT_ROOT};

/// `lacewing daemon`
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  lacewing daemon
  lacewing daemon --root /data/lacewing --address /run/lacewing/second.sock
  mv lacewing.new /usr/local/bin/lacewing && lacewing daemon --upgrade

containerd's side (/etc/containerd/config.toml):
  [proxy_plugins.lacewing]
    type = \"snapshot\"
    address = \"/run/lacewing/lacewing.sock\"")]
pub(crate) struct DaemonArgs {
    /// Where everything is kept; one daemon per root
    #[arg(long, value_name = "DIR", help = format!("Where everything is kept; one daemon per root [default: {DEFAULT_ROOT}]"))]
    pub(crate) root: Option<PathBuf>,
    /// Socket for containerd
    #[arg(long, value_name = "SOCK", help = format!("Socket for containerd and `lacewing status` [default: {DEFAULT_ADDRESS}]"))]
    pub(crate) address: Option<PathBuf>,
    /// Configuration
    #[arg(long, value_name = "FILE", help = format!("Configuration, in TOML [default: {DEFAULT_FILE}, if it is there]"))]
    pub(crate) config: Option<PathBuf>,
    /// Make the daemon that runs turn into the release that now lies where its program did, and return
    #[arg(long)]
    pub(crate) upgrade: bool,
    /// Say whether this program could take over from an earlier release.
    #[arg(long, hide = true)]
    pub(crate) preflight: bool,
    /// Standard input has what an earlier release kept.
    #[arg(long, hide = true)]
    pub(crate) take_over: bool,
}

/// What the supervisor tells a worker beside the descriptors.
#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The resolved configuration, as JSON.
    #[arg(long)]
    pub(crate) config: String,
    /// Workers started before this one.
    #[arg(long)]
    pub(crate) restarts: u64,
}
