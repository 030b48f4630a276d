//! The command line: what can be asked for, explained where it is asked.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{DEFAULT_ADDRESS, DEFAULT_FILE, DEFAULT_ROOT, Trees};

const ABOUT: &str = "\
Containers that start before their image is here.

Lacewing converts an image once, without changing its layers: nodes that do not know Lacewing run it as ever. \
On a node with the daemon, a pull fetches a small index per layer; files come when they are read.";

const EXAMPLES: &str = "\
Start:
  lacewing convert debian:12 registry.example/debian:12    make an image lazy (once, anywhere)
  lacewing mount registry.example/debian:12 /mnt           look at it, with no containerd
  lacewing daemon                                          serve containerd on this node

References: HOST/REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG], oci-archive:FILE[:TAG]

Exit status: 0 done, 1 found a difference or failed, 2 wrong use.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "lacewing", version, about = ABOUT, after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Cli {
    /// What to log, to standard error: error, warn, info, debug, trace, or per module (info,lacewing_fusefs=debug)
    #[arg(long, global = true, env = "LACEWING_LOG", value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
    /// Form of log lines
    #[arg(long, global = true, env = "LACEWING_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve containerd's snapshots on this node
    ///
    /// Serves containerd on a unix socket until SIGTERM.
    ///
    /// The process you start is a small supervisor. It keeps the FUSE connection and the socket, and starts a worker
    /// that does everything else; when the worker dies the next one goes on where it stopped, and containers do not
    /// notice. SIGHUP reads the configuration anew and replaces the worker; if the program's file was replaced by another
    /// release meanwhile, the daemon turns into that. Needs root.
    Daemon(DaemonArgs),
    /// Make a lazy image of an ordinary one
    ///
    /// Reads SRC, writes the converted image to DST: the same config and layers, and an index with data blobs beside them.
    Convert(ConvertArgs),
    /// Prove that a converted image equals its original layers, entry by entry
    ///
    /// Reads every byte of the converted image and of its original layers. Exit status 1 if anything differs.
    Check(CheckArgs),
    /// Show layers, files, chunks, dedup and compression of a converted image
    ///
    /// Shows what a converted image, or a single index file, consists of.
    Inspect(InspectArgs),
    /// Show a converted image as a read-only directory, with no containerd
    ///
    /// Mounts a converted image read-only; bytes come when they are read. Stays in the foreground until Ctrl-C or until
    /// DIR is unmounted. Needs root, or a user namespace: `unshare -Urm lacewing mount REF DIR`.
    Mount(MountArgs),
    /// Show what the daemon holds: layers, lazy or not and why, bytes present and whole
    ///
    /// Asks the daemon. The JSON names and their meaning are stable; they are explained in misc/docs/status.md.
    Status(StatusArgs),
    /// Say what on this node keeps layers from being lazy, and what to change
    ///
    /// Looks at kernel, daemon, containerd's configuration, disk, registries and credentials, and changes nothing. Exit
    /// status 1 if anything is wrong.
    Doctor(DoctorArgs),
    /// Pull an image through containerd, and wait until all of it is here
    ///
    /// Pulls through containerd's CRI, unless the image is here already. With --complete it returns when every byte is on
    /// this node, whatever the hour and the rate that the configuration allows for that.
    Pull(PullArgs),
    /// Keep an image's bytes on this node, however little they are read
    Pin(PinArgs),
    /// Let an image's bytes be given up again when room is short
    Unpin(PinArgs),
    /// Remove what nothing refers to, and give its disk space back
    Gc(GcArgs),
    /// Get a file through the piece layer
    ///
    /// Gets a file of an http or https server, S3 and OSS with signed or public addresses included: the nodes of the piece
    /// layer fetch it once together and give it to each other. What a killed run left is gone on from.
    Get(GetArgs),
    /// Watch the piece layer: nodes, what each gets from where, registry copies, stragglers
    Top(TopArgs),
    /// Tell whom this node would ask for a piece, why, and what happened
    Explain(ExplainArgs),
    /// The process that serves; started by the daemon
    #[command(hide = true)]
    Worker(WorkerArgs),
}

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
    #[arg(long, value_name = "SIZE", value_parser = size)]
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

/// `lacewing status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value_os_t = crate::places::address())]
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
    #[arg(long, value_name = "SOCK", default_value = DEFAULT_ADDRESS)]
    pub(crate) address: PathBuf,
}

/// `lacewing pin`, `lacewing unpin`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lacewing pin registry.example/app:1")]
pub(crate) struct PinArgs {
    /// The image; it may come later
    pub(crate) image: String,
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value = DEFAULT_ADDRESS)]
    pub(crate) address: PathBuf,
}

/// `lacewing gc`
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value = DEFAULT_ADDRESS)]
    pub(crate) address: PathBuf,
}

/// `lacewing get`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lacewing get https://models.example/llm.safetensors
  lacewing get -o llm --digest sha256:9f86… https://bucket.s3.example/llm?X-Amz-Signature=…")]
pub(crate) struct GetArgs {
    /// Where the file is
    pub(crate) url: String,
    /// Where it goes [default: the address's last part, here]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// What it must be; nothing else becomes FILE
    #[arg(long, value_name = "sha256:HEX")]
    pub(crate) digest: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value = DEFAULT_ADDRESS)]
    pub(crate) address: PathBuf,
}

/// `lacewing top`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lacewing top\n  lacewing top --once --json | jq .registry_copies")]
pub(crate) struct TopArgs {
    /// Print it once
    #[arg(long)]
    pub(crate) once: bool,
    /// Print it once, as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value = DEFAULT_ADDRESS)]
    pub(crate) address: PathBuf,
}

/// `lacewing explain`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lacewing explain sha256:9f86…                 all pieces of it that are known\n  \
lacewing explain sha256:9f86…@4194304+4194304"
)]
pub(crate) struct ExplainArgs {
    /// A blob or an index, as sha256:HEX, or one piece of it: sha256:HEX@OFFSET+LENGTH
    #[arg(value_name = "PIECE")]
    pub(crate) piece: String,
    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value = DEFAULT_ADDRESS)]
    pub(crate) address: PathBuf,
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

/// Reads `256K`, `1M` or a count of bytes.
fn size(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text} is no size; write 65536, 256K or 1M");
    let (digits, unit) = match text
        .trim_end_matches("iB")
        .trim_end_matches(['b', 'B'])
        .to_ascii_uppercase()
    {
        t if t.ends_with('K') => (t.trim_end_matches('K').to_owned(), 1 << 10),
        t if t.ends_with('M') => (t.trim_end_matches('M').to_owned(), 1 << 20),
        t => (t, 1),
    };
    let size = digits
        .parse::<u32>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .ok_or_else(wrong)?;
    if size.is_power_of_two() && (64 << 10..=1 << 20).contains(&size) {
        return Ok(size);
    }
    Err(format!("{text} is not a power of two from 64K to 1M"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("65536", Some(65536)),
            ("256K", Some(262_144)),
            ("64KiB", Some(65536)),
            ("1m", Some(1 << 20)),
        ] {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
        for text in [
            "",
            "K",
            "3000",
            "2M",
            "-4K",
            "2K",
            "4096",
            "32K",
            "99999999999",
            "256KK1",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_contract_of_scripts_and_units_is_accepted() {
        for line in [
            "lacewing daemon --root /r --address /s --config /c",
            "lacewing convert a b",
            "lacewing convert --platform linux/amd64 --platform linux/arm64 --chunk-size 128K --level 3 \
             --dedup-against c --native --dry-run --json --jobs 2 --hosts-dir /h a b",
            "lacewing check a --json",
            "lacewing inspect a --json --export d",
            "lacewing mount a d --store s --daemonize --trees fuse",
            "lacewing status --json --address s",
            "lacewing status --log-level debug",
        ] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_use_has_status_2() {
        for line in [
            "lacewing",
            "lacewing convert a",
            "lacewing convert --level 0 a b",
            "lacewing convert --no-dedup --dedup-against x a b",
            "lacewing frobnicate",
        ] {
            let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
