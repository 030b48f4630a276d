//! The command line: what can be asked for, explained where it is asked.

mod chunk_size;
mod images;
mod node;
mod peers;
mod serving;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use images::{CheckArgs, ConvertArgs, InspectArgs, MountArgs, RegistryArgs};
pub(crate) use node::{DoctorArgs, GcArgs, PinArgs, PullArgs, RecordArgs, StatusArgs};
pub(crate) use peers::{ExplainArgs, GetArgs, TopArgs};
pub(crate) use serving::{DaemonArgs, WorkerArgs};

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
    /// Write down what an image's start reads, for `lacewing convert --record`
    ///
    /// Notes what is read of a lazy image on this node while COMMAND runs (without one, until Ctrl-C), and writes it to FILE:
    /// files and ranges of them, in the order of first reads. An image converted with that file has these bytes in front,
    /// and nodes fetch them before they are asked for. Start the image where it was not started before: what the kernel
    /// has in its cache is not seen.
    Record(RecordArgs),
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
    fn the_contract_of_scripts_and_units_is_accepted() {
        for line in [
            "lacewing daemon --root /r --address /s --config /c",
            "lacewing convert a b",
            "lacewing convert --platform linux/amd64 --platform linux/arm64 --chunk-size 128K --level 3 \
             --dedup-against c --native --dry-run --json --jobs 2 --hosts-dir /h a b",
            "lacewing convert --record r a b",
            "lacewing record a r --address s -- ctr run --rm a start",
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

    /// Without root a daemon serves in its user's own folders. Some commands asked there, others at the system's place.
    #[test]
    fn every_command_asks_where_the_daemon_serves() {
        for line in [
            "status",
            "pull a",
            "record a b",
            "pin a",
            "unpin a",
            "gc",
            "get https://a/b",
            "top",
            "explain a",
        ] {
            let line = format!("lacewing {line}");
            let found = Cli::command().get_matches_from(line.split_whitespace());
            let (_, found) = found.subcommand().unwrap();
            let address = found.get_one::<std::path::PathBuf>("address");
            assert_eq!(address, Some(&crate::places::address()), "{line}");
        }
    }
}
