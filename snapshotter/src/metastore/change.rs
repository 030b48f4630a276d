//! The changes, each one transaction.

use redb::{ReadableTable, WriteTransaction};

use super::tables::Tables;
use super::{Metastore, chain, not_found, record};
use crate::error::Error;
use crate::layer_ref::{CHAIN_ID_LABEL, REMOTE_LABEL, REMOTE_VALUE};
use crate::snapshot::{Kind, Labels, Link, Lower, Record, Stamp, Usage};

/// An active or view snapshot to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewSnapshot<'a> {
    pub(crate) kind: Kind,
    pub(crate) key: &'a str,
    pub(crate) parent: &'a str,
    /// The parent's chain as it was when its layers were shown.
    pub(crate) chain: &'a [Link],
    pub(crate) lowers: Vec<Lower>,
    pub(crate) labels: Labels,
    pub(crate) reason: Option<String>,
    pub(crate) namespace: Option<String>,
}

/// A committed snapshot of a lazy layer to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewLazy<'a> {
    pub(crate) name: &'a str,
    pub(crate) parent: &'a str,
    pub(crate) layer: u64,
    pub(crate) labels: Labels,
    pub(crate) namespace: Option<String>,
}

/// What a removal left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    /// The directory of this id is not needed any more.
    pub(crate) id: u64,
    /// A layer went out of use.
    pub(crate) layer_unused: bool,
}

impl Metastore {
    /// Makes an active or view snapshot. `publish` puts its directory in place under the new id; it is the
    /// last step before the transaction becomes durable.
    ///
    /// # Errors
    /// In containerd's order: [`Error::NotFound`] or [`Error::InvalidArgument`] for the parent,
    /// [`Error::AlreadyExists`] for the key; [`Error::Changed`] if the parent is not the one that was looked
    /// at; what `publish` returns.
    pub(crate) fn create(
        &self,
        new: NewSnapshot<'_>,
        now: Stamp,
        publish: impl FnOnce(u64) -> Result<(), Error>,
    ) -> Result<Record, Error> {
        self.change(|tables| {
            let chain = chain(&tables.snapshots, new.parent)?;
            if tables.snapshots.get(new.key)?.is_some() {
                return Err(Error::already_exists(format!("snapshot {}", new.key)));
            }
            if chain != new.chain {
                return Err(Error::Changed {
                    what: format!("parent {}", new.parent),
                });
            }
            let record = Record {
                id: tables.next_id()?,
                kind: new.kind,
                parent: new.parent.to_owned(),
                labels: new.labels,
                created: now,
                updated: now,
                usage: Usage::default(),
                layer: None,
                lowers: new.lowers,
                reason: new.reason,
                namespace: new.namespace,
            };
            if let Some(parent) = chain.first() {
                tables.children.insert((parent.id, record.id), ())?;
            }
            tables.put(new.key, &record)?;
            publish(record.id)?;
            Ok(record)
        })
    }

    /// Makes a committed snapshot of a lazy layer, unless it is there. Answers whether it was made.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::InvalidArgument`] for the parent, [`Error::AlreadyExists`] if the name
    /// is that of something else.
    pub(crate) fn create_lazy(&self, new: NewLazy<'_>, now: Stamp) -> Result<bool, Error> {
        self.change(|tables| {
            let chain = chain(&tables.snapshots, new.parent)?;
            if let Some(there) = record(&tables.snapshots, new.name)? {
                let same = there.layer.is_some() && there.parent == new.parent;
                return if same {
                    Ok(false)
                } else {
                    Err(Error::already_exists(new.name))
                };
            }
            let mut labels = new.labels;
            labels.insert(REMOTE_LABEL.to_owned(), REMOTE_VALUE.to_owned());
            let record = Record {
                id: tables.next_id()?,
                kind: Kind::Committed,
                parent: new.parent.to_owned(),
                labels,
                created: now,
                updated: now,
                usage: Usage::default(),
                layer: Some(new.layer),
                lowers: Vec::new(),
                reason: None,
                namespace: new.namespace,
            };
            if let Some(parent) = chain.first() {
                tables.children.insert((parent.id, record.id), ())?;
            }
            let count = tables.layers.get(new.layer)?.map_or(0, |count| count.value());
            tables.layers.insert(new.layer, count.saturating_add(1))?;
            tables.unused.remove(new.layer)?;
            tables.put(new.name, &record)?;
            Ok(true)
        })
    }

    /// Turns the active snapshot `key` into the committed snapshot `name` with new labels. A `parent` is
    /// taken by a snapshot that was prepared without one.
    ///
    /// # Errors
    /// In containerd's order: [`Error::AlreadyExists`] for the name, [`Error::NotFound`] for the key,
    /// [`Error::FailedPrecondition`] if it is not active, then those of the parent.
    pub(crate) fn commit(
        &self,
        (name, key, parent): (&str, &str, &str),
        labels: Labels,
        usage: Usage,
        now: Stamp,
    ) -> Result<(), Error> {
        self.change(|tables| {
            if tables.snapshots.get(name)?.is_some() {
                return Err(Error::already_exists(format!("committed snapshot {name}")));
            }
            let mut snapshot = record(&tables.snapshots, key)?.ok_or_else(|| not_found(key))?;
            if snapshot.kind != Kind::Active {
                return Err(Error::precondition(format!("snapshot {key} is not active")));
            }
            if snapshot.parent.is_empty() && !parent.is_empty() {
                rebase(tables, &mut snapshot, parent)?;
            } else if !parent.is_empty() && parent != snapshot.parent {
                return Err(Error::invalid(format!(
                    "snapshot {key} has another parent, it cannot be changed"
                )));
            }
            snapshot.kind = Kind::Committed;
            snapshot.labels = labels;
            snapshot.usage = usage;
            (snapshot.created, snapshot.updated) = (now, now);
            snapshot.lowers.clear();
            tables.put(name, &snapshot)?;
            tables.snapshots.remove(key)?;
            Ok(())
        })
    }

    /// Forgets a snapshot on which no other stands.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::FailedPrecondition`] if it has children.
    pub(crate) fn remove(&self, key: &str) -> Result<Removed, Error> {
        self.change(|tables| {
            let snapshot = record(&tables.snapshots, key)?.ok_or_else(|| not_found(key))?;
            let id = snapshot.id;
            if tables.children.range((id, 0)..=(id, u64::MAX))?.next().is_some() {
                return Err(Error::precondition(format!(
                    "snapshot {key} has children, it cannot be removed"
                )));
            }
            if let Some(parent) = record(&tables.snapshots, &snapshot.parent)? {
                tables.children.remove((parent.id, id))?;
            }
            tables.snapshots.remove(key)?;
            let layer_unused = match snapshot.layer {
                Some(layer) => less_used(tables, layer)?,
                None => false,
            };
            Ok(Removed { id, layer_unused })
        })
    }

    /// Changes labels: all of them if `paths` is empty or says so, else those it names.
    ///
    /// A lazy snapshot keeps the labels by which containerd finds it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidArgument`] for a path that is not of labels.
    pub(crate) fn update(
        &self,
        name: &str,
        labels: &Labels,
        paths: &[String],
        now: Stamp,
    ) -> Result<Record, Error> {
        self.change(|tables| {
            let mut snapshot = record(&tables.snapshots, name)?.ok_or_else(|| not_found(name))?;
            let fixed = snapshot.labels.clone();
            if paths.is_empty() {
                snapshot.labels.clone_from(labels);
            }
            for path in paths {
                update_path(&mut snapshot.labels, labels, path, name)?;
            }
            if snapshot.layer.is_some() {
                let fixed = fixed
                    .into_iter()
                    .filter(|(key, _)| key == CHAIN_ID_LABEL || key == REMOTE_LABEL);
                snapshot.labels.extend(fixed);
            }
            snapshot.updated = now;
            tables.put(name, &snapshot)?;
            Ok(snapshot)
        })
    }

    /// Forgets that a layer is to be released. Call it after the release.
    pub(crate) fn forget_unused(&self, layer: u64) -> Result<(), Error> {
        self.change(|tables| {
            tables.unused.remove(layer)?;
            Ok(())
        })
    }

    /// Notes layers for release that no snapshot uses, as a crash between an offer and its snapshot leaves.
    pub(crate) fn note_unused(&self, known: &[u64]) -> Result<(), Error> {
        self.change(|tables| {
            for layer in known {
                if tables.layers.get(layer)?.is_none() {
                    tables.unused.insert(layer, ())?;
                }
            }
            Ok(())
        })
    }

    /// Runs one transaction; an error leaves everything as it was.
    fn change<T>(&self, work: impl FnOnce(&mut Tables<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let txn: WriteTransaction = self.db.begin_write()?;
        let done = {
            let mut tables = Tables::open(&txn)?;
            work(&mut tables)
        };
        match done {
            Ok(done) => {
                txn.commit()?;
                Ok(done)
            }
            Err(error) => {
                txn.abort()?;
                Err(error)
            }
        }
    }
}

fn rebase(tables: &mut Tables<'_>, snapshot: &mut Record, parent: &str) -> Result<(), Error> {
    let new = record(&tables.snapshots, parent)?
        .ok_or_else(|| Error::not_found(format!("parent snapshot {parent}")))?;
    if new.kind != Kind::Committed {
        return Err(Error::precondition(format!("parent {parent} is not committed")));
    }
    tables.children.insert((new.id, snapshot.id), ())?;
    parent.clone_into(&mut snapshot.parent);
    Ok(())
}

/// Counts one snapshot of a layer less; answers whether it was the last.
fn less_used(tables: &mut Tables<'_>, layer: u64) -> Result<bool, Error> {
    let count = tables.layers.get(layer)?.map_or(0, |count| count.value());
    if count > 1 {
        tables.layers.insert(layer, count - 1)?;
        return Ok(false);
    }
    tables.layers.remove(layer)?;
    tables.unused.insert(layer, ())?;
    Ok(true)
}

fn update_path(labels: &mut Labels, given: &Labels, path: &str, name: &str) -> Result<(), Error> {
    if path == "labels" {
        labels.clone_from(given);
    } else if let Some(key) = path.strip_prefix("labels.") {
        match given.get(key) {
            Some(value) => _ = labels.insert(key.to_owned(), value.clone()),
            None => _ = labels.remove(key),
        }
    } else {
        return Err(Error::invalid(format!(
            "cannot update {path:?} field on snapshot {name:?}"
        )));
    }
    Ok(())
}
