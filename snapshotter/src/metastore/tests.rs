#![allow(clippy::unwrap_used)]

use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::layer_ref::{CHAIN_ID_LABEL, REMOTE_LABEL};
use crate::snapshot::{Labels, Lower, Stamp, Usage};

const NOW: Stamp = Stamp {
    secs: 1_700_000_000,
    nanos: 5,
};
const LATER: Stamp = Stamp {
    secs: 1_700_000_001,
    nanos: 0,
};

fn store() -> (TempDir, Metastore) {
    let dir = tempfile::tempdir().unwrap();
    let store = Metastore::open(dir.path()).unwrap();
    (dir, store)
}

fn reopen(store: Metastore, dir: &Path) -> Metastore {
    drop(store);
    Metastore::open(dir).unwrap()
}

fn new<'a>(
    store: &Metastore,
    kind: Kind,
    key: &'a str,
    parent: &'a str,
    chain: &'a mut Vec<Link>,
) -> NewSnapshot<'a> {
    *chain = store.chain(parent).unwrap_or_default();
    NewSnapshot {
        kind,
        key,
        parent,
        chain,
        lowers: Vec::new(),
        labels: Labels::new(),
        reason: None,
        namespace: None,
    }
}

fn create(store: &Metastore, kind: Kind, key: &str, parent: &str) -> Result<Record, Error> {
    let mut chain = Vec::new();
    store.create(new(store, kind, key, parent, &mut chain), NOW, |_| Ok(()))
}

fn committed(store: &Metastore, name: &str, parent: &str) {
    let key = format!("key of {name}");
    create(store, Kind::Active, &key, parent).unwrap();
    store
        .commit((name, &key, ""), Labels::new(), Usage { size: 7, inodes: 2 }, NOW)
        .unwrap();
}

fn lazy(store: &Metastore, name: &str, parent: &str, layer: u64) -> Result<bool, Error> {
    let labels = Labels::from([(CHAIN_ID_LABEL.to_owned(), format!("chain of {name}"))]);
    store.create_lazy(
        NewLazy {
            name,
            parent,
            layer,
            labels,
            namespace: Some("ns".to_owned()),
        },
        NOW,
    )
}

#[test]
fn a_snapshot_lives_through_active_and_committed() {
    let (dir, store) = store();
    assert_eq!(create(&store, Kind::Active, "a b/c:d", "").unwrap().id, 1);
    store
        .commit(
            ("base", "a b/c:d", ""),
            Labels::new(),
            Usage { size: 9, inodes: 1 },
            LATER,
        )
        .unwrap();
    let store = reopen(store, dir.path());
    assert!(matches!(store.get("a b/c:d"), Err(Error::NotFound { .. })));
    let base = store.get("base").unwrap();
    assert_eq!((base.id, base.kind, base.usage.size), (1, Kind::Committed, 9));
    assert_eq!((base.created, base.updated), (LATER, LATER));
    assert_eq!(create(&store, Kind::View, "v", "base").unwrap().id, 2);
    assert_eq!(store.chain("base").unwrap(), [Link { id: 1, layer: None }]);
}

#[test]
fn names_are_exact_bytes() {
    let (_dir, store) = store();
    for key in ["n/1/extract-5-Ab= sha256:0", "é", "e\u{301}", " ", "a\0b", "a"] {
        create(&store, Kind::Active, key, "").unwrap();
        assert!(store.get(key).is_ok(), "{key:?}");
    }
    assert!(store.get("A").is_err());
}

#[test]
fn errors_come_in_containerds_order() {
    let (_dir, store) = store();
    committed(&store, "base", "");
    create(&store, Kind::Active, "active", "base").unwrap();
    let not_found = |result: Result<Record, Error>| matches!(result, Err(Error::NotFound { .. }));
    assert!(
        not_found(create(&store, Kind::Active, "active", "missing")),
        "the parent before the key"
    );
    assert!(matches!(
        create(&store, Kind::Active, "x", "active"),
        Err(Error::InvalidArgument { .. })
    ));
    assert!(matches!(
        create(&store, Kind::View, "active", "base"),
        Err(Error::AlreadyExists { .. })
    ));
    assert!(matches!(
        create(&store, Kind::View, "base", ""),
        Err(Error::AlreadyExists { .. })
    ));
    assert!(matches!(
        store.remove("base"),
        Err(Error::FailedPrecondition { .. })
    ));
    assert!(matches!(store.remove("missing"), Err(Error::NotFound { .. })));
    create(&store, Kind::View, "view", "base").unwrap();
    let commit = |name, key, parent| store.commit((name, key, parent), Labels::new(), Usage::default(), NOW);
    assert!(matches!(
        commit("base", "missing", ""),
        Err(Error::AlreadyExists { .. })
    ));
    assert!(matches!(
        commit("new", "missing", ""),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(
        commit("new", "view", ""),
        Err(Error::FailedPrecondition { .. })
    ));
    assert!(matches!(
        commit("new", "active", "other"),
        Err(Error::InvalidArgument { .. })
    ));
    assert!(store.get("active").is_ok(), "a failed commit leaves the snapshot");
}

#[test]
fn a_failure_before_the_end_leaves_nothing() {
    let (_dir, store) = store();
    let mut chain = Vec::new();
    let failed = store.create(new(&store, Kind::Active, "a", "", &mut chain), NOW, |id| {
        assert_eq!(id, 1);
        Err(Error::invalid("no room"))
    });
    assert!(failed.is_err());
    assert!(store.find("a").unwrap().is_none());
    assert_eq!(
        create(&store, Kind::Active, "a", "").unwrap().id,
        1,
        "the id was never used"
    );
}

#[test]
fn a_parent_that_was_replaced_is_seen() {
    let (_dir, store) = store();
    committed(&store, "base", "");
    let mut chain = Vec::new();
    let new = new(&store, Kind::Active, "a", "base", &mut chain);
    store.remove("base").unwrap();
    committed(&store, "base", "");
    assert!(matches!(
        store.create(new, NOW, |_| Ok(())),
        Err(Error::Changed { .. })
    ));
}

#[test]
fn a_removed_name_is_free_and_its_id_is_not() {
    let (_dir, store) = store();
    create(&store, Kind::Active, "a", "").unwrap();
    assert_eq!(store.remove("a").unwrap().id, 1);
    assert_eq!(create(&store, Kind::Active, "a", "").unwrap().id, 2);
}

#[test]
fn children_keep_their_parent() {
    let (_dir, store) = store();
    committed(&store, "base", "");
    committed(&store, "mid", "base");
    create(&store, Kind::Active, "top", "mid").unwrap();
    for name in ["base", "mid"] {
        assert!(store.remove(name).is_err(), "{name}");
    }
    for name in ["top", "mid", "base"] {
        store.remove(name).unwrap();
    }
}

#[test]
fn commit_may_bring_the_parent() {
    let (_dir, store) = store();
    committed(&store, "base", "");
    create(&store, Kind::Active, "a", "").unwrap();
    store
        .commit(("b", "a", "base"), Labels::new(), Usage::default(), NOW)
        .unwrap();
    assert_eq!(store.get("b").unwrap().parent, "base");
    assert!(store.remove("base").is_err());
    create(&store, Kind::Active, "c", "").unwrap();
    let missing = store.commit(("d", "c", "nowhere"), Labels::new(), Usage::default(), NOW);
    assert!(matches!(missing, Err(Error::NotFound { .. })));
}

#[test]
fn labels_are_replaced_or_changed_by_path() {
    let (_dir, store) = store();
    create(&store, Kind::Active, "a", "").unwrap();
    let given = |pairs: &[(&str, &str)]| -> Labels {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let update = |labels: &Labels, paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        store
            .update("a", labels, &paths, LATER)
            .map(|record| record.labels)
    };
    assert_eq!(update(&given(&[("k", "1"), ("l", "2")]), &[]).unwrap().len(), 2);
    assert_eq!(
        update(&given(&[("k", "9"), ("x", "3")]), &["labels.k"]).unwrap(),
        given(&[("k", "9"), ("l", "2")])
    );
    assert_eq!(update(&given(&[]), &["labels.k"]).unwrap(), given(&[("l", "2")]));
    assert_eq!(
        update(&given(&[("d.o/t", "4")]), &["labels"]).unwrap(),
        given(&[("d.o/t", "4")])
    );
    assert!(matches!(
        update(&given(&[]), &["labels.l", "parent"]),
        Err(Error::InvalidArgument { .. })
    ));
    let record = store.get("a").unwrap();
    assert_eq!((record.created, record.updated), (NOW, LATER));
    assert_eq!(record.labels, given(&[("d.o/t", "4")]));
}

#[test]
fn a_lazy_snapshot_is_made_once() {
    let (dir, store) = store();
    assert!(lazy(&store, "l", "", 7).unwrap());
    let record = store.get("l").unwrap();
    assert_eq!((record.kind, record.layer), (Kind::Committed, Some(7)));
    assert_eq!(record.labels[CHAIN_ID_LABEL], "chain of l");
    assert!(record.labels.contains_key(REMOTE_LABEL));
    let store = reopen(store, dir.path());
    assert!(!lazy(&store, "l", "", 7).unwrap());
    assert_eq!(store.get("l").unwrap(), record);
    committed(&store, "taken", "");
    assert!(matches!(
        lazy(&store, "taken", "", 7),
        Err(Error::AlreadyExists { .. })
    ));
    assert!(matches!(
        lazy(&store, "m", "missing", 7),
        Err(Error::NotFound { .. })
    ));
}

#[test]
fn a_lazy_snapshot_stays_findable() {
    let (_dir, store) = store();
    lazy(&store, "l", "", 7).unwrap();
    let labels = store.update("l", &Labels::new(), &[], LATER).unwrap().labels;
    assert_eq!(labels[CHAIN_ID_LABEL], "chain of l");
}

#[test]
fn a_layer_is_unused_after_its_last_snapshot() {
    let (dir, store) = store();
    lazy(&store, "a", "", 7).unwrap();
    lazy(&store, "b", "a", 7).unwrap();
    lazy(&store, "c", "b", 8).unwrap();
    assert!(store.remove("c").unwrap().layer_unused);
    assert!(!store.remove("b").unwrap().layer_unused);
    assert_eq!(store.unused_layers().unwrap(), [8]);
    assert!(store.remove("a").unwrap().layer_unused);
    let store = reopen(store, dir.path());
    assert_eq!(
        store.unused_layers().unwrap(),
        [7, 8],
        "noted until it was done, crash or not"
    );
    lazy(&store, "again", "", 7).unwrap();
    store.forget_unused(8).unwrap();
    store.note_unused(&[7, 9]).unwrap();
    assert_eq!(
        store.unused_layers().unwrap(),
        [9],
        "7 is used again, 9 never was"
    );
}

#[test]
fn users_are_counted_down_the_chain() {
    let (_dir, store) = store();
    lazy(&store, "l", "", 1).unwrap();
    committed(&store, "m", "l");
    create(&store, Kind::Active, "a", "m").unwrap();
    create(&store, Kind::View, "v", "l").unwrap();
    let users = store.users().unwrap();
    assert_eq!((users["l"], users["m"]), (2, 1));
}

#[test]
fn what_an_active_snapshot_stands_on_is_kept_until_commit() {
    let (dir, store) = store();
    lazy(&store, "l", "", 3).unwrap();
    let mut chain = Vec::new();
    let mut new = new(&store, Kind::Active, "a", "l", &mut chain);
    new.lowers = vec![
        Lower::Layer {
            layer: 3,
            copy: 1,
            direct: true,
        },
        Lower::Dir { id: 1 },
    ];
    let lowers = new.lowers.clone();
    store.create(new, NOW, |_| Ok(())).unwrap();
    let store = reopen(store, dir.path());
    assert_eq!(store.get("a").unwrap().lowers, lowers);
    store
        .commit(("c", "a", ""), Labels::new(), Usage::default(), NOW)
        .unwrap();
    assert!(store.get("c").unwrap().lowers.is_empty());
}

#[test]
fn a_half_made_file_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("metadata.redb.new"), b"torn").unwrap();
    let store = Metastore::open(dir.path()).unwrap();
    create(&store, Kind::Active, "a", "").unwrap();
    assert!(!dir.path().join("metadata.redb.new").exists());
}

#[test]
fn a_file_that_is_no_store_is_an_error_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("metadata.redb"), b"not a store at all").unwrap();
    assert!(matches!(Metastore::open(dir.path()), Err(Error::Store(_))));
    assert_eq!(
        std::fs::read(dir.path().join("metadata.redb")).unwrap(),
        b"not a store at all"
    );
}

#[test]
fn one_process_at_a_time() {
    let (dir, _store) = store();
    assert!(matches!(Metastore::open(dir.path()), Err(Error::Store(_))));
}

/// The store is copied as it is after each change, as a kill would leave it, and opened.
#[test]
fn every_copy_of_a_running_store_opens_with_all_that_was_answered() {
    let (dir, store) = store();
    for i in 0..20 {
        create(&store, Kind::Active, &format!("a{i}"), "").unwrap();
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(
            dir.path().join("metadata.redb"),
            copy.path().join("metadata.redb"),
        )
        .unwrap();
        let copy = Metastore::open(copy.path()).unwrap();
        for j in 0..=i {
            assert!(copy.get(&format!("a{j}")).is_ok());
        }
    }
}

/// An upgrade and the way back: the same layout opens, a later release's is refused and left as it is.
#[test]
fn a_later_releases_layout_is_refused_and_left_alone() {
    let (dir, store) = store();
    committed(&store, "base", "");
    let put = |store: &Metastore, layout: u64| {
        let write = store.db.begin_write().unwrap();
        let mut tables = Tables::open(&write).unwrap();
        tables.numbers.insert(super::tables::VERSION, layout).unwrap();
        drop(tables);
        write.commit().unwrap();
    };
    put(&store, 2);
    drop(store);
    for _ in 0..2 {
        let error = Metastore::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("layout 2 is that of a later release"), "{error}");
    }
    // The release that wrote it takes it back to what this one knows.
    let store = Metastore {
        db: redb::Database::open(dir.path().join("metadata.redb")).unwrap(),
    };
    put(&store, 1);
    drop(store);
    assert!(
        Metastore::open(dir.path())
            .unwrap()
            .find("base")
            .unwrap()
            .is_some()
    );
}
