//! Members by gossip: SWIM (Das, Gupta, Motivala 2002) by the library `foca`, and an exchange of everything known.
//!
//! foca has no sockets and no clock; a task gives it both. Its packets travel over the same proven connections as
//! pieces. One packet holds about 70 members, so a node that joins a large cluster would learn of it slowly: it sends
//! all it knows to a seed, which answers with all that it knows; later each node does so with a random member every few
//! minutes, which also heals what gossip has missed.

mod exchange;
mod identity;
mod task;
#[cfg(test)]
mod tests;
mod timers;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use self::task::{Command, Task};
use super::{Members, Meta, Outgoing, Peer};

/// What a node needs to take part.
#[derive(Clone, Debug)]
pub struct SwimOptions {
    /// Where others reach this node.
    pub address: SocketAddr,
    /// What it tells of itself.
    pub meta: Meta,
    /// `host:port` of nodes that may be there already.
    pub seeds: Vec<String>,
}

/// Membership by gossip.
pub struct Swim {
    commands: mpsc::Sender<Command>,
    members: watch::Receiver<Arc<Vec<Peer>>>,
}

/// Commands that wait; what comes while it is full is lost, as packets are.
const COMMANDS: usize = 1024;

impl Swim {
    /// Joins the cluster, or begins one. What is to be sent comes out of the receiver. Needs a runtime around it.
    pub fn start(options: SwimOptions) -> (Swim, Outgoing) {
        let (commands, received) = mpsc::channel(COMMANDS);
        let (sender, members) = watch::channel(Arc::default());
        let (outgoing, out) = mpsc::channel(COMMANDS);
        let task = Task::new(options, outgoing, sender);
        tokio::spawn(task.run(received));
        (Swim { commands, members }, out)
    }
}

impl Members for Swim {
    fn watch(&self) -> watch::Receiver<Arc<Vec<Peer>>> {
        self.members.clone()
    }

    fn take(&self, from: SocketAddr, bytes: Bytes) {
        let _ = self.commands.try_send(Command::Take(from, bytes));
    }

    fn suspect(&self, member: SocketAddr) {
        let _ = self.commands.try_send(Command::Suspect(member));
    }

    fn announce_leaf(&self, leaf: bool) {
        let _ = self.commands.try_send(Command::Leaf(leaf));
    }

    fn set_seeds(&self, seeds: Vec<String>) {
        let _ = self.commands.try_send(Command::Seeds(seeds));
    }
}
