//! What a request asks for.

use lacewing_format::Digest;

/// The longest path looked at: a repository of 255 characters, a tag of 128, and the words between.
const MAX_PATH: usize = 1024;

/// A request, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Is this a registry?
    Root,
    /// A manifest by its tag, or another document that only the registry can give: what stands behind the repository.
    Document(String, String),
    /// A manifest or image index by digest.
    Manifest(String, Digest),
    /// A blob.
    Blob(String, Digest),
}

/// Reads a path. `None`: nothing that is mirrored.
pub(super) fn read(path: &str) -> Option<Wanted> {
    if path.len() > MAX_PATH || path.contains("..") || path.contains('%') {
        return None;
    }
    let rest = path.strip_prefix("/v2")?;
    if rest.is_empty() || rest == "/" {
        return Some(Wanted::Root);
    }
    let rest = rest.strip_prefix('/')?;
    let (head, last) = rest.rsplit_once('/')?;
    let (repository, kind) = head.rsplit_once('/')?;
    if repository.is_empty() || last.is_empty() {
        return None;
    }
    let digest: Option<Digest> = last.parse().ok();
    let repository = repository.to_owned();
    match (kind, digest) {
        ("manifests", Some(digest)) => Some(Wanted::Manifest(repository, digest)),
        ("blobs", Some(digest)) => Some(Wanted::Blob(repository, digest)),
        // A digest of another kind is no tag.
        ("manifests", None) if !last.contains(':') => {
            Some(Wanted::Document(repository, format!("manifests/{last}")))
        }
        ("tags", _) if last == "list" => Some(Wanted::Document(repository, "tags/list".to_owned())),
        ("referrers", Some(digest)) => Some(Wanted::Document(repository, format!("referrers/{digest}"))),
        _ => None,
    }
}

/// The registry that a query names, `ns=HOST`.
pub(super) fn registry(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("ns="))?;
    let host = value.replace("%3A", ":").replace("%3a", ":");
    (!host.is_empty() && !host.contains('%')).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let digest = Digest::of(b"x");
        let repository = || "a/b".to_owned();
        for (path, expected) in [
            ("/v2/".to_owned(), Some(Wanted::Root)),
            ("/v2".to_owned(), Some(Wanted::Root)),
            (
                format!("/v2/a/b/blobs/{digest}"),
                Some(Wanted::Blob(repository(), digest)),
            ),
            (
                format!("/v2/a/b/manifests/{digest}"),
                Some(Wanted::Manifest(repository(), digest)),
            ),
            (
                "/v2/a/b/manifests/1.0".to_owned(),
                Some(Wanted::Document(repository(), "manifests/1.0".to_owned())),
            ),
            (
                "/v2/a/b/tags/list".to_owned(),
                Some(Wanted::Document(repository(), "tags/list".to_owned())),
            ),
            ("/v2/a/b/manifests/sha512:00".to_owned(), None),
            ("/v2/a/b/blobs/latest".to_owned(), None),
            ("/v2/a/b/blobs/uploads/".to_owned(), None),
            ("/v2/../x/manifests/1".to_owned(), None),
            ("/v2/manifests/1".to_owned(), None),
            ("/v1/a".to_owned(), None),
            ("/v2x/a/manifests/1".to_owned(), None),
            ("/".to_owned(), None),
        ] {
            assert_eq!(read(&path), expected, "{path}");
        }
    }

    #[test]
    fn registries() {
        for (query, expected) in [
            ("ns=docker.io", Some("docker.io")),
            ("a=b&ns=h%3A5000", Some("h:5000")),
            ("ns=", None),
            ("ns=%2F", None),
            ("", None),
        ] {
            assert_eq!(registry(query).as_deref(), expected, "{query}");
        }
    }
}
