//! `lacewing record`: what an image's start reads, as a file for `lacewing convert --record`.

mod serving;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use lacewing_converter::record::Read;
use lacewing_rpc::control::control_client::ControlClient;
use lacewing_rpc::control::{FileRead, RecordRequest, RecordResponse};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::adapters::content::connect;
use crate::cli::RecordArgs;
use crate::output::{bytes, refusal};

pub(crate) use serving::{RecordStream, serve};

/// Records until the command has ended, or a signal comes.
///
/// # Errors
/// Nobody answers at the address; the command fails; nothing was read, or it cannot be written down.
pub(crate) fn run(args: &RecordArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let reads = runtime.block_on(record(args))?;
    if reads.is_empty() {
        bail!(
            "nothing was read of {}: `lacewing status` tells whether it is lazy; what this node has read of it before is in \
             the kernel's cache, so record the first start after the first pull",
            args.image
        );
    }
    let told = write(&args.file, &reads).with_context(|| format!("writing {}", args.file.display()))?;
    eprintln!("{}: {told}", args.file.display());
    Ok(())
}

async fn record(args: &RecordArgs) -> Result<Vec<FileRead>> {
    let (requests, receiver) = mpsc::channel(1);
    let request = RecordRequest {
        image: args.image.clone(),
    };
    requests.send(request).await?;
    let mut control = ControlClient::new(connect(&args.address));
    let answers = control.record(ReceiverStream::new(receiver)).await;
    let mut answers = answers
        .map_err(|status| refusal(&args.address, &status))?
        .into_inner();
    next(&mut answers)
        .await?
        .context("the daemon ended before it began to record")?;
    let status = watched(&args.command).await?;
    // The end of the requests is what ends the recording.
    drop(requests);
    let mut reads = Vec::new();
    while let Some(answer) = next(&mut answers).await? {
        reads.extend(answer.reads);
    }
    match status {
        Some(status) if !status.success() => bail!("{} ended with {status}", args.command[0].display()),
        _ => Ok(reads),
    }
}

async fn next(answers: &mut Streaming<RecordResponse>) -> Result<Option<RecordResponse>> {
    answers
        .message()
        .await
        .map_err(|status| anyhow::anyhow!("the daemon stopped to record: {}", status.message()))
}

/// Runs the command to its end; without one, waits for a signal.
async fn watched(command: &[std::ffi::OsString]) -> Result<Option<std::process::ExitStatus>> {
    // A signal from the terminal is for the command; what it has read by then is written down.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let Some((program, arguments)) = command.split_first() else {
        eprintln!("recording; Ctrl-C ends it");
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        return Ok(None);
    };
    let mut child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("running {}", program.display()))?;
    let status = tokio::task::spawn_blocking(move || child.wait()).await??;
    Ok(Some(status))
}

/// Writes the record; tells what is in it.
fn write(file: &Path, reads: &[FileRead]) -> Result<String> {
    let mut lines = Vec::new();
    let (mut files, mut len, mut unnamed) = (std::collections::HashSet::new(), 0_u64, 0_u64);
    for read in reads {
        let Ok(path) = std::str::from_utf8(&read.path) else {
            unnamed += 1;
            continue;
        };
        let line = Read {
            path: path.to_owned(),
            offset: read.offset,
            length: Some(read.length),
        };
        serde_json::to_writer(&mut lines, &line)?;
        lines.write_all(b"\n")?;
        files.insert(path);
        len = len.saturating_add(read.length);
    }
    std::fs::write(file, lines)?;
    let mut told = format!("{} files, {}", files.len(), bytes(len));
    if unnamed > 0 {
        told.push_str(&format!(
            "; without {unnamed} reads of files whose names are not UTF-8"
        ));
    }
    Ok(told)
}
