//! Who may take part: certificates of another authority, expired, for another address, none at all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lacewing_p2p::driver::Parts;
use lacewing_p2p::identity::{Identity, IdentityError, Source};
use lacewing_p2p::{Class, Node};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use crate::node::{Image, Knowing, Registry, Way, World, addresses, assembled, read_all};

type Authority = Issuer<'static, KeyPair>;

/// An authority whose certificate lies in `ca`.
fn authority(ca: &Path) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(ca, params.self_signed(&key).unwrap().pem()).unwrap();
    Issuer::new(params, key)
}

/// Writes a certificate and its key.
fn issue(dir: &Path, name: &str, by: &Authority, address: &str, years: (i32, i32)) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(address.parse().unwrap())];
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let certificate = params.signed_by(&key, by).unwrap();
    std::fs::write(dir.join(format!("{name}.crt")), certificate.pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

fn files(dir: &Path, ca: &str, name: &str) -> Source {
    Source::Files {
        ca: dir.join(ca),
        cert: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
        name: None,
    }
}

const GOOD: (i32, i32) = (2020, 4000);

/// A node that holds an image, and one of the given identity that wants it and cannot reach the registry.
async fn tries(
    world: &World,
    holder: Source,
    asker: impl FnOnce(&str, &str) -> Source,
) -> (Vec<Node>, Arc<Image>) {
    let image = Image::new(5, 1000);
    let registry = Registry::new(&image);
    let all = addresses(2);
    let parts = |number: usize, source: Source| -> Parts {
        let way = Arc::new(Way(registry.clone()));
        let mut parts = world.parts(all[number], &all, way, Arc::new(Knowing(image.clone())));
        parts.identity = Arc::new(Identity::open(source).unwrap());
        parts.swarm.deadline = std::time::Duration::from_millis(500);
        parts
    };
    let first = all[0].ip().to_string();
    let second = all[1].ip().to_string();
    let holder = match holder {
        Source::Files { .. } => asker_files(world, &first, holder),
        other => other,
    };
    let nodes = vec![
        Node::start(parts(0, holder)).unwrap(),
        Node::start(parts(1, asker(&first, &second))).unwrap(),
    ];
    read_all(&nodes[0], &image, Class::Blocking).await;
    registry.gone.store(true, Ordering::Relaxed);
    (nodes, image)
}

/// Issues the holder's certificate now that its address is known.
fn asker_files(world: &World, address: &str, source: Source) -> Source {
    let by = authority(&world.dir.join("ca.pem"));
    issue(&world.dir, "holder", &by, address, GOOD);
    issue(&world.dir, "good", &by, "127.0.0.9", GOOD);
    AUTHORITY.with(|slot| *slot.borrow_mut() = Some(by));
    source
}

thread_local! {
    static AUTHORITY: std::cell::RefCell<Option<Authority>> = const { std::cell::RefCell::new(None) };
}

async fn gets_nothing(nodes: &[Node], image: &Arc<Image>) {
    for piece in &image.pieces {
        let answer = nodes[1].get(*piece, image.of.clone(), Class::Blocking).await;
        assert!(answer.is_err(), "a stranger got a piece");
    }
    assert_eq!(nodes[0].status().await.bytes_to_peers, 0);
}

#[tokio::test]
async fn a_certificate_of_the_same_authority_is_enough() {
    let world = World::new();
    let dir = world.dir.clone();
    let (nodes, image) = tries(&world, files(&dir, "ca.pem", "holder"), |_, second| {
        AUTHORITY.with(|by| issue(&dir, "asker", by.borrow().as_ref().unwrap(), second, GOOD));
        files(&dir, "ca.pem", "asker")
    })
    .await;
    assembled(&nodes).await;
    read_all(&nodes[1], &image, Class::Blocking).await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_gets_nothing() {
    let world = World::new();
    let dir = world.dir.clone();
    let (nodes, image) = tries(&world, files(&dir, "ca.pem", "holder"), |_, second| {
        let other = authority(&dir.join("other.pem"));
        issue(&dir, "asker", &other, second, GOOD);
        // It believes the holder's authority, so that only the holder can refuse.
        Source::Files {
            ca: dir.join("ca.pem"),
            cert: dir.join("asker.crt"),
            key: dir.join("asker.key"),
            name: None,
        }
    })
    .await;
    gets_nothing(&nodes, &image).await;
}

#[tokio::test]
async fn an_expired_certificate_gets_nothing() {
    let world = World::new();
    let dir = world.dir.clone();
    let (nodes, image) = tries(&world, files(&dir, "ca.pem", "holder"), |_, second| {
        AUTHORITY.with(|by| issue(&dir, "asker", by.borrow().as_ref().unwrap(), second, (2020, 2021)));
        files(&dir, "ca.pem", "asker")
    })
    .await;
    gets_nothing(&nodes, &image).await;
}

#[tokio::test]
async fn a_certificate_for_another_address_gets_nothing() {
    let world = World::new();
    let dir = world.dir.clone();
    let (nodes, image) = tries(&world, files(&dir, "ca.pem", "holder"), |_, _| {
        // "good" was issued for another address.
        files(&dir, "ca.pem", "good")
    })
    .await;
    gets_nothing(&nodes, &image).await;
}

#[tokio::test]
async fn no_certificate_gets_nothing() {
    let world = World::new();
    let dir = world.dir.clone();
    let (nodes, image) = tries(&world, files(&dir, "ca.pem", "holder"), |_, _| Source::Plain).await;
    gets_nothing(&nodes, &image).await;
}

#[tokio::test]
async fn another_secret_gets_nothing() {
    let world = World::new();
    let other = world.dir.join("other");
    std::fs::write(&other, "another secret of enough characters!").unwrap();
    let all = addresses(2);
    let image = Image::new(5, 1000);
    let registry = Registry::new(&image);
    let parts = |number: usize, file: std::path::PathBuf| {
        let way = Arc::new(Way(registry.clone()));
        let mut parts = world.parts(all[number], &all, way, Arc::new(Knowing(image.clone())));
        let address = all[number].ip();
        parts.identity = Arc::new(Identity::open(Source::Secret { file, address }).unwrap());
        parts.swarm.deadline = std::time::Duration::from_millis(500);
        parts
    };
    let nodes = [
        Node::start(parts(0, world.secret())).unwrap(),
        Node::start(parts(1, other)).unwrap(),
    ];
    read_all(&nodes[0], &image, Class::Blocking).await;
    registry.gone.store(true, Ordering::Relaxed);
    gets_nothing(&nodes, &image).await;
}

#[test]
fn a_short_secret_is_none() {
    let world = World::new();
    std::fs::write(world.secret(), "too short").unwrap();
    let address = "127.0.0.1".parse().unwrap();
    let opened = Identity::open(Source::Secret {
        file: world.secret(),
        address,
    });
    assert!(matches!(opened, Err(IdentityError::Short { len: 9, .. })));
}

#[tokio::test]
async fn replaced_files_are_taken_up_and_standing_connections_go_on() {
    let world = World::new();
    let dir = world.dir.clone();
    let by = authority(&dir.join("ca.pem"));
    let all = addresses(3);
    let image = Image::new(30, 1000);
    let registry = Registry::new(&image);
    let mut nodes = Vec::new();
    let mut identities = Vec::new();
    for (number, address) in all.iter().enumerate() {
        let name = format!("node{number}");
        issue(&dir, &name, &by, &address.ip().to_string(), GOOD);
        let way = Arc::new(Way(registry.clone()));
        let mut parts = world.parts(*address, &all[..2], way, Arc::new(Knowing(image.clone())));
        parts.identity = Arc::new(Identity::open(files(&dir, "ca.pem", &name)).unwrap());
        identities.push(parts.identity.clone());
        if number < 2 {
            nodes.push(Node::start(parts).unwrap());
        }
    }
    assembled(&nodes).await;
    read_all(&nodes[0], &image, Class::Blocking).await;
    registry.gone.store(true, Ordering::Relaxed);
    // A new authority for everybody: nobody who shows an old certificate is let in any more.
    let new = authority(&dir.join("ca.pem"));
    for (number, address) in all.iter().enumerate().take(2) {
        issue(
            &dir,
            &format!("node{number}"),
            &new,
            &address.ip().to_string(),
            GOOD,
        );
        assert!(identities[number].refresh().unwrap(), "the change is seen");
        assert!(!identities[number].refresh().unwrap(), "once");
    }
    let before = nodes[0].status().await.failed_links;
    read_all(&nodes[1], &image, Class::Blocking).await;
    assert_eq!(
        nodes[0].status().await.failed_links,
        before,
        "the old connections still carry"
    );
    // The third has a certificate of the old authority only.
    let stream = tokio::net::TcpStream::connect(all[0]).await.unwrap();
    let refused = identities[2].connect(stream, all[0].ip()).await;
    assert!(
        refused.is_err(),
        "the new certificate is shown, and the old authority did not sign it"
    );
}
