//! Strangers at the socket: garbage, half messages, silence. The node serves on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lacewing_p2p::identity::{Identity, Source};
use lacewing_p2p::{Class, Node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::{Image, Knowing, Registry, Way, World, addresses, assembled, read_all};

/// Two nodes without encryption, so that what is sent reaches the parser; short patience.
async fn plain(world: &World) -> (Vec<Node>, Vec<SocketAddr>, Arc<Image>) {
    let image = Image::new(20, 1000);
    let registry = Registry::new(&image);
    let all = addresses(2);
    let mut nodes = Vec::new();
    for address in &all {
        let way = Arc::new(Way(registry.clone()));
        let mut parts = world.parts(*address, &all, way, Arc::new(Knowing(image.clone())));
        parts.identity = Arc::new(Identity::open(Source::Plain).unwrap());
        parts.timing.handshake = Duration::from_secs(1);
        parts.timing.ping_every = Duration::from_millis(100);
        parts.timing.silence = Duration::from_secs(1);
        nodes.push(Node::start(parts).unwrap());
    }
    assembled(&nodes).await;
    (nodes, all, image)
}

fn hello(address: &str) -> Vec<u8> {
    let len = (1 + 2 + 2 + address.len()) as u32;
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.push(1);
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend((address.len() as u16).to_le_bytes());
    bytes.extend(address.as_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_strangers_send_ends_their_connection_only() {
    let world = World::new();
    let (nodes, all, image) = plain(&world).await;
    let greeting = hello("127.0.0.1:9");
    let after_greeting = |rest: &[u8]| [greeting.as_slice(), rest].concat();
    for (what, bytes) in [
        ("garbage", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a huge message", u32::MAX.to_le_bytes().to_vec()),
        ("an empty message", 0_u32.to_le_bytes().to_vec()),
        ("another version", {
            let mut bytes = greeting.clone();
            bytes[5] = 9;
            bytes
        }),
        ("an address that is none", hello("nonsense")),
        ("somebody else's address", hello("10.9.9.9:7070")),
        ("a second greeting", after_greeting(&greeting)),
        ("an unknown kind", after_greeting(&[1, 0, 0, 0, 77])),
        (
            "a cut request",
            after_greeting(&[9, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        ("silence", Vec::new()),
        ("half a greeting", greeting[..6].to_vec()),
        ("a greeting and silence", greeting.clone()),
    ] {
        let mut stream = TcpStream::connect(all[0]).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        // The connection ends; what it said before (greeting, pings) does not matter.
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{what} is kept for ever");
    }
    for node in &nodes {
        read_all(node, &image, Class::Blocking).await;
    }
}
