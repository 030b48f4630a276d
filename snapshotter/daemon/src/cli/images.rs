//! Commands on an image in a registry or a file; they need no daemon.

use std::path::PathBuf;

use clap::Args;

use super::chunk_size::chunk_size;
use crate::config::Trees;

/// How registries are reached; shared by all commands that read or write images.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegistryArgs {
    /// Mirrors, certificates and plain http per host, laid out as containerd's certs.d [default: /etc/containerd/certs.d]
    #[arg(long, value_name = "DIR")]
    pub(crate) hosts_dir: Option<PathBuf>,
}

/// `lacewing convert`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lacewing convert debian:12 registry.example/debian:12
  lacewing convert --platform all registry.example/app:1 registry.example/app:1-lazy
  lacewing convert oci:./image:latest oci-archive:image.tar
  lacewing convert --dry-run --json debian:12 registry.example/debian:12

Credentials: docker's config.json and its helpers. Hosts: containerd's certs.d (--hosts-dir).")]
pub(crate) struct ConvertArgs {
    /// The image to convert
    pub(crate) src: String,
    /// Where the converted image goes; may be the same repository
    pub(crate) dst: String,
    /// Platform to convert, such as linux/arm64; repeat it, or `all` [default: all that the image has]
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platforms: Vec<String>,
    /// Largest unit of dedup and verification: a power of two, 64K to 1M [default: 256K]
    #[arg(long, value_name = "SIZE", value_parser = chunk_size)]
    pub(crate) chunk_size: Option<u32>,
    /// zstd level, 1 to 19; higher is smaller and slower
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) level: Option<i32>,
    /// Also leave out what this earlier image in DST's repository holds; repeat it for several
    #[arg(long, value_name = "REF")]
    pub(crate) dedup_against: Vec<String>,
    /// Store every chunk anew, even what earlier images in DST's repository hold
    #[arg(long, conflicts_with = "dedup_against")]
    pub(crate) no_dedup: bool,
    /// What a start of the image reads, by `lacewing record`: stored in front, and fetched before it is asked for
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// Leave the original layers out: smallest, but only nodes with Lacewing can run it
    #[arg(long)]
    pub(crate) native: bool,
    /// Convert, count and report, but write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Cores to use [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) jobs: Option<u16>,
    /// Registries.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// `lacewing check`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lacewing check registry.example/debian:12")]
pub(crate) struct CheckArgs {
    /// The converted image
    pub(crate) reference: String,
    /// Print the differences as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Registries.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// `lacewing inspect`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lacewing inspect registry.example/debian:12
  lacewing inspect --json oci:./image | jq '.images[].layers[].index'
  lacewing inspect --export /tmp/out registry.example/debian:12    NAME.erofs and the plain device of each layer")]
pub(crate) struct InspectArgs {
    /// A converted image, or the file of an index
    pub(crate) reference: String,
    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write, per layer, the EROFS image alone and the plain device it points to
    #[arg(long, value_name = "DIR")]
    pub(crate) export: Option<PathBuf>,
    /// Registries.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// `lacewing mount`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lacewing mount registry.example/debian:12 /mnt
  lacewing mount --daemonize oci:./image /mnt; ls /mnt; umount /mnt")]
pub(crate) struct MountArgs {
    /// The converted image
    pub(crate) reference: String,
    /// An existing directory
    pub(crate) dir: PathBuf,
    /// Where fetched bytes are kept for next time [default: /var/lib/lacewing/mount, without root
    /// ~/.local/share/lacewing/mount; while another mount uses that, a temporary one]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Platform, such as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<String>,
    /// Return once DIR is ready; `umount DIR` ends it
    #[arg(long)]
    pub(crate) daemonize: bool,
    /// Fetch only what is read
    #[arg(long)]
    pub(crate) no_background: bool,
    /// Who shows the layers: the kernel where it can, or this program over FUSE
    #[arg(long, value_enum, default_value_t = Trees::Auto)]
    pub(crate) trees: Trees,
    /// A read waits so long for bytes that no source delivers
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) read_timeout: u64,
    /// Registries.
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// Set by `--daemonize`: report readiness on standard output.
    #[arg(long, hide = true)]
    pub(crate) report: bool,
}
