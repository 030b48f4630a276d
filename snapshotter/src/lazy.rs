//! Lazy layers: how containerd is told that it need not fetch one, and when one is let go.
//!
//! ```text
//! containerd                         snapshotter
//!   Prepare(key, parent, ref) ─────►   offered before?  ──yes──► AlreadyExists
//!                                      Layers::offer, show
//!                                      record: committed, parent, labels with the ref
//!   ◄───────────── AlreadyExists ──┘
//!   List(ref, parent) ─────────────►   that record
//! ```
//!
//! A kill between two steps leaves either nothing, or a layer without a snapshot (released at start), or
//! the record (found at the next Prepare).

use std::sync::Arc;

use lacewing_format::Digest;

use crate::error::Error;
use crate::layer_ref::{CHAIN_ID_LABEL, IMAGE_LABEL};
use crate::layers::{LayerRequest, Offer};
use crate::metastore::NewLazy;
use crate::snapshot::{Stamp, kept_labels};
use crate::snapshotter::{Inner, NewCall, Offered, Snapshotter};

/// Hex digits of the parent's digest in a name: 128 bits, so that no two parents are taken for each other.
const PARENT_DIGITS: usize = 32;

/// Names the lazy snapshot of a chain id on a parent.
///
/// containerd looks a lazy snapshot up by its labels and its parent, so any name will do; but the same chain
/// id may be asked for on different parents: where a layer below is an ordinary one, each containerd
/// namespace has a parent of its own. Hence one name for each pair.
pub(crate) fn name(parent: &str, chain_id: &str) -> String {
    if parent.is_empty() {
        return format!("lacewing/{chain_id}");
    }
    let hex = Digest::of(parent.as_bytes()).hex();
    format!("lacewing/{chain_id}@{}", &hex[..PARENT_DIGITS])
}

impl Snapshotter {
    /// Makes the layer of a Prepare a lazy snapshot, if it can be one.
    ///
    /// # Errors
    /// Those of the parent and the key, [`Error::Store`].
    pub(crate) async fn offer(&self, call: &NewCall, chain_id: &str) -> Result<Offered, Error> {
        let (name, parent, key) = (
            name(&call.parent, chain_id),
            call.parent.clone(),
            call.key.clone(),
        );
        let there = self
            .run(move |inner| inner.is_there(&name, &parent, &key))
            .await?;
        let chain_id = chain_id.to_owned();
        if there {
            return Ok(Offered::There { chain_id });
        }
        // A task of its own: if the caller goes away, no layer stays without its snapshot.
        let (this, call) = (self.clone(), call.clone());
        tokio::spawn(async move { this.offer_new(call, chain_id).await }).await?
    }

    async fn offer_new(&self, call: NewCall, chain_id: String) -> Result<Offered, Error> {
        let offering = self.inner.offers.read().await;
        let request = LayerRequest {
            namespace: call.namespace,
            chain_id: chain_id.clone(),
            parent: call.parent,
            labels: call.labels,
            traceparent: call.traceparent,
        };
        let answer = self.inner.layers.offer(&request).await;
        let image = request.labels.get(IMAGE_LABEL).cloned().unwrap_or_default();
        let offered = match answer {
            Offer::Ordinary { reason } => Offered::Ordinary { reason },
            Offer::Lazy { layer } => self.run(move |inner| inner.record_lazy(layer, request)).await?,
        };
        drop(offering);
        match &offered {
            Offered::There { .. } => tracing::info!(chain_id, image, "layer is lazy"),
            Offered::Ordinary { reason } => tracing::info!(chain_id, image, reason, "layer is not lazy"),
        }
        self.release_unused().await?;
        Ok(offered)
    }

    /// Releases layers that are held and that no snapshot uses, whoever left them; returns how many. Does nothing while
    /// offers are under way: a layer that is offered has no snapshot yet.
    ///
    /// # Errors
    /// [`Error`] if the metadata cannot be read or written.
    pub async fn collect(&self) -> Result<usize, Error> {
        let before = {
            let Ok(_no_offers) = self.inner.offers.try_write() else {
                return Ok(0);
            };
            self.run(|inner| {
                let known = inner.layers.known();
                inner.store.note_unused(&known)?;
                Ok(known.len())
            })
            .await?
        };
        self.release_unused().await?;
        let after = self.run(|inner| Ok(inner.layers.known().len())).await?;
        Ok(before.saturating_sub(after))
    }

    /// Releases layers that no snapshot uses any more, unless offers are under way; then the last of them
    /// does, or Cleanup.
    ///
    /// # Errors
    /// [`Error::Store`]; layers not yet released stay noted.
    pub(crate) async fn release_unused(&self) -> Result<(), Error> {
        let Ok(_no_offers) = self.inner.offers.try_write() else {
            return Ok(());
        };
        for layer in self.run(|inner| inner.store.unused_layers()).await? {
            Arc::clone(&self.inner.layers).release(layer).await;
            self.run(move |inner| inner.store.forget_unused(layer)).await?;
            tracing::info!(layer, "layer released");
        }
        Ok(())
    }
}

impl Inner {
    /// Tells whether the lazy snapshot is there already. Otherwise checks what a Prepare needs.
    fn is_there(&self, name: &str, parent: &str, key: &str) -> Result<bool, Error> {
        if let Some(record) = self.store.find(name)? {
            return Ok(record.layer.is_some() && record.parent == parent);
        }
        self.store.chain(parent)?;
        match self.store.find(key)? {
            Some(_) => Err(Error::already_exists(format!("snapshot {key}"))),
            None => Ok(false),
        }
    }

    /// Records the snapshot of an offered layer, once it is seen to be showable.
    fn record_lazy(&self, layer: u64, request: LayerRequest) -> Result<Offered, Error> {
        if let Err(error) = self.layers.show(layer, 0) {
            self.store.note_unused(&[layer])?;
            return Ok(Offered::Ordinary {
                reason: error.to_string(),
            });
        }
        let mut labels = kept_labels(request.labels);
        labels.insert(CHAIN_ID_LABEL.to_owned(), request.chain_id.clone());
        let new = NewLazy {
            name: &name(&request.parent, &request.chain_id),
            parent: &request.parent,
            layer,
            labels,
            namespace: request.namespace,
        };
        let recorded = self.store.create_lazy(new, Stamp::now());
        if !matches!(recorded, Ok(true)) {
            // The snapshot is another call's, or could not be made: the layer may be nobody's.
            self.store.note_unused(&[layer])?;
        }
        recorded?;
        Ok(Offered::There {
            chain_id: request.chain_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_for_each_pair() {
        let names = [
            name("", "sha256:a"),
            name("", "sha256:b"),
            name("one/1/sha256:p", "sha256:a"),
            name("two/9/sha256:p", "sha256:a"),
            name("one/1/sha256:p", "sha256:b"),
        ];
        for (i, a) in names.iter().enumerate() {
            assert!(names[i + 1..].iter().all(|b| a != b), "{a}");
        }
        assert_eq!(name("p", "c"), name("p", "c"));
        assert_eq!(names[0], "lacewing/sha256:a");
    }
}
