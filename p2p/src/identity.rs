//! Who a node is: certificates of one authority per cluster, on every connection and for every byte.
//!
//! A certificate proves two things: that its holder belongs to the cluster (the authority signed it) and that it may
//! speak for its address (the address is among the certificate's names). The second keeps a stolen certificate from
//! being used elsewhere. Where addresses are not known when certificates are issued, all certificates of a cluster may
//! carry one agreed name instead.
//!
//! Certificates come from files, which are read again when they change, or are issued by the node itself from one
//! secret that all nodes share. Connections that stand are not touched by either.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::transport::Stream;
use crate::transport::TransportError;

mod secret;

/// Shortest secret: the authority's public key is seen by anybody who connects, so a secret that can be guessed is none.
pub const MIN_SECRET: usize = 32;

/// Certificates that a node issues for itself hold for so long and are replaced in the middle of that time. Clocks of
/// nodes may differ by a day.
const VALIDITY: Duration = Duration::from_secs(30 * 86_400);

/// How clocks may differ.
const SKEW: Duration = Duration::from_secs(86_400);

/// Where a node's identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// PEM files: the authorities, the node's certificate (with what lies between), its key.
    Files {
        /// Certificates of the authorities.
        ca: PathBuf,
        /// The node's certificate, followed by intermediate ones.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// A name that every certificate of the cluster carries; none: certificates carry the node's address.
        name: Option<String>,
    },
    /// A file with a secret that all nodes of the cluster share.
    Secret {
        /// At least [`MIN_SECRET`] bytes; white space around them does not count.
        file: PathBuf,
        /// The address for which a certificate is issued.
        address: IpAddr,
    },
    /// No encryption and no proof: anybody who can connect is a member. For tests, or a network that does it all itself.
    Plain,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system or the parser said.
        reason: String,
    },
    /// The secret is too short to be one.
    #[error("{path}: {len} bytes are no secret, at least {MIN_SECRET} are needed (openssl rand -hex 32)")]
    Short {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: usize,
    },
    /// The certificate, key and authorities do not go together.
    #[error("certificate: {0}")]
    Certificate(String),
}

/// What handshakes use at the moment.
struct Current {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// Contents of the files.
    seen: Vec<Vec<u8>>,
    made: SystemTime,
}

/// A node's identity.
pub struct Identity {
    source: Source,
    current: RwLock<Option<Arc<Current>>>,
}

impl Identity {
    /// Reads or issues certificates.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn open(source: Source) -> Result<Identity, IdentityError> {
        let identity = Identity {
            source,
            current: RwLock::new(None),
        };
        identity.refresh()?;
        Ok(identity)
    }

    /// Takes up changed files, or issues a new certificate in time. `true` if anything changed. Standing connections go
    /// on; what was in use stays so after an error.
    ///
    /// # Errors
    /// [`IdentityError`], for instance while the files are being replaced one after the other.
    pub fn refresh(&self) -> Result<bool, IdentityError> {
        let before = self.current();
        let made = match &self.source {
            Source::Plain => return Ok(false),
            Source::Files { ca, cert, key, .. } => {
                let seen = vec![read(ca)?, read(cert)?, read(key)?];
                if before.is_some_and(|before| before.seen == seen) {
                    return Ok(false);
                }
                from_files(&[ca, cert, key], seen)?
            }
            Source::Secret { file, address } => {
                let seen = vec![read(file)?];
                let now = SystemTime::now();
                // A clock that was set back is no reason to keep a certificate from the future.
                let fresh = |before: &Current| {
                    let age = now.duration_since(before.made);
                    age.is_ok_and(|age| age < VALIDITY / 2) && before.seen == seen
                };
                if before.as_deref().is_some_and(fresh) {
                    return Ok(false);
                }
                secret::issue(file, seen, *address, now)?
            }
        };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(made));
        Ok(true)
    }

    fn current(&self) -> Option<Arc<Current>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Whether connections are encrypted and proven.
    pub fn is_proven(&self) -> bool {
        self.source != Source::Plain
    }

    fn name_of(&self, address: IpAddr) -> Result<ServerName<'static>, TransportError> {
        match &self.source {
            Source::Files { name: Some(name), .. } => ServerName::try_from(name.clone())
                .map_err(|error| TransportError::Stranger(format!("{name}: {error}"))),
            _ => Ok(ServerName::IpAddress(address.into())),
        }
    }

    /// Proves both sides to each other; this side connected.
    ///
    /// # Errors
    /// `Stranger` if the other side is no member or may not speak for `address`.
    pub async fn connect(
        &self,
        stream: TcpStream,
        address: IpAddr,
    ) -> Result<Box<dyn Stream>, TransportError> {
        let Some(current) = self.current() else {
            return Ok(Box::new(stream));
        };
        let connector = TlsConnector::from(current.client.clone());
        let stream = connector.connect(self.name_of(address)?, stream).await;
        Ok(Box::new(stream.map_err(handshake)?))
    }

    /// Proves both sides to each other; the other side connected.
    ///
    /// # Errors
    /// `Stranger` if the other side is no member or may not speak for `address`.
    pub async fn accept(
        &self,
        stream: TcpStream,
        address: IpAddr,
    ) -> Result<Box<dyn Stream>, TransportError> {
        let Some(current) = self.current() else {
            return Ok(Box::new(stream));
        };
        let stream = TlsAcceptor::from(current.server.clone())
            .accept(stream)
            .await
            .map_err(handshake)?;
        // The verifier held the certificate against the authorities; whose it is, is left to us.
        let stranger = |error: rustls::Error| TransportError::Stranger(error.to_string());
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let Some(certificate) = certificate else {
            return Err(TransportError::Stranger("it showed no certificate".to_owned()));
        };
        let parsed = ParsedCertificate::try_from(certificate).map_err(stranger)?;
        rustls::client::verify_server_name(&parsed, &self.name_of(address)?).map_err(stranger)?;
        Ok(Box::new(stream))
    }
}

/// TLS tells its own errors through the stream's.
fn handshake(error: std::io::Error) -> TransportError {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(error) => TransportError::Stranger(error.to_string()),
        None => TransportError::Io(error),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|error| file(path, error))
}

fn file(path: &Path, reason: impl ToString) -> IdentityError {
    IdentityError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn from_files(paths: &[&PathBuf; 3], seen: Vec<Vec<u8>>) -> Result<Current, IdentityError> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(&seen[0]) {
        let authority = authority.map_err(|error| file(paths[0], error))?;
        roots.add(authority).map_err(|error| file(paths[0], error))?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&seen[1]).collect();
    let chain = chain.map_err(|error| file(paths[1], error))?;
    let key = PrivateKeyDer::from_pem_slice(&seen[2]).map_err(|error| file(paths[2], error))?;
    assemble(roots, chain, key, seen, SystemTime::now())
}

/// TLS 1.3 alone, and no resumption: a resumed session would not show its certificate again, which may have expired.
fn assemble(
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    seen: Vec<Vec<u8>>,
    made: SystemTime,
) -> Result<Current, IdentityError> {
    let wrong = |error: &dyn std::fmt::Display| IdentityError::Certificate(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| wrong(&error))?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(|error| wrong(&error))?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong(&error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| wrong(&error))?;
    client.resumption = Resumption::disabled();
    Ok(Current {
        server: Arc::new(server),
        client: Arc::new(client),
        seen,
        made,
    })
}
