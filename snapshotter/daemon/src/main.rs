//! The `lacewing` binary: one command line over all crates.
//!
//! ```text
//!  lacewing daemon ── supervisor ──(SCM_RIGHTS: socket, /dev/fuse)──► worker ── snapshotter ── Layers ── fusefs
//!                     keeps descriptors, restarts                        │                        └── BlobSource ── oci
//!                                                                        └ control
//!  lacewing convert, check, inspect ── converter
//!  lacewing mount ── converter (indexes), fusefs, overlay
//!  lacewing status ── control
//!  lacewing doctor ── control, containerd's configuration, oci
//! ```
//!
//! Only wiring lives here; logic belongs to the crates below.
//!
//! Exit status: 0 done, 1 found a difference or failed, 2 wrong use.

mod accept;
mod acquire;
mod adapters;
mod check;
mod cli;
mod config;
mod control;
mod convert;
mod credentials;
mod doctor;
mod fds;
mod foreign;
mod gc;
mod give_back;
mod guard;
mod http;
mod inspect;
mod limits;
mod lock;
mod memory;
mod meters;
mod metrics;
mod mirror;
mod mount;
mod mountinfo;
mod output;
mod oversight;
mod pin;
mod places;
mod progress;
mod pull;
mod record;
mod registry;
mod status;
mod succession;
mod supervisor;
mod swarm;
mod traces;
mod upgrade;
mod worker;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command, LogFormat};
use tracing_subscriber::EnvFilter;

/// Libraries whose debug lines only help who debugs them.
const QUIET: &str = "h2=info,hyper=info,hyper_util=info,reqwest=info,rustls=info,tower=info,tonic=info";

/// What a command ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit status 0.
    Done,
    /// Exit status 1, already explained on standard output.
    Differs,
}

/// A command that cannot be meant so. Exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUse(pub(crate) String);

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(
        cli.command,
        Command::Daemon(_) | Command::Worker(_) | Command::Mount(_)
    ) {
        memory::bound();
    }
    lacewing_oci::install_crypto_provider();
    if let Err(message) = log_to_stderr(&cli) {
        eprintln!("lacewing: {message}");
        return ExitCode::from(2);
    }
    match dispatch(&cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Differs) => ExitCode::from(1),
        Err(error) => {
            eprintln!("lacewing: {error:#}");
            let wrong_use = error.is::<WrongUse>() || error.is::<config::ConfigError>();
            ExitCode::from(if wrong_use { 2 } else { 1 })
        }
    }
}

fn dispatch(cli: &Cli) -> anyhow::Result<Outcome> {
    match &cli.command {
        Command::Daemon(args) => supervisor::run(args, cli.log_level.as_deref()).map(|()| Outcome::Done),
        Command::Worker(args) => worker::run(args).map(|()| Outcome::Done),
        Command::Convert(args) => convert::run(args).map(|()| Outcome::Done),
        Command::Check(args) => check::run(args),
        Command::Inspect(args) => inspect::run(args).map(|()| Outcome::Done),
        Command::Mount(args) => mount::run(args).map(|()| Outcome::Done),
        Command::Doctor(args) => doctor::run(args),
        Command::Status(args) => status::run(args).map(|()| Outcome::Done),
        Command::Pull(args) => pull::run(args).map(|()| Outcome::Done),
        Command::Record(args) => record::run(args).map(|()| Outcome::Done),
        Command::Pin(args) => pin::run(args, true).map(|()| Outcome::Done),
        Command::Unpin(args) => pin::run(args, false).map(|()| Outcome::Done),
        Command::Gc(args) => gc::run(args).map(|()| Outcome::Done),
        Command::Get(args) => swarm::get::run(args).map(|()| Outcome::Done),
        Command::Top(args) => swarm::top::run(args).map(|()| Outcome::Done),
        Command::Explain(args) => swarm::explain::run(args).map(|()| Outcome::Done),
    }
}

/// Daemons tell what they do, commands only what is wrong: their output is their result.
fn log_to_stderr(cli: &Cli) -> Result<(), String> {
    let default = match cli.command {
        Command::Daemon(_) | Command::Worker(_) => "info",
        _ => "warn",
    };
    let filter = cli
        .log_level
        .as_deref()
        .filter(|filter| !filter.is_empty())
        .unwrap_or(default);
    let filter = match filter.contains(['=', ',']) {
        true => filter.to_owned(),
        // A plain level is about us: HTTP/2 alone would write a line per frame.
        false => format!("{filter},{QUIET}"),
    };
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("--log-level: {error}"))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would say so where it could not write just now, and panic: a full disk would end the daemon.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => subscriber
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}
