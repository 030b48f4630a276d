//! kubelet's credential providers: programs that are asked for the credentials of an image.
//!
//! The protocol is `credentialprovider.kubelet.k8s.io/v1`: a CredentialProviderRequest as JSON on standard input, a
//! CredentialProviderResponse on standard output. Configuration and programs are kubelet's own. Answers are not kept
//! here: what is made of them (a token, a header) is kept by the registry client as long as it is valid, and the program
//! is asked anew when that is refused.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;
use lacewing_oci::{Credential, Credentials, Error};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::warn;

use super::matching::covers;
use super::protocol::{self, MAX_ANSWER, VERSIONS};

/// As kubelet's own (pkg/credentialprovider/plugin/plugin.go).
const TIMEOUT: Duration = Duration::from_secs(60);
/// Largest configuration, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// kubelet.config.k8s.io CredentialProviderConfig; fields that are kubelet's business alone are passed over.
#[derive(Debug, Deserialize)]
struct ProviderConfig {
    kind: String,
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    name: String,
    api_version: String,
    #[serde(default)]
    match_images: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Debug, Clone, Deserialize)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

/// The configured programs.
#[derive(Debug)]
pub(super) struct Plugins {
    dir: PathBuf,
    providers: Vec<Provider>,
}

impl Plugins {
    /// Reads kubelet's configuration.
    ///
    /// # Errors
    /// It cannot be read, or is none; a program's name is a path.
    pub(super) fn load(file: &Path, dir: &Path) -> Result<Plugins> {
        let len = std::fs::metadata(file).map_or(0, |found| found.len());
        if len > MAX_CONFIG {
            bail!("{}: {len} bytes are no CredentialProviderConfig", file.display());
        }
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        Plugins::parse(&text, dir).with_context(|| format!("{}", file.display()))
    }

    fn parse(text: &str, dir: &Path) -> Result<Plugins> {
        let config: ProviderConfig = serde_yaml_ng::from_str(text)?;
        if config.kind != "CredentialProviderConfig" {
            bail!("it is a {}, not a CredentialProviderConfig", config.kind);
        }
        for provider in &config.providers {
            if provider.name.contains('/') || provider.name.is_empty() || provider.name.starts_with('.') {
                bail!("provider {:?} is no name of a program", provider.name);
            }
            if !VERSIONS.contains(&provider.api_version.as_str()) {
                bail!(
                    "provider {}: unknown version {}",
                    provider.name,
                    provider.api_version
                );
            }
        }
        Ok(Plugins {
            dir: dir.to_owned(),
            providers: config.providers,
        })
    }

    /// Asks the first program that covers the image and has something for it.
    async fn ask(&self, image: &str) -> Result<Option<Credential>, Error> {
        for provider in &self.providers {
            if !provider.match_images.iter().any(|pattern| covers(pattern, image)) {
                continue;
            }
            match self.run(provider, image).await {
                Ok(Some(credential)) => return Ok(Some(credential)),
                Ok(None) => {}
                // As kubelet: the next one may know.
                Err(reason) => warn!(provider = provider.name, "credential provider: {reason}"),
            }
        }
        Ok(None)
    }

    async fn run(&self, provider: &Provider, image: &str) -> Result<Option<Credential>, String> {
        let request = protocol::request(&provider.api_version, image)?;
        let mut child = tokio::process::Command::new(self.dir.join(&provider.name))
            .args(&provider.args)
            .envs(provider.env.iter().map(|one| (&one.name, &one.value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What it says there may be anything, secrets too.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("it cannot be started: {error}"))?;
        let talk = async {
            let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
            if let Some(mut stdin) = stdin {
                // One that does not read its input may still answer.
                let _ = stdin.write_all(&request).await;
            }
            let mut answer = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(MAX_ANSWER + 1).read_to_end(&mut answer).await?;
            }
            Ok::<_, std::io::Error>((answer, child.wait().await?))
        };
        let (answer, status) = tokio::time::timeout(TIMEOUT, talk)
            .await
            .map_err(|_| format!("no answer within {TIMEOUT:?}"))?
            .map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("{status}"));
        }
        protocol::answer(&answer, image)
    }
}

impl Credentials for Plugins {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credential>, Error>> {
        Box::pin(async move { self.ask(&format!("{host}/{repository}")).await })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CONFIG: &str = r#"
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: provider
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    matchImages: ["*.example", "other.example:5000"]
    defaultCacheDuration: "12h"
    args: [get]
    env:
      - name: WHO
        value: node
"#;

    fn plugins(script: &str) -> (tempfile::TempDir, Plugins) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("provider");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let plugins = Plugins::parse(CONFIG, dir.path()).unwrap();
        (dir, plugins)
    }

    #[tokio::test]
    async fn a_provider_is_asked_as_kubelet_does() {
        let script = r#"request=$(cat); case "$request$1$WHO" in
            '{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"r.example/app"}getnode')
            echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",
                   "cacheKeyType":"Registry","cacheDuration":"0s",
                   "auth":{"*.example":{"username":"all","password":"a"},"r.example":{"username":"u","password":"p"}}}';;
            esac"#;
        let (_dir, plugins) = plugins(script);
        let found = plugins.lookup("r.example", "app").await.unwrap();
        let Some(Credential::Basic { username, password }) = found else {
            panic!("{found:?}");
        };
        assert_eq!((username.as_str(), password.expose()), ("u", "p"));
        assert_eq!(plugins.lookup("r.elsewhere", "app").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_provider_that_fails_or_talks_nonsense_gives_nothing_away() {
        for script in [
            "exit 3",
            "echo '{\"kind\":\"CredentialProviderResponse\",\"auth\":{\"r.example\":{\"password\":hunter2}}}'",
            "echo hunter2",
            "echo '{\"kind\":\"CredentialProviderResponse\"}'",
            "yes hunter2 | head -c 3000000",
        ] {
            let (_dir, plugins) = plugins(script);
            let reason = plugins.run(&plugins.providers[0], "r.example/app").await;
            assert!(!format!("{reason:?}").contains("hunter2"), "{script}: {reason:?}");
            assert_eq!(
                plugins.lookup("r.example", "app").await.unwrap(),
                None,
                "{script}"
            );
        }
    }

    #[test]
    fn configurations_that_cannot_be_meant() {
        for (from, to, expected) in [
            (
                "kind: CredentialProviderConfig",
                "kind: Pod",
                "not a CredentialProviderConfig",
            ),
            ("name: provider", "name: ../provider", "no name of a program"),
            (
                "kubelet.k8s.io/v1\n    match",
                "kubelet.k8s.io/v9\n    match",
                "unknown version",
            ),
            ("providers:", "providers: 7\nother:", "invalid type"),
        ] {
            let error = Plugins::parse(&CONFIG.replace(from, to), Path::new("/x")).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{to}: {error:#}");
        }
    }
}
