//! Log-in, redirects, and who gets to see which secret.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use futures::future::BoxFuture;
use lacewing_format::Digest;
use lacewing_oci::{Access, Credential, Credentials, Error, Options, Secret, Store};
use support::{Reply, Seen, Server, noise, open, quick, write_hosts};

/// A source that knows one user for one host.
struct Known {
    host: String,
    credential: Credential,
    asked: AtomicUsize,
}

impl Credentials for Known {
    fn lookup<'a>(&'a self, host: &'a str, _: &'a str) -> BoxFuture<'a, Result<Option<Credential>, Error>> {
        self.asked.fetch_add(1, SeqCst);
        let found = (host == self.host).then(|| self.credential.clone());
        Box::pin(async move { Ok(found) })
    }
}

fn knows(host: &str, credential: Credential) -> Arc<Known> {
    Arc::new(Known {
        host: host.to_owned(),
        credential,
        asked: AtomicUsize::new(0),
    })
}

fn user() -> Credential {
    Credential::Basic {
        username: "user".into(),
        password: Secret::new("pass"),
    }
}

/// base64 of user:pass.
const BASIC: &str = "Basic dXNlcjpwYXNz";

async fn store(server: &Server, source: Option<Arc<Known>>) -> Store {
    let credentials = source
        .into_iter()
        .map(|source| source as Arc<dyn Credentials>)
        .collect();
    let options = Options {
        credentials,
        ..quick()
    };
    open(options, &format!("{}/a/b:1", server.host()), Access::Read).await
}

fn refuse_bearer(host: &str) -> Reply {
    let challenge =
        format!(r#"Bearer realm="http://{host}/token",service="reg",scope="repository:a/b:pull""#);
    Reply::new(401).header("www-authenticate", challenge)
}

#[tokio::test]
async fn bearer_then_redirect_leaks_nothing() {
    let content = noise(100_000);
    let served = content.clone();
    let expired = Arc::new(AtomicBool::new(false));
    let shut = expired.clone();
    let cdn = Server::start(move |seen| match seen.target.as_str() {
        "/signed?s=1" if shut.load(SeqCst) => Reply::new(403),
        _ => Reply::content(seen, &served),
    })
    .await;
    let (target, stale) = (cdn.host(), expired.clone());
    let registry = Server::start(move |seen| match (seen.path(), seen.header("authorization")) {
        ("/token", _) => Reply::new(200).body(r#"{"token":"t0ken"}"#),
        (_, Some("Bearer t0ken")) => {
            let signature = if stale.load(SeqCst) { 2 } else { 1 };
            Reply::new(307).header("location", format!("http://{target}/signed?s={signature}"))
        }
        _ => refuse_bearer(seen.header("host").unwrap()),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{0}\"]\n[host.\"http://{0}\".header]\nx-key = \"k\"\n",
        registry.host()
    );
    write_hosts(folder.path(), &registry.host(), &text);
    let options = Options {
        credentials: vec![knows(&registry.host(), user())],
        hosts_dir: Some(folder.path().into()),
        ..quick()
    };
    let store = open(options, &format!("{}/a/b:1", registry.host()), Access::Read).await;
    let digest = Digest::of(&content);
    assert_eq!(store.read_at(&digest, 5..4000).await.unwrap(), content[5..4000]);

    let blob = format!("GET /v2/a/b/blobs/{digest}");
    let seen = registry.seen();
    assert_eq!(registry.lines(), [blob.as_str(), "GET /token", blob.as_str()]);
    assert_eq!(seen[1].header("authorization"), Some(BASIC));
    assert_eq!(
        seen[1].target,
        "/token?service=reg&scope=repository%3Aa%2Fb%3Apull"
    );
    assert_eq!(seen[2].header("x-key"), Some("k"));

    // The second read goes straight to where the first one was sent.
    assert_eq!(store.read_at(&digest, 0..10).await.unwrap(), content[..10]);
    assert_eq!((registry.lines().len(), cdn.seen().len()), (0, 2));
    // Until that place refuses: then the registry is asked again.
    expired.store(true, SeqCst);
    assert_eq!(store.read_at(&digest, 0..10).await.unwrap(), content[..10]);
    assert_eq!(registry.lines(), [blob.as_str()]);
    for seen in cdn.seen() {
        assert_eq!(
            (seen.header("authorization"), seen.header("x-key")),
            (None, None),
            "{seen:?}"
        );
        assert!(seen.header("range").is_some());
    }
    assert_eq!(cdn.seen().len(), 4);
}

#[tokio::test]
async fn an_expired_token_is_renewed_once_for_all() {
    let valid = Arc::new(Mutex::new(1));
    let issued = Arc::new(AtomicUsize::new(0));
    let (now, count) = (valid.clone(), issued.clone());
    let server = Server::start(move |seen| {
        let valid = *now.lock().unwrap();
        if seen.path() == "/token" {
            count.fetch_add(1, SeqCst);
            return Reply::new(200).body(format!(r#"{{"access_token":"t{valid}","expires_in":3600}}"#));
        }
        match seen.header("authorization") {
            Some(token) if token == format!("Bearer t{valid}") => Reply::content(seen, b"0123456789"),
            _ => refuse_bearer(seen.header("host").unwrap()),
        }
    })
    .await;
    let store = store(&server, None).await;
    let digest = Digest::of(b"0123456789");
    let burst = || futures::future::join_all((0..20).map(|_| store.read_at(&digest, 1..3)));
    for round in 1..=3 {
        *valid.lock().unwrap() = round;
        for bytes in burst().await {
            assert_eq!(bytes.unwrap(), &b"12"[..]);
        }
        assert_eq!(
            issued.load(SeqCst),
            round,
            "one new token for twenty refused reads"
        );
    }
}

#[tokio::test]
async fn basic_is_sent_to_its_host_and_not_asked_for_each_time() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some(BASIC) => Reply::content(seen, b"0123456789"),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=x"),
    })
    .await;
    let digest = Digest::of(b"0123456789");
    let source = knows(&server.host(), user());
    let with = store(&server, Some(source.clone())).await;
    for _ in 0..5 {
        assert_eq!(with.read_at(&digest, 1..3).await.unwrap(), &b"12"[..]);
    }
    assert_eq!(source.asked.load(SeqCst), 1);
    assert_eq!(server.lines().len(), 6);

    for source in [None, Some(knows("other.example", user()))] {
        let error = store(&server, source)
            .await
            .read_at(&digest, 1..3)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{error}");
        assert!(error.to_string().contains("no credentials"), "{error}");
    }
    let wrong = Credential::Basic {
        username: "user".into(),
        password: Secret::new("hunter2"),
    };
    let error = store(&server, Some(knows(&server.host(), wrong)))
        .await
        .read_at(&digest, 1..3)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_redirect_gets_no_password() {
    let thief = Server::start(|_| Reply::new(401).header("www-authenticate", "Basic realm=x")).await;
    let target = thief.host();
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some(BASIC) => Reply::new(302).header("location", format!("http://{target}/x")),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=x"),
    })
    .await;
    let source = knows(&server.host(), user());
    let error = store(&server, Some(source))
        .await
        .read_at(&Digest::of(b""), 0..1)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    assert_eq!(thief.seen().len(), 1, "its demand for a log-in is not answered");
    assert_eq!(thief.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn identity_tokens_are_exchanged_and_stay_there() {
    let thief = Arc::new(Server::start(|_| Reply::new(200).body(r#"{"token":"x"}"#)).await);
    let (target, redirecting) = (thief.host(), Arc::new(AtomicBool::new(false)));
    let turn = redirecting.clone();
    let server = Server::start(move |seen: &Seen| match (seen.method.as_str(), seen.path()) {
        ("POST", "/token") if turn.load(SeqCst) => {
            Reply::new(307).header("location", format!("http://{target}/token"))
        }
        ("POST", "/token") => Reply::new(200).body(r#"{"access_token":"good"}"#),
        _ if seen.header("authorization") == Some("Bearer good") => Reply::content(seen, b"0123456789"),
        _ => refuse_bearer(seen.header("host").unwrap()),
    })
    .await;
    let token = || Credential::IdentityToken(Secret::new("refresh&me"));
    let reader = store(&server, Some(knows(&server.host(), token()))).await;
    assert_eq!(
        reader.read_at(&Digest::of(b"0123456789"), 1..3).await.unwrap(),
        &b"12"[..]
    );
    let post = server
        .seen()
        .into_iter()
        .find(|seen| seen.method == "POST")
        .unwrap();
    let form = String::from_utf8(post.body.to_vec()).unwrap();
    assert!(
        form.contains("grant_type=refresh_token") && form.contains("refresh_token=refresh%26me"),
        "{form}"
    );
    assert!(form.contains("scope=repository%3Aa%2Fb%3Apull"), "{form}");
    assert_eq!(post.header("authorization"), None);

    redirecting.store(true, SeqCst);
    let reader = store(&server, Some(knows(&server.host(), token()))).await;
    let error = reader
        .read_at(&Digest::of(b"0123456789"), 1..3)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    assert_eq!(thief.seen().len(), 0);
}

#[tokio::test]
async fn hostile_refusals_are_errors() {
    let rows: [(&str, Reply); 7] = [
        (
            "not text",
            Reply::new(401).header("www-authenticate", [0xff, 0xfe, b'"', b'=']),
        ),
        ("nothing", Reply::new(401)),
        (
            "unknown scheme",
            Reply::new(401).header("www-authenticate", "Magic x=y"),
        ),
        (
            "no realm",
            Reply::new(401).header("www-authenticate", "Bearer service=x"),
        ),
        (
            "realm is a file",
            Reply::new(401).header("www-authenticate", "Bearer realm=\"file:///etc/passwd\""),
        ),
        (
            "empty realm loops",
            Reply::new(401).header("www-authenticate", "Bearer realm=\"\""),
        ),
        (
            "long",
            Reply::new(401).header("www-authenticate", "Bearer x=".repeat(900)),
        ),
    ];
    for (name, reply) in rows {
        let server = Server::start(move |_| reply.clone()).await;
        let reader = store(&server, Some(knows(&server.host(), user()))).await;
        let error = reader.read_at(&Digest::of(b""), 0..1).await.unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{name}: {error}");
        assert!(server.seen().len() <= 2, "{name}");
    }
}

#[tokio::test]
async fn hostile_token_servers_are_errors() {
    let rows: [(&str, Reply, &str); 6] = [
        ("no token", Reply::new(200).body("{}"), "Unavailable"),
        ("not JSON", Reply::new(200).body("<html>"), "Unavailable"),
        (
            "huge",
            Reply::new(200).body(vec![b'x'; 1 << 20]).chunked(),
            "Corrupt",
        ),
        (
            "unsendable",
            Reply::new(200).body(r#"{"token":"a\r\nHost: b"}"#),
            "Forbidden",
        ),
        (
            "denied",
            Reply::new(403).body(r#"{"details":"go away"}"#),
            "Forbidden",
        ),
        ("down", Reply::new(500), "Unavailable"),
    ];
    for (name, reply, expected) in rows {
        let server = Server::start(move |seen| match seen.path() {
            "/token" => reply.clone(),
            _ => refuse_bearer(seen.header("host").unwrap()),
        })
        .await;
        let options = Options {
            retry_for: std::time::Duration::from_millis(100),
            ..quick()
        };
        let reader = open(options, &format!("{}/a/b:1", server.host()), Access::Read).await;
        let error = reader.read_at(&Digest::of(b""), 0..1).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn redirects_end() {
    let rows: [(&str, Reply); 4] = [
        ("in circles", Reply::new(307).header("location", "/again")),
        ("nowhere", Reply::new(307)),
        (
            "to a file",
            Reply::new(307).header("location", "file:///etc/passwd"),
        ),
        ("to noise", Reply::new(307).header("location", [0xff, 0xfe])),
    ];
    for (name, reply) in rows {
        let server = Server::start(move |_| reply.clone()).await;
        let options = Options {
            retry_for: std::time::Duration::ZERO,
            ..quick()
        };
        let reader = open(options, &format!("{}/a/b:1", server.host()), Access::Read).await;
        let error = reader.read_at(&Digest::of(b""), 0..1).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{name}: {error}");
        assert!(server.seen().len() <= 11, "{name}");
    }
}

#[tokio::test]
async fn docker_config_is_read_at_each_use() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some(BASIC) => Reply::content(seen, b"0123456789"),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=x"),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let options = Options {
        docker_config: Some(file.clone()),
        ..quick()
    };
    let reader = open(options, &format!("{}/a/b:1", server.host()), Access::Read).await;
    let digest = Digest::of(b"0123456789");
    assert!(matches!(
        reader.read_at(&digest, 1..3).await,
        Err(Error::Forbidden { .. })
    ));
    let text = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, server.host());
    std::fs::write(&file, text).unwrap();
    assert_eq!(reader.read_at(&digest, 1..3).await.unwrap(), &b"12"[..]);
}
