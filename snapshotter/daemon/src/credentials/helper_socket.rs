//! A program that listens on a unix socket and is asked as kubelet's credential providers are.
//!
//! One question per connection: a CredentialProviderRequest, then the writing side is closed; the answer is a
//! CredentialProviderResponse and the end. Nothing of it is kept here, so after a 401 the program is asked again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use lacewing_oci::{Credential, Credentials, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tracing::warn;

use super::protocol::{self, MAX_ANSWER, VERSIONS};

/// It may have to ask somebody itself. As long as a provider has, a reader that waits would have got its error.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The socket.
pub(super) struct HelperSocket {
    path: PathBuf,
}

impl HelperSocket {
    /// Nobody needs to listen there yet.
    pub(super) fn new(path: &Path) -> HelperSocket {
        HelperSocket {
            path: path.to_owned(),
        }
    }

    async fn ask(&self, image: &str) -> Result<Option<Credential>, String> {
        let request = protocol::request(VERSIONS[0], image)?;
        let talk = async {
            let mut stream = UnixStream::connect(&self.path).await?;
            stream.write_all(&request).await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.take(MAX_ANSWER + 1).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(TIMEOUT, talk)
            .await
            .map_err(|_| format!("no answer within {TIMEOUT:?}"))?
            .map_err(|error| error.to_string())?;
        protocol::answer(&answer, image)
    }
}

impl Credentials for HelperSocket {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credential>, Error>> {
        Box::pin(async move {
            let found = self.ask(&format!("{host}/{repository}")).await;
            Ok(found.unwrap_or_else(|reason| {
                // Another source may know.
                warn!(socket = %self.path.display(), "credential socket: {reason}");
                None
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::UnixListener;

    use super::*;

    /// Answers each question with the next text.
    fn helper(answers: &'static [&'static str]) -> (tempfile::TempDir, HelperSocket) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut question = String::new();
                stream.read_to_string(&mut question).await.unwrap();
                assert!(question.contains("\"image\":\"r.example/app\""), "{question}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (dir, HelperSocket::new(&path))
    }

    #[tokio::test]
    async fn it_is_asked_each_time() {
        const ONE: &str =
            r#"{"kind":"CredentialProviderResponse","auth":{"r.example":{"username":"u","password":"one"}}}"#;
        const TWO: &str =
            r#"{"kind":"CredentialProviderResponse","auth":{"r.example":{"username":"u","password":"two"}}}"#;
        let (_dir, helper) = helper(&[ONE, TWO]);
        for expected in ["one", "two"] {
            let found = helper.lookup("r.example", "app").await.unwrap();
            let Some(Credential::Basic { password, .. }) = found else {
                panic!("{found:?}");
            };
            assert_eq!(password.expose(), expected);
        }
    }

    #[tokio::test]
    async fn nonsense_is_no_credential_and_is_not_repeated() {
        let (_dir, helper) = helper(&["hunter2", ""]);
        for _ in 0..2 {
            let reason = helper.ask("r.example/app").await.unwrap_err();
            assert!(!reason.contains("hunter2"), "{reason}");
        }
        let nobody = HelperSocket::new(Path::new("/nowhere/sock"));
        assert_eq!(nobody.lookup("r.example", "app").await.unwrap(), None);
    }
}
