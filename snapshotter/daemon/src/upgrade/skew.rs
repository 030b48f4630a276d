//! One release beside the next: what earlier releases sent (`testdata`) is understood, and they understand what is sent now.
//!
//! The readers of earlier releases stand here as they were, field by field, and are never edited. A release whose words they
//! could not read would have to raise [`PROTOCOL`]; then the last version stays readable ([`OLDEST`]) for one release.
#![allow(clippy::unwrap_used)]

use std::os::fd::BorrowedFd;

use super::*;
use crate::config::Overrides;

const HAND_OVER_0_1: &[u8] = include_bytes!("../../testdata/release-0.1/hand-over.json");
const NOTE_0_1: &[u8] = include_bytes!("../../testdata/release-0.1/note.json");
const ABILITY_0_1: &[u8] = include_bytes!("../../testdata/release-0.1/ability.json");

/// What release 0.1 reads of a hand-over.
#[derive(Debug, PartialEq, Deserialize)]
struct HandOver01 {
    protocol: u32,
    fuse: Option<String>,
    reason: Option<String>,
    worker: Option<u32>,
    started: u64,
    announced: bool,
    #[serde(default)]
    trees: Vec<(String, String)>,
}

/// What release 0.1 reads of a note.
#[derive(Debug, PartialEq, Deserialize)]
struct Note01 {
    fuse: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    trees: Vec<(String, String)>,
}

/// What release 0.1 reads of an ability.
#[derive(Debug, Deserialize)]
struct Ability01 {
    #[allow(dead_code, reason = "read, and told only in an error")]
    release: String,
    oldest: u32,
    newest: u32,
    root: PathBuf,
    address: PathBuf,
}

fn file() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn pass(message: &[u8], count: usize) -> OwnedFd {
    let (ours, theirs) = fds::pair().unwrap();
    let files: Vec<OwnedFd> = (0..count).map(|_| file()).collect();
    let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    fds::send_message(ours.as_fd(), message, &files).unwrap();
    theirs
}

fn config() -> Config {
    Config::defaults(Overrides {
        root: Some("/r".into()),
        address: Some("/a".into()),
    })
    .unwrap()
}

fn descriptors() -> Descriptors {
    let fuse = |device: &str| Fuse {
        fd: file(),
        device: device.to_owned(),
    };
    let trees = lacewing_fusefs::TreeKind::ALL.into_iter().zip(["0:40", "0:41"]);
    Descriptors {
        listener: file(),
        fuse: Ok(fuse("0:39")),
        trees: trees.map(|(kind, device)| (kind, fuse(device))).collect(),
    }
}

#[test]
fn an_older_supervisor_hands_over_to_this_release() {
    let kept = Kept::receive(&pass(HAND_OVER_0_1, 6)).unwrap();
    assert_eq!(kept.descriptors.fuse.unwrap().device, "0:39");
    assert_eq!(kept.descriptors.trees.len(), 2);
    assert_eq!(kept.worker.unwrap().0, 10906);
    assert_eq!((kept.started, kept.announced), (1, true));
}

#[test]
fn this_release_hands_over_to_an_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept {
        descriptors: descriptors(),
        lock: Lock::try_take(&dir.path().join("lock")).unwrap().unwrap(),
        worker: Some((10906, file())),
        started: 1,
        announced: true,
    };
    let (ours, theirs) = fds::pair().unwrap();
    kept.send(&ours).unwrap();
    let (message, passed) = fds::receive_message(theirs.as_fd()).unwrap();
    let read: HandOver01 = serde_json::from_slice(&message).unwrap();
    assert_eq!(read, serde_json::from_slice(HAND_OVER_0_1).unwrap());
    assert_eq!(passed.len(), 6);
}

#[test]
fn an_older_orphan_hands_over_to_this_release_and_the_reverse() {
    let received = fds::receive(pass(NOTE_0_1, 4).as_fd()).unwrap();
    assert_eq!(received.fuse.unwrap().device, "0:39");
    assert_eq!(received.trees.len(), 2);

    let (ours, theirs) = fds::pair().unwrap();
    fds::send(ours.as_fd(), &descriptors()).unwrap();
    let (message, passed) = fds::receive_message(theirs.as_fd()).unwrap();
    let read: Note01 = serde_json::from_slice(&message).unwrap();
    assert_eq!(read, serde_json::from_slice(NOTE_0_1).unwrap());
    assert_eq!(passed.len(), 4);
}

#[test]
fn what_a_later_release_adds_is_passed_over() {
    let more = |known: &[u8]| {
        let mut message: serde_json::Value = serde_json::from_slice(known).unwrap();
        message["of_a_later_release"] = serde_json::json!({"any": [1]});
        serde_json::to_vec(&message).unwrap()
    };
    assert!(Kept::receive(&pass(&more(HAND_OVER_0_1), 6)).is_ok());
    assert!(fds::receive(pass(&more(NOTE_0_1), 4).as_fd()).is_ok());
    let ability: Ability = serde_json::from_slice(&more(ABILITY_0_1)).unwrap();
    assert_eq!(ability.obstacle(&config()), None);
}

#[test]
fn releases_find_each_other_able() {
    let older: Ability = serde_json::from_slice(ABILITY_0_1).unwrap();
    assert_eq!(older.obstacle(&config()), None, "a way back to it");
    let told = serde_json::to_vec(&Ability::ours(&config())).unwrap();
    let read: Ability01 = serde_json::from_slice(&told).unwrap();
    let spoken_by_0_1 = 1;
    assert!((read.oldest..=read.newest).contains(&spoken_by_0_1));
    assert_eq!((read.root, read.address), ("/r".into(), "/a".into()));
}

#[test]
fn signs_are_the_bytes_they_were() {
    let (supervisor, worker) = fds::pair().unwrap();
    let say = |byte: u8| rustix::net::send(&worker, &[byte], rustix::net::SendFlags::empty()).unwrap();
    for (byte, heard) in [
        (b'A', Some(fds::Sign::Alive)),
        (b'R', Some(fds::Sign::Ready)),
        // A later release's word.
        (b'?', None),
    ] {
        say(byte);
        assert_eq!(fds::heard(supervisor.as_fd()).unwrap(), heard);
    }
    for (sign, byte) in [(fds::Sign::Alive, b'A'), (fds::Sign::Ready, b'R')] {
        fds::signal(supervisor.as_fd(), sign).unwrap();
        let mut read = [0];
        rustix::net::recv(&worker, &mut read, rustix::net::RecvFlags::empty()).unwrap();
        assert_eq!(read, [byte]);
    }
}
