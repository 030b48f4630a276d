//! What a program is asked and answers: `credentialprovider.kubelet.k8s.io`, as kubelet's credential providers speak it.

use std::collections::BTreeMap;

use lacewing_oci::{Credential, Secret};
use serde::{Deserialize, Serialize};

use super::matching::covers;

/// Versions that differ in nothing that is used here; the first is the latest.
pub(super) const VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];
/// Largest answer, in bytes: some user names and tokens, of tens of KiB each.
pub(super) const MAX_ANSWER: u64 = 1 << 20;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
}

#[derive(Deserialize)]
struct Response {
    kind: String,
    #[serde(default)]
    auth: Option<BTreeMap<String, Auth>>,
}

/// No `Debug`: it holds a secret.
#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// A CredentialProviderRequest for an image, without its tag.
///
/// # Errors
/// None that a text can cause.
pub(super) fn request(api_version: &str, image: &str) -> Result<Vec<u8>, String> {
    let request = Request {
        kind: "CredentialProviderRequest",
        api_version,
        image,
    };
    serde_json::to_vec(&request).map_err(|error| error.to_string())
}

/// The credential of an answer. Errors say where, never what.
///
/// # Errors
/// It is no CredentialProviderResponse, or too long.
pub(super) fn answer(answer: &[u8], image: &str) -> Result<Option<Credential>, String> {
    if answer.len() as u64 > MAX_ANSWER {
        return Err(format!("its answer has more than {MAX_ANSWER} bytes"));
    }
    let response: Response = serde_json::from_slice(answer).map_err(|error| {
        format!(
            "its answer is no CredentialProviderResponse (line {}, column {})",
            error.line(),
            error.column()
        )
    })?;
    if response.kind != "CredentialProviderResponse" {
        return Err("its answer is no CredentialProviderResponse".to_owned());
    }
    // kubelet sorts in reverse, so that what names more stands before what names less.
    let auth = response.auth.unwrap_or_default();
    let found = auth.into_iter().rev().find(|(pattern, _)| covers(pattern, image));
    Ok(found
        .filter(|(_, auth)| !auth.username.is_empty() || !auth.password.is_empty())
        .map(|(_, auth)| Credential::Basic {
            username: auth.username,
            password: Secret::new(auth.password),
        }))
}
