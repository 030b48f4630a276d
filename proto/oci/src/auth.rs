//! Log-in: answers 401 by Basic or Bearer, keeps what was obtained, and renews it when it is refused.
//!
//! Invariant: a credential goes to the endpoint's own origin, or to the token server that this endpoint names, and there
//! never over plain http unless the endpoint itself is plain http.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{
    Method, Url,
    header::{self, HeaderMap, HeaderValue},
};

use crate::{
    Credential, Credentials, Secret,
    challenge::{self, Challenge},
    credentials::{basic_header, bearer_header},
    fault::Fault,
    limits::{BASIC_LIFE, MAX_CHALLENGE_PARTS, MAX_TOKEN_ANSWER, MAX_TOKEN_LIFE, MAX_TOKENS, TOKEN_LIFE},
    transport::{Call, Wire},
};

/// What a request needs the right to: `repository:NAME:pull` and the like, one or more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    repository: String,
    rights: Vec<String>,
}

impl Scope {
    pub(crate) fn pull(repository: &str) -> Scope {
        Scope {
            repository: repository.to_owned(),
            rights: vec![format!("repository:{repository}:pull")],
        }
    }

    pub(crate) fn push(repository: &str) -> Scope {
        Scope {
            repository: repository.to_owned(),
            rights: vec![format!("repository:{repository}:pull,push")],
        }
    }

    /// The same, and reading of another repository.
    pub(crate) fn and_pull(mut self, other: &str) -> Scope {
        self.rights.push(format!("repository:{other}:pull"));
        self
    }
}

/// An `Authorization` value and how long it is believed.
#[derive(Clone, Debug)]
pub(crate) struct Authorization {
    pub(crate) value: HeaderValue,
    pub(crate) obtained: Instant,
    expires: Instant,
}

#[derive(Default)]
struct Slot {
    current: Mutex<Option<Authorization>>,
    /// Held by the one who fetches; it keeps the last challenge, for servers that refuse without one.
    fetching: tokio::sync::Mutex<Vec<Challenge>>,
}

/// Tokens by endpoint and scope, and the sources of credentials.
pub(crate) struct Auth {
    sources: Vec<Arc<dyn Credentials>>,
    slots: Mutex<HashMap<(String, Scope), Arc<Slot>>>,
}

impl Auth {
    pub(crate) fn new(sources: Vec<Arc<dyn Credentials>>) -> Auth {
        Auth {
            sources,
            slots: Mutex::default(),
        }
    }

    /// What was obtained before for this endpoint and scope, if it is still believed.
    pub(crate) fn current(&self, wire: &Wire, scope: &Scope) -> Option<Authorization> {
        self.slot(wire, scope).current()
    }

    /// Answers a refusal. Many requests may be refused at once: one of them fetches, the others take its result.
    /// `used` is what the refused request carried.
    pub(crate) async fn renew(
        &self,
        wire: &Wire,
        scope: &Scope,
        refusal: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<Authorization, Fault> {
        let slot = self.slot(wire, scope);
        let mut last_challenge = slot.fetching.lock().await;
        if let Some(newer) = slot.current().filter(|current| Some(&current.value) != used) {
            return Ok(newer);
        }
        let offered = challenges(refusal);
        if !offered.is_empty() {
            *last_challenge = offered;
        }
        let fresh = self.log_in(wire, scope, &last_challenge).await;
        *lock(&slot.current) = fresh.as_ref().ok().cloned();
        fresh
    }

    fn slot(&self, wire: &Wire, scope: &Scope) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        let key = (wire.endpoint.base.to_string(), scope.clone());
        if slots.len() >= MAX_TOKENS && !slots.contains_key(&key) {
            slots.retain(|_, slot| slot.current().is_some());
            if slots.len() >= MAX_TOKENS {
                slots.clear();
            }
        }
        slots.entry(key).or_default().clone()
    }

    async fn log_in(
        &self,
        wire: &Wire,
        scope: &Scope,
        offered: &[Challenge],
    ) -> Result<Authorization, Fault> {
        let find = |scheme: &str| offered.iter().find(|challenge| challenge.scheme == scheme);
        if let Some(bearer) = find("bearer") {
            return self.bearer(wire, scope, bearer).await;
        }
        if find("basic").is_none() {
            return Err(Fault::Forbidden(
                "it asks for a log-in of an unknown kind".to_owned(),
            ));
        }
        let value = match self.credential(wire, scope).await? {
            Some(Credential::Basic { username, password }) => basic_header(&username, &password),
            Some(Credential::RegistryToken(token)) => bearer_header(&token),
            Some(Credential::IdentityToken(_)) => {
                return Err(Fault::Forbidden(
                    "an identity token is known, a password is asked for".to_owned(),
                ));
            }
            None => {
                return Err(Fault::Forbidden(
                    "it asks for a log-in, and no credentials are known".to_owned(),
                ));
            }
        };
        authorization(value, BASIC_LIFE)
    }

    async fn credential(&self, wire: &Wire, scope: &Scope) -> Result<Option<Credential>, Fault> {
        let host = wire.endpoint.authority();
        for source in &self.sources {
            if let Some(credential) = source.lookup(&host, &scope.repository).await? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }

    async fn bearer(&self, wire: &Wire, scope: &Scope, offer: &Challenge) -> Result<Authorization, Fault> {
        let credential = self.credential(wire, scope).await?;
        if let Some(Credential::RegistryToken(token)) = &credential {
            return authorization(bearer_header(token), BASIC_LIFE);
        }
        let realm = realm(wire, offer)?;
        if credential.is_some() && realm.scheme() == "http" && wire.endpoint.base.scheme() == "https" {
            let reason = "its token server is plain http: credentials are not sent there".to_owned();
            return Err(Fault::Forbidden(reason));
        }
        let request = TokenRequest {
            realm,
            service: offer.param("service"),
            scopes: all_scopes(scope, offer),
        };
        let (call, proof) = match &credential {
            Some(Credential::IdentityToken(token)) => (request.by_refresh_token(token), None),
            Some(Credential::Basic { username, password }) => {
                let proof = basic_header(username, password).ok_or_else(unusable)?;
                (request.by_query(), Some(proof))
            }
            Some(Credential::RegistryToken(_)) | None => (request.by_query(), None),
        };
        let mut response = wire.exchange(&call, proof.as_ref(), &call.url).await?;
        if !response.status().is_success() {
            return Err(match wire.refusal(response).await {
                Fault::NotFound => Fault::Forbidden("its token server gives no token".to_owned()),
                Fault::Forbidden(reason) | Fault::Invalid(reason) => {
                    Fault::Forbidden(format!("its token server {reason}"))
                }
                other => other,
            });
        }
        let body = wire.body(&mut response, MAX_TOKEN_ANSWER).await?;
        let (token, life) =
            parse_token(&body).ok_or_else(|| Fault::broken("its token server gives no token"))?;
        authorization(bearer_header(&token), life)
    }
}

impl Slot {
    fn current(&self) -> Option<Authorization> {
        lock(&self.current)
            .clone()
            .filter(|current| Instant::now() < current.expires)
    }
}

/// The state behind these locks is replaced as a whole, so that a panic elsewhere cannot leave it half-made.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn authorization(value: Option<HeaderValue>, life: Duration) -> Result<Authorization, Fault> {
    let obtained = Instant::now();
    Ok(Authorization {
        value: value.ok_or_else(unusable)?,
        obtained,
        expires: obtained + life,
    })
}

fn unusable() -> Fault {
    Fault::Forbidden("the credential has characters that cannot be sent".to_owned())
}

fn challenges(refusal: &HeaderMap) -> Vec<Challenge> {
    let values = refusal
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .take(MAX_CHALLENGE_PARTS);
    values
        .flat_map(|value| challenge::parse(value.as_bytes()))
        .collect()
}

fn realm(wire: &Wire, offer: &Challenge) -> Result<Url, Fault> {
    let realm = offer
        .param("realm")
        .and_then(|realm| wire.endpoint.base.join(realm).ok());
    realm
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| Fault::Forbidden("it names no token server".to_owned()))
}

/// What we need, and what the server says it wants to see; each once.
fn all_scopes(scope: &Scope, offer: &Challenge) -> Vec<String> {
    let mut scopes = scope.rights.clone();
    for wanted in offer
        .param("scope")
        .unwrap_or_default()
        .split_ascii_whitespace()
        .take(MAX_CHALLENGE_PARTS)
    {
        if !scopes.iter().any(|known| known == wanted) {
            scopes.push(wanted.to_owned());
        }
    }
    scopes
}

/// distribution's token specification, by GET, and its OAuth 2 form, by POST.
struct TokenRequest<'a> {
    realm: Url,
    service: Option<&'a str>,
    scopes: Vec<String>,
}

impl TokenRequest<'_> {
    fn by_query(mut self) -> Call {
        {
            let mut query = self.realm.query_pairs_mut();
            if let Some(service) = self.service {
                query.append_pair("service", service);
            }
            for scope in &self.scopes {
                query.append_pair("scope", scope);
            }
        }
        Call::new(Method::GET, self.realm)
    }

    fn by_refresh_token(self, token: &Secret) -> Call {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token");
        form.append_pair("service", self.service.unwrap_or_default());
        form.append_pair("client_id", "lacewing");
        form.append_pair("scope", &self.scopes.join(" "));
        form.append_pair("refresh_token", token.expose());
        Call::new(Method::POST, self.realm)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.finish().into())
    }
}

/// Reads `token` or `access_token`, and `expires_in` in seconds, less a tenth so that it is renewed in time.
pub(crate) fn parse_token(body: &[u8]) -> Option<(Secret, Duration)> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| {
        json.get(name)
            .and_then(|v| v.as_str())
            .filter(|text| !text.is_empty())
    };
    let token = text("token").or_else(|| text("access_token"))?;
    let seconds = json.get("expires_in").and_then(|v| v.as_u64()).unwrap_or(0);
    let life = Duration::from_secs(seconds).clamp(TOKEN_LIFE, MAX_TOKEN_LIFE);
    Some((Secret::new(token), life - life / 10))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_tokens() {
        let rows: [(&str, Option<(&str, u64)>); 8] = [
            (r#"{"token":"a","expires_in":300}"#, Some(("a", 270))),
            (r#"{"access_token":"b"}"#, Some(("b", 54))),
            (
                r#"{"token":"","access_token":"b","expires_in":1}"#,
                Some(("b", 54)),
            ),
            (
                r#"{"token":"a","expires_in":99999999999999}"#,
                Some(("a", 77_760)),
            ),
            (r#"{"token":"a","expires_in":"300"}"#, Some(("a", 54))),
            (r#"{"token":7}"#, None),
            (r#"[]"#, None),
            ("", None),
        ];
        for (body, expected) in rows {
            let found = parse_token(body.as_bytes());
            let shown = found
                .as_ref()
                .map(|(token, life)| (token.expose(), life.as_secs()));
            assert_eq!(shown, expected, "{body}");
        }
    }

    #[test]
    fn token_requests() {
        let offer =
            challenge::parse(br#"Bearer realm="x",service="s v",scope="repository:a:pull other""#).remove(0);
        let scopes = all_scopes(&Scope::pull("a").and_pull("b"), &offer);
        assert_eq!(scopes, ["repository:a:pull", "repository:b:pull", "other"]);
        let request = |scopes| TokenRequest {
            realm: "https://t.example/token?x=1".parse().unwrap(),
            service: offer.param("service"),
            scopes,
        };
        let call = request(vec!["p".into(), "q".into()]).by_query();
        assert_eq!(
            call.url.as_str(),
            "https://t.example/token?x=1&service=s+v&scope=p&scope=q"
        );
        let call = request(vec!["p".into(), "q".into()]).by_refresh_token(&Secret::new("r&t"));
        let form = String::from_utf8(call.body.to_vec()).unwrap();
        assert_eq!(
            form,
            "grant_type=refresh_token&service=s+v&client_id=lacewing&scope=p+q&refresh_token=r%26t"
        );
    }
}
