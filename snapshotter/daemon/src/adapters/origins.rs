//! Which repositories a blob can be read from: kept on disk, so that a restart needs nobody to tell it again.
//!
//! An append-only file of lines, one fact each; a line that a crash cut short is dropped at the next start, when the
//! file is written anew with what still holds. It names hosts and repositories, never credentials.
//!
//! ```text
//! lacewing origins 1
//! place <index> <host> <repository>     the index, and so its blobs, were found there
//! blob <index> <blob>                   the index points to the blob
//! drop <index>                          the layer was removed
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use lacewing_format::Digest;

use crate::limits::MAX_PLACES;

const HEADER: &str = "lacewing origins 1";

/// A repository of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// As a reference names it: `docker.io`, `localhost:5000`.
    pub(crate) host: String,
    /// `library/debian`
    pub(crate) repository: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)
    }
}

/// The facts, without their file.
#[derive(Debug, Default)]
struct Facts {
    /// Newest last.
    places: BTreeMap<Digest, Vec<Place>>,
    blobs: BTreeMap<Digest, BTreeSet<Digest>>,
    /// The other way round, for look-ups.
    named_by: BTreeMap<Digest, BTreeSet<Digest>>,
}

/// Remembers origins. Look-ups are in memory; additions wait for the disk.
#[derive(Debug)]
pub(crate) struct Origins {
    state: Mutex<(Facts, File)>,
    path: PathBuf,
}

impl Origins {
    /// Reads what earlier workers wrote, or begins.
    ///
    /// # Errors
    /// The file cannot be read or written, or a later release wrote it.
    pub(crate) fn open(root: &Path) -> Result<Origins> {
        let path = root.join("origins");
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => format!("{HEADER}\n"),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let facts = Facts::parse(&text).with_context(|| format!("{}", path.display()))?;
        let file =
            write_anew(&path, &facts.lines()).with_context(|| format!("writing {}", path.display()))?;
        Ok(Origins {
            state: Mutex::new((facts, file)),
            path,
        })
    }

    /// Remembers that `index` was found at `place` and points to `blobs`. On disk when it returns; cheap if known.
    ///
    /// # Errors
    /// The disk's. In memory it is known nevertheless.
    pub(crate) fn add(&self, index: Digest, place: &Place, blobs: &[Digest]) -> Result<()> {
        let mut guard = self.lock();
        let (facts, file) = &mut *guard;
        let mut lines = String::new();
        if facts.add_place(index, place) {
            let _ = writeln!(lines, "place {index} {} {}", place.host, place.repository);
        }
        for blob in blobs {
            if facts.add_blob(index, *blob) {
                let _ = writeln!(lines, "blob {index} {blob}");
            }
        }
        append(file, &lines).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Forgets a removed layer's index.
    pub(crate) fn remove(&self, index: Digest) {
        let mut guard = self.lock();
        let (facts, file) = &mut *guard;
        if facts.remove(index) {
            // Lost lines only cost a few bytes until the layer comes again.
            let _ = append(file, &format!("drop {index}\n"));
        }
    }

    /// Where an index was found.
    pub(crate) fn of_index(&self, index: &Digest) -> Vec<Place> {
        self.lock().0.places.get(index).cloned().unwrap_or_default()
    }

    /// The indexes that point to a blob.
    pub(crate) fn indexes_of(&self, blob: &Digest) -> Vec<Digest> {
        self.lock()
            .0
            .named_by
            .get(blob)
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    /// Whether anything was found at a registry.
    pub(crate) fn knows_host(&self, host: &str) -> bool {
        let guard = self.lock();
        guard.0.places.values().flatten().any(|place| place.host == host)
    }

    /// Where a blob may be read, the most recent place first.
    pub(crate) fn of_blob(&self, blob: &Digest) -> Vec<Place> {
        let guard = self.lock();
        let indexes = guard.0.named_by.get(blob).into_iter().flatten();
        let mut places: Vec<Place> = Vec::new();
        for place in indexes
            .filter_map(|index| guard.0.places.get(index))
            .flat_map(|p| p.iter().rev())
        {
            if !places.contains(place) {
                places.push(place.clone());
            }
        }
        places
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Facts, File)> {
        // Facts are consistent after every single change; a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    fn parse(text: &str) -> Result<Facts> {
        let mut facts = Facts::default();
        // What follows the last newline was cut short by a crash.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = whole.lines();
        match lines.next() {
            None | Some(HEADER) => {}
            Some(other) => bail!("unknown format: {:?}", other.chars().take(60).collect::<String>()),
        }
        for line in lines {
            facts.take(line);
        }
        Ok(facts)
    }

    /// A line that makes no sense (a torn write in the middle after a power failure) is left out: its layer is found
    /// again with the next pull.
    fn take(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let kind = words.next()?;
        let index: Digest = words.next()?.parse().ok()?;
        match kind {
            "place" => {
                let place = Place {
                    host: words.next()?.to_owned(),
                    repository: words.next()?.to_owned(),
                };
                self.add_place(index, &place);
            }
            "blob" => {
                self.add_blob(index, words.next()?.parse().ok()?);
            }
            "drop" => {
                self.remove(index);
            }
            _ => {}
        }
        Some(())
    }

    fn add_place(&mut self, index: Digest, place: &Place) -> bool {
        let places = self.places.entry(index).or_default();
        if places.contains(place) {
            return false;
        }
        places.push(place.clone());
        if places.len() > MAX_PLACES {
            places.remove(0);
        }
        true
    }

    fn add_blob(&mut self, index: Digest, blob: Digest) -> bool {
        self.named_by.entry(blob).or_default().insert(index);
        self.blobs.entry(index).or_default().insert(blob)
    }

    fn remove(&mut self, index: Digest) -> bool {
        for blob in self.blobs.remove(&index).into_iter().flatten() {
            if let Some(indexes) = self.named_by.get_mut(&blob) {
                indexes.remove(&index);
                if indexes.is_empty() {
                    self.named_by.remove(&blob);
                }
            }
        }
        self.places.remove(&index).is_some()
    }

    fn lines(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for (index, places) in &self.places {
            for place in places {
                let _ = writeln!(text, "place {index} {} {}", place.host, place.repository);
            }
            for blob in self.blobs.get(index).into_iter().flatten() {
                let _ = writeln!(text, "blob {index} {blob}");
            }
        }
        text
    }
}

fn append(file: &mut File, lines: &str) -> std::io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    file.write_all(lines.as_bytes())?;
    file.sync_data()
}

fn write_anew(path: &Path, text: &str) -> std::io::Result<File> {
    let temporary = path.with_extension("new");
    let options = || {
        let mut options = OpenOptions::new();
        options.mode(0o600);
        options
    };
    let mut file = options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    options().append(true).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place(repository: &str) -> Place {
        Place {
            host: "localhost:5000".to_owned(),
            repository: repository.to_owned(),
        }
    }

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    #[test]
    fn what_was_added_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let origins = Origins::open(dir.path()).unwrap();
        origins
            .add(digest("i"), &place("a"), &[digest("x"), digest("y")])
            .unwrap();
        origins
            .add(digest("i"), &place("b"), &[digest("x"), digest("y")])
            .unwrap();
        origins.add(digest("j"), &place("c"), &[digest("y")]).unwrap();
        for origins in [
            origins,
            Origins::open(dir.path()).unwrap(),
            Origins::open(dir.path()).unwrap(),
        ] {
            assert_eq!(origins.of_blob(&digest("x")), [place("b"), place("a")]);
            assert_eq!(origins.of_blob(&digest("y")).len(), 3);
            assert!(origins.of_blob(&digest("z")).is_empty());
        }
    }

    #[test]
    fn a_removed_layer_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let origins = Origins::open(dir.path()).unwrap();
        origins
            .add(digest("i"), &place("a"), &[digest("x"), digest("y")])
            .unwrap();
        origins.add(digest("j"), &place("b"), &[digest("y")]).unwrap();
        origins.remove(digest("i"));
        for origins in [origins, Origins::open(dir.path()).unwrap()] {
            assert!(origins.of_blob(&digest("x")).is_empty());
            assert_eq!(origins.of_blob(&digest("y")), [place("b")]);
        }
    }

    #[test]
    fn a_file_cut_anywhere_opens() {
        let dir = tempfile::tempdir().unwrap();
        let origins = Origins::open(dir.path()).unwrap();
        origins.add(digest("i"), &place("a"), &[digest("x")]).unwrap();
        let whole = std::fs::read(dir.path().join("origins")).unwrap();
        for len in (0..whole.len()).step_by(5) {
            std::fs::write(dir.path().join("origins"), &whole[..len]).unwrap();
            let origins = Origins::open(dir.path()).unwrap();
            origins.add(digest("i"), &place("a"), &[digest("x")]).unwrap();
            assert_eq!(
                Origins::open(dir.path()).unwrap().of_blob(&digest("x")),
                [place("a")],
                "cut at {len}"
            );
        }
    }

    #[test]
    fn a_later_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("origins"), "lacewing origins 2\n").unwrap();
        assert!(Origins::open(dir.path()).is_err());
    }

    #[test]
    fn places_are_bounded() {
        let mut facts = Facts::default();
        for n in 0..100 {
            facts.add_place(digest("i"), &place(&n.to_string()));
        }
        assert_eq!(facts.places[&digest("i")].len(), MAX_PLACES);
        assert_eq!(facts.places[&digest("i")].last(), Some(&place("99")));
    }
}
