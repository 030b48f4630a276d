//! Docker's `config.json` and credential helpers as a source of credentials.
//!
//! The file is read anew at each use, so that `docker login` takes effect at once. Order as in docker's CLI: the host's
//! entry in `credHelpers`, else `credsStore`, then the file's own `auths`.

use std::{collections::HashMap, ffi::OsStr, path::PathBuf, process::Stdio};

use futures::future::BoxFuture;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    Credential, Credentials, Error, Secret,
    limits::{HELPER_TIMEOUT, MAX_CONFIG_FILE, MAX_HELPER_OUTPUT},
};

/// Docker Hub's key in the file and for helpers, of version 1 times.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// A `config.json`, wherever it is.
pub(crate) struct DockerConfig {
    pub(crate) file: PathBuf,
}

/// Unknown keys are other programs' business.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Auth {
    fn credential(&self) -> Option<Credential> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.registrytoken) {
            return Some(Credential::RegistryToken(Secret::new(token)));
        }
        if let Some(token) = filled(&self.identitytoken) {
            return Some(Credential::IdentityToken(Secret::new(token)));
        }
        if let Some(auth) = filled(&self.auth) {
            return Credential::from_basic_auth(&auth);
        }
        let (username, password) = (filled(&self.username)?, filled(&self.password)?);
        Some(Credential::Basic {
            username,
            password: Secret::new(password),
        })
    }
}

impl File {
    fn parse(text: &[u8]) -> Result<File, serde_json::Error> {
        serde_json::from_slice(text)
    }

    fn helper(&self, host: &str) -> Option<&str> {
        let own = self.cred_helpers.get(host).or_else(|| match host {
            "docker.io" => self
                .cred_helpers
                .get(HUB_KEY)
                .or_else(|| self.cred_helpers.get("index.docker.io")),
            _ => None,
        });
        own.or(self.creds_store.as_ref())
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    }

    /// The entry for a host, or, as podman writes them, for a path of repositories at it; the longest path wins.
    fn entry(&self, host: &str, repository: &str) -> Option<Credential> {
        let best = self.auths.iter().filter_map(|(key, auth)| {
            let path = key_path(key, host)?;
            let covers = path.is_empty()
                || repository
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            // Of keys that say the same, the one without a scheme is preferred, then the greater: no chance is left.
            covers.then(|| ((path.len(), !key.contains("://"), key), auth))
        });
        best.filter(|(_, auth)| auth.credential().is_some())
            .max_by_key(|(rank, _)| *rank)
            .and_then(|(_, auth)| auth.credential())
    }
}

impl Credential {
    /// The credential that a docker `config.json` itself holds for a repository, as in a Kubernetes pull secret. Helpers that it
    /// names are not asked. `None` also if the text is none; what is wrong with it is not told, since it holds secrets.
    pub fn from_docker_config(text: &[u8], host: &str, repository: &str) -> Option<Credential> {
        File::parse(text).ok()?.entry(host, repository)
    }
}

/// Whether a file's text names a helper for a host, and whether it holds a credential, for fuzzing.
#[cfg(feature = "fuzzing")]
pub(crate) fn answers(text: &[u8], host: &str, repository: &str) -> Option<(bool, bool)> {
    let file = File::parse(text).ok()?;
    Some((
        file.helper(host).is_some(),
        file.entry(host, repository).is_some(),
    ))
}

/// The path behind the host in a key, if the key is for that host: `https://host/v1/`, `host`, `host/a/b`.
fn key_path<'a>(key: &'a str, host: &str) -> Option<&'a str> {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (name, path) = key.split_once('/').unwrap_or((key, ""));
    let hub = host == "docker.io" && matches!(name, "index.docker.io" | "registry-1.docker.io");
    if name != host && !hub {
        return None;
    }
    match path.trim_matches('/') {
        "v1" | "v2" => Some(""),
        path => Some(path),
    }
}

impl Credentials for DockerConfig {
    fn lookup<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credential>, Error>> {
        Box::pin(async move {
            let Some(file) = self.read().await? else {
                return Ok(None);
            };
            if let Some(helper) = file.helper(host) {
                let server = if host == "docker.io" { HUB_KEY } else { host };
                if let Some(credential) = ask_helper(helper, server).await? {
                    return Ok(Some(credential));
                }
            }
            Ok(file.entry(host, repository))
        })
    }
}

impl DockerConfig {
    async fn read(&self) -> Result<Option<File>, Error> {
        let path = self.file.display().to_string();
        let file = match tokio::fs::File::open(&self.file).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path, source }),
        };
        let mut text = Vec::new();
        let read = file.take(MAX_CONFIG_FILE + 1).read_to_end(&mut text).await;
        read.map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
        if text.len() as u64 > MAX_CONFIG_FILE {
            return Err(Error::Invalid {
                what: path,
                reason: "the file is larger than 4 MiB".to_owned(),
            });
        }
        // The parser's own text may repeat a value, hence only the place.
        File::parse(&text).map(Some).map_err(|error| Error::Invalid {
            what: path,
            reason: format!(
                "not a docker config file: line {}, column {}",
                error.line(),
                error.column()
            ),
        })
    }
}

/// What a helper prints for `get`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl HelperAnswer {
    fn credential(self) -> Option<Credential> {
        match (self.username, self.secret) {
            (_, secret) if secret.is_empty() => None,
            (username, secret) if username == "<token>" => {
                Some(Credential::IdentityToken(Secret::new(secret)))
            }
            (username, secret) => Some(Credential::Basic {
                username,
                password: Secret::new(secret),
            }),
        }
    }
}

/// Asks `docker-credential-NAME`. `None`: it has none for that server.
async fn ask_helper(name: &str, server: &str) -> Result<Option<Credential>, Error> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let program = format!("docker-credential-{name}");
    let reason = if !name.chars().all(good) {
        "not a helper's name".to_owned()
    } else {
        match tokio::time::timeout(HELPER_TIMEOUT, run_helper(program.as_ref(), server)).await {
            Ok(Ok(credential)) => return Ok(credential),
            Ok(Err(reason)) => reason,
            Err(_) => "no answer within 30 s".to_owned(),
        }
    };
    let reason = format!("credential helper {program:?}: {reason}");
    Err(Error::Forbidden {
        place: server.to_owned(),
        what: "log-in".to_owned(),
        reason,
    })
}

/// Runs a helper. The error never repeats its output.
async fn run_helper(program: &OsStr, server: &str) -> Result<Option<Credential>, String> {
    let failed = |error: std::io::Error| error.kind().to_string();
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may still answer.
        let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(MAX_HELPER_OUTPUT)
            .read_to_end(&mut output)
            .await
            .map_err(failed)?;
    }
    let status = child.wait().await.map_err(failed)?;
    if !status.success() {
        // The protocol's words for "none", on standard output.
        let none = String::from_utf8_lossy(&output).contains("credentials not found");
        return if none { Ok(None) } else { Err(status.to_string()) };
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output).map_err(|_| "its answer is not the protocol's".to_owned())?;
    Ok(answer.credential())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn user(file: &File, host: &str, repository: &str) -> String {
        match file.entry(host, repository) {
            Some(Credential::Basic { username, .. }) => username,
            Some(Credential::IdentityToken(token)) => format!("identity {}", token.expose()),
            Some(Credential::RegistryToken(token)) => format!("registry {}", token.expose()),
            None => "-".to_owned(),
        }
    }

    #[test]
    fn finds_entries_by_host() {
        // "dXNlcjpw" is "user:p", "bnM6cA==" is "ns:p".
        let text = br#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dXNlcjpw"},
            "ghcr.io": {"username": "plain", "password": "p"},
            "ghcr.io/org/team": {"auth": "bnM6cA=="},
            "http://localhost:5000": {"auth": "dXNlcjpw"},
            "id.example": {"auth": "dXNlcjpw", "identitytoken": "t1"},
            "reg.example": {"registrytoken": "t2"},
            "empty.example": {}
        }, "HttpHeaders": {"x": "y"}}"#;
        let file = File::parse(text).unwrap();
        let rows = [
            ("docker.io", "library/debian", "user"),
            ("ghcr.io", "a", "plain"),
            ("ghcr.io", "org/team", "ns"),
            ("ghcr.io", "org/team/x", "ns"),
            ("ghcr.io", "org/teams", "plain"),
            ("localhost:5000", "a", "user"),
            ("localhost", "a", "-"),
            ("id.example", "a", "identity t1"),
            ("reg.example", "a", "registry t2"),
            ("empty.example", "a", "-"),
            ("other.example", "a", "-"),
        ];
        for (host, repository, expected) in rows {
            assert_eq!(user(&file, host, repository), expected, "{host}/{repository}");
        }
    }

    #[test]
    fn chooses_helpers() {
        let text = br#"{"credHelpers": {"ghcr.io": "gh", "https://index.docker.io/v1/": "hub"}, "credsStore": "desktop"}"#;
        let file = File::parse(text).unwrap();
        assert_eq!(file.helper("ghcr.io"), Some("gh"));
        assert_eq!(file.helper("docker.io"), Some("hub"));
        assert_eq!(file.helper("quay.io"), Some("desktop"));
        assert_eq!(File::default().helper("quay.io"), None);
    }

    #[tokio::test]
    async fn missing_and_broken_files() {
        let folder = tempfile::tempdir().unwrap();
        let config = DockerConfig {
            file: folder.path().join("config.json"),
        };
        assert_eq!(config.lookup("h", "r").await.unwrap(), None);
        std::fs::write(&config.file, r#"{"auths": {"h": {"auth": ["topsecret"]}}}"#).unwrap();
        let error = config.lookup("h", "r").await.unwrap_err();
        assert!(
            matches!(error, Error::Invalid { .. }) && !error.to_string().contains("topsecret"),
            "{error}"
        );
        std::fs::write(&config.file, r#"{"credsStore": "../../bin/sh"}"#).unwrap();
        let error = config.lookup("h", "r").await.unwrap_err();
        assert!(error.to_string().contains("not a helper's name"), "{error}");
        std::fs::write(&config.file, r#"{"credsStore": "lacewing-no-such-helper"}"#).unwrap();
        assert!(matches!(
            config.lookup("h", "r").await,
            Err(Error::Forbidden { .. })
        ));
    }

    #[test]
    fn helper_answers() {
        let rows = [
            (r#"{"ServerURL":"x","Username":"u","Secret":"s"}"#, "u"),
            (r#"{"Username":"<token>","Secret":"s"}"#, "identity"),
            (r#"{"Username":"u","Secret":""}"#, "-"),
        ];
        for (text, expected) in rows {
            let answer: HelperAnswer = serde_json::from_str(text).unwrap();
            let shown = match answer.credential() {
                Some(Credential::Basic { username, .. }) => username,
                Some(_) => "identity".to_owned(),
                None => "-".to_owned(),
            };
            assert_eq!(shown, expected, "{text}");
        }
    }

    #[tokio::test]
    async fn runs_helpers() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let rows = [
            (
                "gives",
                "read s; echo \"{\\\"Username\\\":\\\"$1 $s\\\",\\\"Secret\\\":\\\"x\\\"}\"",
                "get ghcr.io",
            ),
            (
                "none",
                "echo 'credentials not found in native keychain'; exit 1",
                "-",
            ),
            ("fails", "echo topsecret; exit 3", "error: exit status: 3"),
            (
                "garbage",
                "echo topsecret",
                "error: its answer is not the protocol's",
            ),
        ];
        for (name, script, expected) in rows {
            let file = folder.path().join(name);
            std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            // Another test's fork may hold the script open for writing for an instant.
            let mut found = run_helper(file.as_os_str(), "ghcr.io").await;
            while matches!(&found, Err(reason) if reason.contains("busy")) {
                found = run_helper(file.as_os_str(), "ghcr.io").await;
            }
            let shown = match found {
                Ok(Some(Credential::Basic { username, .. })) => username,
                Ok(_) => "-".to_owned(),
                Err(reason) => format!("error: {reason}"),
            };
            assert_eq!(shown, expected, "{name}");
        }
    }
}
