//! One line in the log per image pulled: lazy or not, and why.
//!
//! Clients ask layer by layer and do not say when an image ends. CRI, the transfer service and nerdctl list the layers
//! above in a label, so their last layer is known; for others an image ends when nothing more is asked for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lacewing_format::annotation;
use lacewing_snapshotter::{IMAGE_LABEL, IMAGE_LAYERS_LABEL, LayerRequest, Offer};
use tokio::time::Instant;
use tracing::info;

use crate::traces::{Pull, Traces};

/// A client that lists the layers may unpack a large ordinary one between two questions.
const QUIET_LISTED: Duration = Duration::from_secs(300);
/// A client that does not: long enough for a slow index, short enough that the line stands near its cause.
const QUIET: Duration = Duration::from_secs(5);
/// Images under way at once; more are told layer by layer, by whoever offers them.
const MAX_IMAGES: usize = 1000;

/// What is known of an image that is being pulled.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Verdict {
    lazy: u32,
    ordinary: u32,
    /// Why the first ordinary layer is one.
    reason: String,
}

impl Verdict {
    fn add(&mut self, offer: &Offer) {
        match offer {
            Offer::Lazy { .. } => self.lazy = self.lazy.saturating_add(1),
            Offer::Ordinary { reason } => {
                if self.ordinary == 0 {
                    self.reason.clone_from(reason);
                }
                self.ordinary = self.ordinary.saturating_add(1);
            }
        }
    }

    fn line(&self) -> String {
        match (self.lazy, self.ordinary) {
            (_, 0) => "lazy image".to_owned(),
            (0, _) => format!("ordinary image: {}", self.reason),
            _ => format!("partly lazy image: {}", self.reason),
        }
    }
}

struct Pulled {
    verdict: Verdict,
    ends: Instant,
}

/// Images whose layers are being asked for.
#[derive(Clone)]
pub(crate) struct Verdicts {
    images: Arc<Mutex<HashMap<Pull, Pulled>>>,
    traces: Traces,
}

impl Verdicts {
    /// `traces`: told when an image has ended.
    pub(crate) fn new(traces: Traces) -> Verdicts {
        Verdicts {
            images: Arc::default(),
            traces,
        }
    }

    /// Takes in what was answered for a layer. Called from within the runtime.
    pub(crate) fn enter(&self, request: &LayerRequest, offer: &Offer) {
        let (key, above) = image_of(request);
        let mut images = lock(&self.images);
        let known = images.contains_key(&key);
        if !known && images.len() >= MAX_IMAGES {
            let alone = (
                matches!(offer, Offer::Lazy { .. }),
                "one of too many pulls at once",
            );
            self.traces
                .pulled(&key, alone.1, u32::from(alone.0), u32::from(!alone.0));
            return;
        }
        let pulled = images.entry(key.clone()).or_insert_with(|| Pulled {
            verdict: Verdict {
                lazy: 0,
                ordinary: 0,
                reason: String::new(),
            },
            ends: Instant::now(),
        });
        pulled.verdict.add(offer);
        match above {
            Some(0) => {
                let verdict = pulled.verdict.clone();
                images.remove(&key);
                drop(images);
                self.tell(&key, &verdict);
                return;
            }
            Some(_) => pulled.ends = Instant::now() + QUIET_LISTED,
            None => pulled.ends = Instant::now() + QUIET,
        }
        drop(images);
        if !known {
            tokio::spawn(self.clone().wait(key));
        }
    }

    /// Tells of an image once nobody has asked for it for long enough.
    async fn wait(self, key: Pull) {
        loop {
            let ends = match lock(&self.images).get(&key) {
                Some(pulled) => pulled.ends,
                None => return,
            };
            if ends > Instant::now() {
                tokio::time::sleep_until(ends).await;
                continue;
            }
            let ended = lock(&self.images).remove(&key);
            if let Some(pulled) = ended {
                self.tell(&key, &pulled.verdict);
            }
            return;
        }
    }

    fn tell(&self, key: &Pull, verdict: &Verdict) {
        let (namespace, image) = key;
        info!(
            image,
            namespace,
            lazy_layers = verdict.lazy,
            ordinary_layers = verdict.ordinary,
            "{}",
            verdict.line()
        );
        self.traces
            .pulled(key, &verdict.line(), verdict.lazy, verdict.ordinary);
    }
}

/// The pull that a layer belongs to, as far as the client says it, and how many layers stand above, if it lists them.
pub(super) fn image_of(request: &LayerRequest) -> (Pull, Option<usize>) {
    let label = |key: &str| request.labels.get(key).filter(|value| !value.is_empty());
    let image = label(IMAGE_LABEL).or_else(|| label(annotation::CONFIG));
    let above = label(IMAGE_LAYERS_LABEL).map(|list| list.matches(',').count());
    let namespace = request.namespace.clone().unwrap_or_default();
    ((namespace, image.cloned().unwrap_or_default()), above)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(image: &str, layers: Option<&str>) -> LayerRequest {
        let mut labels = HashMap::from([(IMAGE_LABEL.to_owned(), image.to_owned())]);
        if let Some(layers) = layers {
            labels.insert(IMAGE_LAYERS_LABEL.to_owned(), layers.to_owned());
        }
        LayerRequest {
            labels,
            ..LayerRequest::default()
        }
    }

    fn ordinary(reason: &str) -> Offer {
        Offer::Ordinary {
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn the_first_reason_is_told() {
        let mut verdict = Verdict {
            lazy: 0,
            ordinary: 0,
            reason: String::new(),
        };
        verdict.add(&Offer::Lazy { layer: 1 });
        assert_eq!(verdict.line(), "lazy image");
        verdict.add(&ordinary("first"));
        verdict.add(&ordinary("second"));
        assert_eq!(verdict.line(), "partly lazy image: first");
    }

    #[tokio::test]
    async fn an_image_ends_with_its_last_layer() {
        let verdicts = Verdicts::new(Traces::default());
        let count = || lock(&verdicts.images).len();
        verdicts.enter(&request("listed", Some("sha256:a,sha256:b")), &ordinary("x"));
        verdicts.enter(&request("silent", None), &ordinary("x"));
        assert_eq!(count(), 2);
        verdicts.enter(&request("listed", Some("sha256:b")), &ordinary("x"));
        assert_eq!(count(), 1);
    }

    #[tokio::test]
    async fn an_image_ends_when_nobody_asks_any_more() {
        let verdicts = Verdicts::new(Traces::default());
        verdicts.enter(&request("silent", None), &ordinary("x"));
        let key = (String::new(), "silent".to_owned());
        let pulled =
            |images: &mut HashMap<_, Pulled>| images.get_mut(&key).map(|pulled| pulled.ends = Instant::now());
        assert!(pulled(&mut lock(&verdicts.images)).is_some());
        verdicts.clone().wait(key.clone()).await;
        assert!(lock(&verdicts.images).is_empty());
    }
}
