//! What members cost in memory: printed, for the documentation.

use std::sync::Arc;

use lacewing_p2p::Node;
use lacewing_p2p::members::{Listed, Places};

use crate::node::{Image, Knowing, Registry, Way, World, addresses};

const MEMBERS: u32 = 10_000;

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// A node that knows so many others: their places in the trees, their addresses.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: run it alone, with --no-capture"]
async fn what_members_cost_in_memory() {
    let world = World::new();
    let image = Image::new(1, 1000);
    let registry = Registry::new(&image);
    let address = addresses(1)[0];
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = |number: u32| {
        format!(
            "10.{}.{}.{}:7070 zone-{}\n",
            number >> 16,
            number >> 8 & 255,
            number & 255,
            number % 3
        )
    };
    std::fs::write(&file, (0..MEMBERS).map(line).collect::<String>()).unwrap();
    let (way, knowing) = (Arc::new(Way(registry.clone())), Arc::new(Knowing(image.clone())));
    let mut parts = world.parts(address, &[address], way, knowing);
    let before = resident();
    parts.members = Arc::new(Listed::start(Places::File(file.path().to_owned())));
    let node = Node::start(parts).unwrap();
    while node.status().await.members < MEMBERS {
        tokio::task::yield_now().await;
    }
    let each = (resident() - before) / u64::from(MEMBERS);
    println!("{each} bytes for each of {MEMBERS} members, gossip not counted");
}
