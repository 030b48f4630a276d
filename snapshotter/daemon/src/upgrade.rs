//! A new release takes over in place: the supervisor turns into the new program, with everything it keeps.
//!
//! execve(2) keeps process id, children and signal mask, so a service manager sees the same main process, and the worker
//! serves on meanwhile; it is replaced afterwards, as on any reload. Descriptors and what belongs to them go to the new
//! program through a socket pair that is its standard input, in the form of [`crate::fds`].
//!
//! Nothing is risked before the new program has shown that it can do it ([`preflight`]): it runs, reads the
//! configuration, and speaks our version of the hand-over. If it fails all the same once it has taken over, the worker
//! is an orphan that serves on until the next start ([`crate::succession`]).

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::fds::{self, Descriptors, Fuse};
use crate::lock::{self, Lock};
use crate::{cli, status};

/// Version of what one release hands to the next: [`State`], the note of [`crate::fds`], the worker's signs. Raised when
/// an older release could not understand a newer one's words; fields that may be left out need no new version.
pub(crate) const PROTOCOL: u32 = 1;
/// The oldest version that this release still understands: an upgrade skips no release.
const OLDEST: u32 = 1;
/// The hidden argument that says: standard input has what the supervisor kept.
const TAKE_OVER: &str = "--take-over";
/// The new program reads one file and prints one line.
const PREFLIGHT_PATIENCE: Duration = Duration::from_secs(10);
/// A worker ends what it answers for some seconds; then the next one starts.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The program file that a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    path: PathBuf,
    identity: (u64, u64),
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Program {
    /// That of a process.
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn of(pid: u32) -> Result<Program> {
        let link = PathBuf::from(format!("/proc/{pid}/exe"));
        let target = std::fs::read_link(&link).with_context(|| format!("process {pid}"))?;
        Ok(Program {
            path: without_deleted(target),
            identity: identity(&std::fs::metadata(&link).with_context(|| format!("process {pid}"))?),
        })
    }

    /// Whether the file is another one by now.
    pub(crate) fn replaced(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| identity(&found) != self.identity)
    }
}

/// The kernel marks the path of a file that is no more.
fn without_deleted(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(before) => before.into(),
        None => path,
    }
}

/// What a program says of itself before it is trusted with the descriptors.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ability {
    release: String,
    oldest: u32,
    newest: u32,
    root: PathBuf,
    address: PathBuf,
}

impl Ability {
    /// This program's.
    pub(crate) fn ours(config: &Config) -> Ability {
        Ability {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            oldest: OLDEST,
            newest: PROTOCOL,
            root: config.root.clone(),
            address: config.address.clone(),
        }
    }

    /// What keeps the program from taking over from us.
    fn obstacle(&self, config: &Config) -> Option<String> {
        if !(self.oldest..=self.newest).contains(&PROTOCOL) {
            return Some(format!(
                "release {} understands hand-overs of version {} to {}, this one is of version {PROTOCOL}; upgrade to a \
                 release in between, or restart the service",
                self.release, self.oldest, self.newest
            ));
        }
        if self.root != config.root || self.address != config.address {
            return Some("root and address can only be changed by a restart".to_owned());
        }
        None
    }
}

/// Asks the new program, in a process of its own, whether it can take over.
///
/// # Errors
/// Why not.
fn preflight(program: &Path, config: &Config) -> Result<()> {
    let mut child = Command::new(program)
        .args(arguments())
        .arg("--preflight")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {}", program.display()))?;
    let end = Instant::now() + PREFLIGHT_PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            bail!(
                "{} did not answer within {PREFLIGHT_PATIENCE:?}",
                program.display()
            );
        }
        std::thread::sleep(PAUSE);
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{} ended with {} when asked", program.display(), output.status);
    }
    let ability: Ability = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{} gave an answer that is none", program.display()))?;
    match ability.obstacle(config) {
        Some(obstacle) => bail!(obstacle),
        None => Ok(()),
    }
}

/// This process's arguments, without those of an earlier take-over.
fn arguments() -> Vec<OsString> {
    std::env::args_os()
        .skip(1)
        .filter(|argument| argument != TAKE_OVER)
        .collect()
}

/// What a supervisor keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The sockets and connections.
    pub(crate) descriptors: Descriptors,
    /// The supervisor's lock.
    pub(crate) lock: Lock,
    /// The worker that serves, and the link to it.
    pub(crate) worker: Option<(u32, OwnedFd)>,
    /// Workers started so far.
    pub(crate) started: u64,
    /// Whether the service manager knows that we are ready.
    pub(crate) announced: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    protocol: u32,
    fuse: Option<String>,
    reason: Option<String>,
    worker: Option<u32>,
    started: u64,
    announced: bool,
    #[serde(default)]
    trees: Vec<(String, String)>,
}

/// Turns this process into the program of that path. Returns only if that fails; then everything is as before.
///
/// # Errors
/// Why the program cannot take over.
pub(crate) fn turn_into(program: &Program, config: &Config, kept: &Kept) -> Result<()> {
    preflight(&program.path, config)?;
    let (ours, theirs) = fds::pair().context("socketpair")?;
    kept.send(&ours)?;
    rustix::stdio::dup2_stdin(&theirs).context("standard input")?;
    let error = Command::new(&program.path)
        .args(arguments())
        .arg(TAKE_OVER)
        .exec();
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(null);
    }
    Err(error).with_context(|| format!("running {}", program.path.display()))
}

impl Kept {
    fn send(&self, socket: &OwnedFd) -> Result<()> {
        let (fuse, reason) = match &self.descriptors.fuse {
            Ok(fuse) => (Some(fuse.device.clone()), None),
            Err(reason) => (None, Some(reason.chars().take(1000).collect())),
        };
        let state = State {
            protocol: PROTOCOL,
            fuse,
            reason,
            worker: self.worker.as_ref().map(|(pid, _)| *pid),
            started: self.started,
            announced: self.announced,
            trees: fds::tree_notes(&self.descriptors.trees),
        };
        let mut passed = vec![self.descriptors.listener.as_fd(), self.lock.as_fd()];
        passed.extend(self.descriptors.fuse.as_ref().ok().map(|fuse| fuse.fd.as_fd()));
        passed.extend(self.worker.as_ref().map(|(_, link)| link.as_fd()));
        passed.extend(self.descriptors.trees.iter().map(|(_, fuse)| fuse.fd.as_fd()));
        fds::send_message(socket.as_fd(), &serde_json::to_vec(&state)?, &passed)?;
        Ok(())
    }

    fn receive(socket: &OwnedFd) -> Result<Kept> {
        let (state, passed) = fds::receive_message(socket.as_fd())?;
        let state: State = serde_json::from_slice(&state).context("what the last release handed over")?;
        if !(OLDEST..=PROTOCOL).contains(&state.protocol) {
            bail!("the last release's hand-over has version {}", state.protocol);
        }
        let mut passed = passed.into_iter();
        let mut next = || passed.next().context("a descriptor is missing in the hand-over");
        let listener = next()?;
        let lock = Lock::adopt(next()?);
        let fuse = match state.fuse {
            Some(device) => Ok(Fuse { fd: next()?, device }),
            None => Err(state.reason.unwrap_or_default()),
        };
        let worker = match state.worker {
            Some(pid) => Some((pid, next()?)),
            None => None,
        };
        let trees = fds::take_trees(state.trees, passed);
        Ok(Kept {
            descriptors: Descriptors {
                listener,
                fuse,
                trees,
            },
            lock,
            worker,
            started: state.started,
            announced: state.announced,
        })
    }
}

/// Takes what the last release kept, from standard input, which is empty from then on.
///
/// # Errors
/// It is not there, or cannot be understood.
pub(crate) fn take_over() -> Result<Kept> {
    let socket = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("standard input")?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?).context("standard input")?;
    Kept::receive(&socket)
}

/// `lacewing daemon --upgrade`: makes the daemon that runs turn into the program that now lies where its own did.
///
/// # Errors
/// No daemon runs, its program was not replaced, or it stays what it is; its log says why.
pub(crate) fn ask(config: &Config, address: &Path) -> Result<()> {
    let path = config.root.join("supervisor.lock");
    if Lock::try_take(&path)?.is_some() {
        bail!("no daemon runs on {}", config.root.display());
    }
    let pid: u32 = lock::holder(&path).parse().context("the daemon's pid")?;
    let running = Program::of(pid)?;
    if !running.replaced() {
        bail!(
            "the daemon runs {} already; put the new release there first, by rename",
            running.path.display()
        );
    }
    // The same program, asked before the daemon asks it, so that the reason is told here.
    preflight_here(&running.path)?;
    let raw = i32::try_from(pid).context("the daemon's pid")?;
    nix::sys::signal::kill(Pid::from_raw(raw), nix::sys::signal::Signal::SIGHUP)
        .context("telling the daemon")?;
    let end = Instant::now() + PATIENCE;
    while running_new(pid, &running, address).is_none() {
        if Instant::now() >= end {
            bail!("the daemon is not the new release after {PATIENCE:?}; its log says why");
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn preflight_here(program: &Path) -> Result<()> {
    let ran = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("running {}", program.display()))?;
    if !ran.success() {
        bail!("{} does not run: {ran}", program.display());
    }
    Ok(())
}

/// Whether supervisor and worker run another file than before.
fn running_new(pid: u32, before: &Program, address: &Path) -> Option<()> {
    let supervisor = Program::of(pid).ok()?;
    let worker = Program::of(status::worker_pid(address)?).ok()?;
    (supervisor.identity != before.identity && worker.identity == supervisor.identity).then_some(())
}

/// Ends with what `--preflight` prints.
///
/// # Errors
/// Standard output is gone.
pub(crate) fn tell(config: &Config) -> Result<()> {
    crate::output::print_json(&Ability::ours(config))
}

/// Signals that a supervisor blocks stay blocked in what it starts; a preflight wants none of that.
pub(crate) fn unblock() -> Result<()> {
    SigSet::empty().thread_set_mask().context("unblocking signals")
}

/// `lacewing daemon`'s other faces. True: done, nothing more is to be started.
///
/// # Errors
/// Those of what was asked for.
pub(crate) fn other_face(args: &cli::DaemonArgs, config: &Config) -> Result<bool> {
    match (args.preflight, args.upgrade) {
        (true, _) => tell(config).map(|()| true),
        (false, true) => ask(config, &config.address).map(|()| true),
        (false, false) => Ok(false),
    }
}

#[cfg(test)]
mod skew;
#[cfg(test)]
mod tests;
