//! Images whose bytes are kept on this node: `lacewing pin`, `lacewing unpin`.
//!
//! `<root>/pins` has a reference per line and is replaced as a whole. An image may be pinned before it comes. A pin holds
//! against eviction, not against containerd: what it removes goes.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use lacewing_oci::{Reference, RegistryRef};
use lacewing_rpc::control::PinRequest;
use lacewing_rpc::control::control_client::ControlClient;

use crate::adapters::content::connect;
use crate::cli::PinArgs;
use crate::output::print;

/// Most images: each is a line in status.
const MOST: usize = 10_000;

/// One pinned image.
pub(crate) struct Pin(RegistryRef);

impl Pin {
    /// Reads a reference.
    ///
    /// # Errors
    /// Why it is none, for people.
    pub(crate) fn parse(image: &str) -> Result<Pin, String> {
        match image.parse::<Reference>() {
            Ok(Reference::Registry(image)) => Ok(Pin(image)),
            Ok(_) => Err(format!("{image:?} is no image of a registry")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether it names the image that a layer was pulled for. Clients that do not say which image they pull leave only
    /// its repository to be known: then every image of the repository is meant.
    pub(crate) fn covers(&self, image: &str) -> bool {
        let Ok(Reference::Registry(found)) = image.parse::<Reference>() else {
            return false;
        };
        if (&found.host, &found.repository) != (&self.0.host, &self.0.repository) {
            return false;
        }
        let name = image.rsplit('/').next().unwrap_or_default();
        !name.contains([':', '@'])
            || match &self.0.digest {
                Some(digest) => found.digest.as_ref() == Some(digest),
                None => found.tag == self.0.tag,
            }
    }
}

/// All pinned images.
pub(crate) struct Pins {
    path: PathBuf,
    images: Mutex<BTreeSet<String>>,
}

impl Pins {
    /// Reads what was pinned.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn open(root: &Path) -> Result<Pins> {
        let path = root.join("pins");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let images = text
            .lines()
            .filter(|line| Pin::parse(line).is_ok())
            .map(str::to_owned)
            .collect();
        Ok(Pins {
            path,
            images: Mutex::new(images),
        })
    }

    /// Pins an image or no longer. On disk when it returns.
    ///
    /// # Errors
    /// The file cannot be written; nothing has changed then.
    pub(crate) fn set(&self, image: &str, pinned: bool) -> Result<()> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = images.clone();
        let other = match pinned {
            true => changed.insert(image.to_owned()),
            false => changed.remove(image),
        };
        if !other {
            return Ok(());
        }
        if changed.len() > MOST {
            bail!("more than {MOST} images cannot be pinned");
        }
        self.write(&changed)
            .with_context(|| format!("writing {}", self.path.display()))?;
        *images = changed;
        Ok(())
    }

    fn write(&self, images: &BTreeSet<String>) -> std::io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = std::fs::File::create(&new)?;
        for image in images {
            writeln!(file, "{image}")?;
        }
        file.sync_all()?;
        std::fs::rename(&new, &self.path)
    }

    /// All of them, sorted.
    pub(crate) fn list(&self) -> Vec<String> {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.iter().cloned().collect()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.images
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Whether a layer that was pulled for an image is pinned.
    pub(crate) fn cover(&self, image: &str) -> bool {
        let pins = self.list();
        pins.iter()
            .any(|pin| Pin::parse(pin).is_ok_and(|pin| pin.covers(image)))
    }
}

/// `lacewing pin`, `lacewing unpin`
///
/// # Errors
/// Nobody answers at the address, or the reference is none.
pub(crate) fn run(args: &PinArgs, pinned: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let request = PinRequest {
        image: args.image.clone(),
        pinned,
    };
    let answer = runtime.block_on(async {
        let mut client = ControlClient::new(connect(&args.address));
        client.pin(request).await
    });
    let answer = answer.map_err(|status| crate::output::refusal(&args.address, &status))?;
    let what = if pinned { "pinned" } else { "no longer pinned" };
    print(&format!(
        "{}: {what}, {} layers here\n",
        args.image,
        answer.get_ref().layers
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn which_images_a_pin_covers() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let by_digest = format!("r.example/a@{digest}");
        let rows = [
            ("r.example/a:1", "r.example/a:1", true),
            ("r.example/a:1", "r.example/a:2", false),
            ("r.example/a:1", "r.example/b:1", false),
            ("r.example/a:1", "r.example/a", true),
            ("debian", "docker.io/library/debian:latest", true),
            (by_digest.as_str(), by_digest.as_str(), true),
            (by_digest.as_str(), "r.example/a:1", false),
            ("r.example/a:1", "%%%", false),
        ];
        for (pin, image, expected) in rows {
            assert_eq!(Pin::parse(pin).unwrap().covers(image), expected, "{pin} {image}");
        }
        assert!(Pin::parse("oci:dir").is_err());
    }

    #[test]
    fn pins_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::open(dir.path()).unwrap();
        pins.set("r.example/a:1", true).unwrap();
        pins.set("r.example/b:1", true).unwrap();
        pins.set("r.example/a:1", false).unwrap();
        let again = Pins::open(dir.path()).unwrap();
        assert_eq!(again.list(), ["r.example/b:1"]);
        assert!(again.cover("r.example/b:1") && !again.cover("r.example/a:1"));
    }
}
