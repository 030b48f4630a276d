//! The port through which a node bounds what its connections send.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

/// Decides when piece bytes may go out: rate limits and the number of uploads at a time.
pub trait Pace: Send + Sync + 'static {
    /// Resolves when `len` bytes of a piece may be written.
    fn pass(&self, blocking: bool, len: usize) -> BoxFuture<'_, ()>;

    /// Bytes that somebody waits for were handed to the network, which took so long.
    fn wrote(&self, _took: Duration) {}

    /// The same for one connection, if each has a limit of its own.
    fn of_link(&self) -> Option<Arc<dyn Pace>> {
        None
    }
}
