//! The supervisor: keeps what must outlive a worker, and keeps a worker running.
//!
//! It holds the FUSE connection and the listening socket, and does nothing else: no runtime, no threads, no parsing of
//! anything from outside, so that nothing in an image or a request can bring it down.
//!
//! What ends when:
//! - The worker dies in whatever way: the next one takes the same descriptors and asks the kernel to send again what
//!   was in flight. Readers wait a moment.
//! - The supervisor dies (kill -9): the worker serves on as an orphan. The next supervisor asks it for the descriptors
//!   ([`crate::succession`]); it hands them over and exits. Two lock files keep the two apart.
//! - SIGHUP with another release in the program's place: this process turns into it ([`crate::upgrade`]).
//! - SIGTERM: the worker ends what it answers, then both exit. Layer mounts stay. Under systemd the descriptors lie in
//!   the unit's descriptor store meanwhile (`FileDescriptorStoreMax=`), so readers only wait until the next start;
//!   without it, readers of bytes that are not on plain files get errors, and the next start shows the layers anew.
//! - Everything is killed at once: the FUSE mount is dead and is replaced at the next start.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use crate::config::{Config, Overrides};
use crate::fds::{self, Sign};
use crate::lock::{self, Lock};
use crate::oversight::{Action, Oversight, Patience};
use crate::upgrade::{self, Kept, Program};
use crate::{acquire, cli, guard, limits};

/// The worker ends what it answers within this time, then it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Anything that keeps the first worker from being started; nothing later.
pub(crate) fn run(args: &cli::DaemonArgs, log_level: Option<&str>) -> Result<()> {
    if args.preflight {
        upgrade::unblock()?;
    }
    let config = load(args)?;
    if upgrade::other_face(args, &config)? {
        return Ok(());
    }
    limits::ask_to_be_spared();
    guard::no_core_files()?;
    let signals = block_signals()?;
    acquire::directories(&config)?;
    let kept = match args.take_over {
        true => upgrade::take_over()?,
        false => begin(&config)?,
    };
    info!(root = %config.root.display(), address = %config.address.display(), "supervisor started");
    let mut supervisor = Supervisor::new(args, log_level, config, signals, kept)?;
    supervisor.watch()
}

/// Gets the lock and the descriptors.
fn begin(config: &Config) -> Result<Kept> {
    let path = config.root.join("supervisor.lock");
    let Some(lock) = Lock::try_take(&path)? else {
        bail!(
            "another daemon (pid {}) runs on {}",
            lock::holder(&path),
            config.root.display()
        );
    };
    let descriptors = acquire::descriptors(config)?;
    acquire::deposit(&descriptors);
    Ok(Kept {
        descriptors,
        lock,
        worker: None,
        started: 0,
        announced: false,
    })
}

fn load(args: &cli::DaemonArgs) -> Result<Config> {
    let overrides = Overrides {
        root: args.root.clone(),
        address: args.address.clone(),
    };
    Ok(Config::load(args.config.as_deref(), overrides)?)
}

/// Signals arrive through a descriptor, in the same wait as everything else. Workers inherit the mask and reset it.
fn block_signals() -> Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block().context("blocking signals")?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")
}

struct Supervisor {
    args: cli::DaemonArgs,
    log_level: Option<String>,
    config: Config,
    signals: SignalFd,
    kept: Kept,
    program: Program,
    oversight: Oversight,
}

impl Supervisor {
    fn new(
        args: &cli::DaemonArgs,
        log_level: Option<&str>,
        config: Config,
        signals: SignalFd,
        kept: Kept,
    ) -> Result<Supervisor> {
        let patience = Patience {
            watchdog: config.watchdog,
            silence: config.silence,
        };
        let now = Instant::now();
        let mut supervisor = Supervisor {
            args: args.clone(),
            log_level: log_level.map(str::to_owned),
            config,
            signals,
            kept,
            program: Program::of(std::process::id())?,
            oversight: Oversight::new(patience, now),
        };
        if let Some((pid, _)) = supervisor.kept.worker {
            info!(
                pid,
                "release {} has taken over; replacing the worker",
                env!("CARGO_PKG_VERSION")
            );
            supervisor.oversight.started(now);
            supervisor.oversight.ready(now);
            supervisor.signal(Signal::SIGTERM);
        }
        Ok(supervisor)
    }

    fn watch(&mut self) -> Result<()> {
        loop {
            while let Some(action) = self.oversight.due(Instant::now()) {
                self.act(action);
            }
            self.wait();
            if let Some((_, link)) = &self.kept.worker {
                self.listen_to(link.try_clone().context("duplicating the worker's link")?);
            }
            while let Ok(Some(signal)) = self.signals.read_signal() {
                match Signal::try_from(signal.ssi_signo as i32) {
                    Ok(Signal::SIGTERM | Signal::SIGINT) => return self.stop(),
                    Ok(Signal::SIGHUP) => self.reload(),
                    _ => {}
                }
            }
            self.reap();
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start => match self.start() {
                Ok(worker) => {
                    self.kept.started += 1;
                    self.kept.worker = Some(worker);
                    self.oversight.started(Instant::now());
                }
                Err(error) => {
                    let pause = self.oversight.died(Instant::now());
                    error!("cannot start a worker, next try in {pause:?}: {error:#}");
                }
            },
            Action::Kill => {
                error!(
                    "the worker has given no sign of life for {:?} and is killed",
                    self.config.silence
                );
                self.signal(Signal::SIGKILL);
            }
            Action::Abort => self.abort(),
        }
    }

    fn start(&self) -> Result<(u32, OwnedFd)> {
        let (ours, theirs) = fds::pair().context("socketpair")?;
        let config = serde_json::to_string(&self.config)?;
        // /proc/self/exe is this very release, also after the file was replaced by another one.
        let mut command = Command::new("/proc/self/exe");
        if let Some(filter) = &self.log_level {
            command.env("LACEWING_LOG", filter);
        }
        let child = command
            .arg0("lacewing")
            // Ctrl-C in a terminal is for the supervisor, which then ends the worker in order.
            .process_group(0)
            .args(["worker", "--config", &config, "--restarts", &self.kept.started.to_string()])
            .stdin(Stdio::from(theirs))
            .spawn()
            .context("starting the worker")?;
        // Known by its number alone from here on: a later release inherits it as that.
        fds::send(ours.as_fd(), &self.kept.descriptors)?;
        Ok((child.id(), ours))
    }

    /// Sleeps until a signal, a word of the worker or the next due action.
    fn wait(&self) {
        let sleep = self.oversight.sleep(Instant::now()) + Duration::from_millis(1);
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some((_, link)) = &self.kept.worker {
            polled.push(PollFd::new(link.as_fd(), PollFlags::POLLIN));
        }
        let timeout = PollTimeout::try_from(sleep).unwrap_or(PollTimeout::MAX);
        // An interrupted poll is as good as one that found something: the loop looks at everything anyway.
        let _ = nix::poll::poll(&mut polled, timeout);
    }

    fn listen_to(&mut self, link: std::os::fd::OwnedFd) {
        while let Ok(Some(sign)) = fds::heard(link.as_fd()) {
            match sign {
                Sign::Alive => self.oversight.heard(Instant::now()),
                Sign::Ready => {
                    self.oversight.ready(Instant::now());
                    self.announce();
                }
            }
        }
    }

    fn announce(&mut self) {
        let pid = self.kept.worker.as_ref().map_or(0, |(pid, _)| *pid);
        if std::mem::replace(&mut self.kept.announced, true) {
            warn!(pid, "a new worker has taken over");
            return;
        }
        info!(pid, "ready");
        if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
            warn!("telling the service manager: {error}");
        }
    }

    fn reap(&mut self) {
        let Some((pid, _)) = self.kept.worker else { return };
        let Some(status) = ended(pid) else { return };
        self.kept.worker = None;
        let pause = self.oversight.died(Instant::now());
        warn!(
            pid,
            "the worker ended ({status}); the next one starts in {pause:?}"
        );
    }

    fn signal(&self, signal: Signal) {
        let Some((pid, _)) = self.kept.worker else { return };
        let Ok(pid) = i32::try_from(pid) else { return };
        // It may have died meanwhile; it is not reaped yet, so the pid is still its own.
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }

    /// No worker came to serve: whoever waits for bytes gets an error, and new layers a new connection.
    fn abort(&mut self) {
        if self.kept.descriptors.fuse.is_err() && self.kept.descriptors.trees.is_empty() {
            return;
        }
        error!(
            "no worker has served for {:?}: aborting the FUSE connection; running containers get errors for bytes \
             that are not here, until they are started anew",
            self.config.watchdog
        );
        acquire::abort(&self.config, &self.kept.descriptors);
        self.signal(Signal::SIGKILL);
        self.kept.descriptors.fuse = acquire::new_connection(&self.config);
        self.kept.descriptors.trees = acquire::complete_trees(&self.config, Vec::new());
        acquire::deposit(&self.kept.descriptors);
    }

    /// A configuration that is wrong changes nothing; nor does a new release that cannot take over.
    fn reload(&mut self) {
        if self.program.replaced() {
            info!("the program was replaced, handing over to the new release");
            if let Err(error) = upgrade::turn_into(&self.program, &self.config, &self.kept) {
                error!("going on as release {}: {error:#}", env!("CARGO_PKG_VERSION"));
            }
        }
        match load(&self.args) {
            Ok(config) if config.root != self.config.root || config.address != self.config.address => {
                error!(
                    "root and address can only be changed by a restart; the configuration stays as it was"
                );
            }
            Ok(config) => {
                info!("configuration read anew, replacing the worker");
                self.config = config;
                let trees = std::mem::take(&mut self.kept.descriptors.trees);
                self.kept.descriptors.trees = acquire::complete_trees(&self.config, trees);
                acquire::deposit(&self.kept.descriptors);
                self.signal(Signal::SIGTERM);
            }
            Err(error) => error!("the configuration stays as it was: {error:#}"),
        }
    }

    fn stop(&mut self) -> Result<()> {
        info!("stopping");
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        self.signal(Signal::SIGTERM);
        let end = Instant::now() + STOP_PATIENCE;
        while let Some((pid, _)) = self.kept.worker {
            if ended(pid).is_some() {
                break;
            }
            if Instant::now() >= end {
                warn!("the worker did not stop within {STOP_PATIENCE:?} and is killed");
                self.signal(Signal::SIGKILL);
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        acquire::leave(&self.config, &self.kept.descriptors);
        Ok(())
    }
}

/// How a child ended; None: it has not.
fn ended(pid: u32) -> Option<String> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => None,
        Ok(WaitStatus::Exited(_, status)) => Some(format!("exit status {status}")),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(format!("{signal}")),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}
