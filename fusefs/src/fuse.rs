//! Answers the kernel's requests for packs.
//!
//! Of fuse-backend-rs this takes the protocol's types. The loop is our own, since a READ that
//! misses must be answered later by another thread, a descriptor is shared by threads and
//! processes, and a dropped session must never unmount what containers stand on.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuse_backend_rs::abi::fuse_abi::{
    Attr, AttrOut, Dirent, Direntplus, EntryOut, InHeader, InterruptIn, Kstatfs, Opcode, OpenIn, OpenOptions,
    OpenOut, ReadIn, StatfsOut,
};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use tracing::{debug, warn};
use vm_memory::ByteValued;

use crate::buffer::AlignedBuffer;
use crate::connection::{Connection, MAX_READ};
use crate::error::{IoContext, ReadError, Result};
use crate::fetch::{Answer, Fetcher, Origin};
use crate::follow::{self, Place, Step};
use crate::packfs::{self, Attributes, Packs, Refusal};
use crate::store::pack::{Pack, PackNumber};
use crate::tally::{Tally, add};
use crate::trees::fuse::{Call, TreeServer};
use crate::volumes::Volumes;
use crate::wire;

/// Bytes of a thread's request buffer. The kernel wants 8 KiB and what the longest write takes;
/// this file system takes none.
const REQUEST: usize = 16 << 10;

/// Pause after a failure that should not happen.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Seconds the kernel may keep names and attributes: packs never change, and their numbers are
/// never used again.
const KEEP: u64 = 86_400;

impl Packs for Volumes {
    fn len_of(&self, pack: PackNumber) -> Option<u64> {
        self.get(pack).map(|volume| volume.pack.len())
    }

    fn numbers(&self) -> Vec<PackNumber> {
        self.all().iter().map(|volume| volume.pack.number()).collect()
    }
}

/// What the threads of a connection share.
pub(crate) struct Server {
    /// The connection.
    pub(crate) fd: Arc<OwnedFd>,
    /// The packs.
    pub(crate) volumes: Arc<Volumes>,
    /// Gets what is missing.
    pub(crate) fetcher: Arc<Fetcher>,
    /// Counters.
    pub(crate) tally: Arc<Tally>,
    /// What is shown in place of packs, on a connection for trees.
    pub(crate) trees: Option<TreeServer>,
    /// Becomes readable when the threads are to end.
    pub(crate) stop: OwnedFd,
    /// Set together with `stop`.
    pub(crate) stopped: AtomicBool,
}

/// A READ that is answered later.
pub(crate) struct LateAnswer {
    pub(crate) server: Arc<Server>,
    pub(crate) unique: u64,
}

impl Answer for LateAnswer {
    fn data(self: Box<Self>, bytes: &[u8]) {
        add(&self.server.tally.read_bytes, bytes.len() as u64);
        if let Err(error) = wire::answer(&self.server.fd, self.unique, 0, bytes) {
            debug!(%error, "an answer was not taken");
        }
    }

    fn fail(self: Box<Self>, error: ReadError) {
        add(&self.server.tally.read_errors, 1);
        if let Err(error) = wire::answer(&self.server.fd, self.unique, error.errno(), &[]) {
            debug!(%error, "an answer was not taken");
        }
    }
}

/// Error number of a refusal.
pub(crate) fn errno(refusal: Refusal) -> i32 {
    match refusal {
        Refusal::NotFound => libc::ENOENT,
        Refusal::NotADirectory => libc::ENOTDIR,
        Refusal::IsADirectory => libc::EISDIR,
        Refusal::ReadOnly => libc::EROFS,
        Refusal::Unsupported => libc::ENOSYS,
        Refusal::Gone => libc::ESTALE,
        Refusal::NoXattr => libc::ENODATA,
        Refusal::TooSmall => libc::ERANGE,
        Refusal::Invalid => libc::EINVAL,
        Refusal::Damaged => libc::EIO,
    }
}

impl Server {
    /// Makes the server of a connection.
    pub(crate) fn new(
        connection: Connection,
        volumes: Arc<Volumes>,
        fetcher: Arc<Fetcher>,
        tally: Arc<Tally>,
    ) -> Result<Server> {
        Ok(Server {
            fd: Arc::new(connection.fd),
            volumes,
            fetcher,
            tally,
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
        epoll::add(&epoll, &self.fd, epoll::EventData::new_u64(0), wanted)?;
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
            match rustix::io::read(&self.fd, &mut thread.request[..]) {
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

/// How a request ends.
pub(crate) enum Outcome {
    /// With the bytes in the thread's answer buffer.
    Body,
    /// With an error.
    Error(i32),
    /// Later, or never.
    Silent,
}

impl Thread {
    fn handle(&mut self, len: usize) {
        let Some((header, _)) = wire::take::<InHeader>(&self.request[..len]) else {
            return;
        };
        if header.unique & wire::RESENT != 0 {
            add(&self.server.tally.resent, 1);
        }
        let step = self.step(&header);
        self.place.before(step);
        self.answer.clear();
        let sent = match self.outcome(&header, len) {
            Outcome::Body => wire::answer(&self.server.fd, header.unique, 0, &self.answer),
            Outcome::Error(error) => wire::answer(&self.server.fd, header.unique, error, &[]),
            Outcome::Silent => Ok(()),
        };
        if let Err(error) = sent {
            debug!(%error, opcode = header.opcode, "an answer was not taken");
        }
        self.place.after(step, &self.server.volumes.follow, header.pid);
    }

    /// What a request means for where this thread runs.
    fn step(&self, header: &InHeader) -> Step {
        let alone = match Opcode::from(header.opcode) {
            // Nobody waits for these.
            Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt => return Step::Follow,
            Opcode::Read => false,
            _ => true,
        };
        self.server.volumes.follow.note(header.pid, alone)
    }

    fn outcome(&mut self, header: &InHeader, len: usize) -> Outcome {
        let body = size_of::<InHeader>()..len;
        if let Some(trees) = &self.server.trees {
            let mut call = Call {
                server: &self.server,
                header,
                body: &self.request[body.clone()],
                answer: &mut self.answer,
                blocks: &mut self.blocks,
            };
            if let Some(outcome) = trees.outcome(&mut call) {
                return outcome;
            }
        }
        match Opcode::from(header.opcode) {
            Opcode::Read => match wire::take::<ReadIn>(&self.request[body]) {
                Some((read, _)) => self.read(header, &read),
                None => Outcome::Error(libc::EINVAL),
            },
            Opcode::Forget | Opcode::BatchForget => Outcome::Silent,
            Opcode::Interrupt => {
                if let Some((interrupt, _)) = wire::take::<InterruptIn>(&self.request[body]) {
                    self.server.fetcher.interrupt(interrupt.unique);
                }
                Outcome::Silent
            }
            opcode => match self.directory_request(opcode, header, body) {
                Ok(()) => Outcome::Body,
                Err(refusal) => Outcome::Error(errno(refusal)),
            },
        }
    }

    /// Requests that are answered from the catalogue alone.
    fn directory_request(
        &mut self,
        opcode: Opcode,
        header: &InHeader,
        body: std::ops::Range<usize>,
    ) -> Result<(), Refusal> {
        let packs = &*self.server.volumes;
        let (node, request) = (header.nodeid, &self.request[body]);
        let answer = &mut self.answer;
        match opcode {
            Opcode::Lookup => {
                let name = request.strip_suffix(&[0]).unwrap_or(request);
                wire::put(answer, entry_out(&packfs::lookup(packs, node, name)?));
            }
            Opcode::Getattr => {
                let attr = attr(&packfs::attributes(packs, node)?);
                wire::put(
                    answer,
                    AttrOut {
                        attr_valid: KEEP,
                        attr,
                        ..Default::default()
                    },
                );
            }
            Opcode::Open => {
                let (open, _) = wire::take::<OpenIn>(request).ok_or(Refusal::Unsupported)?;
                let writing = open.flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
                packfs::open(packs, node, writing)?;
                let open_flags = OpenOptions::KEEP_CACHE.bits();
                wire::put(
                    answer,
                    OpenOut {
                        open_flags,
                        ..Default::default()
                    },
                );
            }
            Opcode::Opendir => {
                packfs::open_directory(packs, node)?;
                wire::put(answer, OpenOut::default());
            }
            Opcode::Readdir | Opcode::Readdirplus => {
                let (read, _) = wire::take::<ReadIn>(request).ok_or(Refusal::Unsupported)?;
                let plus = matches!(opcode, Opcode::Readdirplus);
                list(packs, &read, plus, answer);
            }
            Opcode::Statfs => {
                // Name length 255: with 0 an overlay above would refuse every name.
                let st = Kstatfs {
                    bsize: 4096,
                    frsize: 4096,
                    namelen: 255,
                    ..Default::default()
                };
                wire::put(answer, StatfsOut { st });
            }
            Opcode::Release | Opcode::Releasedir | Opcode::Destroy => {}
            Opcode::Setattr
            | Opcode::Symlink
            | Opcode::Mknod
            | Opcode::Mkdir
            | Opcode::Unlink
            | Opcode::Rmdir
            | Opcode::Rename
            | Opcode::Rename2
            | Opcode::Link
            | Opcode::Write
            | Opcode::Setxattr
            | Opcode::Removexattr
            | Opcode::Create
            | Opcode::Fallocate
            | Opcode::CopyFileRange => return Err(Refusal::ReadOnly),
            // Xattrs, ACCESS, FLUSH, locks and all that is newer: not asked again after ENOSYS,
            // which therefore must be the answer of every release.
            _ => return Err(Refusal::Unsupported),
        }
        Ok(())
    }

    fn read(&mut self, header: &InHeader, read: &ReadIn) -> Outcome {
        let server = self.server.clone();
        let tally = &server.tally;
        add(&tally.reads, 1);
        let Some(volume) = packfs::pack_of(header.nodeid).and_then(|pack| server.volumes.get(pack)) else {
            add(&tally.read_errors, 1);
            return Outcome::Error(libc::EIO);
        };
        let range = packfs::clamp(volume.pack.len(), read.offset, read.size.min(MAX_READ));
        let len = (range.end - range.start) as usize;
        server.volumes.recorder.note(volume.pack.number(), range.clone());
        let ahead = server.fetcher.on_read(&volume, &range);
        let outcome = match self.hit(header, &volume.pack, &range) {
            Ok(true) => {
                add(&tally.read_bytes, len as u64);
                volume.pack.note_served(range.start, len);
                Outcome::Silent
            }
            Ok(false) => {
                add(&tally.misses, 1);
                let answer = LateAnswer {
                    server: server.clone(),
                    unique: header.unique,
                };
                let origin = Origin {
                    unique: header.unique,
                    pid: header.pid,
                };
                server.fetcher.read(&volume, range, origin, Box::new(answer));
                Outcome::Silent
            }
            Err(error) => {
                add(&tally.read_errors, 1);
                Outcome::Error(error.raw_os_error().unwrap_or(libc::EIO))
            }
        };
        if let Some(ahead) = ahead {
            server.fetcher.ahead(&volume, ahead);
        }
        outcome
    }

    /// Answers a READ whose bytes are all here; `false` if they are not.
    fn hit(&mut self, header: &InHeader, pack: &Pack, range: &Range<u64>) -> io::Result<bool> {
        let settle = |sent: io::Result<()>| {
            if let Err(error) = sent {
                debug!(%error, "an answer was not taken");
            }
        };
        let fd = &self.server.fd;
        let windowed = self.server.volumes.windows.answer(pack, range, |bytes| {
            settle(wire::answer(fd, header.unique, 0, bytes));
        })?;
        if windowed {
            return Ok(true);
        }
        let message = self.blocks.message((range.end - range.start) as usize);
        let here = pack.read(range.start, &mut message[wire::OUT_HEADER..])?;
        if here {
            settle(wire::answer_in_place(fd, header.unique, message));
        }
        Ok(here)
    }
}

fn attr(attributes: &Attributes) -> Attr {
    let mode = if attributes.directory {
        libc::S_IFDIR | 0o500
    } else {
        libc::S_IFREG | 0o400
    };
    Attr {
        ino: attributes.node,
        size: attributes.len,
        blocks: attributes.len.div_ceil(512),
        mode,
        nlink: if attributes.directory { 2 } else { 1 },
        blksize: 4096,
        ..Default::default()
    }
}

fn entry_out(attributes: &Attributes) -> EntryOut {
    EntryOut {
        nodeid: attributes.node,
        entry_valid: KEEP,
        attr_valid: KEEP,
        attr: attr(attributes),
        ..Default::default()
    }
}

/// Writes directory entries as far as they fit.
fn list(packs: &Volumes, read: &ReadIn, plus: bool, answer: &mut Vec<u8>) {
    let room = read.size.min(MAX_READ) as usize;
    for entry in packfs::entries(packs, read.offset) {
        let dirent = Dirent {
            ino: entry.attributes.node,
            off: entry.next,
            namelen: entry.name.len() as u32,
            type_: if entry.attributes.directory {
                libc::DT_DIR
            } else {
                libc::DT_REG
            }
            .into(),
        };
        let start = answer.len();
        if plus {
            // "." and ".." are not looked up: a node of 0 says so.
            let named = !entry.name.starts_with('.');
            let entry_out = if named {
                entry_out(&entry.attributes)
            } else {
                EntryOut::default()
            };
            answer.extend_from_slice(Direntplus { entry_out, dirent }.as_slice());
        } else {
            answer.extend_from_slice(dirent.as_slice());
        }
        answer.extend_from_slice(entry.name.as_bytes());
        answer.resize(answer.len().next_multiple_of(8), 0);
        if answer.len() > room {
            answer.truncate(start);
            return;
        }
    }
}
