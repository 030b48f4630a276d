//! What is done once at start.

use std::collections::{BTreeMap, HashMap};

use crate::error::Error;
use crate::layers::MountError;
use crate::snapshot::Lower;
use crate::snapshotter::{Inner, Snapshotter};

/// What [`Snapshotter::restore`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Layers shown again.
    pub shown: usize,
    /// Left-over directories removed.
    pub removed: usize,
    /// Snapshots with a layer that could not be shown, by key.
    pub broken: Vec<(String, MountError)>,
}

impl Snapshotter {
    /// Shows again every layer that active and view snapshots need, removes what a crash left, releases
    /// layers that nothing uses. Local state only. Call it once, before serving.
    ///
    /// A layer that cannot be shown does not stop anything: its snapshots are in the answer, and their Mounts
    /// answers an error that names the layer until it can be shown.
    ///
    /// # Errors
    /// [`Error`] if the metadata or the snapshots' folder cannot be read.
    pub async fn restore(&self) -> Result<Restored, Error> {
        let restored = self
            .run(|inner| {
                let removed = inner.clean_up()?;
                let (shown, broken) = inner.show_again()?;
                inner.store.note_unused(&inner.layers.known())?;
                Ok(Restored {
                    shown,
                    removed,
                    broken,
                })
            })
            .await?;
        self.release_unused().await?;
        for (snapshot, error) in &restored.broken {
            tracing::error!(snapshot, %error, "a snapshot cannot be used");
        }
        tracing::info!(
            shown = restored.shown,
            removed = restored.removed,
            "snapshots restored"
        );
        Ok(restored)
    }
}

impl Inner {
    fn show_again(&self) -> Result<(usize, Vec<(String, MountError)>), Error> {
        let mut users: BTreeMap<(u64, u32, bool), Vec<String>> = BTreeMap::new();
        self.store.walk(|name, record| {
            for lower in &record.lowers {
                if let Lower::Layer { layer, copy, direct } = *lower {
                    let of_copy = users.entry((layer, copy, direct)).or_default();
                    of_copy.push(name.to_owned());
                }
            }
            true
        })?;
        let mut broken = HashMap::new();
        let mut shown = 0;
        for ((layer, copy, direct), snapshots) in users {
            match self.layers.show_as(layer, copy, direct) {
                Ok(_) => shown += 1,
                Err(error) => broken.extend(snapshots.into_iter().map(|name| (name, error.clone()))),
            }
        }
        let mut broken: Vec<_> = broken.into_iter().collect();
        broken.sort_by(|a, b| a.0.cmp(&b.0));
        Ok((shown, broken))
    }
}
