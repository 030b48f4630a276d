//! `lacewing get`: a file through the piece layer, resumable.
//!
//! Bytes go to `FILE.<name of the version>.part` in order and become FILE when all are there, so that what a killed run
//! left is the beginning of the same version, or of another one and left alone.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use lacewing_format::Digest;
use lacewing_rpc::control::control_client::ControlClient;
use lacewing_rpc::control::{GetPart, GetRequest};
use sha2::Digest as _;

use crate::WrongUse;
use crate::adapters::content::connect;
use crate::cli::GetArgs;
use crate::output::{bytes, print, print_json, refusal};

/// A line of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// A daemon that restarts is back by then.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);
/// Read at a time.
const PART: usize = 1 << 20;

/// What is told at the end.
#[derive(Debug, serde::Serialize)]
struct Report {
    url: String,
    file: String,
    bytes: u64,
    digest: String,
    resumed_from: u64,
    seconds: f64,
}

/// Gets a file.
///
/// # Errors
/// The server's; a digest that is another one; the disk's; no daemon.
pub(crate) fn run(args: &GetArgs) -> Result<()> {
    let digest = match &args.digest {
        Some(text) => text
            .parse::<Digest>()
            .map(Some)
            .map_err(|error| WrongUse(error.to_string()))?,
        None => None,
    };
    let file = match &args.output {
        Some(file) => file.clone(),
        None => PathBuf::from(
            file_name(&args.url)
                .ok_or_else(|| WrongUse("--output: the address ends in no name".to_owned()))?,
        ),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let report = runtime.block_on(Getting::new(args, digest, file).run())?;
    if args.json {
        return print_json(&report);
    }
    let speed = (report.bytes - report.resumed_from) as f64 / report.seconds.max(0.001);
    print(&format!(
        "{}: {} in {:.1} s ({}/s), {}\n",
        report.file,
        bytes(report.bytes),
        report.seconds,
        bytes(speed as u64),
        report.digest
    ))
}

/// The last part of an address's path.
fn file_name(url: &str) -> Option<&str> {
    let path = url.split_once("://")?.1.split(['?', '#']).next()?;
    let name = path.split_once('/')?.1.rsplit('/').next()?;
    (!name.is_empty() && name != "." && name != ".." && !name.contains('%')).then_some(name)
}

struct Getting<'a> {
    args: &'a GetArgs,
    expected: Option<Digest>,
    file: PathBuf,
    begun: Instant,
    resumed_from: Option<u64>,
    shown: Shown,
}

/// What has been written of a version.
struct Partial {
    path: PathBuf,
    file: File,
    id: String,
    len: u64,
    at: u64,
    hash: sha2::Sha256,
}

impl<'a> Getting<'a> {
    fn new(args: &'a GetArgs, expected: Option<Digest>, file: PathBuf) -> Getting<'a> {
        Getting {
            args,
            expected,
            file,
            begun: Instant::now(),
            resumed_from: None,
            shown: Shown::new(args.json),
        }
    }

    async fn run(mut self) -> Result<Report> {
        let mut partial: Option<Partial> = None;
        let (mut trouble, mut reached) = (None, 0);
        loop {
            match self.some(&mut partial).await {
                Ok(()) => break,
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing(error)) => {
                    let at = partial.as_ref().map_or(0, |partial| partial.at);
                    let since = *trouble.get_or_insert_with(Instant::now);
                    if at > reached {
                        (trouble, reached) = (Some(Instant::now()), at);
                    } else if since.elapsed() > PATIENCE {
                        return Err(
                            error.context("given up; the same command goes on where this one stopped")
                        );
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        let Some(partial) = partial else {
            bail!("the daemon gave nothing");
        };
        self.finish(partial)
    }

    /// Takes what comes until the end, or trouble.
    async fn some(&mut self, partial: &mut Option<Partial>) -> Result<(), Trouble> {
        let mut client = ControlClient::new(connect(&self.args.address));
        let known = match partial.as_ref() {
            Some(partial) => Some((partial.id.clone(), partial.at)),
            None => left(&self.file).map_err(Trouble::Final)?,
        };
        let (id, offset) = known.unwrap_or_default();
        let request = GetRequest {
            url: self.args.url.clone(),
            digest: self.expected.map(|digest| digest.to_string()).unwrap_or_default(),
            offset,
            id,
        };
        let said = |status| Trouble::of(&self.args.address, status);
        let mut parts = client.get(request).await.map_err(said)?.into_inner();
        let Some(head) = parts.message().await.map_err(said)? else {
            return Err(Trouble::Passing(anyhow::anyhow!("the daemon gave nothing")));
        };
        if partial
            .as_ref()
            .is_none_or(|partial| partial.id != head.id || partial.at != head.offset)
        {
            *partial = Some(self.open(&head).map_err(Trouble::Final)?);
        }
        let Some(partial) = partial.as_mut() else {
            return Ok(());
        };
        if self.resumed_from.is_none() {
            self.resumed_from = Some(partial.at);
            self.shown.begin(partial.at, partial.len);
        }
        while partial.at < partial.len {
            let Some(part) = parts.message().await.map_err(said)? else {
                return Err(Trouble::Passing(anyhow::anyhow!("the daemon broke off")));
            };
            partial.write(&part.data).map_err(Trouble::Final)?;
            self.shown.at(partial.at, partial.len);
        }
        Ok(())
    }

    /// Opens the file of a version; what it has up to the offset is hashed again.
    fn open(&self, head: &GetPart) -> Result<Partial> {
        let path = part_path(&self.file, &head.id);
        let open = || -> Result<Partial> {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            file.set_len(head.offset)?;
            let mut hash = sha2::Sha256::new();
            let mut buffer = vec![0; PART];
            let mut at = 0;
            while at < head.offset {
                let read = file.read(&mut buffer)?;
                if read == 0 {
                    bail!("it is shorter than it was");
                }
                hash.update(&buffer[..read]);
                at += read as u64;
            }
            Ok(Partial {
                path: path.clone(),
                file,
                id: head.id.clone(),
                len: head.len,
                at,
                hash,
            })
        };
        open().with_context(|| path.display().to_string())
    }

    fn finish(self, partial: Partial) -> Result<Report> {
        self.shown.end();
        let digest = Digest(partial.hash.finalize().into());
        if let Some(expected) = self.expected.filter(|expected| *expected != digest) {
            // Nothing to go on from.
            let _ = std::fs::remove_file(&partial.path);
            bail!("corrupt: the file's digest is {digest}, not {expected}; nothing is kept");
        }
        let finish = || -> std::io::Result<()> {
            partial.file.sync_all()?;
            std::fs::rename(&partial.path, &self.file)
        };
        finish().with_context(|| self.file.display().to_string())?;
        Ok(Report {
            url: self.args.url.split('?').next().unwrap_or_default().to_owned(),
            file: self.file.display().to_string(),
            bytes: partial.len,
            digest: digest.to_string(),
            resumed_from: self.resumed_from.unwrap_or(0),
            seconds: self.begun.elapsed().as_secs_f64(),
        })
    }
}

impl Partial {
    fn write(&mut self, data: &[u8]) -> Result<()> {
        if data.len() as u64 > self.len - self.at {
            bail!("the daemon gave more than the file has");
        }
        self.file
            .write_all(data)
            .with_context(|| self.path.display().to_string())?;
        self.hash.update(data);
        self.at += data.len() as u64;
        Ok(())
    }
}

fn part_path(file: &Path, id: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", id.trim_start_matches("sha256:")));
    file.with_file_name(name)
}

/// What an earlier run left: the version's name and how much of it there is. Of several the latest.
fn left(file: &Path) -> Result<Option<(String, u64)>> {
    let dir = match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let begin = format!("{}.", file.file_name().unwrap_or_default().to_string_lossy());
    let mut latest = None;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry.with_context(|| dir.display().to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(hex) = name
            .strip_prefix(&begin)
            .and_then(|rest| rest.strip_suffix(".part"))
        else {
            continue;
        };
        let Ok(id) = Digest::from_hex(hex) else { continue };
        let found = entry.metadata().with_context(|| name.clone())?;
        let at = found.modified().ok();
        if latest.as_ref().is_none_or(|(time, _, _)| at > *time) {
            latest = Some((at, id.to_string(), found.len()));
        }
    }
    Ok(latest.map(|(_, id, len)| (id, len)))
}

/// Why it stopped.
enum Trouble {
    /// Asking again may help.
    Passing(anyhow::Error),
    Final(anyhow::Error),
}

impl Trouble {
    fn of(address: &Path, status: tonic::Status) -> Trouble {
        match status.code() {
            // A connection that breaks off is a daemon that restarts.
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled => {
                Trouble::Passing(refusal(address, &status))
            }
            tonic::Code::DataLoss => Trouble::Final(anyhow::anyhow!("corrupt: {}", status.message())),
            tonic::Code::NotFound => Trouble::Final(anyhow::anyhow!("missing: {}", status.message())),
            tonic::Code::PermissionDenied => {
                Trouble::Final(anyhow::anyhow!("forbidden: {}", status.message()))
            }
            _ => Trouble::Final(refusal(address, &status)),
        }
    }
}

/// A bar on a terminal, a line now and then elsewhere, nothing beside JSON.
enum Shown {
    Bar(ProgressBar),
    Lines(Instant),
    Nothing,
}

impl Shown {
    fn new(json: bool) -> Shown {
        match (json, std::io::stderr().is_terminal()) {
            (true, _) => Shown::Nothing,
            (false, true) => {
                let template = "[{bar:40}] {bytes:>11} / {total_bytes:11} {bytes_per_sec:>12}, {eta} left";
                let style =
                    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
                Shown::Bar(ProgressBar::new(0).with_style(style.progress_chars("=> ")))
            }
            (false, false) => Shown::Lines(Instant::now()),
        }
    }

    fn begin(&self, at: u64, len: u64) {
        if let Shown::Bar(bar) = self {
            bar.set_length(len);
            bar.set_position(at);
            bar.reset_eta();
        } else if let Shown::Lines(_) = self
            && at > 0
        {
            eprintln!("going on at {} of {}", bytes(at), bytes(len));
        }
    }

    fn at(&mut self, at: u64, len: u64) {
        match self {
            Shown::Bar(bar) => bar.set_position(at),
            Shown::Lines(last) if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                eprintln!("{} of {}", bytes(at), bytes(len));
            }
            _ => {}
        }
    }

    fn end(&self) {
        if let Shown::Bar(bar) = self {
            bar.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_files() {
        for (url, expected) in [
            ("http://h/a/model.bin", Some("model.bin")),
            ("https://h/b/k?X-Amz-Signature=a/b", Some("k")),
            ("http://h/", None),
            ("http://h", None),
            ("http://h/..", None),
            ("http://h/a%2fb", None),
        ] {
            assert_eq!(file_name(url), expected, "{url}");
        }
    }

    #[test]
    fn what_an_earlier_run_left_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model");
        assert_eq!(left(&file).unwrap(), None);
        let id = Digest::of(b"version").to_string();
        std::fs::write(part_path(&file, &id), b"12345").unwrap();
        std::fs::write(dir.path().join("model.other.part"), b"x").unwrap();
        std::fs::write(dir.path().join("else.part"), b"x").unwrap();
        assert_eq!(left(&file).unwrap(), Some((id, 5)));
    }
}
