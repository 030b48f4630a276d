//! `[p2p]`: the piece layer between nodes. Without seeds or a file of members there is none.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lacewing_p2p::identity::Source;
use lacewing_p2p::members::MAX_ZONE;
use serde::{Deserialize, Serialize};

use super::{ConfigError, configured, seconds};

/// The port, unless told otherwise.
pub(crate) const DEFAULT_PORT: u16 = 7070;
/// Read if no other proof of identity is named.
pub(crate) const DEFAULT_SECRET: &str = "/etc/lacewing/p2p-secret";

/// How members are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Membership {
    /// They tell each other; seeds are where it begins.
    Gossip,
    /// The seeds are all of them, names with all their addresses.
    Names,
    /// A file lists them.
    File(PathBuf),
}

/// Proof of belonging to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Proof {
    /// A shared secret.
    Secret(PathBuf),
    /// Certificates: authority, own, key, and a name they all carry.
    Files(PathBuf, PathBuf, PathBuf, Option<String>),
    /// None.
    Insecure,
}

/// The resolved section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct P2p {
    /// `host:port` of nodes.
    pub(crate) seeds: Vec<String>,
    /// How members are found.
    pub(crate) membership: Membership,
    /// Where this node listens.
    pub(crate) listen: SocketAddr,
    /// Where others reach it, if that is another address.
    pub(crate) address: Option<IpAddr>,
    /// Zone.
    pub(crate) zone: String,
    /// It is never asked.
    pub(crate) leaf: bool,
    /// Proof of belonging.
    pub(crate) proof: Proof,
    /// Bytes of the piece store.
    pub(crate) cache_bytes: u64,
    /// Pieces nobody used for so long go.
    pub(crate) cache_age: Duration,
    /// Bytes a second to other nodes.
    pub(crate) upload_rate: Option<u64>,
    /// Bytes a second to each of them.
    pub(crate) peer_rate: Option<u64>,
    /// Bytes a second from registries.
    pub(crate) registry_rate: Option<u64>,
    /// Registries that may be asked on behalf of other nodes, beside those pulled from.
    pub(crate) registries: Vec<String>,
    /// A node that has not taken a request after this is passed over.
    pub(crate) ack_timeout: Duration,
    /// The file this comes from: limits and seeds are taken up again when it changes.
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawP2p {
    seeds: Vec<String>,
    members: Option<String>,
    members_file: Option<PathBuf>,
    listen: Option<String>,
    address: Option<String>,
    zone: Option<String>,
    leaf: bool,
    secret_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    tls_name: Option<String>,
    insecure: bool,
    cache_mib: Option<u64>,
    cache_age_s: Option<u64>,
    upload_mbit: Option<u64>,
    peer_mbit: Option<u64>,
    registry_mbit: Option<u64>,
    registries: Vec<String>,
    ack_timeout_ms: Option<u64>,
}

fn invalid(field: &'static str, message: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        field,
        message: message.into(),
    }
}

/// Resolves the section; nothing if nobody is named to share with.
pub(super) fn resolve(raw: RawP2p, file: Option<&Path>) -> Result<Option<P2p>, ConfigError> {
    if raw.seeds.is_empty() && raw.members_file.is_none() {
        return Ok(None);
    }
    for seed in &raw.seeds {
        let port = seed.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            return Err(invalid("p2p.seeds", format!("{seed:?} is not HOST:PORT")));
        }
    }
    let membership = match (raw.members.as_deref(), &raw.members_file) {
        (None, Some(path)) => Membership::File(configured("p2p.members_file", path.clone())?),
        (Some(_), Some(_)) => return Err(invalid("p2p.members_file", "goes without p2p.members")),
        (None | Some("gossip"), None) => Membership::Gossip,
        (Some("names"), None) => Membership::Names,
        (Some(other), None) => {
            let message = format!("is {other:?}; it must be \"gossip\" or \"names\"");
            return Err(invalid("p2p.members", message));
        }
    };
    let zone = raw.zone.clone().unwrap_or_default();
    if zone.len() > MAX_ZONE || !zone.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("is {zone:?}; at most {MAX_ZONE} visible ASCII characters");
        return Err(invalid("p2p.zone", message));
    }
    let listen = match &raw.listen {
        None => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DEFAULT_PORT),
        Some(text) => text
            .parse()
            .map_err(|_| invalid("p2p.listen", format!("{text:?} is not ADDRESS:PORT")))?,
    };
    let address = match &raw.address {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| invalid("p2p.address", format!("{text:?} is no IP address")))?,
        ),
    };
    Ok(Some(P2p {
        proof: proof(&raw)?,
        seeds: raw.seeds,
        membership,
        listen,
        address,
        zone,
        leaf: raw.leaf,
        // A rollout's image stays until the last node has it; a node that runs images has room for this.
        cache_bytes: raw.cache_mib.unwrap_or(4096).max(16) << 20,
        cache_age: seconds("p2p.cache_age_s", raw.cache_age_s, 3600, 60..=30 * 86_400)?,
        upload_rate: mbit("p2p.upload_mbit", raw.upload_mbit)?,
        peer_rate: mbit("p2p.peer_mbit", raw.peer_mbit)?,
        registry_rate: mbit("p2p.registry_mbit", raw.registry_mbit)?,
        registries: raw.registries,
        // Some times a network's round trip, and less than anybody notices.
        ack_timeout: Duration::from_millis(raw.ack_timeout_ms.unwrap_or(25).clamp(1, 10_000)),
        file: file.map(Path::to_owned),
    }))
}

fn proof(raw: &RawP2p) -> Result<Proof, ConfigError> {
    let files = (raw.ca_file.clone(), raw.cert_file.clone(), raw.key_file.clone());
    let named = [files.0.is_some(), files.1.is_some(), files.2.is_some()];
    let ways = [named.contains(&true), raw.secret_file.is_some(), raw.insecure];
    if ways.iter().filter(|way| **way).count() > 1 {
        let message = "stands beside another proof: certificates, a secret, or insecure, one of the three";
        return Err(invalid("p2p.secret_file", message));
    }
    match files {
        (Some(ca), Some(cert), Some(key)) => Ok(Proof::Files(
            configured("p2p.ca_file", ca)?,
            configured("p2p.cert_file", cert)?,
            configured("p2p.key_file", key)?,
            raw.tls_name.clone(),
        )),
        (None, None, None) if raw.insecure => Ok(Proof::Insecure),
        (None, None, None) => {
            let secret = raw.secret_file.clone().unwrap_or_else(|| DEFAULT_SECRET.into());
            Ok(Proof::Secret(configured("p2p.secret_file", secret)?))
        }
        _ => Err(invalid(
            "p2p.ca_file",
            "needs p2p.cert_file and p2p.key_file, and they it",
        )),
    }
}

/// Bytes a second.
fn mbit(field: &'static str, value: Option<u64>) -> Result<Option<u64>, ConfigError> {
    match value {
        None | Some(0) => Ok(None),
        Some(value @ 1..=1_000_000) => Ok(Some(value * 125_000)),
        Some(value) => Err(invalid(field, format!("is {value}; at most 1000000"))),
    }
}

impl P2p {
    /// Where this node's identity comes from.
    pub(crate) fn identity(&self, address: IpAddr) -> Source {
        match &self.proof {
            Proof::Secret(file) => Source::Secret {
                file: file.clone(),
                address,
            },
            Proof::Files(ca, cert, key, name) => Source::Files {
                ca: ca.clone(),
                cert: cert.clone(),
                key: key.clone(),
                name: name.clone(),
            },
            Proof::Insecure => Source::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn section(text: &str) -> Result<Option<P2p>, String> {
        let raw = toml::from_str(text).map_err(|error| error.to_string())?;
        resolve(raw, None).map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_is_enough_and_nothing_is_nothing() {
        assert_eq!(section("").unwrap(), None);
        let found = section("seeds = [\"lacewing.kube-system.svc:7070\"]")
            .unwrap()
            .unwrap();
        assert_eq!(found.membership, Membership::Gossip);
        assert_eq!(found.proof, Proof::Secret(DEFAULT_SECRET.into()));
        assert_eq!(found.listen.port(), DEFAULT_PORT);
        assert_eq!(found.upload_rate, None);
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let seeds = "seeds = [\"a:1\"]\n";
        for (text, field) in [
            ("seeds = [\"a\"]", "p2p.seeds"),
            ("seeds = [\"a:0\"]", "p2p.seeds"),
            (&format!("{seeds}members = \"telepathy\""), "p2p.members"),
            (&format!("{seeds}zone = \"a b\""), "p2p.zone"),
            (&format!("{seeds}listen = \"7070\""), "p2p.listen"),
            (
                &format!("{seeds}insecure = true\nsecret_file = \"/s\""),
                "p2p.secret_file",
            ),
            (&format!("{seeds}ca_file = \"/ca\""), "p2p.ca_file"),
            (&format!("{seeds}secret_file = \"s\""), "p2p.secret_file"),
            (&format!("{seeds}cache_age_s = 1"), "p2p.cache_age_s"),
        ] {
            let error = section(text).unwrap_err();
            assert!(error.contains(field), "{text}: {error}");
        }
    }

    #[test]
    fn rates_are_bytes_inside() {
        let found = section("seeds = [\"a:1\"]\nupload_mbit = 8\ninsecure = true")
            .unwrap()
            .unwrap();
        assert_eq!(found.upload_rate, Some(1_000_000));
        assert_eq!(found.proof, Proof::Insecure);
    }
}
