//! The credentials that came with pulls: kubelet reads the pod's and the service account's pull secrets and sends them
//! with each PullImage, and nowhere else are they to be had on a node.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use futures::future::BoxFuture;
use lacewing_oci::{Credential, Credentials, Error, Reference, Secret};
use lacewing_rpc::cri::{AuthConfig, PullImageRequest};

/// Repositories whose credentials are kept: a node runs images of hundreds, not thousands. The oldest goes first.
const MOST: usize = 1024;

/// What pulls brought, in memory only.
#[derive(Default)]
pub(crate) struct Pulls(Mutex<HashMap<(String, String), (Instant, Credential)>>);

impl Pulls {
    /// Keeps what a pull brings for its image's repository; the latest counts.
    pub(crate) fn learn(&self, request: &PullImageRequest) {
        let image = request.image.as_ref().map(|image| image.image.as_str());
        let Some(Ok(Reference::Registry(image))) = image.map(str::parse) else {
            return;
        };
        let Some(credential) = request
            .auth
            .as_ref()
            .and_then(|auth| credential(auth, &image.host))
        else {
            return;
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (image.host, image.repository);
        if kept.len() >= MOST && !kept.contains_key(&key) {
            let oldest = kept.iter().min_by_key(|(_, (since, _))| *since);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                kept.remove(&oldest);
            }
        }
        kept.insert(key, (Instant::now(), credential));
    }
}

/// As containerd reads an AuthConfig (ParseAuth in its CRI server).
fn credential(auth: &AuthConfig, host: &str) -> Option<Credential> {
    if !auth.server_address.is_empty() {
        let address = auth.server_address.as_str();
        let address = address.split_once("://").map_or(address, |(_, rest)| rest);
        let meant = address.split('/').next().unwrap_or_default();
        let hub = host == "docker.io" && matches!(meant, "index.docker.io" | "registry-1.docker.io");
        if meant != host && !hub {
            return None;
        }
    }
    if !auth.username.is_empty() {
        return Some(Credential::Basic {
            username: auth.username.clone(),
            password: Secret::new(auth.password.as_str()),
        });
    }
    if !auth.identity_token.is_empty() {
        return Some(Credential::IdentityToken(Secret::new(
            auth.identity_token.as_str(),
        )));
    }
    if !auth.auth.is_empty() {
        return Credential::from_basic_auth(&auth.auth);
    }
    let token = auth.registry_token.as_str();
    (!token.is_empty()).then(|| Credential::RegistryToken(Secret::new(token)))
}

impl Credentials for Pulls {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credential>, Error>> {
        let key = (host.to_owned(), repository.to_owned());
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get(&key).map(|(_, credential)| credential.clone());
        Box::pin(async move { Ok(found) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lacewing_rpc::cri::ImageSpec;

    use super::*;

    fn pull(image: &str, auth: AuthConfig) -> PullImageRequest {
        PullImageRequest {
            image: Some(ImageSpec {
                image: image.to_owned(),
            }),
            auth: Some(auth),
        }
    }

    fn password(word: &str) -> AuthConfig {
        AuthConfig {
            username: "u".into(),
            password: word.into(),
            ..AuthConfig::default()
        }
    }

    async fn found(pulls: &Pulls, host: &str, repository: &str) -> Option<String> {
        match pulls.lookup(host, repository).await.unwrap()? {
            Credential::Basic { password, .. } => Some(password.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_repository_gets_what_its_latest_pull_brought() {
        let pulls = Pulls::default();
        pulls.learn(&pull("r.example/a:1", password("one")));
        pulls.learn(&pull(
            "r.example/a@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            password("two"),
        ));
        pulls.learn(&pull("r.example/b", AuthConfig::default()));
        assert_eq!(found(&pulls, "r.example", "a").await.as_deref(), Some("two"));
        assert_eq!(found(&pulls, "r.example", "b").await, None);
        assert_eq!(found(&pulls, "elsewhere.example", "a").await, None);
    }

    #[tokio::test]
    async fn a_credential_for_another_server_is_not_sent() {
        let pulls = Pulls::default();
        for (server, image, kept) in [
            ("https://r.example/v1/", "r.example/a", true),
            ("other.example", "r.example/b", false),
            ("https://index.docker.io/v1/", "debian", true),
        ] {
            let auth = AuthConfig {
                server_address: server.into(),
                ..password("p")
            };
            pulls.learn(&pull(image, auth));
            let Reference::Registry(image) = image.parse().unwrap() else {
                panic!()
            };
            let found = found(&pulls, &image.host, &image.repository).await;
            assert_eq!(found.is_some(), kept, "{server}");
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let pulls = Pulls::default();
        for number in 0..=MOST {
            pulls.learn(&pull(&format!("r.example/a{number}"), password("p")));
        }
        assert_eq!(found(&pulls, "r.example", "a0").await, None);
        assert!(found(&pulls, "r.example", &format!("a{MOST}")).await.is_some());
    }
}
