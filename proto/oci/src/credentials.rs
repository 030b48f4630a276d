//! Credentials: where they come from, and a type that keeps them out of logs.

use std::fmt;

use futures::future::BoxFuture;

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

/// A source of credentials. Asked at each new token, so that renewed ones are found.
pub trait Credentials: Send + Sync + 'static {
    /// Gives the credential for `host` (as in a reference: `docker.io`, `ghcr.io`, `localhost:5000`) and `repository`.
    ///
    /// # Errors
    /// A source that should have it and cannot be asked. `None` means: ask the next source.
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credential>, Error>>;
}
