//! Answers the kernel's requests for packs: what [`packfs`] says, as messages.

use std::io;
use std::ops::Range;

use fuse_backend_rs::abi::fuse_abi::{
    Attr, AttrOut, Dirent, Direntplus, EntryOut, Kstatfs, Opcode, OpenIn, OpenOptions, OpenOut, ReadIn,
    StatfsOut,
};
use vm_memory::ByteValued;

use crate::call::{Call, LateAnswer, Outcome, settle};
use crate::connection::MAX_READ;
use crate::fetch::Origin;
use crate::packfs::{self, Attributes, Packs, Refusal};
use crate::store::pack::{Pack, PackNumber};
use crate::tally::add;
use crate::volumes::Volumes;
use crate::wire;

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

/// Answers a request for packs.
pub(crate) fn outcome(call: &mut Call<'_>) -> Outcome {
    match Opcode::from(call.header.opcode) {
        Opcode::Read => match wire::take::<ReadIn>(call.body) {
            Some((wanted, _)) => read(call, &wanted),
            None => Outcome::from(Refusal::Invalid),
        },
        opcode => directory_request(call, opcode).into(),
    }
}

/// Requests that are answered from the catalogue alone.
fn directory_request(call: &mut Call<'_>, opcode: Opcode) -> Result<(), Refusal> {
    let packs = &*call.shared.volumes;
    let (node, request) = (call.header.nodeid, call.body);
    let answer = &mut *call.answer;
    match opcode {
        Opcode::Lookup => {
            let name = request.strip_suffix(&[0]).unwrap_or(request);
            wire::put(answer, entry_out(&packfs::lookup(packs, node, name)?));
        }
        Opcode::Getattr => {
            let out = AttrOut {
                attr_valid: KEEP,
                attr: attr(&packfs::attributes(packs, node)?),
                ..Default::default()
            };
            wire::put(answer, out);
        }
        Opcode::Open => wire::put(answer, open(packs, node, request)?),
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
        opcode => return Err(refusal(opcode)),
    }
    Ok(())
}

/// Why a request that no directory answers is refused.
fn refusal(opcode: Opcode) -> Refusal {
    match opcode {
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
        | Opcode::CopyFileRange => Refusal::ReadOnly,
        // Xattrs, ACCESS, FLUSH, locks and all that is newer: not asked again after ENOSYS,
        // which therefore must be the answer of every release.
        _ => Refusal::Unsupported,
    }
}

fn open(packs: &Volumes, node: u64, request: &[u8]) -> Result<OpenOut, Refusal> {
    let (open, _) = wire::take::<OpenIn>(request).ok_or(Refusal::Unsupported)?;
    let writing = open.flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
    packfs::open(packs, node, writing)?;
    Ok(OpenOut {
        open_flags: OpenOptions::KEEP_CACHE.bits(),
        ..Default::default()
    })
}

fn read(call: &mut Call<'_>, read: &ReadIn) -> Outcome {
    let (shared, header) = (call.shared, call.header);
    let tally = &shared.tally;
    add(&tally.reads, 1);
    let Some(volume) = packfs::pack_of(header.nodeid).and_then(|pack| shared.volumes.get(pack)) else {
        add(&tally.read_errors, 1);
        return Outcome::Error(libc::EIO);
    };
    let range = packfs::clamp(volume.pack.len(), read.offset, read.size.min(MAX_READ));
    let len = (range.end - range.start) as usize;
    shared.volumes.recorder.note(volume.pack.number(), range.clone());
    let ahead = shared.fetcher.on_read(&volume, &range);
    let outcome = match hit(call, &volume.pack, &range) {
        Ok(true) => {
            add(&tally.read_bytes, len as u64);
            volume.pack.note_served(range.start, len);
            Outcome::Silent
        }
        Ok(false) => {
            add(&tally.misses, 1);
            let answer = LateAnswer {
                shared: shared.clone(),
                unique: header.unique,
            };
            let origin = Origin {
                unique: header.unique,
                pid: header.pid,
            };
            shared.fetcher.read(&volume, range, origin, Box::new(answer));
            Outcome::Silent
        }
        Err(error) => {
            add(&tally.read_errors, 1);
            Outcome::Error(error.raw_os_error().unwrap_or(libc::EIO))
        }
    };
    if let Some(ahead) = ahead {
        shared.fetcher.ahead(&volume, ahead);
    }
    outcome
}

/// Answers a READ whose bytes are all here; `false` if they are not.
fn hit(call: &mut Call<'_>, pack: &Pack, range: &Range<u64>) -> io::Result<bool> {
    let (fd, unique) = (&call.shared.fd, call.header.unique);
    let windowed = call.shared.volumes.windows.answer(pack, range, |bytes| {
        settle(wire::answer(fd, unique, 0, bytes));
    })?;
    if windowed {
        return Ok(true);
    }
    let message = call.blocks.message((range.end - range.start) as usize);
    let here = pack.read(range.start, &mut message[wire::OUT_HEADER..])?;
    if here {
        settle(wire::answer_in_place(fd, unique, message));
    }
    Ok(here)
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
