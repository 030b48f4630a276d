//! The piece layer: this node's certificate and clock, and whether its seeds can be found, reached and proven.
//!
//! Seeds are greeted as a node would, and left before anything is asked.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use lacewing_p2p::identity::Identity;
use lacewing_p2p::transport::{Message, message::VERSION};
use rustls::CertificateError;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

use super::Finding;
use crate::adapters::p2p::own_address;
use crate::config::Config;
use crate::config::p2p::{P2p, Proof};

/// Nodes of a cluster answer within milliseconds; one behind a firewall never does.
const PATIENCE: Duration = Duration::from_secs(3);
/// Seeds that are looked at; any that is there will do.
const MAX_SEEDS: usize = 16;
/// Who renews certificates by hand needs some days' notice.
const SOON: Duration = Duration::from_secs(7 * 86_400);
/// Bytes of a greeting, which is a version and an address.
const MAX_GREETING: usize = 4 << 10;
const CLOCK: &str = "compare the clocks (`timedatectl`): they may differ by a day at most";

pub(super) fn look(config: &Config, runtime: &Runtime) -> Vec<Finding> {
    let Some(p2p) = &config.p2p else {
        return vec![Finding::ok("peers", "none: no [p2p] seeds in the configuration")];
    };
    let own = match own_address(p2p) {
        Ok(own) => own,
        Err(error) => {
            let advice = "this node does not take part in the piece layer: set [p2p] address, or correct the first seed";
            return vec![Finding::problem("peers", format!("{error:#}"), advice)];
        }
    };
    let mut findings = proof(p2p, own);
    match Identity::open(p2p.identity(own.ip())) {
        Ok(identity) => findings.extend(runtime.block_on(seeds(&p2p.seeds, own, &identity))),
        Err(error) => findings.push(Finding::problem(
            "peers identity",
            error.to_string(),
            "this node does not take part in the piece layer until that is put right",
        )),
    }
    findings
}

/// What this node proves itself by.
fn proof(p2p: &P2p, own: SocketAddr) -> Vec<Finding> {
    match &p2p.proof {
        Proof::Insecure => vec![Finding::warning(
            "peers identity",
            "none: connections are neither encrypted nor proven",
            "whoever reaches the port reads images; give all nodes a secret",
        )],
        Proof::Secret(file) => alone(file).into_iter().collect(),
        Proof::Files(ca, cert, key, name) => {
            let mut findings: Vec<Finding> = alone(key).into_iter().collect();
            let name = match name {
                Some(name) => ServerName::try_from(name.clone()).ok(),
                None => Some(ServerName::IpAddress(own.ip().into())),
            };
            findings.extend(certificate((ca, cert), name.as_ref(), UnixTime::now()));
            findings
        }
    }
}

/// A secret that others may read is none.
fn alone(file: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| {
        Finding::problem(
            "peers identity",
            format!(
                "{} may be read by others (mode {:o})",
                file.display(),
                mode & 0o777
            ),
            "`chmod 600` it; who has read it belongs to the cluster, so replace it on all nodes",
        )
    })
}

/// Whether a certificate proves this node's belonging now, and will in a week. What cannot be read, [`Identity`] tells.
fn certificate((ca, cert): (&Path, &Path), name: Option<&ServerName<'_>>, now: UnixTime) -> Option<Finding> {
    let problem = |found: String, advice: &str| Some(Finding::problem("peers certificate", found, advice));
    let shown = cert.display();
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(ca).ok()?.flatten() {
        let _ = roots.add(authority);
    }
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert).ok()?.flatten().collect();
    let (own, between) = chain.split_first()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .ok()?;
    let trouble = |at| match verifier.verify_client_cert(own, between, at) {
        Ok(_) => None,
        Err(rustls::Error::InvalidCertificate(error)) => Some(error),
        Err(error) => Some(CertificateError::Other(rustls::OtherError(Arc::new(error)))),
    };
    match trouble(now) {
        Some(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            return problem(format!("{shown} is not valid yet"), CLOCK);
        }
        Some(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            let advice =
                "replace it; the daemon takes a new one up by itself. If it is new, compare the clocks";
            return problem(format!("{shown} has expired"), advice);
        }
        Some(error) => {
            let advice =
                "other nodes refuse it: it must be signed by ca_file's authority, for servers and clients";
            return problem(format!("{shown}: {error}"), advice);
        }
        None => {}
    }
    let parsed = ParsedCertificate::try_from(own).ok()?;
    match name {
        Some(name) if rustls::client::verify_server_name(&parsed, name).is_err() => {
            let advice = "other nodes refuse it: issue one for that address, or set [p2p] tls_name to a name that all carry";
            return problem(format!("{shown} is not for {}", name.to_str()), advice);
        }
        _ => {}
    }
    let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + SOON);
    Some(match trouble(soon) {
        None => Finding::ok("peers certificate", format!("{shown} is valid")),
        Some(_) => Finding::warning(
            "peers certificate",
            format!("{shown} expires within a week"),
            "replace it in time; the daemon takes a new one up by itself",
        ),
    })
}

/// Looks at all seeds at once. One that is there will do; without any this node begins alone.
async fn seeds(seeds: &[String], own: SocketAddr, identity: &Identity) -> Vec<Finding> {
    let looked = futures::stream::iter(seeds.iter().take(MAX_SEEDS));
    let looked: Vec<Result<String, (String, &str)>> = looked
        .map(|seed| async move {
            let found = tokio::time::timeout(PATIENCE, greet(seed, own, identity)).await;
            let late = || {
                let text = format!("{seed} does not answer within {PATIENCE:?}");
                Err((text, "start the daemon there, or open its port between the nodes"))
            };
            found.unwrap_or_else(|_| late())
        })
        .buffered(MAX_SEEDS)
        .collect()
        .await;
    let any = looked.iter().any(Result::is_ok);
    let finding = |seed| match seed {
        Ok(text) => Finding::ok("peers", text),
        Err((text, advice)) if any => Finding::warning("peers", text, advice),
        Err((text, advice)) => Finding::problem("peers", text, advice),
    };
    looked.into_iter().map(finding).collect()
}

/// Connects as a node does, and waits for the other's greeting: only then has it believed us, too.
async fn greet(seed: &str, own: SocketAddr, identity: &Identity) -> Result<String, (String, &'static str)> {
    let failed = |reason: &dyn std::fmt::Display, advice| (format!("{seed}: {reason}"), advice);
    let resolved = tokio::net::lookup_host(seed).await;
    let resolved =
        resolved.map_err(|error| failed(&error, "correct the name in [p2p] seeds, or the name service"))?;
    let Some(address) = resolved.into_iter().next() else {
        return Err(failed(
            &"has no address",
            "correct the name in [p2p] seeds, or the name service",
        ));
    };
    if address == own {
        return Ok(format!("{seed} is this node itself"));
    }
    let unreachable = "start the daemon there, or open its port between the nodes";
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = socket.map_err(|error| failed(&error, unreachable))?;
    // From where others know this node, as the daemon does.
    let _ = socket.bind(SocketAddr::new(own.ip(), 0));
    let stream = socket
        .connect(address)
        .await
        .map_err(|error| failed(&error, unreachable))?;
    let refused = |error: &dyn std::fmt::Display| {
        let text = error.to_string();
        let advice = match text.contains("not valid yet") || text.contains("xpired") {
            true => CLOCK,
            false => {
                "both nodes need the same secret, or certificates of one authority, each for its own address"
            }
        };
        failed(&text, advice)
    };
    let mut stream = identity
        .connect(stream, address.ip())
        .await
        .map_err(|error| refused(&error))?;
    let mut buffer = BytesMut::new();
    loop {
        match Message::decode(&mut buffer) {
            Ok(Some(Message::Hello { version, .. })) if version == VERSION => {
                return Ok(format!("{seed} is there"));
            }
            Ok(Some(Message::Hello { version, .. })) => {
                let text = format!("it speaks version {version}, this release {VERSION}");
                return Err(failed(
                    &text,
                    "run one release on all nodes: these two do not share",
                ));
            }
            Ok(None) if buffer.len() < MAX_GREETING => {}
            _ => return Err(failed(&"it is no node of a cluster", "correct [p2p] seeds")),
        }
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return Err(refused(&"it ended the connection: it does not believe this node")),
            Ok(_) => {}
            Err(error) => return Err(refused(&error)),
        }
    }
}
