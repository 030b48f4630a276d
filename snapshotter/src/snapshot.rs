//! Records: what is kept of a snapshot.

use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Labels in a fixed order, so that records are comparable.
pub(crate) type Labels = BTreeMap<String, String>;

/// What a snapshot is to containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Read-only look at a committed snapshot.
    View,
    /// Writable, may be committed.
    Active,
    /// Unchangeable, may be a parent.
    Committed,
}

impl Kind {
    /// The name that filters use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// A point in time, since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) secs: i64,
    pub(crate) nanos: u32,
}

impl Stamp {
    /// The system clock. A clock before 1970 gives 1970.
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        }
    }

    pub(crate) fn millis(self) -> i64 {
        self.secs
            .saturating_mul(1000)
            .saturating_add(i64::from(self.nanos / 1_000_000))
    }
}

/// Disk space that a snapshot takes by itself, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of disk blocks.
    pub size: u64,
    /// Inodes.
    pub inodes: u64,
}

/// A directory that a snapshot stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Lower {
    /// The upper directory of the snapshot with this id.
    Dir { id: u64 },
    /// A lazy layer, in the way it was shown when the snapshot was prepared.
    Layer {
        layer: u64,
        /// How many times the layer occurs above this one.
        #[serde(default)]
        copy: u32,
        direct: bool,
    },
}

/// One snapshot of a chain, as its children see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) id: u64,
    /// The lazy layer, if it is one.
    pub(crate) layer: Option<u64>,
}

/// All that is kept of a snapshot, under its key or name.
///
/// Kept as JSON: fields are added with a default, never given another meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The name of its directory; never used again.
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    /// The parent's name, empty if there is none.
    #[serde(default)]
    pub(crate) parent: String,
    #[serde(default)]
    pub(crate) labels: Labels,
    pub(crate) created: Stamp,
    pub(crate) updated: Stamp,
    /// Of a committed, ordinary snapshot.
    #[serde(default)]
    pub(crate) usage: Usage,
    /// The layer of a lazy (then committed) snapshot.
    #[serde(default)]
    pub(crate) layer: Option<u64>,
    /// What an active or view snapshot stands on, top first.
    #[serde(default)]
    pub(crate) lowers: Vec<Lower>,
    /// Why a layer that containerd asked for by its chain id is not lazy.
    #[serde(default)]
    pub(crate) reason: Option<String>,
    /// The containerd namespace of the call that made it.
    #[serde(default)]
    pub(crate) namespace: Option<String>,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Record {
    /// A record that nothing is known of but what clients may filter by.
    pub(crate) fn bare(kind: Kind, parent: &str, labels: Labels) -> Self {
        Self {
            id: 1,
            kind,
            parent: parent.to_owned(),
            labels,
            created: Stamp::default(),
            updated: Stamp::default(),
            usage: Usage::default(),
            layer: None,
            lowers: Vec::new(),
            reason: None,
            namespace: None,
        }
    }
}

/// Drops labels without a value, as containerd does when it stores them.
pub(crate) fn kept_labels(labels: HashMap<String, String>) -> Labels {
    labels
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect()
}
