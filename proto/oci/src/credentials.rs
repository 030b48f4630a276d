//! Credentials: a type that keeps them out of logs, and the port by which sources are asked.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::future::BoxFuture;
use reqwest::header::HeaderValue;

use crate::Error;

/// Text that must not be shown: `Debug` hides it, there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a registry or its token server accepts as proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// User name and password.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token, exchanged for access tokens at the token server.
    IdentityToken(Secret),
    /// A ready access token for the registry itself.
    RegistryToken(Secret),
}

impl Credential {
    /// Reads `base64(user:password)`, as docker's files and Kubernetes' `auth` fields hold it.
    pub fn from_basic_auth(encoded: &str) -> Option<Credential> {
        let encoded = encoded.trim().trim_end_matches('=');
        let bytes = base64::engine::general_purpose::STANDARD_NO_PAD
            .decode(encoded)
            .ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (username, password) = text.split_once(':')?;
        // Docker pads passwords with NUL bytes in some versions, and cuts them off when it reads.
        let password = Secret::new(password.trim_end_matches('\0'));
        Some(Credential::Basic {
            username: username.to_owned(),
            password,
        })
    }
}

/// A source of credentials. Asked at each new token, so that renewed ones are found.
pub trait Credentials: Send + Sync + 'static {
    /// Gives the credential for `host` (as in a reference: `docker.io`, `ghcr.io`, `localhost:5000`; for a mirror its
    /// own host) and `repository`.
    ///
    /// # Errors
    /// A source that should have it and cannot be asked. `None` means: ask the next source.
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credential>, Error>>;
}

/// The `Authorization` value for a user name and password. `None`: bytes that no header can hold.
pub(crate) fn basic_header(username: &str, password: &Secret) -> Option<HeaderValue> {
    sensitive(&format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{}", password.expose()))
    ))
}

/// The `Authorization` value for an access token. `None`: bytes that no header can hold.
pub(crate) fn bearer_header(token: &Secret) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {}", token.expose()))
}

/// A header value whose `Debug` hides it, and which HTTP/2 never puts into its compression table.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn secrets_stay_hidden() {
        let credential = Credential::Basic {
            username: "u".into(),
            password: Secret::new("hunter2"),
        };
        assert!(!format!("{credential:?}").contains("hunter2"));
        let header = basic_header("u", &Secret::new("hunter2")).unwrap();
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert_eq!(header.to_str().unwrap(), "Basic dTpodW50ZXIy");
        assert_eq!(bearer_header(&Secret::new("a\nb")), None);
    }

    #[test]
    fn reads_basic_auth() {
        let good = Credential::Basic {
            username: "u".into(),
            password: Secret::new("a:b"),
        };
        assert_eq!(Credential::from_basic_auth("dTphOmI="), Some(good.clone()));
        assert_eq!(Credential::from_basic_auth("dTphOmI"), Some(good.clone()));
        assert_eq!(Credential::from_basic_auth("dTphOmIAAA=="), Some(good));
        for bad in ["", "dQ==", "%%%", "/////w=="] {
            assert_eq!(Credential::from_basic_auth(bad), None, "{bad}");
        }
    }
}
