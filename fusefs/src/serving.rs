//! A connection in service: the threads that answer it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use tracing::warn;

use crate::error::{IoContext, Result};
use crate::fuse::Server;

/// A connection in service.
pub struct Serving {
    server: Arc<Server>,
    threads: Vec<JoinHandle<()>>,
}

impl Serving {
    /// Starts the threads.
    pub(crate) fn start(server: Arc<Server>, threads: usize) -> Result<Serving> {
        rustix::io::ioctl_fionbio(&*server.shared.fd, true).at("set non-blocking", "/dev/fuse")?;
        let mut serving = Serving {
            server,
            threads: Vec::new(),
        };
        for number in 0..threads.max(1) {
            let server = serving.server.clone();
            let thread = std::thread::Builder::new()
                .name(format!("fuse-{number}"))
                .stack_size(256 << 10)
                .spawn(move || {
                    if let Err(error) = server.run() {
                        warn!(%error, "a thread that answers the kernel ended");
                    }
                })
                .at("start", "a thread that answers the kernel")?;
            serving.threads.push(thread);
        }
        Ok(serving)
    }

    /// Stops answering and waits for the threads; the connection stays alive as long as somebody
    /// holds its descriptor. Requests that wait for bytes may stay unanswered: the next process
    /// gets them again.
    pub fn stop(mut self) {
        self.end();
    }

    /// Waits until the connection ends (unmounted or aborted).
    pub fn wait(mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    /// Whether the connection has ended.
    pub fn ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    fn end(&mut self) {
        self.server.stopped.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.server.stop, &1_u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end();
        }
    }
}
