#![allow(clippy::unwrap_used)]
use super::*;

fn parsed(text: &str) -> Result<Vec<Entry>, Error> {
    parse(text, Path::new("/c/hosts.toml"))
}

fn bases(text: &str) -> Vec<String> {
    parsed(text)
        .unwrap()
        .iter()
        .map(|e| e.base.as_ref().map_or("-".into(), |u| u.to_string()))
        .collect()
}

#[test]
fn keeps_the_order_and_completes_paths() {
    let text = r#"
        server = "https://origin.example"
        [host."https://z.example"]
        [host."http://a.example:8080/mirror"]
        [host."m.example/v2/"]
        [host."https://o.example/x"]
        override_path = true
    "#;
    let expected = [
        "https://z.example/v2",
        "http://a.example:8080/mirror/v2",
        "https://m.example/v2",
        "https://o.example/x",
        "https://origin.example/v2",
    ];
    assert_eq!(bases(text), expected);
}

#[test]
fn the_registry_itself_is_last_without_server() {
    assert_eq!(bases(""), ["-"]);
    assert_eq!(bases("[host.\"http://m\"]"), ["http://m/v2", "-"]);
    assert_eq!(bases("server = \"\""), ["-"]);
}

#[test]
fn reads_every_key() {
    let text = r#"
        server = "origin.example"
        ca = "/etc/ca.pem"
        unknown_key = 7
        [host."https://m.example"]
        capabilities = ["pull", "Resolve"]
        ca = ["a.pem", "/b.pem"]
        client = [["c.pem", "k.pem"], "both.pem", ["one.pem"]]
        skip_verify = true
        dial_timeout = "1m2.5s"
        another = { x = 1 }
        [host."https://m.example".header]
        x-one = "1"
        X-Many = ["2", "3"]
    "#;
    let entries = parsed(text).unwrap();
    let mirror = &entries[0];
    assert_eq!(
        mirror.capabilities,
        Some(Capabilities {
            pull: true,
            resolve: true,
            push: false
        })
    );
    assert_eq!(mirror.authorities, [PathBuf::from("/c/a.pem"), "/b.pem".into()]);
    let pairs = [
        ("/c/c.pem".into(), Some("/c/k.pem".into())),
        ("/c/both.pem".into(), None),
        ("/c/one.pem".into(), None),
    ];
    assert_eq!(mirror.identities, pairs);
    assert_eq!(mirror.skip_verify, Some(true));
    assert_eq!(mirror.dial_timeout, Some(Duration::from_millis(62_500)));
    let headers = [("x-one", "1"), ("X-Many", "2"), ("X-Many", "3")];
    assert_eq!(mirror.headers, headers.map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert_eq!(entries[1].authorities, [PathBuf::from("/etc/ca.pem")]);
    assert_eq!(
        entries[1].base.as_ref().unwrap().as_str(),
        "https://origin.example/v2"
    );
}

#[test]
fn names_what_is_wrong() {
    let rows = [
        (
            "server = 1",
            "hosts.toml: server: expected a string, found integer",
        ),
        ("host = 1", "host: expected a table"),
        (
            "[host]\n\"https://m\" = 1",
            "host.\"https://m\": expected a table",
        ),
        (
            "[host.\"https://m\"]\nskip_verify = \"yes\"",
            "host.\"https://m\".skip_verify: expected true or false",
        ),
        (
            "skip_verify = 1",
            "hosts.toml: skip_verify: expected true or false",
        ),
        ("capabilities = [\"fly\"]", "unknown capability \"fly\""),
        ("capabilities = [1]", "capabilities: expected a string"),
        ("ca = 1", "ca: expected a string, found integer"),
        ("client = [[\"a\",\"b\",\"c\"]]", "client: expected a file name"),
        ("header = \"x\"", "header: expected a table"),
        ("[header]\n\"a b\" = \"x\"", "not a header's name"),
        ("[header]\na = \"x\\ny\"", "not a header's value"),
        ("dial_timeout = 3", "dial_timeout: expected a string"),
        ("dial_timeout = \"3\"", "a duration"),
        ("server = \"http://\"", "server: "),
        ("server = \"https://user:secret@m\"", "credentials do not belong"),
        ("[host.\"https://u:secret@m\"]", "credentials do not belong"),
        ("server = \"httpx://m\"", "an http or https address"),
        ("= broken", "hosts.toml"),
    ];
    for (text, expected) in rows {
        let error = parsed(text).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{text}");
        assert!(error.to_string().contains(expected), "{text}: {error}");
        assert!(!error.to_string().contains("secret"), "{text}: {error}");
    }
}

#[test]
fn durations() {
    let rows = [
        ("3s", Some(3_000)),
        ("1h2m", Some(3_720_000)),
        ("0.5s", Some(500)),
        ("", None),
        ("-1s", None),
        ("1", None),
        ("1y", None),
        ("1e9s", None),
        ("99999999999999999999h", None),
    ];
    for (text, expected) in rows {
        assert_eq!(
            parse_duration(text),
            expected.map(Duration::from_millis),
            "{text}"
        );
    }
}

#[test]
fn finds_folders_as_containerd_does() {
    let rows = [
        ("docker.io", vec!["docker.io", "_default"]),
        (
            "localhost:5000",
            vec!["localhost_5000_", "localhost:5000", "_default"],
        ),
        ("[::1]:5000", vec!["[::1]_5000_", "[::1]:5000", "_default"]),
    ];
    for (host, expected) in rows {
        let expected: Vec<PathBuf> = expected.iter().map(|name| Path::new("/r").join(name)).collect();
        assert_eq!(candidates(Path::new("/r"), host), expected, "{host}");
    }
}

#[test]
fn default_addresses() {
    let rows = [
        ("docker.io", "https://registry-1.docker.io/v2", "docker.io"),
        ("ghcr.io", "https://ghcr.io/v2", "ghcr.io"),
        ("localhost:5000", "http://localhost:5000/v2", "localhost:5000"),
        ("127.0.0.1", "http://127.0.0.1/v2", "127.0.0.1"),
        ("[::1]:5000", "http://[::1]:5000/v2", "[::1]:5000"),
        ("r.example:443", "https://r.example/v2", "r.example"),
    ];
    for (host, base, authority) in rows {
        let found = endpoints(None, host).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].base.as_str(), found[0].authority().as_str()),
            (base, authority),
            "{host}"
        );
        assert_eq!(found[0].capabilities, Capabilities::ALL);
    }
    assert_eq!(endpoints(None, "docker.io").unwrap()[0].mirror_of, None);
}

#[test]
fn reads_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("localhost_5000_");
    std::fs::create_dir(&folder).unwrap();
    let text = "[host.\"http://m.example\"]\nca = \"ca.pem\"\nclient = [[\"c.pem\", \"k.pem\"]]\n";
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
    let missing = endpoints(Some(root.path()), "localhost:5000").unwrap_err();
    assert!(
        matches!(&missing, Error::Io { path, .. } if path.ends_with("pem")),
        "{missing}"
    );
    for (name, content) in [("ca.pem", "CA"), ("c.pem", "CERT"), ("k.pem", "KEY")] {
        std::fs::write(folder.join(name), content).unwrap();
    }
    let found = endpoints(Some(root.path()), "localhost:5000").unwrap();
    assert_eq!(found[0].tls.authorities, [b"CA".to_vec()]);
    assert_eq!(found[0].tls.identities, [b"CERT\nKEY".to_vec()]);
    assert_eq!(found[0].mirror_of.as_deref(), Some("localhost:5000"));
    assert!(!format!("{found:?}").contains("KEY"));
    assert_eq!(
        (found[1].base.as_str(), &found[1].mirror_of),
        ("http://localhost:5000/v2", &None)
    );
    // Another host has no folder and no _default.
    assert_eq!(
        endpoints(Some(root.path()), "ghcr.io").unwrap()[0].base.as_str(),
        "https://ghcr.io/v2"
    );
}

#[test]
fn certificates_without_a_file() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("_default");
    std::fs::create_dir(&folder).unwrap();
    for (name, content) in [("a.crt", "CA"), ("client.cert", "CERT"), ("client.key", "KEY")] {
        std::fs::write(folder.join(name), content).unwrap();
    }
    let found = endpoints(Some(root.path()), "ghcr.io").unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].tls.authorities, [b"CA".to_vec()]);
    assert_eq!(found[0].tls.identities, [b"CERT\nKEY".to_vec()]);
}
