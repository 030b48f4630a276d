//! Files of http and https servers, object storage included: by ranges, and told apart by what the server says of them.

use bytes::Bytes;
use lacewing_format::Digest;
use reqwest::{Method, Response, StatusCode, Url, header};
use std::ops::Range;

use crate::{
    Client, Error,
    client::Host,
    endpoint::{Capabilities, Endpoint},
    fault::Fault,
    limits::{MAX_READ, MAX_URL},
    range,
    repository::text_header,
    transport::Call,
};

/// What a server says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebFile {
    /// Bytes.
    pub len: u64,
    /// What tells this version from others: `ETag`, else `Last-Modified`, else nothing.
    pub version: Option<String>,
    /// Whether parts of it can be had.
    pub ranges: bool,
}

impl WebFile {
    /// A name for this version of the file at an address, the same on all nodes. `None`: the server tells nothing that
    /// would change with the file. What signs an address for a time and a reader is no part of the name.
    pub fn identity(&self, url: &str) -> Option<Digest> {
        let version = self.version.as_ref()?;
        let url = unsigned(url);
        Some(Digest::of(format!("{url}\n{version}\n{}", self.len).as_bytes()))
    }
}

/// The address without the signature of S3, OSS, Google or Azure storage.
fn unsigned(url: &str) -> String {
    let Some((path, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let signs = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with("x-amz-")
            || name.starts_with("x-oss-")
            || name.starts_with("x-goog-")
            || [
                "signature",
                "expires",
                "awsaccesskeyid",
                "ossaccesskeyid",
                "googleaccessid",
            ]
            .contains(&name.as_str())
            || [
                "sig", "se", "st", "sp", "sv", "sr", "spr", "skoid", "sktid", "skt", "ske", "sks", "skv",
            ]
            .contains(&name.as_str())
    };
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !signs(pair.split('=').next().unwrap_or("")))
        .collect();
    if kept.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", kept.join("&"))
    }
}

/// Checks an address.
///
/// # Errors
/// `Invalid`: not http or https, with a password in it, too long, or with characters that no address has.
pub fn check_url(text: &str) -> Result<Url, Error> {
    let invalid = |reason: &str| Error::Invalid {
        what: format!("address {:?}", text.chars().take(200).collect::<String>()),
        reason: reason.to_owned(),
    };
    if text.len() > MAX_URL || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid(
            "it is too long, or has characters that must be written as %XX",
        ));
    }
    let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(invalid("http:// or https:// is expected"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("it carries a user name; use a signed address"));
    }
    if url.fragment().is_some() {
        return Err(invalid("it has a fragment (#)"));
    }
    Ok(url)
}

impl Client {
    /// Asks what a file is, by its first byte: signed addresses are mostly good for GET alone.
    ///
    /// # Errors
    /// [`Error`], as the server answers.
    pub async fn web_file(&self, url: &str) -> Result<WebFile, Error> {
        let parsed = check_url(url)?;
        let host = self.web_host(&parsed);
        let asked = self.web_get(&host, &parsed, &(0..1)).await;
        let read = async {
            let response = asked?;
            if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                // A file of no bytes has no first one.
                let told = text_header(&response, "content-range").unwrap_or_default();
                if told.trim() == "bytes */0" {
                    return described(&response, 0, true);
                }
            }
            match response.status() {
                StatusCode::PARTIAL_CONTENT => {
                    let told = text_header(&response, "content-range");
                    match told.as_deref().and_then(range::parse_content_range) {
                        Some((_, Some(total))) => described(&response, total, true),
                        _ => Err(Fault::Corrupt("it does not tell the file's length".to_owned())),
                    }
                }
                StatusCode::OK => match response.content_length() {
                    Some(len) => described(&response, len, false),
                    None => Err(Fault::Invalid(
                        "the server does not tell the file's length".to_owned(),
                    )),
                },
                _ => Err(host.wire.refusal(response).await),
            }
        };
        self.web_outcome(&host, &parsed, read.await)
    }

    /// Reads a range of a file, exactly that many bytes, and what the server says of the file they are of. NOT verified.
    ///
    /// # Errors
    /// [`Error`], as the server answers; one try.
    pub async fn web_read(&self, url: &str, range: Range<u64>) -> Result<(Bytes, WebFile), Error> {
        let parsed = check_url(url)?;
        let host = self.web_host(&parsed);
        let read = async {
            let len = range.end.saturating_sub(range.start);
            if len == 0 || len > MAX_READ {
                return Err(Fault::Invalid(format!("{len} bytes at once")));
            }
            let mut response = self.web_get(&host, &parsed, &range).await?;
            let told = text_header(&response, "content-range");
            let file = match (
                response.status(),
                told.as_deref().and_then(range::parse_content_range),
            ) {
                (StatusCode::PARTIAL_CONTENT, Some((part, Some(total)))) if part == range => {
                    described(&response, total, true)?
                }
                (StatusCode::OK, _) if range.start == 0 && response.content_length() == Some(len) => {
                    described(&response, len, false)?
                }
                (StatusCode::PARTIAL_CONTENT | StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE, _) => {
                    return Err(Fault::Corrupt(format!(
                        "it has no bytes {}..{}",
                        range.start, range.end
                    )));
                }
                _ => return Err(host.wire.refusal(response).await),
            };
            let bytes = host.wire.body(&mut response, len).await?;
            if bytes.len() as u64 != len {
                return Err(Fault::broken("an answer ends early"));
            }
            Ok((bytes, file))
        };
        self.web_outcome(&host, &parsed, read.await)
    }

    fn web_outcome<T>(&self, host: &Host, url: &Url, outcome: Result<T, Fault>) -> Result<T, Error> {
        host.note(&outcome);
        // The query may be a signature.
        outcome.map_err(|fault| fault.into_error(&host.wire.endpoint.authority(), url.path()))
    }

    fn web_host(&self, url: &Url) -> Host {
        let mut base = url.clone();
        base.set_path("/");
        base.set_query(None);
        self.host(Endpoint {
            base,
            capabilities: Capabilities::ALL,
            tls: Default::default(),
            headers: Vec::new(),
            dial_timeout: None,
            mirror_of: None,
        })
    }

    async fn web_get(&self, host: &Host, url: &Url, range: &Range<u64>) -> Result<Response, Fault> {
        let asked = range::request(range.start, Some(range.end));
        let call = Call::new(Method::GET, url.clone())
            .header(header::RANGE, &asked)
            // Ranges are of the bytes as they lie there.
            .header(header::ACCEPT_ENCODING, "identity");
        host.wire.exchange(&call, None, &host.wire.endpoint.base).await
    }
}

fn described(response: &Response, len: u64, ranges: bool) -> Result<WebFile, Fault> {
    let version = text_header(response, "etag").or_else(|| text_header(response, "last-modified"));
    if version.as_ref().is_some_and(|version| version.len() > 1024) {
        return Err(Fault::Invalid(
            "the server's ETag is longer than anybody needs".to_owned(),
        ));
    }
    Ok(WebFile { len, version, ranges })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_keeps_its_name_whoever_signs_the_address() {
        let file = WebFile {
            len: 5,
            version: Some("\"x\"".to_owned()),
            ranges: true,
        };
        let plain = file.identity("https://h/b/k").unwrap();
        for url in [
            "https://h/b/k?X-Amz-Signature=1&X-Amz-Expires=60",
            "https://h/b/k?Signature=x&Expires=1&OSSAccessKeyId=y",
        ] {
            assert_eq!(file.identity(url).unwrap(), plain, "{url}");
        }
        let other = WebFile {
            len: 6,
            ..file.clone()
        };
        assert_ne!(other.identity("https://h/b/k").unwrap(), plain);
        assert_ne!(file.identity("https://h/b/k?versionId=3").unwrap(), plain);
        let nameless = WebFile {
            version: None,
            ..file
        };
        assert_eq!(nameless.identity("https://h/b/k"), None);
    }

    #[test]
    fn addresses_are_checked() {
        for good in ["http://h/x", "https://h:8443/a/b?c=d"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        let long = format!("http://h/{}", "a".repeat(MAX_URL));
        for bad in [
            "ftp://h/x",
            "h/x",
            "http://u:p@h/x",
            "http://h/x#y",
            "http://h/a b",
            &long,
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
