//! Which pull brought what: span contexts by layer or blob, the latest ones.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Instant;

use super::{SpanContext, followed};

/// Layers and blobs that are remembered, each: some hundred images. About 100 bytes apiece.
const MOST: usize = 8192;

/// A bounded map; the oldest entries go first.
pub(super) struct Recent<K> {
    entries: HashMap<K, (SpanContext, Instant)>,
    order: VecDeque<K>,
}

impl<K> Default for Recent<K> {
    fn default() -> Recent<K> {
        Recent {
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Recent<K> {
    /// Notes the pull that brought `key` now.
    pub(super) fn put(&mut self, key: K, pull: SpanContext) {
        if self.entries.insert(key.clone(), (pull, Instant::now())).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }

    /// The pull that brought `key`, and whether what happens to it now still belongs to that pull's trace.
    pub(super) fn get(&self, key: &K) -> Option<(SpanContext, bool)> {
        let (pull, since) = self.entries.get(key)?;
        Some((pull.clone(), followed(*since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let mut recent = Recent::default();
        for number in 0..=MOST {
            recent.put(number, SpanContext::NONE);
            recent.put(number, SpanContext::NONE);
        }
        assert!(recent.get(&0).is_none());
        assert!(recent.get(&1).is_some() && recent.get(&MOST).is_some());
        assert_eq!(recent.entries.len(), MOST);
    }
}
