//! Addresses and folders for nodes of a test. The daemon's tests of its nodes use this file, too.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the system gives out by itself.
const FIRST_PORT: u16 = 20_000;
/// Each cluster has addresses of its own, so that tests can run at the same time.
static NETWORK: AtomicU16 = AtomicU16::new(1);

/// Addresses for a cluster. No other process uses them: they name the process, by 16 bits of its id in the network and the
/// others in the port (at most 6, since ids end at 2^22). A process may have 100 clusters.
pub(crate) fn addresses(count: u16) -> Vec<SocketAddr> {
    let network = NETWORK.fetch_add(1, Ordering::Relaxed);
    let [top, high, low] = [16, 8, 0].map(|shift| (std::process::id() >> shift) as u8);
    let port = FIRST_PORT + u16::from(top) * 100 + network;
    (1..=count)
        .map(|host| SocketAddr::new(IpAddr::from([127, high, low, host as u8]), port))
        .collect()
}

thread_local! {
    /// Folders of this test. They go with its thread, behind the runtime: a store's pieces are written by the runtime's own
    /// threads, and one that comes while a folder is emptied would keep it.
    static FOLDERS: RefCell<Vec<tempfile::TempDir>> = const { RefCell::new(Vec::new()) };
}

/// A folder that outlives what the test leaves running.
pub(crate) fn folder() -> PathBuf {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    FOLDERS.with_borrow_mut(|folders| folders.push(folder));
    path
}
