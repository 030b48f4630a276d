//! Kubernetes' pull secrets, by service account: the names come from the account, the secrets from its namespace.
//!
//! Everything is read anew whenever a registry wants a log-in: the daemon's own token, which kubelet renews, the account,
//! the secrets. So a rotated secret counts at once, and none is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Limited};
use lacewing_oci::{Credential, Credentials, Error, reason_of};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::config::credentials::{Kubernetes, is_name};

/// An API server answers a read within milliseconds; a reader may be waiting.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A Secret may hold 1 MiB, in base64 and with metadata about twice as much.
const MAX_ANSWER: usize = 4 << 20;
/// Secrets of one account that are looked at; people have a few.
const MAX_SECRETS: usize = 32;

/// What we need of a ServiceAccount.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceAccount {
    #[serde(default)]
    image_pull_secrets: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

/// No `Debug`: it holds secrets.
#[derive(Deserialize)]
struct SecretObject {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl SecretObject {
    /// As docker's config.json, from either type of pull secret.
    fn docker_config(&self) -> Option<Vec<u8>> {
        let decoded = |key: &str| STANDARD.decode(self.data.get(key)?).ok();
        match self.kind.as_str() {
            "kubernetes.io/dockerconfigjson" => decoded(".dockerconfigjson"),
            // Of docker's first versions: the entries alone.
            "kubernetes.io/dockercfg" => {
                let entries = decoded(".dockercfg")?;
                Some([&b"{\"auths\":"[..], &entries, b"}"].concat())
            }
            _ => None,
        }
    }
}

/// The accounts and where they are.
pub(super) struct PullSecrets {
    said: Kubernetes,
}

impl PullSecrets {
    /// Nothing is asked yet.
    pub(super) fn new(said: &Kubernetes) -> PullSecrets {
        PullSecrets { said: said.clone() }
    }

    async fn ask(&self, host: &str, repository: &str) -> Result<Option<Credential>, String> {
        let server = Server::open(&self.said).await?;
        for (namespace, account) in &self.said.accounts {
            let path = format!("namespaces/{namespace}/serviceaccounts/{account}");
            let account: ServiceAccount = match server.get(&path).await {
                Ok(account) => account,
                Err(reason) => {
                    warn!("pull secrets: {reason}");
                    continue;
                }
            };
            let names = account.image_pull_secrets.iter().map(|named| named.name.as_str());
            for name in names.filter(|name| is_name(name)).take(MAX_SECRETS) {
                match server
                    .get::<SecretObject>(&format!("namespaces/{namespace}/secrets/{name}"))
                    .await
                {
                    Ok(secret) => {
                        let config = secret.docker_config().unwrap_or_default();
                        if let Some(found) = Credential::from_docker_config(&config, host, repository) {
                            return Ok(Some(found));
                        }
                    }
                    // As kubelet: one that is missing does not hide the others.
                    Err(reason) => warn!("pull secrets: {reason}"),
                }
            }
        }
        Ok(None)
    }
}

/// The API server, with the token and the certificates of this moment.
struct Server<'a> {
    said: &'a Kubernetes,
    client: reqwest::Client,
    token: String,
}

impl<'a> Server<'a> {
    async fn open(said: &'a Kubernetes) -> Result<Server<'a>, String> {
        let read = |path: &'a std::path::Path| async move {
            let text = tokio::fs::read_to_string(path).await;
            text.map_err(|error| format!("{}: {error}", path.display()))
        };
        let pem = read(&said.ca_file).await?;
        let trusted = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
            .map_err(|_| format!("{} holds no certificates", said.ca_file.display()))?;
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tls_certs_only(trusted)
            .build()
            .map_err(|error| format!("an HTTP client: {error}"))?;
        let token = read(&said.token_file).await?.trim().to_owned();
        Ok(Server { said, client, token })
    }

    /// Reads an object of the core API. Errors name it and what the server said of it, never what it holds.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let url = format!("{}/api/v1/{path}", self.said.server);
        let asked = self.client.get(url).bearer_auth(&self.token).send().await;
        let answer = asked.map_err(|error| format!("{path}: {}", reason_of(error)))?;
        if !answer.status().is_success() {
            return Err(format!("{path}: the API server answers {}", answer.status()));
        }
        let body = tonic::codegen::http::Response::<reqwest::Body>::from(answer).into_body();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|_| format!("{path}: the answer ends early, or is too long"))?;
        let json = serde_json::from_slice(&body.to_bytes());
        json.map_err(|_| format!("{path}: the answer is no such object"))
    }
}

impl Credentials for PullSecrets {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credential>, Error>> {
        Box::pin(async move {
            Ok(self.ask(host, repository).await.unwrap_or_else(|reason| {
                warn!("pull secrets: {reason}");
                None
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_types_of_pull_secrets() {
        let entries = r#"{"r.example":{"auth":"dTpw"}}"#;
        let object = |kind: &str, key: &str, text: &str| -> SecretObject {
            let json = serde_json::json!({"type": kind, "data": {key: STANDARD.encode(text)}});
            serde_json::from_value(json).unwrap()
        };
        let full = format!("{{\"auths\":{entries}}}");
        for (kind, key, text, found) in [
            (
                "kubernetes.io/dockerconfigjson",
                ".dockerconfigjson",
                full.as_str(),
                true,
            ),
            ("kubernetes.io/dockercfg", ".dockercfg", entries, true),
            ("kubernetes.io/dockercfg", ".dockercfg", "hunter2", false),
            ("Opaque", ".dockerconfigjson", full.as_str(), false),
            ("kubernetes.io/dockerconfigjson", "other", full.as_str(), false),
        ] {
            let config = object(kind, key, text).docker_config().unwrap_or_default();
            let credential = Credential::from_docker_config(&config, "r.example", "a");
            assert_eq!(credential.is_some(), found, "{kind} {key} {text}");
        }
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        for (name, good) in [
            ("default", true),
            ("my-app.pull", true),
            ("..", false),
            ("a/b", false),
            ("a%2fb", false),
            ("", false),
            ("A", false),
            ("a?x", false),
        ] {
            assert_eq!(is_name(name), good, "{name}");
        }
    }
}
