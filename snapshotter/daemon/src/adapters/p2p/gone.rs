//! Which registries and servers do not answer now: for their content another node's word has to do meanwhile.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Hosts that this node's users read from.
pub(super) const MOST_HOSTS: usize = 4096;

/// One that did not answer is tried again after so long, as by the registry client.
const FOR: Duration = Duration::from_secs(15);

/// Longest that one can ask to be left alone.
const LONGEST: Duration = Duration::from_secs(60);

/// Hosts, and until when they are left alone.
#[derive(Debug, Default)]
pub(super) struct Gone(Mutex<HashMap<String, Instant>>);

impl Gone {
    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It did not answer, or asked for time.
    pub(super) fn note(&self, host: &str, asked: Option<Duration>, now: Instant) {
        let until = now + asked.unwrap_or_default().clamp(FOR, LONGEST);
        let mut hosts = self.hosts();
        hosts.retain(|_, until| *until > now);
        if hosts.len() < MOST_HOSTS {
            hosts.insert(host.to_owned(), until);
        }
    }

    /// It answered.
    pub(super) fn answered(&self, host: &str) {
        self.hosts().remove(host);
    }

    /// Whether it is left alone.
    pub(super) fn is(&self, host: &str, now: Instant) -> bool {
        self.hosts().get(host).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_gone_until_it_answers_or_its_time_is_over() {
        let (gone, now) = (Gone::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        gone.note("a", None, now);
        gone.note("b", Some(Duration::from_secs(30)), now);
        gone.note("c", Some(Duration::from_secs(86_400)), now);
        assert_eq!(
            ["a", "b", "c", "d"].map(|host| gone.is(host, after(14))),
            [true, true, true, false]
        );
        assert_eq!(
            ["a", "b", "c"].map(|host| gone.is(host, after(29))),
            [false, true, true]
        );
        assert!(!gone.is("c", after(60)));
        gone.answered("b");
        assert!(!gone.is("b", after(14)));
    }
}
