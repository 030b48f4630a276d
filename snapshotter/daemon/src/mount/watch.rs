//! The end of a mount: a signal, or somebody unmounted it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::mountinfo;

/// The kernel tells when the mount table changes; this is in case it does not.
const LOOK_EVERY_MS: u16 = 2000;

/// What may end a mount.
pub(crate) struct End {
    interrupt: Signal,
    terminate: Signal,
    unmounted: oneshot::Receiver<()>,
}

impl End {
    /// Begins to watch `dir`, which must be mounted.
    ///
    /// # Errors
    /// The system refuses signal handlers, threads or /proc.
    pub(crate) fn watch(runtime: &Runtime, dir: &Path) -> Result<End> {
        let _inside = runtime.enter();
        let (gone, unmounted) = oneshot::channel();
        let table = File::open("/proc/self/mountinfo").context("opening the mount table")?;
        // By its number: something else may be mounted over it, or under it.
        let id = mountinfo::mount_at(dir)?
            .with_context(|| format!("nothing is on {}", dir.display()))?
            .id;
        let look = move || {
            while mountinfo::mounts().is_ok_and(|mounts| mounts.iter().any(|mount| mount.id == id)) {
                let mut polled = [PollFd::new(table.as_fd(), PollFlags::POLLPRI)];
                let _ = nix::poll::poll(&mut polled, PollTimeout::from(LOOK_EVERY_MS));
            }
            let _ = gone.send(());
        };
        std::thread::Builder::new()
            .name("mounts".to_owned())
            .stack_size(256 << 10)
            .spawn(look)?;
        let interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
        Ok(End {
            interrupt,
            terminate,
            unmounted,
        })
    }

    /// Waits for the end.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = &mut self.unmounted => {}
        }
    }

    /// Waits for a (further) signal.
    pub(crate) async fn signal(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Unmounts the directory if it is still mounted.
    ///
    /// # Errors
    /// `Errno::BUSY` while somebody uses it.
    pub(crate) fn unmount(&self, dir: &Path) -> Result<(), Errno> {
        match rustix::mount::unmount(dir, UnmountFlags::empty()) {
            // Somebody was faster.
            Err(Errno::INVAL | Errno::NOENT) => Ok(()),
            result => result,
        }
    }
}
