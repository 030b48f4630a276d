//! What time it is, as far as readers' patience goes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A clock: the system's, or one that stands still until it is moved.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<Mutex<Instant>>>);

impl Clock {
    /// A clock that stands still, for tests: what depends on time happens when they say so.
    pub fn standing() -> Clock {
        Clock(Some(Arc::new(Mutex::new(Instant::now()))))
    }

    /// Moves a clock that stands still; the system's goes by itself.
    pub fn advance(&self, by: Duration) {
        if let Some(time) = &self.0 {
            *time.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }

    /// The time.
    pub(crate) fn now(&self) -> Instant {
        match &self.0 {
            Some(time) => *time.lock().unwrap_or_else(PoisonError::into_inner),
            None => Instant::now(),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Clock(standing)"
        } else {
            "Clock"
        })
    }
}
