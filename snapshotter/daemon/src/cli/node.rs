//! Commands on this node: what it holds, what is wrong with it, what it keeps.

use std::path::PathBuf;

use clap::Args;

use crate::places;

/// `lacewing status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value_os_t = places::address())]
    pub(crate) address: PathBuf,
    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `lacewing doctor`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lacewing doctor
  lacewing doctor --image registry.example/debian:12    is it there, may we read it, is it converted?
  lacewing doctor --json | jq '.findings[] | select(.verdict != \"ok\")'")]
pub(crate) struct DoctorArgs {
    /// As for `lacewing daemon`
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// As for `lacewing daemon`
    #[arg(long, value_name = "SOCK")]
    pub(crate) address: Option<PathBuf>,
    /// As for `lacewing daemon`
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// containerd's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
    pub(crate) containerd_config: PathBuf,
    /// Also look for this image in its registry
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `lacewing pull`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lacewing pull --complete registry.example/app:1
  lacewing pull --content registry.example/app:1                     then ctr -n k8s.io image push or export it
  lacewing pull --content --namespace moby registry.example/app:1    then docker push or save it")]
pub(crate) struct PullArgs {
    /// The image
    pub(crate) image: String,
    /// Wait until every byte is here
    #[arg(long)]
    pub(crate) complete: bool,
    /// Give up after so long [default: never]
    #[arg(long, value_name = "SECONDS", requires = "complete")]
    pub(crate) timeout: Option<u64>,
    /// Give its blobs to containerd's content store, for push, save, commit and build
    #[arg(long)]
    pub(crate) content: bool,
    /// Whose content store: a namespace of containerd [default: k8s.io]
    #[arg(long, value_name = "NS", requires = "content")]
    pub(crate) namespace: Option<String>,
    /// Of an image for several platforms, give all of them
    #[arg(long, requires = "content")]
    pub(crate) all_platforms: bool,
    /// Have other members of the piece layer pull it: all, seeds, or so many of them
    #[arg(long, value_name = "NODES", conflicts_with_all = ["complete", "content"])]
    pub(crate) nodes: Option<String>,
    /// containerd's socket
    #[arg(long, value_name = "SOCK", default_value = "/run/containerd/containerd.sock")]
    pub(crate) containerd: PathBuf,
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value_os_t = places::address())]
    pub(crate) address: PathBuf,
}

/// `lacewing record`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lacewing record registry.example/app:1 app.record -- \\
      ctr run --rm --snapshotter lacewing registry.example/app:1 start /app/ready
  lacewing convert --record app.record app:1 registry.example/app:1")]
pub(crate) struct RecordArgs {
    /// The image, as containerd knows it; it may be pulled by COMMAND
    pub(crate) image: String,
    /// Where the record is written
    pub(crate) file: PathBuf,
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value_os_t = places::address())]
    pub(crate) address: PathBuf,
    /// What starts a container of the image; it ends when that is ready
    #[arg(last = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// `lacewing pin`, `lacewing unpin`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lacewing pin registry.example/app:1")]
pub(crate) struct PinArgs {
    /// The image; it may come later
    pub(crate) image: String,
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value_os_t = places::address())]
    pub(crate) address: PathBuf,
}

/// `lacewing gc`
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value_os_t = places::address())]
    pub(crate) address: PathBuf,
}
