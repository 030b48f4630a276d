//! `--daemonize`: a child of its own session that says when it is ready, on the pipe that is its standard output.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tracing::warn;

/// What the child prints.
const READY: &[u8] = b"ready\n";

/// Starts the same command line in the background and returns when it is ready.
///
/// # Errors
/// It ended before that; what went wrong it has said on standard error itself.
pub(crate) fn run() -> Result<()> {
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--daemonize");
    let mut child = Command::new("/proc/self/exe")
        .args(arguments.chain([OsString::from("--report")]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the background process")?;
    let mut said = Vec::new();
    let out = child
        .stdout
        .take()
        .context("the background process has no output")?;
    out.take(READY.len() as u64)
        .read_to_end(&mut said)
        .context("waiting for the background process")?;
    if said == READY {
        return Ok(());
    }
    let status = child.wait().context("waiting for the background process")?;
    bail!("the background process ended: {status}");
}

/// In the child: leaves the terminal and tells the parent. From here on nobody reads what it prints.
pub(crate) fn ready(report: bool) {
    if !report {
        return;
    }
    let _ = rustix::process::setsid();
    let leave = || -> std::io::Result<()> {
        let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
        std::io::stdout().write_all(READY)?;
        std::io::stdout().flush()?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        Ok(())
    };
    if let Err(error) = leave() {
        warn!("leaving the terminal: {error}");
    }
}
