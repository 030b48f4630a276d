//! Where a blob comes from in the end, and how that is written in requests between nodes.
//!
//! ```text
//!   host/repository             a blob of a repository (also an index of a converted layer)
//!   host/repository!manifest    a manifest or image index, by its digest
//!   host/!https/path?query      a file, named by what its server says of it
//!   host/#https/path?query      a file, named by its digest
//! ```

use crate::adapters::content::plausible;
use crate::adapters::origins::Place;

const MANIFEST: &str = "!manifest";

/// An origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A repository's blob.
    Blob(Place),
    /// A repository's manifest or image index.
    Manifest(Place),
    /// A file of a web server.
    File {
        /// Its address.
        url: String,
        /// Whether the blob's id is the digest of the file.
        digest: bool,
    },
}

impl Source {
    /// As it stands in requests.
    pub(crate) fn written(&self) -> String {
        match self {
            Source::Blob(place) => place.to_string(),
            Source::Manifest(place) => format!("{place}{MANIFEST}"),
            Source::File { url, digest } => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let mark = if *digest { '#' } else { '!' };
                format!("{host}/{mark}{scheme}/{path}")
            }
        }
    }

    /// Reads what another node wrote.
    pub(crate) fn read(text: &str) -> Option<Source> {
        let (host, rest) = text.split_once('/')?;
        if !plausible(host) {
            return None;
        }
        if let Some(file) = rest.strip_prefix(['!', '#']) {
            let (scheme, path) = file.split_once('/')?;
            let url = format!("{scheme}://{host}/{path}");
            lacewing_oci::check_url(&url).ok()?;
            let digest = rest.starts_with('#');
            return Some(Source::File { url, digest });
        }
        let (repository, manifest) = match rest.strip_suffix(MANIFEST) {
            Some(repository) => (repository, true),
            None => (rest, false),
        };
        if !plausible(repository) {
            return None;
        }
        let place = Place {
            host: host.to_owned(),
            repository: repository.to_owned(),
        };
        Some(if manifest {
            Source::Manifest(place)
        } else {
            Source::Blob(place)
        })
    }

    /// The repository, if it is in one.
    pub(crate) fn place(&self) -> Option<&Place> {
        match self {
            Source::Blob(place) | Source::Manifest(place) => Some(place),
            Source::File { .. } => None,
        }
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &str {
        match self {
            Source::Blob(place) | Source::Manifest(place) => &place.host,
            Source::File { url, .. } => {
                let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
                rest.split(['/', '?']).next().unwrap_or(rest)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let place = Place {
            host: "registry.example:5000".to_owned(),
            repository: "a/b".to_owned(),
        };
        let file = |url: &str, digest| Source::File {
            url: url.to_owned(),
            digest,
        };
        for (source, host) in [
            (Source::Blob(place.clone()), "registry.example:5000"),
            (Source::Manifest(place), "registry.example:5000"),
            (file("https://h/b/k?X-Amz-Signature=1&x=a!b", false), "h"),
            (file("http://127.0.0.1:80/x", true), "127.0.0.1:80"),
        ] {
            assert_eq!(
                Source::read(&source.written()),
                Some(source.clone()),
                "{source:?}"
            );
            assert_eq!(source.host(), host);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "h",
            "h/",
            "h/a b",
            "h/../x",
            "h/!ftp/x",
            "h/!https",
            "h@x/!http/y",
            "h/!manifest",
            "h/!http/a b",
        ] {
            assert_eq!(Source::read(text), None, "{text}");
        }
    }
}
