//! The credentials that came with pulls: kubelet reads the pod's and the service account's pull secrets and sends them
//! with each PullImage, and nowhere else are they to be had on a node. A next worker has them only if they are sealed on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::future::BoxFuture;
use lacewing_oci::{Credential, Credentials, Error, Reference, Secret};
use lacewing_rpc::cri::{AuthConfig, PullImageRequest};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::seal::Seal;

/// Repositories whose credentials are kept: a node runs images of hundreds, not thousands. The oldest goes first.
const MOST: usize = 1024;

type Kept = HashMap<(String, String), (Instant, Credential)>;

/// What pulls brought: in memory, and sealed on disk where there is a seal.
#[derive(Default)]
pub(crate) struct Pulls {
    kept: Mutex<Kept>,
    seal: Option<Mutex<Seal>>,
}

impl Pulls {
    /// Begins with what was sealed. What cannot be opened is as good as nothing, and is told in the log.
    pub(super) fn open(seal: Option<Seal>) -> Pulls {
        let sealed = seal.as_ref().and_then(|seal| {
            let read = seal.read();
            read.unwrap_or_else(|error| {
                warn!("credentials of earlier pulls are lost: {error:#}");
                None
            })
        });
        let entries: Vec<Entry> = sealed
            .and_then(|plain| serde_json::from_slice(&plain).ok())
            .unwrap_or_default();
        let kept = entries.into_iter().map(Entry::into_kept).collect();
        Pulls {
            kept: Mutex::new(kept),
            seal: seal.map(Mutex::new),
        }
    }

    /// Keeps what a pull brings for its image's repository; the latest counts.
    pub(crate) fn learn(self: &Arc<Pulls>, request: &PullImageRequest) {
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
        let mut kept = self.kept();
        let key = (image.host, image.repository);
        if kept.len() >= MOST && !kept.contains_key(&key) {
            let oldest = kept.iter().min_by_key(|(_, (since, _))| *since);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                kept.remove(&oldest);
            }
        }
        let before = kept.insert(key, (Instant::now(), credential.clone()));
        drop(kept);
        if self.seal.is_some() && before.is_none_or(|(_, before)| before != credential) {
            let this = Arc::clone(self);
            tokio::task::spawn_blocking(move || this.keep());
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals all of them as they are now.
    fn keep(&self) {
        let Some(seal) = &self.seal else { return };
        // One at a time, and each writes what it finds then: the last one writes the latest.
        let seal = seal.lock().unwrap_or_else(PoisonError::into_inner);
        let entries: Vec<Entry> = self.kept().iter().map(Entry::of).collect();
        let written = serde_json::to_vec(&entries).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|plain| seal.write(plain)) {
            warn!("credentials of pulls are in memory only: sealing them: {error}");
        }
    }
}

/// A credential as it is sealed. No `Debug`: it holds a secret.
#[derive(Serialize, Deserialize)]
struct Entry {
    host: String,
    repository: String,
    kind: Kind,
    #[serde(default)]
    username: String,
    secret: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Basic,
    IdentityToken,
    RegistryToken,
}

impl Entry {
    fn of(((host, repository), (_, credential)): (&(String, String), &(Instant, Credential))) -> Entry {
        let (kind, username, secret) = match credential {
            Credential::Basic { username, password } => (Kind::Basic, username.clone(), password),
            Credential::IdentityToken(token) => (Kind::IdentityToken, String::new(), token),
            Credential::RegistryToken(token) => (Kind::RegistryToken, String::new(), token),
        };
        Entry {
            host: host.clone(),
            repository: repository.clone(),
            kind,
            username,
            secret: secret.expose().to_owned(),
        }
    }

    fn into_kept(self) -> ((String, String), (Instant, Credential)) {
        let secret = Secret::new(self.secret);
        let credential = match self.kind {
            Kind::Basic => Credential::Basic {
                username: self.username,
                password: secret,
            },
            Kind::IdentityToken => Credential::IdentityToken(secret),
            Kind::RegistryToken => Credential::RegistryToken(secret),
        };
        ((self.host, self.repository), (Instant::now(), credential))
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
        let found = self.kept().get(&key).map(|(_, credential)| credential.clone());
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
        let pulls = Arc::new(Pulls::default());
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
        let pulls = Arc::new(Pulls::default());
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

    #[test]
    fn the_next_worker_has_what_was_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, [9; 32]).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let open = || Arc::new(Pulls::open(Some(Seal::open(dir.path(), &key).unwrap())));
        let runtime = || tokio::runtime::Runtime::new().unwrap();
        let auths = [
            ("r.example/basic", password("one")),
            (
                "r.example/identity",
                AuthConfig {
                    identity_token: "two".into(),
                    ..AuthConfig::default()
                },
            ),
            (
                "r.example/token",
                AuthConfig {
                    registry_token: "three".into(),
                    ..AuthConfig::default()
                },
            ),
        ];
        let pulls = open();
        // Dropping a runtime waits for what it does aside.
        runtime().block_on(async {
            for (image, auth) in &auths {
                pulls.learn(&pull(image, auth.clone()));
            }
        });
        let next = open();
        assert_eq!(next.kept().len(), auths.len());
        for (key, (_, credential)) in pulls.kept().iter() {
            assert_eq!(&next.kept()[key].1, credential);
        }
        std::fs::write(&key, [8; 32]).unwrap();
        assert!(open().kept().is_empty(), "opened under another key");
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let pulls = Arc::new(Pulls::default());
        for number in 0..=MOST {
            pulls.learn(&pull(&format!("r.example/a{number}"), password("p")));
        }
        assert_eq!(found(&pulls, "r.example", "a0").await, None);
        assert!(found(&pulls, "r.example", &format!("a{MOST}")).await.is_some());
    }
}
