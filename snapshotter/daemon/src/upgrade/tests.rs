#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::Overrides;

fn config(dir: &Path) -> Config {
    let file = dir.join("config.toml");
    std::fs::write(&file, "").unwrap();
    let overrides = Overrides {
        root: Some(dir.join("root")),
        address: Some(dir.join("sock")),
    };
    Config::load(Some(&file), overrides).unwrap()
}

fn file() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn what_is_kept_arrives_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    for (fuse, worker) in [
        (Ok(()), Some((7, file()))),
        (Err("no FUSE".to_owned()), None),
        (Ok(()), None),
    ] {
        let fuse = fuse.map(|()| Fuse {
            fd: file(),
            device: "0:7".to_owned(),
        });
        let (expected, has_worker) = (
            fuse.as_ref().map(|f| f.device.clone()).map_err(Clone::clone),
            worker.is_some(),
        );
        let kept = Kept {
            descriptors: Descriptors {
                listener: file(),
                fuse,
                trees: vec![],
            },
            lock: Lock::try_take(&path).unwrap().unwrap(),
            worker,
            started: 3,
            announced: true,
        };
        let (ours, theirs) = fds::pair().unwrap();
        kept.send(&ours).unwrap();
        drop(kept);
        let kept = Kept::receive(&theirs).unwrap();
        assert_eq!(
            kept.descriptors
                .fuse
                .as_ref()
                .map(|f| f.device.clone())
                .map_err(Clone::clone),
            expected
        );
        assert_eq!(kept.worker.is_some(), has_worker);
        assert_eq!((kept.started, kept.announced), (3, true));
        assert!(
            Lock::try_take(&path).unwrap().is_none(),
            "the lock was let go on the way"
        );
    }
}

#[test]
fn another_version_or_place_is_an_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let ours = || Ability::ours(&config);
    assert_eq!(ours().obstacle(&config), None);
    let later = Ability {
        oldest: PROTOCOL + 1,
        newest: PROTOCOL + 3,
        ..ours()
    };
    assert!(later.obstacle(&config).unwrap().contains("hand-overs of version"));
    let earlier = Ability {
        oldest: 0,
        newest: PROTOCOL - 1,
        ..ours()
    };
    assert!(earlier.obstacle(&config).is_some());
    let wider = Ability {
        newest: PROTOCOL + 1,
        ..ours()
    };
    assert_eq!(wider.obstacle(&config), None);
    let elsewhere = Ability {
        root: "/elsewhere".into(),
        ..ours()
    };
    assert!(elsewhere.obstacle(&config).unwrap().contains("restart"));
}

#[test]
fn a_later_hand_over_is_refused() {
    let (ours, theirs) = fds::pair().unwrap();
    let (listener, lock) = (file(), file());
    let state = br#"{"protocol": 99, "started": 0, "announced": false}"#;
    fds::send_message(ours.as_fd(), state, &[listener.as_fd(), lock.as_fd()]).unwrap();
    assert!(
        Kept::receive(&theirs)
            .unwrap_err()
            .to_string()
            .contains("version 99")
    );
}

#[test]
fn a_program_is_known_by_its_file() {
    let program = Program::of(std::process::id()).unwrap();
    assert!(!program.replaced());
    assert_eq!(without_deleted("/bin/x (deleted)".into()), Path::new("/bin/x"));
}
