//! Names of the directories on which layers are shown.

use std::fmt;

use crate::report::LayerId;

/// One of the places where a layer is shown: `7`, `7c` if its bytes are in plain files, `7.1` and `7c.1` for the next
/// copy of the same. overlayfs refuses one file system twice in a stack, and images hold the same layer twice; a copy is
/// a mount of its own, that is, another file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MountPoint {
    /// The layer.
    pub(crate) layer: LayerId,
    /// Which of equal mounts, from 0.
    pub(crate) copy: u32,
    /// Whether its devices are plain files.
    pub(crate) direct: bool,
}

impl MountPoint {
    /// Reads a name; nothing if it is not one that this type writes.
    pub(crate) fn parse(name: &str) -> Option<MountPoint> {
        let (before, copy) = match name.split_once('.') {
            Some((before, copy)) => (before, copy.parse().ok()?),
            None => (name, 0),
        };
        let (layer, direct) = match before.strip_suffix('c') {
            Some(layer) => (layer, true),
            None => (before, false),
        };
        let point = MountPoint {
            layer: LayerId(layer.parse().ok()?),
            copy,
            direct,
        };
        (point.to_string() == name).then_some(point)
    }
}

impl fmt::Display for MountPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.layer, if self.direct { "c" } else { "" })?;
        match self.copy {
            0 => Ok(()),
            copy => write!(f, ".{copy}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (name, layer, copy, direct) in [
            ("7", 7, 0, false),
            ("7c", 7, 0, true),
            ("12.1", 12, 1, false),
            ("12c.34", 12, 34, true),
        ] {
            let point = MountPoint {
                layer: LayerId(layer),
                copy,
                direct,
            };
            assert_eq!(point.to_string(), name);
            assert_eq!(MountPoint::parse(name), Some(point));
        }
        for name in [
            "", "c", ".1", "7.", "7.0", "7.c", "7cc", "07", "+7", "7.01", "7 ", "x",
        ] {
            assert_eq!(MountPoint::parse(name), None, "{name}");
        }
    }
}
