//! Why a piece did not come.

/// Why nobody could deliver a piece. Four cases that call for different actions, never folded into one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The origin answered that there is no such blob. Asking again does not help.
    #[error("missing: the origin does not have the blob")]
    Missing,
    /// Every source that could be asked delivered other bytes. Another source may help later.
    #[error("corrupt: the bytes that came are not those of the blob")]
    Corrupt,
    /// No source answered in time, or all said "later". Asking again later helps.
    #[error("unavailable: no peer and no origin delivered in time")]
    Unavailable,
    /// The origin refuses with the credentials that are known here. Other credentials help.
    #[error("forbidden: the origin refuses the credentials")]
    Forbidden,
}
