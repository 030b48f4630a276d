//! What `lacewing top` shows, computed from what nodes say. Pure.

use std::collections::HashMap;
use std::time::Duration;

use lacewing_rpc::control::SwarmNode;
use serde::Serialize;

use crate::output::{bytes, table};

/// A node that receives less than this fraction of the median of all that receive is a straggler.
const SLOW: f64 = 0.25;

/// The cluster at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct View {
    pub(crate) nodes: Vec<Node>,
    /// Of all nodes that answer.
    pub(crate) bytes_from_peers: u64,
    pub(crate) bytes_from_registry: u64,
    /// Of the bytes that nodes received, the part that other nodes gave; none if nothing was received.
    pub(crate) hit_ratio: Option<f64>,
    /// Registry bytes of all nodes, over the most that any node received: 1 is one copy for all, if all want the same.
    pub(crate) registry_copies: Option<f64>,
    pub(crate) stragglers: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) zone: String,
    pub(crate) leaf: bool,
    pub(crate) answers: bool,
    pub(crate) members: u64,
    pub(crate) links: u64,
    pub(crate) pieces: u64,
    pub(crate) bytes_from_peers: u64,
    pub(crate) bytes_from_registry: u64,
    pub(crate) bytes_to_peers: u64,
    pub(crate) hedged: u64,
    pub(crate) wrong_pieces: u64,
    /// Bytes a second received and sent since the last look; 0 at the first.
    pub(crate) receives: u64,
    pub(crate) sends: u64,
    /// From whom it received most, and how much.
    pub(crate) most_from: Option<(String, u64)>,
}

impl View {
    /// From what nodes say now, and said `since` ago.
    pub(crate) fn new(said: &[SwarmNode], before: Option<(&View, Duration)>) -> View {
        let earlier: HashMap<&str, &Node> = before
            .iter()
            .flat_map(|(view, _)| view.nodes.iter())
            .map(|node| (node.address.as_str(), node))
            .collect();
        let seconds = before.map_or(1.0, |(_, since)| since.as_secs_f64().max(0.1));
        let nodes: Vec<Node> = said
            .iter()
            .map(|node| one(node, earlier.get(node.address.as_str()).copied(), seconds))
            .collect();
        let sum = |of: fn(&Node) -> u64| nodes.iter().map(of).sum::<u64>();
        let (peers, registry) = (
            sum(|node| node.bytes_from_peers),
            sum(|node| node.bytes_from_registry),
        );
        let most = nodes.iter().map(Node::received).max().unwrap_or(0);
        let ratio = |part: u64, of: u64| (of > 0).then(|| part as f64 / of as f64);
        View {
            bytes_from_peers: peers,
            bytes_from_registry: registry,
            hit_ratio: ratio(peers, peers + registry),
            registry_copies: ratio(registry, most),
            stragglers: stragglers(&nodes),
            nodes,
        }
    }

    /// For people; as many nodes as fit.
    pub(crate) fn text(&self, most: usize) -> String {
        let percent =
            |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{:.0} %", ratio * 100.0));
        let zones: std::collections::BTreeSet<&str> = self
            .nodes
            .iter()
            .map(|node| node.zone.as_str())
            .filter(|zone| !zone.is_empty())
            .collect();
        let mut text = format!(
            "{} nodes, {} zones; from other nodes {}, from registries {}; hit ratio {}, registry copies {}\n",
            self.nodes.len(),
            zones.len().max(1),
            bytes(self.bytes_from_peers),
            bytes(self.bytes_from_registry),
            percent(self.hit_ratio),
            self.registry_copies
                .map_or("-".to_owned(), |copies| format!("{copies:.2}")),
        );
        if !self.stragglers.is_empty() {
            text += &format!("stragglers: {}\n", self.stragglers.join(", "));
        }
        text.push('\n');
        let rows: Vec<Vec<String>> = self.nodes.iter().take(most).map(Node::row).collect();
        text += &table(
            &[
                "NODE",
                "ZONE",
                "IN/S",
                "OUT/S",
                "FROM NODES",
                "FROM REGISTRY",
                "TO NODES",
                "PIECES",
                "MOST FROM",
                "NOTE",
            ],
            &rows,
        );
        if self.nodes.len() > most {
            text += &format!("and {} more\n", self.nodes.len() - most);
        }
        text
    }
}

fn one(said: &SwarmNode, before: Option<&Node>, seconds: f64) -> Node {
    let count = |name: &str| said.counters.get(name).copied().unwrap_or(0);
    let mut node = Node {
        address: said.address.clone(),
        zone: said.zone.clone(),
        leaf: said.leaf,
        answers: said.answers,
        members: count("p2p_members"),
        links: count("p2p_links"),
        pieces: count("p2p_pieces"),
        bytes_from_peers: count("p2p_bytes_from_peers"),
        bytes_from_registry: count("p2p_bytes_from_registry"),
        bytes_to_peers: count("p2p_bytes_to_peers"),
        hedged: count("p2p_hedged"),
        wrong_pieces: count("p2p_wrong_pieces"),
        ..Node::default()
    };
    if let Some(before) = before.filter(|before| before.answers && node.answers) {
        let rate = |now: u64, then: u64| (now.saturating_sub(then) as f64 / seconds) as u64;
        node.receives = rate(node.received(), before.received());
        node.sends = rate(node.bytes_to_peers, before.bytes_to_peers);
    }
    let most = said.peers.iter().max_by_key(|peer| peer.bytes_from);
    node.most_from = most
        .filter(|peer| peer.bytes_from > 0)
        .map(|peer| (peer.address.clone(), peer.bytes_from));
    node
}

/// Those that do not answer, and those that receive much slower than the others do.
fn stragglers(nodes: &[Node]) -> Vec<String> {
    let mut rates: Vec<u64> = nodes
        .iter()
        .map(|node| node.receives)
        .filter(|rate| *rate > 0)
        .collect();
    rates.sort_unstable();
    let median = rates.get(rates.len() / 2).copied().unwrap_or(0) as f64;
    let slow = |node: &&Node| {
        !node.answers || (rates.len() > 2 && node.receives > 0 && (node.receives as f64) < SLOW * median)
    };
    nodes
        .iter()
        .filter(slow)
        .map(|node| node.address.clone())
        .collect()
}

impl Node {
    fn received(&self) -> u64 {
        self.bytes_from_peers.saturating_add(self.bytes_from_registry)
    }

    fn row(&self) -> Vec<String> {
        let note = match (self.answers, self.leaf, self.wrong_pieces) {
            (false, ..) => "does not answer".to_owned(),
            (_, true, _) => "leaf".to_owned(),
            (_, _, 1..) => format!("{} wrong pieces", self.wrong_pieces),
            _ => String::new(),
        };
        vec![
            self.address.clone(),
            if self.zone.is_empty() { "-" } else { &self.zone }.to_owned(),
            bytes(self.receives),
            bytes(self.sends),
            bytes(self.bytes_from_peers),
            bytes(self.bytes_from_registry),
            bytes(self.bytes_to_peers),
            self.pieces.to_string(),
            self.most_from
                .as_ref()
                .map_or("-".to_owned(), |(peer, _)| peer.clone()),
            note,
        ]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(address: &str, peers: u64, registry: u64) -> SwarmNode {
        SwarmNode {
            address: address.to_owned(),
            answers: true,
            counters: [
                ("p2p_bytes_from_peers".to_owned(), peers),
                ("p2p_bytes_from_registry".to_owned(), registry),
            ]
            .into(),
            ..SwarmNode::default()
        }
    }

    #[test]
    fn one_copy_for_four_nodes_is_told_as_such() {
        let nodes = [
            said("a", 75, 25),
            said("b", 75, 25),
            said("c", 75, 25),
            said("d", 75, 25),
        ];
        let view = View::new(&nodes, None);
        assert_eq!((view.hit_ratio, view.registry_copies), (Some(0.75), Some(1.0)));
        assert!(
            view.text(9).contains("hit ratio 75 %, registry copies 1.00"),
            "{}",
            view.text(9)
        );
        assert_eq!(View::new(&[said("a", 0, 0)], None).registry_copies, None);
    }

    #[test]
    fn who_is_slow_or_silent_is_named() {
        let first = View::new(&["a", "b", "c", "d"].map(|name| said(name, 0, 0)), None);
        let mut now = [
            said("a", 1000, 0),
            said("b", 1100, 0),
            said("c", 100, 0),
            said("d", 0, 0),
        ];
        now[3].answers = false;
        let view = View::new(&now, Some((&first, Duration::from_secs(2))));
        assert_eq!(view.stragglers, ["c", "d"]);
        assert_eq!(view.nodes[0].receives, 500);
        assert!(view.text(2).contains("and 2 more"));
    }
}
