//! The client against the real registry of the distribution (Debian's docker-registry): plain http, TLS with a private
//! authority and client certificates, and log-in by password.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use lacewing_format::Digest;
use lacewing_oci::{Access, Error, MediaType, Options, Store, describe};
use support::{noise, open, quick, write_hosts};

const PROGRAM: &str = "/usr/bin/docker-registry";

/// A running registry, with its storage and settings in a folder of its own.
struct Registry {
    child: Child,
    folder: tempfile::TempDir,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Starts one; `None`, with a word about it, if the program is not installed. `more` is put into its `http` map and
    /// after it.
    async fn start(prepare: impl FnOnce(&Path) -> (String, String)) -> Option<Registry> {
        if !Path::new(PROGRAM).exists() {
            eprintln!("skipped: {PROGRAM} is not installed (package docker-registry)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (http, more) = prepare(folder.path());
        // A port that was free an instant ago.
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: {}/data}}\n  delete: {{enabled: true}}\n\
             http:\n  addr: {address}\n{http}{more}",
            folder.path().display()
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Registry {
            child,
            folder,
            host: address.to_string(),
        };
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Some(registry);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the registry did not start");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Writes an image with one layer, reads it back, whole and in parts.
async fn round_trip(registry: &Registry, options: Options, layer_len: usize) {
    let content = noise(layer_len);
    let digest = Digest::of(&content);
    let layer = describe(MediaType::ImageLayerGzip, &digest, content.len() as u64);
    let file = registry.path("layer");
    std::fs::write(&file, &content).unwrap();
    let name = format!("{}/team/app:v1", registry.host);
    let target = open(options.clone(), &name, Access::Write).await;
    assert!(!target.has_blob(&layer).await.unwrap());
    let told = AtomicU64::new(0);
    target
        .put_blob(&layer, &file, &|sent| told.store(sent, SeqCst))
        .await
        .unwrap();
    assert_eq!(told.load(SeqCst), content.len() as u64);
    assert!(target.has_blob(&layer).await.unwrap());
    let config = target
        .put_bytes(MediaType::ImageConfig, Bytes::from_static(b"{}"))
        .await
        .unwrap();
    target
        .put_bytes(MediaType::ImageConfig, Bytes::from_static(b"x"))
        .await
        .unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::ImageManifest.as_ref(), "config": config, "layers": [layer],
    });
    let manifest = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let put = target
        .put_manifest(MediaType::ImageManifest, manifest.clone(), None)
        .await
        .unwrap();
    target
        .put_root(MediaType::ImageManifest, manifest.clone())
        .await
        .unwrap();

    let source = open(options.clone(), &name, Access::Read).await;
    let found = source.resolve(None).await.unwrap();
    assert_eq!(found, put);
    assert_eq!(source.resolve(Some(put.digest().as_ref())).await.unwrap(), put);
    assert_eq!(source.manifest(&found).await.unwrap(), manifest);
    assert_eq!(&source.manifest(&config).await.unwrap()[..], b"{}");
    assert_eq!(source.tags().await.unwrap(), ["v1"]);
    let mut bytes = Vec::new();
    let mut blob = source.blob(&layer).await.unwrap();
    while let Some(part) = blob.next().await {
        bytes.extend_from_slice(&part.unwrap());
    }
    assert!(bytes == content);
    let end = content.len() as u64;
    for range in [0..1, 4096..70_000, end - 1..end] {
        let expected = &content[range.start as usize..range.end as usize];
        assert_eq!(source.read_at(&digest, range).await.unwrap(), expected);
    }
    assert!(matches!(
        source.read_at(&digest, end..end + 1).await,
        Err(Error::Corrupt { .. })
    ));
    assert!(matches!(
        source.resolve(Some("v2")).await,
        Err(Error::NotFound { .. })
    ));
    let missing = describe(MediaType::ImageLayer, &Digest::of(b"missing"), 7);
    assert!(matches!(
        source.blob(&missing).await.err(),
        Some(Error::NotFound { .. })
    ));

    let other = open(options, &format!("{}/team/copy:v1", registry.host), Access::Write).await;
    assert!(!other.has_blob(&layer).await.unwrap());
    assert!(other.mount_blob(&layer, &name.parse().unwrap()).await.unwrap());
    assert!(other.has_blob(&layer).await.unwrap());
    assert!(!other.mount_blob(&missing, &name.parse().unwrap()).await.unwrap());
}

#[tokio::test]
async fn plain_http() {
    let Some(registry) = Registry::start(|_| (String::new(), String::new())).await else {
        return;
    };
    round_trip(&registry, quick(), 20_000_000).await;
}

#[tokio::test]
async fn an_upload_survives_the_registrys_restart() {
    let Some(mut registry) = Registry::start(|_| (String::new(), String::new())).await else {
        return;
    };
    let content = noise(64 << 20);
    let layer = describe(
        MediaType::ImageLayerGzip,
        &Digest::of(&content),
        content.len() as u64,
    );
    let file = registry.path("layer");
    std::fs::write(&file, &content).unwrap();
    let options = Options {
        retry_for: Duration::from_secs(20),
        ..quick()
    };
    let target = open(options, &format!("{}/app:v1", registry.host), Access::Write).await;
    let (config, restarted) = (registry.path("config.yml"), std::sync::Mutex::new(None));
    let pid = registry.child.id();
    let restart = |sent: u64| {
        let mut done = restarted.lock().unwrap();
        if sent > 0 && done.is_none() {
            Command::new("kill")
                .arg("-9")
                .arg(pid.to_string())
                .status()
                .unwrap();
            std::thread::sleep(Duration::from_millis(300));
            let child = Command::new(PROGRAM)
                .arg("serve")
                .arg(&config)
                .stderr(Stdio::null())
                .spawn();
            *done = Some(child.unwrap());
        }
    };
    let outcome = target.put_blob(&layer, &file, &restart).await;
    if let Some(child) = restarted.lock().unwrap().take() {
        let _ = registry.child.wait();
        registry.child = child;
    }
    outcome.unwrap();
    assert!(target.has_blob(&layer).await.unwrap());
}

/// A private authority, a certificate for 127.0.0.1 and one for a client, as PEM files in `folder`.
fn make_certificates(folder: &Path) {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let certificate = authority.self_signed(&authority_key).unwrap();
    std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    for (name, usage) in [
        ("server", rcgen::ExtendedKeyUsagePurpose::ServerAuth),
        ("client", rcgen::ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn tls_with_private_authority_client_certificate_and_password() {
    let prepare = |folder: &Path| {
        make_certificates(folder);
        let at = folder.display();
        // bcrypt of "pass".
        let hash = "$2y$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K";
        std::fs::write(folder.join("htpasswd"), format!("user:{hash}\n")).unwrap();
        let http = format!(
            "  tls:\n    certificate: {at}/server.pem\n    key: {at}/server.key\n    clientcas: [{at}/ca.pem]\n"
        );
        (
            http,
            format!("auth: {{htpasswd: {{realm: lab, path: {at}/htpasswd}}}}\n"),
        )
    };
    let Some(registry) = Registry::start(prepare).await else {
        return;
    };
    let (hosts, folder, address) = (
        registry.path("hosts"),
        registry.path(""),
        format!("https://{}", registry.host),
    );
    let login = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, registry.host);
    std::fs::write(registry.path("config.json"), login).unwrap();
    let options = Options {
        hosts_dir: Some(hosts.clone()),
        docker_config: Some(registry.path("config.json")),
        retry_for: Duration::from_millis(300),
        ..quick()
    };
    let resolve = |options: Options| {
        let name = format!("{}/team/app:v1", registry.host);
        async move {
            let client = lacewing_oci::Client::new(options).unwrap();
            let store = Store::open(&client, &name.parse().unwrap(), Access::Read).await?;
            store.resolve(None).await
        }
    };
    // Step by step to the right settings; each step has its own error.
    write_hosts(&hosts, &registry.host, &format!("server = {address:?}\n"));
    let error = resolve(options.clone()).await.unwrap_err();
    assert!(
        matches!(error, Error::Forbidden { .. }),
        "an unknown authority: {error}"
    );
    let ca = format!("server = {address:?}\nca = \"{}/ca.pem\"\n", folder.display());
    write_hosts(&hosts, &registry.host, &ca);
    let error = resolve(options.clone()).await.unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. }),
        "no client certificate: {error}"
    );
    let pair = format!(
        "client = [[\"{0}/client.pem\", \"{0}/client.key\"]]\n",
        folder.display()
    );
    write_hosts(&hosts, &registry.host, &format!("{ca}{pair}"));
    let error = resolve(Options {
        docker_config: None,
        ..options.clone()
    })
    .await
    .unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "no password: {error}");
    assert!(
        matches!(resolve(options.clone()).await, Err(Error::NotFound { .. })),
        "in, and nothing there yet"
    );
    round_trip(&registry, options.clone(), 1_000_000).await;

    let careless = format!("server = {address:?}\nskip_verify = true\n{pair}");
    write_hosts(&hosts, &registry.host, &careless);
    assert!(resolve(options.clone()).await.is_ok());
    std::fs::write(registry.path("client.pem"), "no certificate").unwrap();
    let error = resolve(options).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}
