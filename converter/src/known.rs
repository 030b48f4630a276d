//! Layers that were converted for one platform of an image and come again with another.
//!
//! A layer's index says what its tar makes of the layers below, and which files a start reads first. It serves again where
//! that cannot differ.

use std::sync::Arc;

use lacewing_format::{Digest, Tree};

use crate::hot::Hints;
use crate::output::Output;

/// What is known of a layer before it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) stored_len: u64,
}

/// What a layer's index was made from.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) facts: Facts,
    /// Digests of the layers below, bottom first.
    pub(crate) below: Vec<Digest>,
    pub(crate) hints: Arc<Hints>,
    /// The layer's tree is the same whatever is below.
    pub(crate) stands_alone: bool,
    /// What layers above need of it.
    pub(crate) skeleton: Arc<Tree>,
}

/// A converted layer.
pub(crate) struct Known {
    pub(crate) origin: Origin,
    /// What came of it, without what was sent.
    pub(crate) output: Output,
}

/// Finds, for each layer of an image, one that was converted before and has the same index.
pub(crate) fn find<'a>(known: &'a [Known], layers: &[Facts], hints: &Hints) -> Vec<Option<&'a Known>> {
    let find = |number: usize| {
        let facts = &layers[number];
        let below = layers[..number].iter().map(|layer| layer.digest);
        known.iter().find(|known| {
            let origin = &known.origin;
            (origin.facts.digest, origin.facts.diff_id) == (facts.digest, facts.diff_id)
                && *origin.hints == *hints
                && (origin.stands_alone || below.clone().eq(origin.below.iter().copied()))
        })
    };
    (0..layers.len()).map(find).collect()
}
