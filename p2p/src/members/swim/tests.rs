#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use super::exchange::Exchange;
use super::identity::Id;
use super::*;

/// What goes between nodes whose packets are carried by hand.
#[derive(Default)]
struct Wire {
    messages: AtomicU64,
    bytes: AtomicU64,
    /// Nodes below this number and the others do not hear each other.
    cut: AtomicU16,
}

impl Wire {
    fn carries(&self, from: u16, to: u16) -> bool {
        let cut = self.cut.load(Ordering::Relaxed);
        (from < cut) == (to < cut)
    }
}

async fn cluster(count: u16) -> Vec<Arc<Swim>> {
    wired(count, &Arc::default(), 1).await
}

async fn wired(count: u16, wire: &Arc<Wire>, seeds: u16) -> Vec<Arc<Swim>> {
    let address = |number: u16| SocketAddr::from(([127, 0, 0, 1], 10_000 + number));
    let mut nodes = Vec::new();
    let mut outs = Vec::new();
    for number in 0..count {
        let (swim, out) = Swim::start(SwimOptions {
            address: address(number),
            meta: Meta {
                zone: format!("z{}", number % 2),
                ..Meta::default()
            },
            seeds: (0..seeds).map(|seed| address(seed).to_string()).collect(),
        });
        nodes.push(Arc::new(swim));
        outs.push(out);
    }
    for (from, mut out) in (0..).zip(outs) {
        let nodes: Vec<_> = nodes.iter().map(Arc::downgrade).collect();
        let wire = wire.clone();
        tokio::spawn(async move {
            while let Some((to, bytes)) = out.recv().await {
                let target = to.port() - 10_000;
                wire.messages.fetch_add(1, Ordering::Relaxed);
                wire.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                if let Some(node) = nodes[usize::from(target)].upgrade()
                    && wire.carries(from, target)
                {
                    node.take(address(from), bytes);
                }
            }
        });
    }
    nodes
}

async fn all_know(nodes: &[Arc<Swim>], others: usize) {
    for node in nodes {
        let mut members = node.watch();
        members.wait_for(|members| members.len() == others).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn halves_that_have_given_each_other_up_find_each_other_again() {
    let wire = Arc::new(Wire::default());
    let nodes = wired(12, &wire, 2).await;
    all_know(&nodes, 11).await;
    // Both seeds are on one side.
    wire.cut.store(4, Ordering::Relaxed);
    all_know(&nodes[..4], 3).await;
    all_know(&nodes[4..], 7).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    wire.cut.store(0, Ordering::Relaxed);
    all_know(&nodes, 11).await;
}

#[tokio::test(start_paused = true)]
async fn who_has_no_news_is_quiet() {
    let wire = Arc::new(Wire::default());
    let nodes = wired(100, &wire, 3).await;
    all_know(&nodes, 99).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let sent = || {
        (
            wire.messages.load(Ordering::Relaxed),
            wire.bytes.load(Ordering::Relaxed),
        )
    };
    let before = sent();
    let time = 600;
    tokio::time::sleep(Duration::from_secs(time)).await;
    let after = sent();
    let each = |total: u64| total as f64 / (nodes.len() as u64 * time) as f64;
    let (messages, bytes) = (each(after.0 - before.0), each(after.1 - before.1));
    println!("each second, each node: {messages:.2} messages of {bytes:.1} bytes in all");
    // A probe and its answer every other second, and now and then what it knows.
    assert!(
        messages < 1.3 && bytes < 150.0,
        "{messages} messages, {bytes} bytes"
    );
}

#[tokio::test(start_paused = true)]
async fn all_know_all_with_what_they_tell() {
    let nodes = cluster(20).await;
    for node in &nodes {
        let mut members = node.watch();
        let members = members.wait_for(|members| members.len() == 19).await.unwrap();
        assert!(members.iter().any(|peer| peer.meta.zone == "z1"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaf_is_known_as_one() {
    let nodes = cluster(5).await;
    let mut members = nodes[4].watch();
    members.wait_for(|members| members.len() == 4).await.unwrap();
    nodes[2].announce_leaf(true);
    let told = |members: &Arc<Vec<Peer>>| {
        members
            .iter()
            .any(|peer| peer.address.port() == 10_002 && peer.meta.leaf)
    };
    members.wait_for(told).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_leaves_or_dies_is_forgotten() {
    let mut nodes = cluster(6).await;
    let mut members = nodes[0].watch();
    members.wait_for(|members| members.len() == 5).await.unwrap();
    drop(nodes.pop());
    members.wait_for(|members| members.len() == 4).await.unwrap();
}

#[tokio::test(start_paused = true)]
#[ignore = "a measurement: run it alone, with --no-capture"]
async fn what_members_cost_in_memory() {
    const MEMBERS: u32 = 10_000;
    let resident = || -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages = text.split_whitespace().nth(1).unwrap();
        pages.parse::<u64>().unwrap() * 4096
    };
    let id = |number: u32| Id {
        address: SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 7070)),
        generation: 1_700_000_000_000,
        meta: Meta {
            zone: format!("zone-{}", number % 3),
            ..Meta::default()
        },
    };
    let ids: Vec<Id> = (1..=MEMBERS).map(id).collect();
    let exchange = Exchange::Answer(ids).written().unwrap();
    let before = resident();
    let (swim, _out) = Swim::start(SwimOptions {
        address: id(0).address,
        meta: Meta::default(),
        seeds: Vec::new(),
    });
    swim.take(id(1).address, exchange);
    all_know(&[Arc::new(swim)], MEMBERS as usize).await;
    let each = (resident() - before) / u64::from(MEMBERS);
    println!("{each} bytes of gossip for each of {MEMBERS} members");
}

#[tokio::test(start_paused = true)]
async fn nonsense_from_others_changes_nothing() {
    let nodes = cluster(2).await;
    let mut members = nodes[0].watch();
    members.wait_for(|members| members.len() == 1).await.unwrap();
    let from = SocketAddr::from(([127, 0, 0, 1], 1));
    for bytes in [
        &b""[..],
        b"\x00junk",
        b"\x01\xff\xff\xff\xff\xff\xff",
        b"\x02",
        b"\x09x",
    ] {
        nodes[0].take(from, Bytes::copy_from_slice(bytes));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(nodes[0].watch().borrow().len(), 1);
}
