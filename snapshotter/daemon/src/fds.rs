//! Descriptors that outlive a process: the listening socket and the FUSE connection, passed from process to process.
//!
//! They travel as SCM_RIGHTS over a `SOCK_SEQPACKET` pair, in one message together with a few words of JSON. The
//! supervisor gives a worker its end of the pair as standard input; over the same pair the worker then sends
//! one-byte signs of life ([`Sign`]). A worker whose supervisor died passes its descriptors on in the same form.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use lacewing_fusefs::TreeKind;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

/// The note beside the descriptors is a few hundred bytes; a longer one is not ours.
const MAX_NOTE: usize = 4096;
/// Listener, FUSE connection, and what a supervisor hands to a new release beside them: its lock and the worker's link.
const MAX_DESCRIPTORS: usize = 6;

/// What outlives a process.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// The unix socket containerd connects to, bound and listening.
    pub(crate) listener: OwnedFd,
    /// The node's FUSE connection for packs, or why there is none.
    pub(crate) fuse: Result<Fuse, String>,
    /// The connections for trees in user space; none if they are not wanted or could not be had.
    pub(crate) trees: Vec<(TreeKind, Fuse)>,
}

/// Names and devices of connections for trees, as they stand in notes beside their descriptors.
pub(crate) fn tree_notes(trees: &[(TreeKind, Fuse)]) -> Vec<(String, String)> {
    let note = |(kind, fuse): &(TreeKind, Fuse)| (kind.name().to_owned(), fuse.device.clone());
    trees.iter().map(note).collect()
}

/// Puts notes and descriptors together again. A kind that this release does not know is let go.
pub(crate) fn take_trees(
    notes: Vec<(String, String)>,
    fds: impl Iterator<Item = OwnedFd>,
) -> Vec<(TreeKind, Fuse)> {
    let known = |((name, device), fd): ((String, String), OwnedFd)| {
        let kind = TreeKind::ALL.into_iter().find(|kind| kind.name() == name)?;
        Some((kind, Fuse { fd, device }))
    };
    notes.into_iter().zip(fds).filter_map(known).collect()
}

/// An initialised FUSE connection.
#[derive(Debug)]
pub(crate) struct Fuse {
    /// /dev/fuse
    pub(crate) fd: OwnedFd,
    /// The mount's device, `major:minor` as mountinfo writes it: tells whether a mount is this connection's.
    pub(crate) device: String,
}

/// What a worker tells its supervisor, one byte each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It serves.
    Ready,
    /// It is alive.
    Alive,
}

/// Why descriptors did not arrive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PassError {
    /// The system refused.
    #[error("passing descriptors: {0}")]
    Io(#[from] Errno),
    /// The other side closed the socket without sending.
    #[error("passing descriptors: the other side is gone")]
    Closed,
    /// Not one of our messages.
    #[error("passing descriptors: {0}")]
    Malformed(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    fuse: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    trees: Vec<(String, String)>,
}

/// A connected pair that keeps message boundaries, closed on exec.
///
/// # Errors
/// The system's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Sends copies of the descriptors; the caller keeps its own.
///
/// # Errors
/// [`PassError::Io`].
pub(crate) fn send(socket: BorrowedFd<'_>, descriptors: &Descriptors) -> Result<(), PassError> {
    let note = match &descriptors.fuse {
        Ok(fuse) => Note {
            fuse: Some(fuse.device.clone()),
            reason: None,
            trees: tree_notes(&descriptors.trees),
        },
        Err(reason) => Note {
            fuse: None,
            reason: Some(reason.chars().take(1000).collect()),
            trees: tree_notes(&descriptors.trees),
        },
    };
    let note = serde_json::to_vec(&note).map_err(|error| PassError::Malformed(error.to_string()))?;
    let mut fds = vec![descriptors.listener.as_fd()];
    if let Ok(fuse) = &descriptors.fuse {
        fds.push(fuse.fd.as_fd());
    }
    fds.extend(descriptors.trees.iter().map(|(_, fuse)| fuse.fd.as_fd()));
    send_message(socket, &note, &fds)
}

/// Sends a note with copies of descriptors.
///
/// # Errors
/// [`PassError::Io`]; [`PassError::Malformed`] for more descriptors than are ever passed.
pub(crate) fn send_message(
    socket: BorrowedFd<'_>,
    note: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), PassError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(PassError::Malformed("too many descriptors".to_owned()));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(note)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives descriptors, closed on exec. Blocks as the socket does.
///
/// # Errors
/// [`PassError`].
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Descriptors, PassError> {
    let (note, fds) = receive_message(socket)?;
    let note: Note =
        serde_json::from_slice(&note).map_err(|error| PassError::Malformed(error.to_string()))?;
    assemble(note, fds)
}

/// Receives a note with descriptors, closed on exec. Blocks as the socket does.
///
/// # Errors
/// [`PassError::Io`], [`PassError::Closed`].
pub(crate) fn receive_message(socket: BorrowedFd<'_>) -> Result<(Vec<u8>, Vec<OwnedFd>), PassError> {
    let mut note = [0_u8; MAX_NOTE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut note)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if message.bytes == 0 {
        return Err(PassError::Closed);
    }
    let mut fds = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            fds.extend(rights);
        }
    }
    Ok((note[..message.bytes].to_vec(), fds))
}

fn assemble(note: Note, fds: Vec<OwnedFd>) -> Result<Descriptors, PassError> {
    let mut fds = fds.into_iter();
    let listener = fds
        .next()
        .ok_or_else(|| PassError::Malformed("no descriptor came".to_owned()))?;
    let wrong = || PassError::Malformed("the descriptors are not those the note names".to_owned());
    let fuse = match note.fuse {
        Some(device) => Ok(Fuse {
            fd: fds.next().ok_or_else(wrong)?,
            device,
        }),
        None => Err(note.reason.unwrap_or_default()),
    };
    if fds.len() != note.trees.len() {
        return Err(wrong());
    }
    let trees = take_trees(note.trees, fds);
    Ok(Descriptors {
        listener,
        fuse,
        trees,
    })
}

/// Tells the supervisor something. An error means that it is gone.
pub(crate) fn signal(socket: BorrowedFd<'_>, sign: Sign) -> Result<(), Errno> {
    let byte = match sign {
        Sign::Ready => b'R',
        Sign::Alive => b'A',
    };
    rustix::net::send(socket, &[byte], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

/// What a worker said, without waiting. `Ok(None)`: nothing, or nothing we know.
///
/// # Errors
/// `Errno::PIPE` when the worker's end is closed.
pub(crate) fn heard(socket: BorrowedFd<'_>) -> Result<Option<Sign>, Errno> {
    let mut byte = [0_u8];
    match rustix::net::recv(socket, &mut byte, RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Err(Errno::PIPE),
        Ok(_) => Ok(match byte {
            [b'R'] => Some(Sign::Ready),
            [b'A'] => Some(Sign::Alive),
            _ => None,
        }),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes an owned descriptor of one that another program left open for us under a number (systemd's `LISTEN_FDS`).
///
/// It is a duplicate made through the process's own pidfd (Linux 5.6), which needs no `unsafe`; the numbered one stays
/// open beside it, so that a connection taken this way lives as long as this process.
///
/// # Errors
/// The system's; `EBADF` if nothing is open under the number.
pub(crate) fn adopt(number: RawFd) -> Result<OwnedFd, Errno> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(&this, number, PidfdGetfdFlags::empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::fd::AsRawFd;

    fn file() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn tree(kind: TreeKind) -> (TreeKind, Fuse) {
        let device = format!("0:{}", kind.name().len());
        (kind, Fuse { fd: file(), device })
    }

    #[test]
    fn descriptors_arrive_with_their_note() {
        let (ours, theirs) = pair().unwrap();
        let fuse = Ok(Fuse {
            fd: file(),
            device: "0:53".to_owned(),
        });
        send(
            ours.as_fd(),
            &Descriptors {
                listener: file(),
                fuse,
                trees: TreeKind::ALL.map(tree).into(),
            },
        )
        .unwrap();
        let received = receive(theirs.as_fd()).unwrap();
        assert_eq!(received.fuse.unwrap().device, "0:53");
        assert_eq!(tree_notes(&received.trees), tree_notes(&TreeKind::ALL.map(tree)));
        let flags = rustix::io::fcntl_getfd(&received.listener).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn without_fuse_the_reason_arrives() {
        let (ours, theirs) = pair().unwrap();
        send(
            ours.as_fd(),
            &Descriptors {
                listener: file(),
                fuse: Err("no /dev/fuse".to_owned()),
                trees: vec![],
            },
        )
        .unwrap();
        assert_eq!(receive(theirs.as_fd()).unwrap().fuse.unwrap_err(), "no /dev/fuse");
    }

    #[test]
    fn a_message_of_somebody_else_is_refused() {
        let (ours, theirs) = pair().unwrap();
        rustix::net::send(&ours, b"hello", SendFlags::empty()).unwrap();
        assert!(matches!(receive(theirs.as_fd()), Err(PassError::Malformed(_))));
        let note = Note {
            fuse: Some("0:1".to_owned()),
            reason: None,
            trees: vec![],
        };
        assert!(matches!(
            assemble(note, vec![file()]),
            Err(PassError::Malformed(_))
        ));
        drop(ours);
        assert!(matches!(receive(theirs.as_fd()), Err(PassError::Closed)));
    }

    #[test]
    fn signs_keep_their_order_and_the_end_is_seen() {
        let (ours, theirs) = pair().unwrap();
        assert_eq!(heard(ours.as_fd()).unwrap(), None);
        signal(theirs.as_fd(), Sign::Alive).unwrap();
        signal(theirs.as_fd(), Sign::Ready).unwrap();
        assert_eq!(heard(ours.as_fd()).unwrap(), Some(Sign::Alive));
        assert_eq!(heard(ours.as_fd()).unwrap(), Some(Sign::Ready));
        drop(theirs);
        assert_eq!(heard(ours.as_fd()), Err(Errno::PIPE));
    }

    #[test]
    fn a_numbered_descriptor_is_adopted() {
        let original = file();
        let adopted = adopt(original.as_raw_fd()).unwrap();
        assert_ne!(adopted.as_raw_fd(), original.as_raw_fd());
        assert_eq!(adopt(1_000_000).unwrap_err(), Errno::BADF);
    }
}
