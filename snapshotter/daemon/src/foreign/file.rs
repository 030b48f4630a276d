//! Files of web servers as blobs.

use std::sync::Arc;

use lacewing_format::Digest;
use lacewing_oci::Error;

use super::{Blob, MAX_BLOB, RUN, Source};
use crate::adapters::p2p::Peers;

impl Peers {
    /// Finds out what a file is. With a digest it is known by that, else by what its server says of it.
    ///
    /// # Errors
    /// The server's; `Invalid` for one that gives no parts of files, or nothing that would change with the file.
    pub(crate) async fn file(self: &Arc<Self>, url: &str, digest: Option<Digest>) -> Result<Blob, Error> {
        let file = self.client().web_file(url).await?;
        let invalid = |reason: &str| Error::Invalid {
            what: "file".to_owned(),
            reason: reason.to_owned(),
        };
        if file.len > MAX_BLOB {
            return Err(invalid("it is longer than any that is shared"));
        }
        if !file.ranges && file.len > RUN {
            return Err(invalid("its server gives whole files only, no ranges of them"));
        }
        let known = digest.or_else(|| file.identity(url));
        let id = known
            .ok_or_else(|| invalid("its server tells neither ETag nor Last-Modified: give its digest"))?;
        let source = Source::File {
            url: url.to_owned(),
            digest: digest.is_some(),
        };
        self.knows_host(source.host());
        let len = file.len;
        Ok(Blob { id, len, source })
    }
}
