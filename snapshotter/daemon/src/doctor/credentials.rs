//! Where credentials come from, and whether each source can be used. What they hold is never shown.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use super::Finding;
use super::registry::read;
use crate::config::Config;
use crate::credentials::unusable_key;

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let mut findings = docker(config);
    findings.extend(helper_socket(config));
    findings.extend(service_accounts(config));
    findings.extend(unusable_key(config).map(|reason| {
        Finding::problem(
            "credentials",
            reason,
            "make it with `head -c 32 /dev/urandom`, mode 600: until then a restart forgets what pulls brought",
        )
    }));
    findings
}

fn helper_socket(config: &Config) -> Option<Finding> {
    let path = config.credentials.helper_socket.as_ref()?;
    let shown = path.display();
    Some(match UnixStream::connect(path) {
        Ok(_) => Finding::ok("credentials", format!("a program listens at {shown}")),
        Err(error) => Finding::problem(
            "credentials",
            format!("registry.credential_socket {shown}: {error}"),
            "start the program that answers there, or take the line out",
        ),
    })
}

/// The files only: a request with the daemon's token is the daemon's to make, and its log tells of each that fails.
fn service_accounts(config: &Config) -> Option<Finding> {
    let said = config.credentials.kubernetes.as_ref()?;
    for file in [&said.token_file, &said.ca_file] {
        if let Err(error) = read(file) {
            return Some(Finding::problem(
                "credentials",
                format!("{}: {error:#}", file.display()),
                "the API server is asked for pull secrets with it: see misc/docs/kubernetes.md, or take `[kubernetes]` out",
            ));
        }
    }
    let count = said.accounts.len();
    Some(Finding::ok(
        "credentials",
        format!("pull secrets of {count} service accounts, from {}", said.server),
    ))
}

/// The file with credentials, as the daemon looks for it.
fn credentials_file(config: &Config) -> Option<PathBuf> {
    let environment = lacewing_oci::Options::from_environment().docker_config;
    config.credentials.docker_config.clone().or(environment)
}

fn docker(config: &Config) -> Vec<Finding> {
    let Some(file) = credentials_file(config) else {
        return Vec::new();
    };
    let named = config.credentials.docker_config.is_some();
    if !file.exists() {
        return match named {
            true => vec![Finding::problem(
                "credentials",
                format!("{} is not there", file.display()),
                "make it (`docker login` does), or take `[registry] docker_config` out",
            )],
            false => vec![Finding::ok("credentials", "none: only what everybody may read")],
        };
    }
    let value = match read(&file).and_then(|text| Ok(serde_json::from_str::<Value>(&text)?)) {
        Ok(value) => value,
        Err(error) => {
            // The parser tells line and column, never the text.
            let advice = "correct that file: without it private images are forbidden";
            return vec![Finding::problem(
                "credentials",
                format!("{}: {error:#}", file.display()),
                advice,
            )];
        }
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<String> = helpers(&value)
        .into_iter()
        .filter(|helper| !std::env::split_paths(&path).any(|dir| dir.join(helper).is_file()))
        .collect();
    match missing.first() {
        None => vec![Finding::ok(
            "credentials",
            format!("{} can be read", file.display()),
        )],
        Some(helper) => vec![Finding::problem(
            "credentials",
            format!(
                "{} names the helper {helper}, which is not in PATH",
                file.display()
            ),
            "install it where the daemon finds it too (a unit's PATH is short), or log in without it",
        )],
    }
}

/// The programs that a docker configuration names.
fn helpers(value: &Value) -> Vec<String> {
    let mut names: Vec<String> = value["credHelpers"]
        .as_object()
        .into_iter()
        .flat_map(|helpers| helpers.values())
        .chain([&value["credsStore"]])
        .filter_map(Value::as_str)
        .filter(|name| !name.is_empty())
        .map(|name| format!("docker-credential-{name}"))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_found() {
        let value = serde_json::json!({"credsStore": "pass", "credHelpers": {"a.example": "ecr-login", "b": "pass", "c": ""}});
        assert_eq!(
            helpers(&value),
            ["docker-credential-ecr-login", "docker-credential-pass"]
        );
        assert!(helpers(&serde_json::json!({"auths": {}})).is_empty());
    }
}
