//! Descriptors, and streams that are compared with them on the way.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use lacewing_format::Digest;
use oci_spec::image::{Descriptor, MediaType, Sha256Digest};
use sha2::{Digest as _, Sha256};

use crate::Error;

/// The digest of a descriptor.
///
/// # Errors
/// `Invalid` for any algorithm but sha256, the only one in use.
pub fn digest_of(descriptor: &Descriptor) -> Result<Digest, Error> {
    let text = descriptor.digest().as_ref();
    text.parse().map_err(|_| Error::Invalid {
        what: format!("digest {text:?}"),
        reason: "only sha256 digests are supported".to_owned(),
    })
}

/// A descriptor of content with a known digest and size.
#[allow(clippy::expect_used)]
pub fn describe(media_type: MediaType, digest: &Digest, size: u64) -> Descriptor {
    let digest: Sha256Digest = digest
        .hex()
        .parse()
        .expect("64 lower-case hex digits are a sha256 digest");
    Descriptor::new(media_type, size, digest)
}

/// Passes a stream on while it is hashed. The part that completes it is handed out only after the digest was found right,
/// so that nobody ever holds all bytes of wrong content without an error.
pub(crate) fn verified(
    inner: BoxStream<'static, Result<Bytes, Error>>,
    digest: Digest,
    size: u64,
    place: String,
) -> BoxStream<'static, Result<Bytes, Error>> {
    let check = Check {
        inner,
        hasher: Sha256::new(),
        digest,
        left: size,
        place,
        compared: false,
    };
    stream::try_unfold(check, |mut check| async move {
        let part = check.next().await?;
        Ok(part.map(|part| (part, check)))
    })
    .boxed()
}

struct Check {
    inner: BoxStream<'static, Result<Bytes, Error>>,
    hasher: Sha256,
    digest: Digest,
    left: u64,
    place: String,
    compared: bool,
}

impl Check {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(part) = self.inner.next().await.transpose()? else {
                if self.left > 0 {
                    return Err(self.corrupt(format!("it ends {} bytes early", self.left)));
                }
                self.compare()?;
                return Ok(None);
            };
            if part.is_empty() {
                continue;
            }
            let Some(left) = self.left.checked_sub(part.len() as u64) else {
                return Err(self.corrupt("it has more bytes than its descriptor says".to_owned()));
            };
            self.left = left;
            self.hasher.update(&part);
            if left == 0 {
                self.compare()?;
            }
            return Ok(Some(part));
        }
    }

    fn compare(&mut self) -> Result<(), Error> {
        if self.compared {
            return Ok(());
        }
        self.compared = true;
        let actual = Digest(std::mem::take(&mut self.hasher).finalize().into());
        if actual == self.digest {
            Ok(())
        } else {
            Err(self.corrupt(format!("its digest is {actual}")))
        }
    }

    fn corrupt(&self, reason: String) -> Error {
        Error::Corrupt {
            place: self.place.clone(),
            what: self.digest.to_string(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn run(parts: &[&str], content: &str, size: u64) -> (String, Option<String>) {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| Ok(Bytes::copy_from_slice(part.as_bytes())))
            .collect();
        let digest = Digest::of(content.as_bytes());
        let mut stream = verified(stream::iter(parts).boxed(), digest, size, "here".into());
        let mut seen = String::new();
        while let Some(part) = stream.next().await {
            match part {
                Ok(part) => seen.push_str(std::str::from_utf8(&part).unwrap()),
                Err(error) => return (seen, Some(error.to_string())),
            }
        }
        (seen, None)
    }

    #[tokio::test]
    async fn passes_right_content_on() {
        for parts in [&["abc"][..], &["a", "", "bc", ""], &["a", "b", "c"]] {
            assert_eq!(run(parts, "abc", 3).await, ("abc".into(), None));
        }
        assert_eq!(run(&[], "", 0).await, (String::new(), None));
    }

    #[tokio::test]
    async fn wrong_content_is_never_complete() {
        let rows: [(&[&str], &str, u64, &str, &str); 5] = [
            (&["ab", "x"], "abc", 3, "ab", "its digest is"),
            (&["ab"], "abc", 3, "ab", "1 bytes early"),
            (&["abc", "d"], "abc", 3, "abc", "more bytes"),
            (&["abcd"], "abc", 3, "", "more bytes"),
            (&[], "abc", 0, "", "its digest is"),
        ];
        for (parts, content, size, seen, reason) in rows {
            let (got, error) = run(parts, content, size).await;
            assert_eq!(got, seen, "{parts:?}");
            assert!(error.unwrap().contains(reason), "{parts:?}");
        }
    }

    #[test]
    fn descriptors() {
        let digest = Digest::of(b"x");
        let descriptor = describe(MediaType::ImageManifest, &digest, 1);
        assert_eq!((digest_of(&descriptor).unwrap(), descriptor.size()), (digest, 1));
        let other = format!("sha512:{}", "0".repeat(128));
        let descriptor = Descriptor::new(
            MediaType::ImageManifest,
            1,
            other.parse::<oci_spec::image::Digest>().unwrap(),
        );
        assert!(matches!(digest_of(&descriptor), Err(Error::Invalid { .. })));
    }
}
