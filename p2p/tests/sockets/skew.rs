//! Nodes of the release before and of the one after, should they speak another version: both sides see it in the greeting, neither
//! asks the other, and readers get everything all the same. Version 1 is the only one so far.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::BytesMut;
use lacewing_p2p::identity::{Identity, Source};
use lacewing_p2p::transport::Message;
use lacewing_p2p::transport::message::VERSION;
use lacewing_p2p::{Class, Node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::node::{Image, Knowing, Registry, Way, World, addresses, read_all};

fn greeting(version: u16, address: SocketAddr) -> BytesMut {
    let mut bytes = BytesMut::new();
    let hello = Message::Hello {
        version,
        address: address.to_string(),
    };
    hello.encode(&mut bytes);
    bytes
}

/// A node of another release: it greets whoever connects, and counts what it is told beyond a greeting.
async fn other_release(version: u16, address: SocketAddr, asked: Arc<AtomicU32>) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                let _ = stream.write_all(&greeting(version, address)).await;
                let mut buffer = BytesMut::new();
                let mut greeted = false;
                while stream.read_buf(&mut buffer).await.is_ok_and(|len| len > 0) {
                    while let Ok(Some(message)) = Message::decode(&mut buffer) {
                        let hello = matches!(message, Message::Hello { version: VERSION, .. });
                        assert!(hello || greeted, "it does not begin with a greeting");
                        greeted = true;
                        asked.fetch_add(u32::from(!hello), Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_one_version_apart_do_not_share_and_everybody_reads() {
    for version in [VERSION - 1, VERSION + 1] {
        let image = Image::new(20, 10_000);
        let registry = Registry::new(&image);
        let world = World::new();
        let all = addresses(3);
        let asked = Arc::new(AtomicU32::new(0));
        other_release(version, all[2], Arc::clone(&asked)).await;
        let mut nodes = Vec::new();
        for address in &all[..2] {
            let way = Arc::new(Way(registry.clone()));
            let mut parts = world.parts(*address, &all, way, Arc::new(Knowing(image.clone())));
            parts.identity = Arc::new(Identity::open(Source::Plain).unwrap());
            nodes.push(Node::start(parts).unwrap());
        }
        let reads = nodes.iter().map(|node| read_all(node, &image, Class::Blocking));
        futures::future::join_all(reads).await;
        assert_eq!(asked.load(Ordering::Relaxed), 0, "version {version} was asked");

        // The reverse: it connects to one of ours, is told our version, and nothing after it.
        let mut stream = TcpStream::connect(all[0]).await.unwrap();
        stream.write_all(&greeting(version, all[2])).await.unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        assert_eq!(said, greeting(VERSION, all[0]), "version {version}");
    }
}
