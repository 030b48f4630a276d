#![allow(clippy::unwrap_used)]
use super::*;
use crate::places::{DEFAULT_ADDRESS, DEFAULT_ROOT};

fn config(text: &str) -> Result<Config, String> {
    let raw = parse(Path::new("test.toml"), text).map_err(|e| e.to_string())?;
    resolve(raw, Overrides::default(), None).map_err(|e| e.to_string())
}

#[test]
fn nothing_said_is_the_defaults() {
    let config = config("").unwrap();
    assert_eq!(config.root, places::root());
    assert_eq!(config.address, places::address());
    assert_eq!(config.read_timeout, Duration::from_secs(60));
    assert!(config.lazy && config.background);
}

#[test]
fn unknown_fields_are_refused_with_their_line() {
    let error = config("[lazy]\nenabled = true\nread_timeout = 3\n").unwrap_err();
    assert!(error.contains("line 3"), "{error}");
    assert!(error.contains("read_timeout"), "{error}");
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    for (text, field) in [
        ("[lazy]\nread_timeout_s = 0", "lazy.read_timeout_s"),
        ("[supervisor]\nsilence_s = 1", "supervisor.silence_s"),
        ("[containerd]\naddress = \"run/sock\"", "containerd.address"),
        ("[registry]\nhosts_dir = \"certs.d\"", "registry.hosts_dir"),
        ("[http]\nlisten = \"localhost\"", "http.listen"),
        ("[http]\nlisten = \"unix:run/sock\"", "http.listen"),
        ("[traces]\nendpoint = \"127.0.0.1:4318\"", "traces.endpoint"),
        ("[traces]\nendpoint = \"http://me:secret@c\"", "traces.endpoint"),
        (
            "[registry]\ncredential_socket = \"run/s\"",
            "registry.credential_socket",
        ),
        ("[registry]\nseal_key_file = \"key\"", "registry.seal_key_file"),
        ("[kubernetes]\nservice_accounts = [\"a/b\"]", "kubernetes.server"),
        (
            "[kubernetes]\nserver = \"http://h\"\nservice_accounts = [\"a/b\"]",
            "kubernetes.server",
        ),
        (
            "[kubernetes]\nserver = \"https://h\"\nservice_accounts = [\"a/../b\"]",
            "kubernetes.service_accounts",
        ),
    ] {
        let error = config(text).unwrap_err();
        assert!(error.contains(field), "{text}: {error}");
    }
    let long = format!("address = \"/{}\"", "a".repeat(200));
    assert!(config(&long).unwrap_err().contains("address has 201 bytes"));
}

#[test]
fn sizes_and_times() {
    let good = config(
        "[store]\nquota = \"20GiB\"\nfree_floor = \"500MB\"\n[background]\nwindow = \"22:00-06:00\"\nrate = \"1M\"",
    )
    .unwrap();
    assert_eq!((good.quota, good.free_floor), (Some(20 << 30), Some(500_000_000)));
    assert_eq!(
        (good.window.as_deref(), good.rate),
        (Some("22:00-06:00"), Some(1 << 20))
    );
    for (text, expected) in [
        (
            "[store]\nquota = \"20 elephants\"",
            "store.quota is \"20 elephants\"",
        ),
        ("[store]\nquota = \"1MB\"", "store.quota is 1000000 bytes"),
        ("[store]\nfree_floor = \"99999999999T\"", "store.free_floor"),
        ("[background]\nrate = \"-1\"", "background.rate"),
        ("[background]\nwindow = \"25:00-26:00\"", "background.window"),
        (
            "[registry]\ncredential_provider_bin_dir = \"/x\"",
            "need each other",
        ),
    ] {
        let error = config(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn empty_paths_turn_things_off() {
    let config =
        config("[containerd]\naddress = \"\"\n[registry]\nhosts_dir = \"\"\n[http]\nlisten = \"\"").unwrap();
    assert_eq!(config.http, None);
    assert_eq!(config.containerd, None);
    assert_eq!(config.hosts_dir, None);
}

#[test]
fn the_command_line_wins() {
    let raw = parse(Path::new("test.toml"), "root = \"/a\"\naddress = \"/b\"").unwrap();
    let overrides = Overrides {
        root: Some("/c".into()),
        address: Some("/d".into()),
    };
    let config = resolve(raw, overrides, None).unwrap();
    assert_eq!((config.root, config.address), ("/c".into(), "/d".into()));
}

#[test]
fn the_example_file_is_the_defaults() {
    let example = include_str!("../../../../misc/examples/config.toml");
    let mut defaults = config("").unwrap();
    // Those of the system's root.
    defaults.root = DEFAULT_ROOT.into();
    defaults.address = DEFAULT_ADDRESS.into();
    assert_eq!(config(example).unwrap(), defaults);
}

/// Fields that are not set in the example stand there in a comment, as they would be set.
#[test]
fn the_example_file_names_every_field() {
    let example = include_str!("../../../../misc/examples/config.toml");
    let is_field = |line: &&str| {
        line.split_once(" = ")
            .is_some_and(|(name, _)| !name.contains(' '))
    };
    let lines = example
        .lines()
        .map(|line| line.strip_prefix("# ").filter(is_field).unwrap_or(line));
    let named: String = lines.flat_map(|line| [line, "\n"]).collect();
    parse(Path::new("example"), &named).unwrap();
    let named: toml::Table = named.parse().unwrap();
    let all = Some(("", &named));
    let sections = named
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_table()?)));
    for (section, fields) in all.into_iter().chain(sections) {
        let heading = if section.is_empty() {
            String::new()
        } else {
            format!("[{section}]")
        };
        let unknown = format!("{heading}\nno-such-field = 1");
        let refusal = parse(Path::new("fields"), &unknown).unwrap_err().to_string();
        let (_, expected) = refusal.split_once("expected").unwrap();
        for field in expected.split('`').skip(1).step_by(2) {
            assert!(fields.contains_key(field), "{section}.{field}");
        }
    }
}

#[test]
fn a_worker_gets_the_same_configuration() {
    let config = config("").unwrap();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
}
