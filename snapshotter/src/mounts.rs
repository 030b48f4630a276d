//! Which mounts make a snapshot a directory. Pure: paths in, mount calls out.
//!
//! The same as containerd's overlayfs snapshotter gives (snapshots/overlay/overlay.go of 1.6), except that a
//! lower directory may be a lazy layer's mount. containerd, not this crate, carries the mounts out; when
//! the options pass the page that mount(2) takes, it changes into the common directory of the lower ones,
//! so all of them lie under one short root.

use std::path::{Path, PathBuf};

use crate::idmap;
use crate::snapshot::{Kind, Labels};

/// One mount(2) as containerd describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The file system's type.
    pub(crate) kind: &'static str,
    /// What is mounted.
    pub(crate) source: String,
    /// fstab-style options.
    pub(crate) options: Vec<String>,
}

/// What the kernel wants of every overlay mount here, found once at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OverlayOptions {
    /// `index=off`: the kernel knows the option, and an index would refuse upper directories that were
    /// used with other lower ones.
    pub(crate) index_off: bool,
    /// `userxattr`: running in a user namespace.
    pub(crate) userxattr: bool,
}

/// A snapshot's own directories and those below it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) kind: Kind,
    pub(crate) upper: &'a Path,
    pub(crate) work: &'a Path,
    /// Top first, each once: the kernel refuses an overlay with the same lower directory twice.
    pub(crate) lowers: &'a [PathBuf],
    pub(crate) labels: &'a Labels,
    /// The lower directories show mapped owners already.
    pub(crate) mapped: bool,
}

/// Returns the mounts of an active or view snapshot.
pub(crate) fn mounts(place: &Place<'_>, overlay: OverlayOptions) -> Vec<Mount> {
    let read_only = place.kind != Kind::Active;
    match place.lowers {
        [] => vec![bind(place.upper, read_only, place)],
        [only] if read_only => vec![bind(only, true, place)],
        lowers => vec![united(place, lowers, overlay)],
    }
}

/// What makes containerd map owners, unless that is done.
fn mapping(place: &Place<'_>) -> Vec<String> {
    if place.mapped {
        return Vec::new();
    }
    idmap::options(place.labels)
}

fn bind(source: &Path, read_only: bool, place: &Place<'_>) -> Mount {
    let mut options = mapping(place);
    options.push(if read_only { "ro" } else { "rw" }.to_owned());
    options.push("rbind".to_owned());
    Mount {
        kind: "bind",
        source: text(source),
        options,
    }
}

fn united(place: &Place<'_>, lowers: &[PathBuf], overlay: OverlayOptions) -> Mount {
    let mut options = mapping(place);
    if overlay.index_off {
        options.push("index=off".to_owned());
    }
    if overlay.userxattr {
        options.push("userxattr".to_owned());
    }
    if place.kind == Kind::Active {
        options.push(format!("workdir={}", text(place.work)));
        options.push(format!("upperdir={}", text(place.upper)));
    }
    let lowers: Vec<String> = lowers.iter().map(|lower| text(lower)).collect();
    options.push(format!("lowerdir={}", lowers.join(":")));
    Mount {
        kind: "overlay",
        source: "overlay".to_owned(),
        options,
    }
}

/// Paths lie under the root, which was checked to be text when the snapshotter was opened.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAY: OverlayOptions = OverlayOptions {
        index_off: true,
        userxattr: false,
    };

    fn made(kind: Kind, lowers: &[&str], overlay: OverlayOptions, labels: &[(&str, &str)]) -> Vec<Mount> {
        let lowers: Vec<PathBuf> = lowers.iter().map(PathBuf::from).collect();
        let labels: Labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let place = Place {
            kind,
            upper: Path::new("/r/snapshots/9/fs"),
            work: Path::new("/r/snapshots/9/work"),
            lowers: &lowers,
            labels: &labels,
            mapped: false,
        };
        mounts(&place, overlay)
    }

    fn mount(kind: &'static str, source: &str, options: &[&str]) -> Vec<Mount> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        vec![Mount {
            kind,
            source: source.to_owned(),
            options,
        }]
    }

    /// The expectations of containerd's own tests (snapshots/overlay/overlay_test.go): `testOverlayMounts`,
    /// `testOverlayOverlayMount`, `testOverlayView`.
    #[test]
    fn as_containerds_overlay() {
        let own = "/r/snapshots/9/fs";
        let (one, two) = ("/r/snapshots/1/fs", "/r/snapshots/2/fs");
        let both = "lowerdir=/r/snapshots/2/fs:/r/snapshots/1/fs";
        let upper = ["workdir=/r/snapshots/9/work", "upperdir=/r/snapshots/9/fs"];
        let rows = [
            (
                "active, alone",
                Kind::Active,
                vec![],
                mount("bind", own, &["rw", "rbind"]),
            ),
            (
                "view, alone",
                Kind::View,
                vec![],
                mount("bind", own, &["ro", "rbind"]),
            ),
            (
                "view of one",
                Kind::View,
                vec![one],
                mount("bind", one, &["ro", "rbind"]),
            ),
            (
                "active on one",
                Kind::Active,
                vec![one],
                mount(
                    "overlay",
                    "overlay",
                    &["index=off", upper[0], upper[1], "lowerdir=/r/snapshots/1/fs"],
                ),
            ),
            (
                "active on two",
                Kind::Active,
                vec![two, one],
                mount("overlay", "overlay", &["index=off", upper[0], upper[1], both]),
            ),
            (
                "view of two",
                Kind::View,
                vec![two, one],
                mount("overlay", "overlay", &["index=off", both]),
            ),
        ];
        for (name, kind, lowers, expected) in rows {
            assert_eq!(made(kind, &lowers, OVERLAY, &[]), expected, "{name}");
        }
    }

    #[test]
    fn options_follow_the_kernel() {
        let overlay = OverlayOptions {
            index_off: false,
            userxattr: true,
        };
        let lowers = ["/r/l/2", "/r/l/1c"];
        assert_eq!(
            made(Kind::View, &lowers, overlay, &[]),
            mount("overlay", "overlay", &["userxattr", "lowerdir=/r/l/2:/r/l/1c"])
        );
    }

    #[test]
    fn lowers_that_are_mapped_are_not_mapped_again() {
        let labels: Labels = [(idmap::UID_LABEL, "0:7:1"), (idmap::GID_LABEL, "0:8:1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let lowers = [PathBuf::from("/r/m/9/0")];
        let place = |kind| Place {
            kind,
            upper: Path::new("/r/snapshots/9/fs"),
            work: Path::new("/r/snapshots/9/work"),
            lowers: &lowers,
            labels: &labels,
            mapped: true,
        };
        for kind in [Kind::Active, Kind::View] {
            let mounts = mounts(&place(kind), OVERLAY);
            assert!(!mounts[0].options.iter().any(|option| option.contains("idmap")));
        }
    }

    #[test]
    fn mappings_come_first_on_every_kind_of_mount() {
        let labels = [(idmap::UID_LABEL, "0:7:1"), (idmap::GID_LABEL, "0:8:1")];
        for (kind, lowers) in [
            (Kind::Active, vec![]),
            (Kind::View, vec!["/r/l/1"]),
            (Kind::Active, vec!["/r/l/1"]),
        ] {
            let made = made(kind, &lowers, OVERLAY, &labels);
            assert_eq!(made[0].options[..2], ["uidmap=0:7:1", "gidmap=0:8:1"]);
        }
    }
}
