//! From the configuration to a node's parts, and what is taken up of a changed one.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lacewing_p2p::Node;
use lacewing_p2p::driver::{Rates, Reload};
use lacewing_p2p::members::{Listed, Members, Meta, Outgoing, Places, Swim, SwimOptions, TREES};
use lacewing_p2p::store::Limits;
use tracing::{info, warn};

use crate::config::p2p::{Membership, P2p};

/// How often the configuration file is looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(5);

pub(super) fn limits(config: &P2p) -> Limits {
    Limits {
        bytes: config.cache_bytes,
        age: config.cache_age,
    }
}

pub(super) fn rates(config: &P2p) -> Rates {
    Rates {
        upload: config.upload_rate,
        peer: config.peer_rate,
        origin: config.registry_rate,
    }
}

pub(super) fn members(config: &P2p, address: SocketAddr) -> (Arc<dyn Members>, Option<Outgoing>) {
    match &config.membership {
        Membership::Gossip => {
            let meta = Meta {
                zone: config.zone.clone(),
                class: 0,
                leaf: config.leaf,
                trees: TREES,
            };
            let (swim, outgoing) = Swim::start(SwimOptions {
                address,
                meta,
                seeds: config.seeds.clone(),
            });
            (Arc::new(swim), Some(outgoing))
        }
        Membership::Names => (Arc::new(Listed::start(Places::Names(config.seeds.clone()))), None),
        Membership::File(file) => (Arc::new(Listed::start(Places::File(file.clone()))), None),
    }
}

/// Where others reach this node: what is configured, else the address it listens on, else the one it has towards the
/// first seed.
pub(crate) fn own_address(config: &P2p) -> Result<SocketAddr> {
    if let Some(address) = config.address {
        return Ok(SocketAddr::new(address, config.listen.port()));
    }
    if !config.listen.ip().is_unspecified() {
        return Ok(config.listen);
    }
    let towards = || -> Result<SocketAddr> {
        let seed = config.seeds.first().context("there is no seed")?;
        let seed = seed
            .to_socket_addrs()?
            .next()
            .context("the first seed has no address")?;
        let any = if seed.is_ipv4() {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
        };
        let socket = UdpSocket::bind((any, 0))?;
        // Connecting a datagram socket sends nothing; it only chooses a way.
        socket.connect(seed)?;
        Ok(socket.local_addr()?)
    };
    let local =
        towards().context("p2p.address: which address others reach this node by has to be configured")?;
    Ok(SocketAddr::new(local.ip(), config.listen.port()))
}

/// Takes up changed limits and seeds from the configuration file.
pub(super) async fn follow(file: std::path::PathBuf, mut current: P2p, node: Node) {
    let stamp = |file: &Path| std::fs::metadata(file).and_then(|data| data.modified()).ok();
    let mut seen = stamp(&file);
    loop {
        tokio::time::sleep(RELOAD_EVERY).await;
        let now = stamp(&file);
        if now == seen {
            continue;
        }
        seen = now;
        let read = crate::config::Config::load(Some(&file), crate::config::Overrides::default());
        let changed = match read {
            Ok(config) => config.p2p,
            Err(error) => {
                warn!("the changed configuration is not taken up: {error}");
                continue;
            }
        };
        let Some(changed) = changed else {
            info!("p2p: switched off in the file; SIGHUP makes it so");
            continue;
        };
        if changed == current {
            continue;
        }
        node.reload(Reload {
            rates: rates(&changed),
            seeds: changed.seeds.clone(),
            store: limits(&changed),
        });
        info!("p2p: limits and seeds are taken up from the changed file; the rest needs SIGHUP");
        current = changed;
    }
}
