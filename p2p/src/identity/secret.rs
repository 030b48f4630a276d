//! Certificates from one shared secret: every node derives the same authority from it and signs for itself.

use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use lacewing_format::Digest;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Current, IdentityError, MIN_SECRET, SKEW, VALIDITY, assemble};

/// An Ed25519 private key in PKCS #8 is these bytes and 32 of the seed (RFC 8410, section 7).
const ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Keeps the key apart from whatever else is ever derived from the secret.
const PURPOSE: &[u8] = b"lacewing p2p authority 1\0";

/// Issues a certificate for `address`.
pub(super) fn issue(
    file: &Path,
    seen: Vec<Vec<u8>>,
    address: IpAddr,
    now: SystemTime,
) -> Result<Current, IdentityError> {
    let secret = seen.first().map_or(&[][..], |secret| secret.trim_ascii());
    if secret.len() < MIN_SECRET {
        return Err(IdentityError::Short {
            path: file.to_owned(),
            len: secret.len(),
        });
    }
    let wrong = |error: rcgen::Error| IdentityError::Certificate(error.to_string());
    let (authority, issuer) = authority(secret).map_err(wrong)?;
    let key = KeyPair::generate().map_err(wrong)?;
    let node = node(address, now, &key, &issuer).map_err(wrong)?;
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.der().clone())
        .map_err(|error| IdentityError::Certificate(error.to_string()))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    assemble(roots, vec![node.der().clone()], key, seen, now)
}

fn authority(secret: &[u8]) -> Result<(Certificate, Issuer<'static, KeyPair>), rcgen::Error> {
    let seed = Digest::of(&[PURPOSE, secret].concat());
    let pkcs8 = [&ED25519[..], &seed.0].concat();
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(pkcs8))?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "lacewing cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key)?;
    Ok((certificate, Issuer::new(params, key)))
}

fn node(
    address: IpAddr,
    now: SystemTime,
    key: &KeyPair,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<Certificate, rcgen::Error> {
    let mut params = CertificateParams::default();
    let name = format!("spiffe://lacewing/node/{}", address.to_string().replace(':', "-"));
    params
        .distinguished_name
        .push(DnType::CommonName, "lacewing node");
    params.subject_alt_names = vec![SanType::IpAddress(address), SanType::URI(name.try_into()?)];
    params.not_before = (now - SKEW).into();
    params.not_after = (now + VALIDITY).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.signed_by(key, issuer)
}
