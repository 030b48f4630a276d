//! One address of a registry or mirror, and how it is spoken to.

use std::{sync::Arc, time::Duration};

use lacewing_format::Digest;
use reqwest::Url;

use crate::reference::is_loopback;

/// What an endpoint may be asked for (containerd's host capabilities).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Manifests and blobs by digest.
    pub(crate) pull: bool,
    /// Manifests by tag.
    pub(crate) resolve: bool,
    /// Writing.
    pub(crate) push: bool,
}

impl Capabilities {
    pub(crate) const ALL: Capabilities = Capabilities {
        pull: true,
        resolve: true,
        push: true,
    };
}

/// Contents of certificate files: with equal ones, connections are shared.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct TlsMaterial {
    /// PEM files of certificate authorities, trusted beside the system's.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// PEM texts of client certificate chains with their keys; the first one is shown.
    pub(crate) identities: Vec<Vec<u8>>,
    /// Believe any certificate.
    pub(crate) skip_verify: bool,
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsMaterial")
            .field("authorities", &self.authorities.len())
            .field("identities", &self.identities.len())
            .field("skip_verify", &self.skip_verify)
            .finish()
    }
}

/// A registry or mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Scheme, host, port and path in front of the repository (`https://registry-1.docker.io/v2`), no trailing slash.
    pub(crate) base: Url,
    pub(crate) capabilities: Capabilities,
    pub(crate) tls: Arc<TlsMaterial>,
    /// Sent with each request to this very origin.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) dial_timeout: Option<Duration>,
    /// Name of the registry this is a mirror of, told to it as `?ns=`.
    pub(crate) mirror_of: Option<String>,
}

impl Endpoint {
    /// Address of something in a repository. `repository` and `tail` are validated names or constants.
    pub(crate) fn url(&self, repository: &str, tail: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}/{repository}/{tail}",
            self.base.path().trim_end_matches('/')
        ));
        if let Some(namespace) = &self.mirror_of {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    pub(crate) fn blob_url(&self, repository: &str, digest: &Digest) -> Url {
        self.url(repository, &format!("blobs/{digest}"))
    }

    /// Host and port, as people write them and as credentials are filed; Docker Hub under its familiar name.
    pub(crate) fn authority(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        match (host, self.base.port()) {
            ("registry-1.docker.io" | "index.docker.io", None) => "docker.io".to_owned(),
            (host, None) => host.to_owned(),
            (host, Some(port)) => format!("{host}:{port}"),
        }
    }

    /// Does it lead to one of these addresses of this machine?
    pub(crate) fn is_one_of(&self, addresses: &[std::net::SocketAddr]) -> bool {
        let port = self.base.port_or_known_default();
        let host = self.base.host_str().unwrap_or_default();
        addresses.iter().any(|address| {
            Some(address.port()) == port
                && (is_loopback(host) || host.parse().is_ok_and(|ip: std::net::IpAddr| ip == address.ip()))
        })
    }

    /// Does `url` lie at this endpoint's scheme, host and port, so that its secrets may be sent there?
    pub(crate) fn owns(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn endpoint(base: &str) -> Endpoint {
        Endpoint {
            base: base.parse().unwrap(),
            capabilities: Capabilities::ALL,
            tls: Arc::default(),
            headers: Vec::new(),
            dial_timeout: None,
            mirror_of: None,
        }
    }

    #[test]
    fn builds_addresses() {
        let mut e = endpoint("https://m.example:8443/x/v2");
        assert_eq!(
            e.url("a/b", "tags/list").as_str(),
            "https://m.example:8443/x/v2/a/b/tags/list"
        );
        e.mirror_of = Some("docker.io".into());
        assert_eq!(
            e.url("a/b", "manifests/1").as_str(),
            "https://m.example:8443/x/v2/a/b/manifests/1?ns=docker.io"
        );
        assert_eq!(endpoint("http://h").url("a", "b").as_str(), "http://h/a/b");
    }

    #[test]
    fn names_authorities_and_owns_its_origin_only() {
        let e = endpoint("https://registry-1.docker.io/v2");
        assert_eq!(e.authority(), "docker.io");
        assert_eq!(endpoint("http://[::1]:5000/v2").authority(), "[::1]:5000");
        let rows = [
            ("https://registry-1.docker.io/other", true),
            ("https://registry-1.docker.io:443/other", true),
            ("http://registry-1.docker.io/", false),
            ("https://registry-1.docker.io:444/", false),
            ("https://cdn.docker.io/", false),
        ];
        for (url, expected) in rows {
            assert_eq!(e.owns(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
