//! Log-ins that clients showed to this node's mirror: used by this node alone, for the repository they were shown for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::adapters::origins::Place;

/// As long as the shortest tokens of large registries live; a pull's next request brings a new one.
const LIFE: Duration = Duration::from_secs(300);

/// Repositories at a time; a node pulls from some at once.
const MOST: usize = 256;

/// Values of `Authorization`. In memory only.
#[derive(Default)]
pub(crate) struct Lent {
    by_place: Mutex<HashMap<Place, (String, Instant)>>,
}

impl Lent {
    /// Remembers a log-in that the registry accepted.
    pub(crate) fn lend(&self, place: &Place, authorization: &str) {
        let mut all = self.by_place.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST && !all.contains_key(place) {
            all.retain(|_, (_, since)| since.elapsed() < LIFE);
            if all.len() >= MOST {
                all.clear();
            }
        }
        all.insert(place.clone(), (authorization.to_owned(), Instant::now()));
    }

    /// The last one shown.
    pub(crate) fn of(&self, place: &Place) -> Option<String> {
        let all = self.by_place.lock().unwrap_or_else(PoisonError::into_inner);
        let (value, since) = all.get(place)?;
        (since.elapsed() < LIFE).then(|| value.clone())
    }

    /// The registry does not accept it any more.
    pub(crate) fn forget(&self, place: &Place, authorization: &str) {
        let mut all = self.by_place.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(place).is_some_and(|(value, _)| value == authorization) {
            all.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_in_is_for_its_repository() {
        let place = |repository: &str| Place {
            host: "h".to_owned(),
            repository: repository.to_owned(),
        };
        let lent = Lent::default();
        lent.lend(&place("a"), "Bearer x");
        assert_eq!(lent.of(&place("a")).as_deref(), Some("Bearer x"));
        assert_eq!(lent.of(&place("b")), None);
        lent.forget(&place("a"), "Bearer y");
        assert!(lent.of(&place("a")).is_some());
        lent.forget(&place("a"), "Bearer x");
        assert_eq!(lent.of(&place("a")), None);
    }
}
