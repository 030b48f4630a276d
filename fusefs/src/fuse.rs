//! The loop that answers the kernel's requests.
//!
//! Of fuse-backend-rs this takes the protocol's types. The loop is our own, since a READ that
//! misses must be answered later by another thread, a descriptor is shared by threads and
//! processes, and a dropped session must never unmount what containers stand on.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuse_backend_rs::abi::fuse_abi::{InHeader, InterruptIn, Opcode};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use tracing::{debug, warn};

use crate::buffer::AlignedBuffer;
use crate::call::{Call, Outcome, Shared};
use crate::connection::Connection;
use crate::error::{IoContext, Result};
use crate::fetch::Fetcher;
use crate::follow::{self, Place, Step};
use crate::packs;
use crate::tally::{Tally, add};
use crate::trees::fuse::TreeServer;
use crate::volumes::Volumes;
use crate::wire;

/// Bytes of a thread's request buffer. The kernel wants 8 KiB and what the longest write takes;
/// this file system takes none.
const REQUEST: usize = 16 << 10;

/// Pause after a failure that should not happen.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// What the threads of a connection share.
pub(crate) struct Server {
    /// What requests are answered from.
    pub(crate) shared: Arc<Shared>,
    /// What is shown in place of packs, on a connection for trees.
    pub(crate) trees: Option<TreeServer>,
    /// Becomes readable when the threads are to end.
    pub(crate) stop: OwnedFd,
    /// Set together with `stop`.
    pub(crate) stopped: AtomicBool,
}

impl Server {
    /// Makes the server of a connection.
    pub(crate) fn new(
        connection: Connection,
        volumes: Arc<Volumes>,
        fetcher: Arc<Fetcher>,
        tally: Arc<Tally>,
    ) -> Result<Server> {
        let shared = Shared {
            fd: Arc::new(connection.fd),
            volumes,
            fetcher,
            tally,
        };
        Ok(Server {
            shared: Arc::new(shared),
            trees: None,
            stop: eventfd(0, EventfdFlags::CLOEXEC).at("make", "an eventfd")?,
            stopped: AtomicBool::new(false),
        })
    }

    /// Answers requests until the connection ends or the server is stopped.
    pub(crate) fn run(self: &Arc<Self>) -> io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Exclusive: a request wakes one thread, not all.
        let wanted = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&epoll, &self.shared.fd, epoll::EventData::new_u64(0), wanted)?;
        epoll::add(
            &epoll,
            &self.stop,
            epoll::EventData::new_u64(1),
            epoll::EventFlags::IN,
        )?;
        let mut thread = Thread {
            server: self.clone(),
            request: vec![0; REQUEST],
            answer: Vec::new(),
            blocks: AlignedBuffer::default(),
            place: Place::default(),
        };
        let mut events = Vec::with_capacity(2);
        while !self.stopped.load(Ordering::Acquire) {
            match rustix::io::read(&self.shared.fd, &mut thread.request[..]) {
                Ok(len) => thread.handle(len),
                Err(Errno::AGAIN) => {
                    events.clear();
                    let limit = thread.place.kept().then_some(&follow::IDLE);
                    match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), limit) {
                        Ok(0) => thread.place.free(),
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                // ENOENT: the request was taken back before it was read.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(()),
                Err(error) => {
                    // Not a reason to leave readers without an answer, nor to spin.
                    warn!(%error, "a request could not be read");
                    std::thread::sleep(PAUSE);
                }
            }
        }
        Ok(())
    }
}

/// One thread's buffers.
struct Thread {
    server: Arc<Server>,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Header and bytes of a READ.
    blocks: AlignedBuffer,
    /// Where it runs.
    place: Place,
}

impl Thread {
    fn handle(&mut self, len: usize) {
        let Some((header, _)) = wire::take::<InHeader>(&self.request[..len]) else {
            return;
        };
        let shared = self.server.shared.clone();
        if header.unique & wire::RESENT != 0 {
            add(&shared.tally.resent, 1);
        }
        let step = self.step(&header);
        self.place.before(step);
        self.answer.clear();
        let sent = match self.outcome(&header, len) {
            Outcome::Body => wire::answer(&shared.fd, header.unique, 0, &self.answer),
            Outcome::Error(error) => wire::answer(&shared.fd, header.unique, error, &[]),
            Outcome::Silent => Ok(()),
        };
        if let Err(error) = sent {
            debug!(%error, opcode = header.opcode, "an answer was not taken");
        }
        self.place.after(step, &shared.volumes.follow, header.pid);
    }

    /// What a request means for where this thread runs.
    fn step(&self, header: &InHeader) -> Step {
        let alone = match Opcode::from(header.opcode) {
            // Nobody waits for these.
            Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt => return Step::Follow,
            Opcode::Read => false,
            _ => true,
        };
        self.server.shared.volumes.follow.note(header.pid, alone)
    }

    fn outcome(&mut self, header: &InHeader, len: usize) -> Outcome {
        let shared = &self.server.shared;
        let body = &self.request[size_of::<InHeader>()..len];
        match Opcode::from(header.opcode) {
            Opcode::Forget | Opcode::BatchForget => return Outcome::Silent,
            Opcode::Interrupt => {
                if let Some((interrupt, _)) = wire::take::<InterruptIn>(body) {
                    shared.fetcher.interrupt(interrupt.unique);
                }
                return Outcome::Silent;
            }
            _ => {}
        }
        let mut call = Call {
            shared,
            header,
            body,
            answer: &mut self.answer,
            blocks: &mut self.blocks,
        };
        let trees = self.server.trees.as_ref();
        trees
            .and_then(|trees| trees.outcome(&mut call))
            .unwrap_or_else(|| packs::outcome(&mut call))
    }
}
