//! What the process asks the system for, and bounds on what comes from outside.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::debug;

/// An index that is larger when stored than when plain is no index; the plain one's bound is the format's.
pub(crate) const MAX_STORED_INDEX: u64 = lacewing_format::limits::MAX_INDEX;
/// Repositories remembered per layer. An image has one; the same layer may be pulled from several.
pub(crate) const MAX_PLACES: usize = 8;

/// Raises the soft limit of open files to the hard one: two per pack, one per index, one per connection.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    ) {
        debug!("raising the limit of open files: {error}");
    }
}

/// The daemon is what containers read through: of all processes it should be the last that the kernel ends for want of
/// memory. Children inherit it.
pub(crate) fn ask_to_be_spared() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-999") {
        debug!("oom_score_adj: {error}");
    }
}
