//! The life of the FUSE connection: mount, INIT, hand-over.
//!
//! The connection outlives the process that serves it: whoever holds a copy of the descriptor keeps
//! the mount alive, and requests wait in the kernel until somebody serves again. Therefore INIT is
//! answered here, once, by whoever mounts; a server only ever sees an initialised connection.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use fuse_backend_rs::abi::fuse_abi::{FsOptions, InHeader, InitIn, InitIn2, InitOut, Opcode};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::error::{Error, IoContext, Result};
use crate::mounted::unmount_all;
use crate::wire;

/// Largest read that is answered: what INIT and the mount option allow.
pub(crate) const MAX_READ: u32 = 1 << 20;

/// Most pages of one request: [`MAX_READ`].
const MAX_PAGES: u16 = (MAX_READ / 4096) as u16;

/// Read-ahead of the kernel on packs that are read through its cache. More gained nothing in any
/// measurement and cost much for file-backed EROFS.
const MAX_READAHEAD: u32 = 128 << 10;

/// Requests the kernel may have under way at a time without a process waiting for each: what
/// EROFS sends for a node's containers reading at once. The kernel's own default of 12 throttles.
const MAX_BACKGROUND: u16 = 256;

/// Minor version of the protocol that is spoken at most; the kernel's if that is lower.
const MINOR: u32 = 40;

/// An initialised FUSE connection. Whoever holds its descriptor keeps the mount alive.
#[derive(Debug)]
pub struct Connection {
    /// The descriptor of /dev/fuse.
    pub fd: OwnedFd,
    /// What the kernel offered at INIT; 0 if another process answered that.
    pub(crate) offered: u64,
}

impl Connection {
    /// Takes a descriptor that [`mount_data`] gave to another process.
    pub fn from_fd(fd: OwnedFd) -> Connection {
        Connection { fd, offered: 0 }
    }

    /// A second handle on the same connection, to hold while another process or engine serves it.
    pub fn try_clone(&self) -> std::io::Result<Connection> {
        Ok(Connection {
            fd: self.fd.try_clone()?,
            offered: self.offered,
        })
    }
}

/// What distinguishes the connections of a node from each other.
pub(crate) struct Terms {
    /// Options of the mount, beside those that all have.
    pub(crate) options: &'static str,
    /// Flags of the mount, beside those that all have.
    pub(crate) flags: MountFlags,
    /// What is agreed with the kernel, if it offers it.
    pub(crate) wanted: u64,
}

/// Mounts a new FUSE connection on `dir` and answers its INIT. What is mounted there already, dead
/// or alive, is detached first.
pub fn mount_data(dir: &Path) -> Result<Connection> {
    let wanted = FsOptions::DO_READDIRPLUS | FsOptions::READDIRPLUS_AUTO;
    let terms = Terms {
        // Without allow_other: only root reads packs by name, and the kernel reads them for everybody.
        options: "",
        flags: MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        wanted: wanted.bits(),
    };
    mount(dir, &terms)
}

/// Mounts a new connection on these terms.
pub(crate) fn mount(dir: &Path, terms: &Terms) -> Result<Connection> {
    unmount_all(dir)?;
    std::fs::create_dir_all(dir).at("make", dir)?;
    let device = Path::new("/dev/fuse");
    let fd = rustix::fs::open(device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).at("open", device)?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,max_read={MAX_READ}{}",
        fd.as_raw_fd(),
        terms.options
    );
    let options = CString::new(options)
        .map_err(std::io::Error::from)
        .at("mount", dir)?;
    let flags = MountFlags::RDONLY | MountFlags::NOATIME | terms.flags;
    rustix::mount::mount("lacewing", dir, "fuse.lacewing", flags, options.as_c_str()).at("mount", dir)?;
    let offered = initialise(&fd, terms.wanted).inspect_err(|_| {
        let _ = unmount_all(dir);
    })?;
    Ok(Connection { fd, offered })
}

/// Reads INIT, which the kernel has sent by the time mount(2) returns, and answers it. Returns what the kernel offered.
fn initialise(fd: &OwnedFd, wanted: u64) -> Result<u64> {
    let broken = |reason: &str| Error::Mount {
        what: "initialise",
        path: "/dev/fuse".into(),
        reason: reason.into(),
    };
    let mut request = vec![0; 16 << 10];
    let len = rustix::io::read(fd, &mut request[..]).at("read", "/dev/fuse")?;
    let (header, rest) =
        wire::take::<InHeader>(&request[..len]).ok_or_else(|| broken("a short request came"))?;
    let (init, rest) = wire::take::<InitIn>(rest).ok_or_else(|| broken("a short INIT came"))?;
    if !matches!(Opcode::from(header.opcode), Opcode::Init) || init.major != 7 {
        return Err(broken("the kernel speaks another protocol"));
    }
    let more = wire::take::<InitIn2>(rest).map_or(0, |(more, _)| more.flags2);
    let mut answer = Vec::new();
    let offered = u64::from(init.flags) | u64::from(more) << 32;
    wire::put(&mut answer, init_out(&init, offered, wanted));
    wire::answer(fd, header.unique, 0, &answer).at("answer INIT on", "/dev/fuse")?;
    Ok(offered)
}

/// What is agreed with the kernel. The same for every release that may take the connection over.
fn init_out(init: &InitIn, offered: u64, wanted: u64) -> InitOut {
    let all = FsOptions::ASYNC_READ
        | FsOptions::ASYNC_DIO
        | FsOptions::PARALLEL_DIROPS
        | FsOptions::MAX_PAGES
        | FsOptions::EXPLICIT_INVAL_DATA
        | FsOptions::INIT_EXT
        | FsOptions::HAS_RESEND;
    let flags = (all.bits() | wanted) & offered;
    InitOut {
        major: 7,
        minor: init.minor.min(MINOR),
        max_readahead: init.max_readahead.min(MAX_READAHEAD),
        flags: flags as u32,
        max_background: MAX_BACKGROUND,
        congestion_threshold: MAX_BACKGROUND / 4 * 3,
        max_write: 4096,
        time_gran: 1,
        max_pages: MAX_PAGES,
        flags2: (flags >> 32) as u32,
        ..Default::default()
    }
}
