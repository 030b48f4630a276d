//! A failure inside the client, before it is known what was asked for and what else will be tried.

use std::time::Duration;

use crate::Error;

/// One try's failure. [`Fault::into_error`] adds the place and the content's name.
#[derive(Debug)]
pub(crate) enum Fault {
    NotFound,
    Corrupt(String),
    Unavailable {
        reason: String,
        /// Wait that the server asked for.
        retry_after: Option<Duration>,
        /// The host itself failed, so that its breaker counts it; false: it only asked for patience.
        broken: bool,
    },
    Forbidden(String),
    Invalid(String),
    /// A local file or source of credentials failed; no other host can help.
    Local(Error),
}

impl Fault {
    /// A host that does not answer as it should; another try may do.
    pub(crate) fn broken(reason: impl Into<String>) -> Fault {
        Fault::Unavailable {
            reason: reason.into(),
            retry_after: None,
            broken: true,
        }
    }

    /// Makes a transport error a fault.
    pub(crate) fn transport(error: reqwest::Error) -> Fault {
        let reason = reason_of(error);
        if reason.contains("invalid peer certificate") {
            // It answers, and is not who it should be: asking again does not help.
            return Fault::Forbidden(reason);
        }
        Fault::broken(reason)
    }

    pub(crate) fn into_error(self, place: &str, what: &str) -> Error {
        let (place, what) = (place.to_owned(), what.to_owned());
        match self {
            Fault::NotFound => Error::NotFound { place, what },
            Fault::Corrupt(reason) => Error::Corrupt { place, what, reason },
            Fault::Unavailable {
                reason, retry_after, ..
            } => Error::Unavailable {
                place,
                what,
                reason,
                retry_after,
            },
            Fault::Forbidden(reason) => Error::Forbidden { place, what, reason },
            Fault::Invalid(reason) => Error::Invalid {
                what: format!("{what} in {place}"),
                reason,
            },
            Fault::Local(error) => error,
        }
    }

    /// May the same request succeed a little later?
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Fault::Unavailable { .. })
    }
}

/// Tells an HTTP error with its causes. The URL is left out: it may be signed, which makes it a secret.
pub fn reason_of(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !reason.contains(&text) {
            reason.push_str(": ");
            reason.push_str(&text);
        }
        source = cause.source();
    }
    reason
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Local(error)
    }
}
