//! Which layers and packs this node has, by their numbers.
//!
//! One small text file, replaced as a whole on each change, so that a crash leaves the state before
//! or after it. Numbers only grow: a number that was given once never names anything else, which is
//! what makes mount points and FUSE node ids stable over restarts.
//!
//! ```text
//! lacewing-catalogue 1
//! checker 1
//! next 4 6
//! pack 1 <blob digest, hex> <blocks>
//! layer 3 <index digest, hex> <plain length> 1,5
//! sum <BLAKE3 of all lines above, hex>
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use lacewing_format::Digest;

use crate::error::{Error, IoContext, Result};
use crate::store::atomic::replace_file;
use crate::store::pack::PackNumber;

const FIRST_LINE: &str = "lacewing-catalogue 1";

/// Version of the checks that an index passed before it was listed. When checks are added, this
/// number grows, and indexes listed under an older one are checked again before they are mounted.
const CHECKER: u32 = 1;

/// A pack as the catalogue knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackEntry {
    /// Digest of the data blob.
    pub(crate) blob: Digest,
    /// Blocks of its plain address space.
    pub(crate) blocks: u32,
}

/// A layer as the catalogue knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerEntry {
    /// Digest of the stored index.
    pub(crate) index: Digest,
    /// Length of the plain index in bytes.
    pub(crate) plain_len: u64,
    /// The pack of each device.
    pub(crate) packs: Vec<PackNumber>,
}

/// The catalogue, in memory and on disk.
#[derive(Clone, Debug)]
pub(crate) struct Catalogue {
    path: PathBuf,
    next_layer: u64,
    next_pack: PackNumber,
    packs: BTreeMap<PackNumber, PackEntry>,
    layers: BTreeMap<u64, LayerEntry>,
    /// Whether the indexes were checked by the checks of this release.
    checked: bool,
}

impl Catalogue {
    /// Loads a catalogue; one that is not there is empty.
    pub(crate) fn load(path: &Path) -> Result<Catalogue> {
        let mut catalogue = Catalogue {
            path: path.to_owned(),
            next_layer: 1,
            next_pack: 1,
            packs: BTreeMap::new(),
            layers: BTreeMap::new(),
            checked: true,
        };
        match std::fs::read_to_string(path) {
            Ok(text) => catalogue.parse(&text).map_err(|reason| Error::Store {
                path: path.to_owned(),
                reason,
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("read", path),
        }
        Ok(catalogue)
    }

    fn parse(&mut self, text: &str) -> Result<(), String> {
        let (body, sum) = text
            .trim_end()
            .rsplit_once("\nsum ")
            .ok_or("it ends before its checksum")?;
        let body = format!("{body}\n");
        if blake3::hash(body.as_bytes()).to_hex().as_str() != sum {
            return Err("its checksum does not match".into());
        }
        let mut lines = body.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err("it was written by a release this one does not understand".into());
        }
        for line in lines {
            self.parse_line(line)
                .ok_or_else(|| format!("line {line:?} is not understood"))?;
        }
        Ok(())
    }

    fn parse_line(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["checker", version] => self.checked = version.parse::<u32>().ok()? == CHECKER,
            ["next", layer, pack] => {
                self.next_layer = layer.parse().ok()?;
                self.next_pack = pack.parse().ok()?;
            }
            ["pack", number, blob, blocks] => {
                let entry = PackEntry {
                    blob: digest(blob)?,
                    blocks: blocks.parse().ok()?,
                };
                self.packs.insert(number.parse().ok()?, entry);
            }
            ["layer", number, index, plain_len, packs] => {
                let packs = packs.split(',').filter(|word| !word.is_empty());
                let entry = LayerEntry {
                    index: digest(index)?,
                    plain_len: plain_len.parse().ok()?,
                    packs: packs.map(|word| word.parse().ok()).collect::<Option<_>>()?,
                };
                if !entry.packs.iter().all(|pack| self.packs.contains_key(pack)) {
                    return None;
                }
                self.layers.insert(number.parse().ok()?, entry);
            }
            _ => return None,
        }
        Some(())
    }

    fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nchecker {CHECKER}\n");
        let _ = writeln!(text, "next {} {}", self.next_layer, self.next_pack);
        for (number, pack) in &self.packs {
            let _ = writeln!(text, "pack {number} {} {}", pack.blob.hex(), pack.blocks);
        }
        for (number, layer) in &self.layers {
            let packs: Vec<String> = layer.packs.iter().map(ToString::to_string).collect();
            let (index, packs) = (layer.index.hex(), packs.join(","));
            let _ = writeln!(text, "layer {number} {index} {} {packs}", layer.plain_len);
        }
        let sum = blake3::hash(text.as_bytes()).to_hex();
        let _ = writeln!(text, "sum {sum}");
        text
    }

    /// Puts the catalogue to disk. Indexes that are listed count as checked from now on.
    pub(crate) fn save(&mut self) -> Result<()> {
        replace_file(&self.path, self.text().as_bytes())?;
        self.checked = true;
        Ok(())
    }

    /// Whether the indexes were checked by the checks of this release.
    pub(crate) fn checked(&self) -> bool {
        self.checked
    }

    /// All layers.
    pub(crate) fn layers(&self) -> &BTreeMap<u64, LayerEntry> {
        &self.layers
    }

    /// All packs.
    pub(crate) fn packs(&self) -> &BTreeMap<PackNumber, PackEntry> {
        &self.packs
    }

    /// Gives a pack its number. Nothing is on disk before [`Catalogue::save`].
    pub(crate) fn add_pack(&mut self, entry: PackEntry) -> Option<PackNumber> {
        let number = self.next_pack;
        self.next_pack = number.checked_add(1)?;
        self.packs.insert(number, entry);
        Some(number)
    }

    /// Gives a layer its number. Nothing is on disk before [`Catalogue::save`].
    pub(crate) fn add_layer(&mut self, entry: LayerEntry) -> u64 {
        let number = self.next_layer;
        self.next_layer += 1;
        self.layers.insert(number, entry);
        number
    }

    /// Takes a layer out, and the packs that no other layer names; returns these.
    pub(crate) fn remove_layer(&mut self, number: u64) -> Vec<PackNumber> {
        let Some(layer) = self.layers.remove(&number) else {
            return Vec::new();
        };
        let named = |pack: &PackNumber| self.layers.values().any(|other| other.packs.contains(pack));
        let mut orphans: Vec<PackNumber> = layer.packs.into_iter().filter(|pack| !named(pack)).collect();
        orphans.sort_unstable();
        orphans.dedup();
        for pack in &orphans {
            self.packs.remove(pack);
        }
        orphans
    }
}

/// Reads a catalogue's text and writes it again, for fuzzing.
#[cfg(feature = "fuzzing")]
pub(crate) fn reread(text: &str) -> Option<String> {
    let mut catalogue = Catalogue::load(Path::new("/nonexistent")).ok()?;
    catalogue.parse(text).ok()?;
    Some(catalogue.text())
}

fn digest(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(path: &Path) -> Catalogue {
        let mut catalogue = Catalogue::load(path).unwrap();
        let a = catalogue
            .add_pack(PackEntry {
                blob: Digest([1; 32]),
                blocks: 10,
            })
            .unwrap();
        let b = catalogue
            .add_pack(PackEntry {
                blob: Digest([2; 32]),
                blocks: 20,
            })
            .unwrap();
        let layer = |n: u8, packs| LayerEntry {
            index: Digest([n; 32]),
            plain_len: 4096,
            packs,
        };
        catalogue.add_layer(layer(3, vec![a, b]));
        catalogue.add_layer(layer(4, vec![b]));
        catalogue.add_layer(layer(5, vec![]));
        catalogue.save().unwrap();
        catalogue
    }

    #[test]
    fn survives_a_restart_and_never_gives_a_number_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalogue");
        let before = sample(&path);
        let mut after = Catalogue::load(&path).unwrap();
        assert_eq!(after.layers(), before.layers());
        assert_eq!(after.packs(), before.packs());
        assert_eq!(after.remove_layer(1), [1]);
        assert_eq!(after.remove_layer(2), [2]);
        assert!(after.remove_layer(2).is_empty());
        after.save().unwrap();
        let mut later = Catalogue::load(&path).unwrap();
        let entry = PackEntry {
            blob: Digest([1; 32]),
            blocks: 10,
        };
        assert_eq!(later.add_pack(entry), Some(3));
        let layer = LayerEntry {
            index: Digest([3; 32]),
            plain_len: 1,
            packs: vec![3],
        };
        assert_eq!(later.add_layer(layer), 4);
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalogue");
        sample(&path);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert!(Catalogue::load(&path).is_err(), "byte {at}");
        }
        for len in 1..good.len() - 1 {
            std::fs::write(&path, &good[..len]).unwrap();
            assert!(Catalogue::load(&path).is_err(), "length {len}");
        }
    }

    #[test]
    fn a_later_releases_catalogue_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalogue");
        sample(&path);
        let text = std::fs::read_to_string(&path).unwrap();
        let (body, _) = text.trim_end().rsplit_once("\nsum ").unwrap();
        let later = format!(
            "{}\n",
            body.replacen("lacewing-catalogue 1", "lacewing-catalogue 2", 1)
        );
        let sum = blake3::hash(later.as_bytes()).to_hex();
        let later = format!("{later}sum {sum}\n");
        std::fs::write(&path, &later).unwrap();
        let error = Catalogue::load(&path).unwrap_err().to_string();
        assert!(
            error.contains("a release this one does not understand"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), later);
    }

    #[test]
    fn an_older_checker_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalogue");
        let mut catalogue = sample(&path);
        let old = catalogue.text().replace("checker 1", "checker 0");
        let body = old.rsplit_once("sum ").unwrap().0;
        let text = format!("{body}sum {}\n", blake3::hash(body.as_bytes()).to_hex());
        std::fs::write(&path, text).unwrap();
        catalogue = Catalogue::load(&path).unwrap();
        assert!(!catalogue.checked());
    }
}
