//! Names of images, as docker and containerd understand them (distribution's reference grammar and docker's
//! normalisation of familiar names).

use std::{fmt, path::PathBuf, str::FromStr};

use lacewing_format::Digest;

use crate::{
    Error,
    limits::{MAX_NAME, MAX_TAG},
};

/// Where an image is, as a user writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// `[host[:port]/]repository[:tag][@digest]`.
    Registry(RegistryRef),
    /// `oci:DIR[:TAG]`: a folder with an OCI image layout.
    Layout {
        /// The folder; it has no colon in its name.
        dir: PathBuf,
        /// Name of the image in the layout's index; none: the one without a name, or the only one.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: an uncompressed tar of an OCI image layout.
    Archive {
        /// The tar file; it has no colon in its name.
        file: PathBuf,
        /// Name of the image in the layout's index; none: the one without a name, or the only one.
        tag: Option<String>,
    },
}

/// An image in a registry, normalised (`docker.io`, `library/`, `latest`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryRef {
    /// Host as the user names it, with the port if one was given: `docker.io`, `localhost:5000`, `[::1]:5000`.
    pub host: String,
    /// Path of the repository: `library/debian`.
    pub repository: String,
    /// Tag; `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest; wins over the tag.
    pub digest: Option<Digest>,
}

impl RegistryRef {
    /// What names the manifest in requests: the digest, else the tag.
    pub fn identifier(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, tag) = path_and_tag(text, rest)?;
            return Ok(Reference::Layout { dir, tag });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, tag) = path_and_tag(text, rest)?;
            return Ok(Reference::Archive { file, tag });
        }
        text.parse().map(Reference::Registry)
    }
}

/// Splits `PATH[:NAME]` at the first colon, as skopeo does, so that NAME may be a whole image reference.
fn path_and_tag(whole: &str, text: &str) -> Result<(PathBuf, Option<String>), Error> {
    let (path, tag) = match text.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (text, None),
    };
    if path.is_empty() {
        return Err(refuse(whole, "the path is empty"));
    }
    if let Some(tag) = tag {
        check_layout_name(tag).map_err(|reason| refuse(whole, reason))?;
    }
    Ok((path.into(), tag.map(str::to_owned)))
}

/// Checks a name for `org.opencontainers.image.ref.name`.
pub(crate) fn check_layout_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("the name after the colon is empty")
    } else if name.len() > MAX_NAME {
        Err("the name is longer than 255 bytes")
    } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Err("the name has spaces or control characters")
    } else {
        Ok(())
    }
}

impl FromStr for RegistryRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(refuse(text, "an image reference is expected"));
        }
        if text.contains("://") {
            return Err(refuse(
                text,
                "a reference has no scheme; write host/repository:tag",
            ));
        }
        if text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(refuse(text, "64 hex digits are an id, not a repository"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|_| refuse(text, "the digest must be sha256:<64 hex digits>"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (host, rest) = split_host(rest);
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        check_host(host).map_err(|reason| refuse(text, reason))?;
        let host = if host == "index.docker.io" {
            "docker.io"
        } else {
            host
        };
        let repository = if host == "docker.io" && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        check_repository(path).map_err(|reason| refuse(text, reason))?;
        if host.len() + 1 + repository.len() > MAX_NAME {
            return Err(refuse(text, "the name is longer than 255 bytes"));
        }
        if let Some(tag) = tag {
            check_tag(tag).map_err(|reason| refuse(text, reason))?;
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(RegistryRef {
            host: host.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

/// Docker's rule: what stands before the first slash is a host if it looks like one, else all is a name on Docker Hub.
fn split_host(text: &str) -> (&str, &str) {
    if let Some((first, rest)) = text.split_once('/') {
        let looks_like_host = first.contains(['.', ':', '['])
            || first == "localhost"
            || first.bytes().any(|b| b.is_ascii_uppercase());
        if looks_like_host {
            return (first, rest);
        }
    }
    ("docker.io", text)
}

/// Checks `name[:port]`, an IPv4 address or a bracketed IPv6 address, with an optional port.
pub(crate) fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = split_port(host);
    if port.is_some_and(|port| port.is_empty() || port.len() > 5 || port.parse::<u16>().is_err()) {
        return Err("the port must be a number up to 65535");
    }
    if let Some(inner) = name.strip_prefix('[') {
        let address = inner
            .strip_suffix(']')
            .ok_or("the IPv6 address lacks its closing bracket")?;
        return match address.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err("the brackets hold no IPv6 address"),
        };
    }
    let good_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if name.split('.').all(good_label) {
        Ok(())
    } else {
        Err("the host is not a valid name")
    }
}

/// Splits a host from its port; brackets of an IPv6 address stay.
pub(crate) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => (&host[..at], Some(&host[at + 1..])),
        _ => (host, None),
    }
}

/// True for hosts that every client speaks plain http to: `localhost` and loopback addresses.
pub(crate) fn is_loopback(host: &str) -> bool {
    let (name, _) = split_port(host);
    let name = name
        .strip_prefix('[')
        .and_then(|n| n.strip_suffix(']'))
        .unwrap_or(name);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Checks a repository path: lower-case components, parted by single `.`, `_`, `__` or any number of `-`.
pub(crate) fn check_repository(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the repository is missing");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("repository names are lower case");
    }
    if path.split('/').all(good_component) {
        Ok(())
    } else {
        Err("the repository is not a valid name")
    }
}

fn good_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends =
        bytes.first().is_some_and(|b| alphanumeric(*b)) && bytes.last().is_some_and(|b| alphanumeric(*b));
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends && separators
        .into_iter()
        .all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
}

/// Checks a tag.
pub(crate) fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    if bytes.is_empty() {
        return Err("the tag is empty");
    }
    if bytes.len() > MAX_TAG {
        return Err("the tag is longer than 128 characters");
    }
    if word(bytes[0]) && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-')) {
        Ok(())
    } else {
        Err("a tag has letters, digits, '_', '.' and '-' only, and begins with a letter, digit or '_'")
    }
}

fn refuse(text: &str, reason: &str) -> Error {
    let shown: String = text.chars().take(MAX_NAME).collect();
    Error::Invalid {
        what: format!("image reference {shown:?}"),
        reason: reason.to_owned(),
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path, tag) = match self {
            Reference::Registry(reference) => return reference.fmt(f),
            Reference::Layout { dir, tag } => ("oci", dir, tag),
            Reference::Archive { file, tag } => ("oci-archive", file, tag),
        };
        write!(f, "{scheme}:{}", path.display())?;
        tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEX: &str = "6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";

    #[test]
    fn normalises_as_docker_does() {
        let rows = [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest"),
            ("index.docker.io/debian", "docker.io/library/debian:latest"),
            ("docker.io/library/debian:12", "docker.io/library/debian:12"),
            ("ghcr.io/a/b/c:v1.0-rc_1", "ghcr.io/a/b/c:v1.0-rc_1"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:x", "localhost:5000/app:x"),
            ("registry:5000/app", "registry:5000/app:latest"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
            ("[::1]:5000/app:1", "[::1]:5000/app:1"),
            ("[2001:db8::1]/app", "[2001:db8::1]/app:latest"),
            ("Upper.example/app", "Upper.example/app:latest"),
            ("UPPER/app", "UPPER/app:latest"),
            ("a__b/c---d.e_f", "docker.io/a__b/c---d.e_f:latest"),
        ];
        for (text, expected) in rows {
            assert_eq!(
                text.parse::<RegistryRef>().unwrap().to_string(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn keeps_digests() {
        let only = format!("localhost:5000/app@sha256:{HEX}");
        let parsed: RegistryRef = only.parse().unwrap();
        assert_eq!((parsed.tag.as_deref(), parsed.to_string()), (None, only));
        assert_eq!(parsed.identifier(), format!("sha256:{HEX}"));
        let both = format!("app:1@sha256:{HEX}");
        assert_eq!(
            both.parse::<RegistryRef>().unwrap().to_string(),
            format!("docker.io/library/app:1@sha256:{HEX}")
        );
    }

    #[test]
    fn refuses_by_name() {
        let long = "a/".repeat(200) + "a";
        let tag = format!("app:{}", "x".repeat(129));
        let rows = [
            ("", "an image reference is expected"),
            ("docker://debian", "no scheme"),
            (HEX, "64 hex digits"),
            ("Debian", "lower case"),
            ("ghcr.io/", "the repository is missing"),
            ("ghcr.io/a//b", "not a valid name"),
            ("ghcr.io/-a", "not a valid name"),
            ("ghcr.io/a._b", "not a valid name"),
            ("ghcr.io/a___b", "not a valid name"),
            ("ghcr.io/../../etc", "not a valid name"),
            ("ghcr.io/a b", "not a valid name"),
            ("ghcr.io/ä", "not a valid name"),
            ("app:", "the tag is empty"),
            ("app:.x", "a tag has letters"),
            ("app:a:b", "a tag has letters"),
            ("app@sha256:12", "sha256:<64 hex digits>"),
            ("app@sha512:12", "sha256:<64 hex digits>"),
            ("host:port/app", "a number up to 65535"),
            ("host:99999/app", "a number up to 65535"),
            ("[::1/app", "closing bracket"),
            ("[zz]/app", "no IPv6 address"),
            ("-host.example/app", "the host is not"),
            ("ho_st.example/app", "the host is not"),
            (long.as_str(), "longer than 255"),
            (tag.as_str(), "longer than 128"),
            ("oci:", "the path is empty"),
            ("oci:dir:", "the name after the colon is empty"),
            ("oci-archive::x", "the path is empty"),
            ("oci:dir:a b", "spaces or control"),
        ];
        for (text, expected) in rows {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{text}");
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn layouts_and_archives() {
        let rows = [
            (
                "oci:dir",
                Reference::Layout {
                    dir: "dir".into(),
                    tag: None,
                },
            ),
            (
                "oci:/a/b.c:1.0",
                Reference::Layout {
                    dir: "/a/b.c".into(),
                    tag: Some("1.0".into()),
                },
            ),
            (
                "oci:dir:docker.io/library/debian:12",
                Reference::Layout {
                    dir: "dir".into(),
                    tag: Some("docker.io/library/debian:12".into()),
                },
            ),
            (
                "oci-archive:x.tar",
                Reference::Archive {
                    file: "x.tar".into(),
                    tag: None,
                },
            ),
            (
                "oci-archive:./x.tar:v1",
                Reference::Archive {
                    file: "./x.tar".into(),
                    tag: Some("v1".into()),
                },
            ),
        ];
        for (text, expected) in rows {
            let parsed: Reference = text.parse().unwrap();
            assert_eq!(parsed, expected, "{text}");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn loopback_hosts() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1",
            "127.3.2.1:80",
            "[::1]",
            "[::1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "docker.io",
            "localhost.example",
            "10.0.0.1:5000",
            "[::2]:5000",
            "128.0.0.1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_is_total_and_stable(text in ".{0,80}|[a-z0-9:/@._\\[\\]-]{0,40}") {
            if let Ok(parsed) = text.parse::<RegistryRef>() {
                let shown = parsed.to_string();
                proptest::prop_assert_eq!(shown.parse::<RegistryRef>().unwrap(), parsed);
            }
        }
    }
}
