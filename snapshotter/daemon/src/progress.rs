//! What a long conversion shows: bars on a terminal, a line per layer elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lacewing_converter::{Event, NoProgress, Progress};
use lacewing_format::Digest;

use crate::output::{bytes, short};

/// Progress for a command: bars, lines, or nothing if `quiet`.
pub(crate) fn progress(quiet: bool) -> Arc<dyn Progress> {
    match (quiet, std::io::stderr().is_terminal()) {
        (true, _) => Arc::new(NoProgress),
        (false, true) => Arc::new(Bars::new()),
        (false, false) => Arc::new(Lines::default()),
    }
}

/// One line to standard error per step that took long.
#[derive(Default)]
struct Lines {
    digests: Mutex<HashMap<usize, (Digest, u64)>>,
}

impl Progress for Lines {
    fn event(&self, event: Event) {
        match event {
            Event::ImageStarted { platform, layers } => eprintln!("image {platform}: {layers} layers"),
            Event::LayerStarted {
                layer,
                digest,
                stored_len,
            } => {
                self.digests
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(layer, (digest, stored_len));
            }
            Event::LayerConverted {
                layer,
                plain_len,
                blob_len,
                index_len,
            } => {
                let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
                let (digest, stored) = match digests.get(&layer) {
                    Some((digest, stored)) => (short(&digest.to_string()), bytes(*stored)),
                    None => (String::new(), String::new()),
                };
                eprintln!(
                    "layer {layer} {digest}: {stored} stored, {} plain; new blob {}, index {}",
                    bytes(plain_len),
                    bytes(blob_len),
                    bytes(index_len)
                );
            }
            Event::Upload { digest, sent, len } if sent == len => {
                eprintln!("sent {}: {}", short(&digest.to_string()), bytes(len));
            }
            Event::Note(text) => eprintln!("{text}"),
            _ => {}
        }
    }
}

struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<usize, ProgressBar>>,
    uploads: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Bars {
    fn new() -> Bars {
        Bars {
            all: MultiProgress::new(),
            layers: Mutex::default(),
            uploads: Mutex::default(),
        }
    }

    fn bar(&self, len: u64, what: String) -> ProgressBar {
        let template = "{prefix:24} [{bar:30}] {bytes:>11} / {total_bytes:11} {bytes_per_sec:>12}  {msg}";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.all.add(
            ProgressBar::new(len)
                .with_style(style.progress_chars("=> "))
                .with_prefix(what),
        )
    }

    fn layers(&self) -> std::sync::MutexGuard<'_, HashMap<usize, ProgressBar>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bars {
    fn event(&self, event: Event) {
        match event {
            Event::ImageStarted { platform, layers } => {
                let _ = self.all.println(format!("image {platform}: {layers} layers"));
                self.layers().clear();
            }
            Event::LayerStarted {
                layer,
                digest,
                stored_len,
            } => {
                let bar = self.bar(stored_len, format!("read  {}", short(&digest.to_string())));
                self.layers().insert(layer, bar);
            }
            Event::LayerRead { layer, stored } => {
                if let Some(bar) = self.layers().get(&layer) {
                    bar.set_position(stored);
                }
            }
            Event::LayerConverted {
                layer,
                blob_len,
                index_len,
                ..
            } => {
                if let Some(bar) = self.layers().get(&layer) {
                    bar.finish_with_message(format!("blob {}, index {}", bytes(blob_len), bytes(index_len)));
                }
            }
            Event::Upload { digest, sent, len } => {
                let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
                let bar = uploads
                    .entry(digest)
                    .or_insert_with(|| self.bar(len, format!("send  {}", short(&digest.to_string()))));
                bar.set_position(sent);
                if sent == len {
                    bar.finish();
                }
            }
            Event::Note(text) => {
                let _ = self.all.println(text);
            }
            _ => {}
        }
    }
}
