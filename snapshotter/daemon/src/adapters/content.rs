//! Where an image came from, asked of containerd's own content store: the way for clients that do not say it.
//!
//! containerd labels what it fetched with `containerd.io/distribution.source.<host>` = the repositories there, comma
//! separated. The image's config is fetched before any layer is prepared, and the layer's annotation names it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use lacewing_format::Digest;
use lacewing_rpc::containerd::services::content::v1::InfoRequest;
use lacewing_rpc::containerd::services::content::v1::content_client::ContentClient;
use tonic::transport::{Channel, Endpoint, Uri};

use super::origins::Place;
use crate::limits::MAX_PLACES;

/// containerd answers from its own database; if it takes this long, it will not answer in time at all.
const TIMEOUT: Duration = Duration::from_secs(5);
const LABEL: &str = "containerd.io/distribution.source.";

/// containerd's content store.
pub(crate) struct ContentStore {
    client: ContentClient<Channel>,
    address: PathBuf,
}

impl ContentStore {
    /// Connects when first asked, and again when the connection broke. Needs a runtime around it.
    pub(crate) fn new(address: &Path) -> ContentStore {
        ContentStore {
            client: ContentClient::new(connect(address)),
            address: address.to_owned(),
        }
    }

    /// The repositories that content came from.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) async fn places(&self, namespace: &str, digest: &Digest) -> Result<Vec<Place>, String> {
        let mut request = tonic::Request::new(InfoRequest {
            digest: digest.to_string(),
        });
        request.set_timeout(TIMEOUT);
        let value = namespace
            .parse()
            .map_err(|_| format!("namespace {namespace:?} is no header value"))?;
        request.metadata_mut().insert("containerd-namespace", value);
        let answer = tokio::time::timeout(TIMEOUT, self.client.clone().info(request)).await;
        let at = || format!("containerd at {}", self.address.display());
        let info = match answer {
            Ok(Ok(answer)) => answer.into_inner().info.unwrap_or_default(),
            Ok(Err(status)) => return Err(format!("{}: {} ({:?})", at(), status.message(), status.code())),
            Err(_) => return Err(format!("{} did not answer within {TIMEOUT:?}", at())),
        };
        let places = places(&info.labels);
        if places.is_empty() {
            return Err(format!("{} does not say where {digest} came from", at()));
        }
        Ok(places)
    }
}

/// A channel to a unix socket, made when first used.
pub(crate) fn connect(address: &Path) -> Channel {
    let address = address.to_owned();
    // The authority is what Go's client sends for a unix socket; nobody looks at it.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let address = address.clone();
        async move { tokio::net::UnixStream::connect(address).await.map(TokioIo::new) }
    }))
}

fn places(labels: &std::collections::HashMap<String, String>) -> Vec<Place> {
    let mut places: Vec<Place> = labels
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(LABEL)?, value)))
        .filter(|(host, _)| plausible(host))
        .flat_map(|(host, repositories)| {
            repositories
                .split(',')
                .filter(|repository| plausible(repository))
                .map(|repository| Place {
                    host: host.to_owned(),
                    repository: repository.to_owned(),
                })
        })
        .collect();
    places.sort();
    places.truncate(MAX_PLACES);
    places
}

/// The places with the port that a layer's annotation names, before the places themselves.
///
/// containerd's labels have no ports. The annotation may lead to another port, never to another host: where an image
/// was pulled from is what containerd says.
pub(crate) fn with_port(places: Vec<Place>, host: Option<&str>) -> Vec<Place> {
    let named = host.filter(|host| plausible(host)).and_then(|host| {
        let (name, port) = host.rsplit_once(':')?;
        port.parse::<u16>().ok().map(|_| (name, host))
    });
    let Some((name, host)) = named else { return places };
    let on_port = places
        .iter()
        .filter(|place| place.host == name.trim_matches(['[', ']']));
    let mut all: Vec<Place> = on_port
        .map(|place| Place {
            host: host.to_owned(),
            repository: place.repository.clone(),
        })
        .collect();
    all.extend(places);
    all.truncate(MAX_PLACES);
    all
}

/// The characters of hosts and repositories; whatever else stands there becomes neither a URL nor a line of a file.
pub(crate) fn plausible(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/[]".contains(&byte);
    !name.is_empty() && name.len() <= 512 && !name.contains("..") && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_adds_a_port_to_the_same_host_only() {
        let places = |host: &str| {
            let place = Place {
                host: host.to_owned(),
                repository: "a/b".to_owned(),
            };
            vec![place]
        };
        for (from, annotated, expected) in [
            (
                "registry.example",
                Some("registry.example:5000"),
                &["registry.example:5000/a/b", "registry.example/a/b"][..],
            ),
            ("::1", Some("[::1]:5000"), &["[::1]:5000/a/b", "::1/a/b"]),
            (
                "registry.example",
                Some("elsewhere.example:5000"),
                &["registry.example/a/b"],
            ),
            (
                "registry.example",
                Some("registry.example:80@evil"),
                &["registry.example/a/b"],
            ),
            (
                "registry.example",
                Some("registry.example"),
                &["registry.example/a/b"],
            ),
            ("registry.example", None, &["registry.example/a/b"]),
        ] {
            let found: Vec<String> = with_port(places(from), annotated)
                .iter()
                .map(Place::to_string)
                .collect();
            assert_eq!(found, expected, "{from} {annotated:?}");
        }
    }

    #[test]
    fn source_labels_are_read() {
        let labels = [
            (
                "containerd.io/distribution.source.docker.io",
                "library/debian,mirror/debian",
            ),
            ("containerd.io/distribution.source.127.0.0.1:5055", "a/b"),
            ("containerd.io/distribution.source.bad host", "a/b"),
            ("containerd.io/distribution.source.evil", "../../x,a b,,ok"),
            ("containerd.io/gc.ref.content.0", "sha256:00"),
        ];
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let found: Vec<String> = places(&labels).iter().map(Place::to_string).collect();
        assert_eq!(
            found,
            [
                "127.0.0.1:5055/a/b",
                "docker.io/library/debian",
                "docker.io/mirror/debian",
                "evil/ok"
            ]
        );
    }
}
