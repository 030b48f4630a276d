//! Manifests and tags of a repository: resolving, reading, writing, listing.

use std::sync::Arc;

use bytes::Bytes;
use lacewing_format::Digest;
use oci_spec::image::{Descriptor, MediaType};
use reqwest::{Method, Response, Url, header};

use crate::{
    Error,
    client::Host,
    fault::Fault,
    limits::{MAX_MANIFEST, MAX_TAG_PAGES, MAX_TAGS},
    manifest_kind::{self, ACCEPT},
    repository::{Need, Repository, text_header},
    transport::Call,
    verify::{describe, digest_of},
};

impl Repository {
    /// Finds what a tag or digest names.
    pub(crate) async fn resolve(&self, identifier: &str) -> Result<Descriptor, Error> {
        let digest: Option<Digest> = identifier.parse().ok();
        let need = if digest.is_some() {
            Need::Content
        } else {
            Need::Tag
        };
        self.attempt(identifier, need, |host| self.resolve_at(host, identifier, digest))
            .await
    }

    async fn resolve_at(
        &self,
        host: Arc<Host>,
        identifier: &str,
        digest: Option<Digest>,
    ) -> Result<Descriptor, Fault> {
        let url = host
            .wire
            .endpoint
            .url(self.repository(), &format!("manifests/{identifier}"));
        let head = Call::new(Method::HEAD, url.clone()).header(header::ACCEPT, ACCEPT);
        let response = host.request(&head, &self.scope).await?;
        if response.status().is_success() {
            if let Some(found) = described_by_headers(&response, digest)? {
                return Ok(found);
            }
        } else {
            match host.wire.refusal(response).await {
                // A server that does not know HEAD may still know GET.
                Fault::Invalid(_) => {}
                fault => return Err(fault),
            }
        }
        let (bytes, content_type, told) = self.get_manifest(&host, url, MAX_MANIFEST).await?;
        let actual = Digest::of(&bytes);
        if let Some(expected) = digest.or(told).filter(|expected| *expected != actual) {
            return Err(Fault::Corrupt(format!("its digest is {actual}, not {expected}")));
        }
        let media_type = manifest_kind::of(content_type.as_deref(), &bytes).map_err(Fault::Invalid)?;
        Ok(describe(media_type, &actual, bytes.len() as u64))
    }

    /// Body, `Content-Type` and `Docker-Content-Digest` of a manifest.
    async fn get_manifest(
        &self,
        host: &Host,
        url: Url,
        limit: u64,
    ) -> Result<(Bytes, Option<String>, Option<Digest>), Fault> {
        let call = Call::new(Method::GET, url).header(header::ACCEPT, ACCEPT);
        let mut response = host.request(&call, &self.scope).await?;
        if !response.status().is_success() {
            return Err(host.wire.refusal(response).await);
        }
        let content_type = text_header(&response, "content-type");
        let told = text_header(&response, "docker-content-digest").and_then(|value| value.parse().ok());
        Ok((host.wire.body(&mut response, limit).await?, content_type, told))
    }

    /// Reads a manifest, verified.
    pub(crate) async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let digest = digest_of(descriptor)?;
        let size = descriptor.size();
        let what = digest.to_string();
        let read = |host: Arc<Host>| {
            let url = host
                .wire
                .endpoint
                .url(self.repository(), &format!("manifests/{digest}"));
            async move {
                let (bytes, _, _) = self.get_manifest(&host, url, size).await?;
                if bytes.len() as u64 != size {
                    return Err(Fault::Corrupt(format!(
                        "it has {} bytes, not {size}",
                        bytes.len()
                    )));
                }
                let actual = Digest::of(&bytes);
                if actual != digest {
                    return Err(Fault::Corrupt(format!("its digest is {actual}")));
                }
                Ok(bytes)
            }
        };
        self.attempt(&what, Need::Content, read).await
    }

    /// Writes a manifest under `tag`, or by its digest.
    pub(crate) async fn put_manifest(
        &self,
        media_type: MediaType,
        bytes: Bytes,
        tag: Option<&str>,
    ) -> Result<Descriptor, Error> {
        let digest = Digest::of(&bytes);
        if bytes.len() as u64 > MAX_MANIFEST {
            let what = format!("manifest {digest}");
            return Err(Error::Invalid {
                what,
                reason: "it is larger than the 4 MiB that registries take".to_owned(),
            });
        }
        let name = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let put = |host: Arc<Host>| {
            let url = host
                .wire
                .endpoint
                .url(self.repository(), &format!("manifests/{name}"));
            let call = Call::new(Method::PUT, url)
                .header(header::CONTENT_TYPE, media_type.as_ref())
                .body(bytes.clone());
            async move {
                let response = host.request(&call, &self.scope).await?;
                if !response.status().is_success() {
                    return Err(match host.wire.refusal(response).await {
                        Fault::NotFound => {
                            Fault::Invalid("the registry does not know the repository".to_owned())
                        }
                        fault => fault,
                    });
                }
                match text_header(&response, "docker-content-digest").and_then(|v| v.parse::<Digest>().ok()) {
                    Some(stored) if stored != digest => Err(Fault::Corrupt(format!(
                        "it was stored as {stored}, not as {digest}"
                    ))),
                    _ => Ok(()),
                }
            }
        };
        self.attempt(&name, Need::Push, put).await?;
        Ok(describe(media_type.clone(), &digest, bytes.len() as u64))
    }

    /// Lists the repository's tags.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, Error> {
        let mut tags = Vec::new();
        let mut page = Page::First;
        for _ in 0..MAX_TAG_PAGES {
            let (found, next) = self
                .attempt("tags", Need::Tag, |host| self.tags_page(host, page.clone()))
                .await?;
            tags.extend(found);
            match next {
                Some((base, url)) if tags.len() < MAX_TAGS => page = Page::Next(base, url),
                _ => break,
            }
        }
        tags.truncate(MAX_TAGS);
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    async fn tags_page(
        &self,
        host: Arc<Host>,
        page: Page,
    ) -> Result<(Vec<String>, Option<(Url, Url)>), Fault> {
        let endpoint = &host.wire.endpoint;
        let url = match page {
            Page::First => {
                let mut url = endpoint.url(self.repository(), "tags/list");
                url.query_pairs_mut().append_pair("n", "1000");
                url
            }
            Page::Next(base, url) if base == endpoint.base => url,
            Page::Next(..) => return Err(Fault::broken("another endpoint began the list")),
        };
        let mut response = host.request(&Call::new(Method::GET, url), &self.scope).await?;
        if !response.status().is_success() {
            return Err(host.wire.refusal(response).await);
        }
        let next = text_header(&response, "link")
            .and_then(|link| next_link(&link).and_then(|next| response.url().join(next).ok()))
            .filter(|next| endpoint.owns(next))
            .map(|next| (endpoint.base.clone(), next));
        let body = host.wire.body(&mut response, MAX_MANIFEST).await?;
        let list: TagList = serde_json::from_slice(&body)
            .map_err(|_| Fault::Corrupt("its list of tags cannot be read".to_owned()))?;
        Ok((list.tags.unwrap_or_default(), next))
    }
}

/// The descriptor that a HEAD answer's headers tell, if they tell all of it.
fn described_by_headers(response: &Response, expected: Option<Digest>) -> Result<Option<Descriptor>, Fault> {
    let digest: Option<Digest> = text_header(response, "docker-content-digest").and_then(|v| v.parse().ok());
    let length: Option<u64> = text_header(response, "content-length").and_then(|v| v.parse().ok());
    let media_type = text_header(response, "content-type").and_then(|v| manifest_kind::known(&v));
    let (Some(digest), Some(length), Some(media_type)) = (digest, length, media_type) else {
        return Ok(None);
    };
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        return Err(Fault::Corrupt(format!("its digest is {digest}, not {expected}")));
    }
    if length == 0 || length > MAX_MANIFEST {
        return Ok(None);
    }
    Ok(Some(describe(media_type, &digest, length)))
}

#[derive(Clone)]
enum Page {
    First,
    /// Base address of the endpoint that began the list, and where it goes on.
    Next(Url, Url),
}

#[derive(serde::Deserialize)]
struct TagList {
    /// Null for a repository without tags.
    tags: Option<Vec<String>>,
}

/// The target of `<URL>; rel="next"`.
pub(crate) fn next_link(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    parameters.to_ascii_lowercase().contains("next").then_some(target)
}

/// Is it read and written as a manifest, not as a blob?
pub(crate) fn is_manifest(media_type: &MediaType) -> bool {
    manifest_kind::known(media_type.as_ref()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        let rows = [
            (
                r#"</v2/a/tags/list?n=1&last=x>; rel="next""#,
                Some("/v2/a/tags/list?n=1&last=x"),
            ),
            (r#"<https://h/x>; Rel=Next"#, Some("https://h/x")),
            (r#"</x>; rel="prev""#, None),
            ("/x", None),
            ("<", None),
            ("", None),
        ];
        for (link, expected) in rows {
            assert_eq!(next_link(link), expected, "{link}");
        }
    }
}
