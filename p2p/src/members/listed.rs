//! Members from names or from a file, looked up again and again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::{Members, Meta, Peer, TREES, resolve};
use crate::limits::MAX_MEMBERS;

/// How often names are resolved and files read again. A headless Service has short-lived records.
const EVERY: Duration = Duration::from_secs(10);

/// Largest file of members that is read.
const MAX_FILE: u64 = 16 << 20;

/// Where members are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Places {
    /// Addresses or names with ports; a name stands for all its addresses, as that of a headless Service.
    Names(Vec<String>),
    /// A file with a member on each line: address, and its zone if there are zones. `#` begins a comment.
    File(PathBuf),
}

/// Members by list: no gossip, no state.
pub struct Listed {
    places: Arc<Mutex<Places>>,
    members: watch::Receiver<Arc<Vec<Peer>>>,
    again: Arc<tokio::sync::Notify>,
}

impl Listed {
    /// Looks the members up and goes on doing so until this is dropped. Needs a runtime around it.
    pub fn start(places: Places) -> Listed {
        let (sender, members) = watch::channel(Arc::default());
        let places = Arc::new(Mutex::new(places));
        let again = Arc::new(tokio::sync::Notify::new());
        let (shared, woken) = (places.clone(), again.clone());
        tokio::spawn(async move {
            loop {
                let places = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let found = look_up(places).await;
                sender.send_if_modified(|before| {
                    // A name server that fails is no reason to forget everybody.
                    let changed = !found.is_empty() && **before != found;
                    if changed {
                        *before = Arc::new(found);
                    }
                    changed
                });
                tokio::select! {
                    () = tokio::time::sleep(EVERY) => {}
                    () = woken.notified() => {}
                    () = sender.closed() => return,
                }
            }
        });
        Listed {
            places,
            members,
            again,
        }
    }
}

async fn look_up(places: Places) -> Vec<Peer> {
    let peer = |address| Peer {
        address,
        meta: Meta {
            trees: TREES,
            ..Meta::default()
        },
    };
    match places {
        Places::Names(names) => resolve(&names).await.into_iter().map(peer).collect(),
        Places::File(path) => {
            let small = std::fs::metadata(&path).is_ok_and(|data| data.len() <= MAX_FILE);
            let text = small.then(|| std::fs::read_to_string(&path));
            match text {
                Some(Ok(text)) => parse(&text),
                _ => {
                    tracing::warn!(path = %path.display(), "the file of members cannot be read");
                    Vec::new()
                }
            }
        }
    }
}

/// Lines that are no members are left out: one typing error must not dissolve a cluster.
fn parse(text: &str) -> Vec<Peer> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or(""));
    let member = |line: &str| {
        let mut words = line.split_whitespace();
        let address: SocketAddr = words.next()?.parse().ok()?;
        let meta = Meta {
            zone: words.next().unwrap_or("").to_owned(),
            trees: TREES,
            ..Meta::default()
        };
        meta.is_sound().then_some(Peer { address, meta })
    };
    lines.filter_map(member).take(MAX_MEMBERS).collect()
}

impl Members for Listed {
    fn watch(&self) -> watch::Receiver<Arc<Vec<Peer>>> {
        self.members.clone()
    }

    fn take(&self, _from: SocketAddr, _bytes: Bytes) {}

    fn suspect(&self, _member: SocketAddr) {}

    fn announce_leaf(&self, _leaf: bool) {}

    fn set_seeds(&self, seeds: Vec<String>) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Places::Names(names) = &mut *places {
            *names = seeds;
            self.again.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_of_members_is_read_line_by_line() {
        let members =
            parse("# our nodes\n10.0.0.1:7070 a\n\n10.0.0.2:7070   b # slow\nnonsense\n[::1]:7070\n");
        let found: Vec<(String, &str)> = members
            .iter()
            .map(|peer| (peer.address.to_string(), peer.meta.zone.as_str()))
            .collect();
        let expected = [("10.0.0.1:7070", "a"), ("10.0.0.2:7070", "b"), ("[::1]:7070", "")];
        assert_eq!(found, expected.map(|(address, zone)| (address.to_owned(), zone)));
    }

    #[tokio::test]
    async fn names_are_resolved_and_replaced() {
        let listed = Listed::start(Places::Names(vec![
            "127.0.0.1:1".to_owned(),
            "nowhere.invalid:1".to_owned(),
        ]));
        let mut members = listed.watch();
        let first = members
            .wait_for(|members| !members.is_empty())
            .await
            .unwrap()
            .clone();
        assert_eq!(first[0].address.to_string(), "127.0.0.1:1");
        listed.set_seeds(vec!["127.0.0.2:1".to_owned()]);
        let replaced = |members: &Arc<Vec<Peer>>| members[0].address.to_string() == "127.0.0.2:1";
        members.wait_for(replaced).await.unwrap();
    }
}
