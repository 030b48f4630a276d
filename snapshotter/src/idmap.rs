//! Owners of a container in a user namespace: the labels that containerd sends to a snapshotter with
//! the capability `remap-ids`.
//!
//! The upper directory gets the owner that the container's root is mapped to, as with containerd's overlayfs
//! snapshotter. The lower directories are shown through idmapped clones: on ordinary layers alone containerd makes them,
//! told so by the mount options `uidmap=` and `gidmap=`; on lazy ones [`crate::clones`] does.
//! No file is changed, nothing of a lazy layer is read.

use crate::error::Error;
use crate::snapshot::Labels;

/// Mapping of user ids, `container:host:count` triples separated by commas.
pub(crate) const UID_LABEL: &str = "containerd.io/snapshot/uidmapping";
/// Mapping of group ids.
pub(crate) const GID_LABEL: &str = "containerd.io/snapshot/gidmapping";

/// The kernel's "no such id".
const INVALID_ID: u32 = u32::MAX;

/// Owner and group on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Returns the host ids of the container's root, or `None` if the labels map nothing.
///
/// # Errors
/// [`Error::InvalidArgument`] if a mapping is malformed or does not map 0.
pub(crate) fn mapped_root(labels: &Labels) -> Result<Option<Owner>, Error> {
    let (uids, gids) = (labels.get(UID_LABEL), labels.get(GID_LABEL));
    if uids.is_none() && gids.is_none() {
        return Ok(None);
    }
    Ok(Some(Owner {
        uid: host_of_root(uids.map_or("", String::as_str))?,
        gid: host_of_root(gids.map_or("", String::as_str))?,
    }))
}

/// Mappings as /proc/PID/uid_map and gid_map take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    pub(crate) uids: String,
    pub(crate) gids: String,
}

/// Returns the mappings, or `None` unless both users and groups are mapped: containerd maps no owners then.
///
/// # Errors
/// [`Error::InvalidArgument`] if one is malformed.
pub(crate) fn maps(labels: &Labels) -> Result<Option<Maps>, Error> {
    let (Some(uids), Some(gids)) = (labels.get(UID_LABEL), labels.get(GID_LABEL)) else {
        return Ok(None);
    };
    Ok(Some(Maps {
        uids: proc_map(uids)?,
        gids: proc_map(gids)?,
    }))
}

fn proc_map(mapping: &str) -> Result<String, Error> {
    let line = |triple: &str| {
        let (container, host, count) = parse(triple)?;
        Some(format!("{container} {host} {count}\n"))
    };
    let lines: Option<String> = mapping.split(',').map(line).collect();
    lines.ok_or_else(|| Error::invalid(format!("id mapping {mapping:?}")))
}

/// Returns the mount options that make containerd map the lower directories.
pub(crate) fn options(labels: &Labels) -> Vec<String> {
    let option = |name: &str, key| labels.get(key).map(|value| format!("{name}={value}"));
    [option("uidmap", UID_LABEL), option("gidmap", GID_LABEL)]
        .into_iter()
        .flatten()
        .collect()
}

/// An absent mapping maps every id to itself.
fn host_of_root(mapping: &str) -> Result<u32, Error> {
    if mapping.is_empty() {
        return Ok(0);
    }
    let mut host = None;
    for triple in mapping.split(',') {
        let (container, first, count) =
            parse(triple).ok_or_else(|| Error::invalid(format!("id mapping {triple:?}")))?;
        if container == 0 && count > 0 && host.is_none() {
            host = Some(first);
        }
    }
    host.ok_or_else(|| Error::invalid(format!("id mapping {mapping:?} does not map 0")))
}

fn parse(triple: &str) -> Option<(u32, u32, u32)> {
    let mut ids = triple
        .split(':')
        .map(|id| id.parse::<u32>().ok().filter(|id| *id != INVALID_ID));
    let parsed = (ids.next()??, ids.next()??, ids.next()??);
    ids.next().is_none().then_some(parsed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn labels(uid: Option<&str>, gid: Option<&str>) -> Labels {
        [(UID_LABEL, uid), (GID_LABEL, gid)]
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
            .collect()
    }

    #[test]
    fn root_is_mapped_as_containerd_maps_it() {
        let root = |uid, gid| mapped_root(&labels(uid, gid)).unwrap();
        assert_eq!(root(None, None), None);
        assert_eq!(
            root(Some("0:100000:65536"), Some("0:200000:65536")),
            Some(Owner {
                uid: 100_000,
                gid: 200_000
            })
        );
        // a single label: the other ids stay
        assert_eq!(root(Some("0:5:1"), None), Some(Owner { uid: 5, gid: 0 }));
        // several ranges, the one with 0 last
        assert_eq!(root(Some("1:7:3,0:9:1"), None), Some(Owner { uid: 9, gid: 0 }));
    }

    #[test]
    fn malformed_mappings_are_refused() {
        for bad in [
            "x",
            "0:1",
            "0:1:2:3",
            "0:-1:5",
            "0:4294967295:1",
            "1:0:10",
            "0:1:0",
            "0:1:1,",
        ] {
            let error = mapped_root(&labels(Some(bad), None)).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn maps_are_those_of_proc() {
        let both = maps(&labels(Some("0:100000:65536"), Some("0:5:1,1:7:3"))).unwrap();
        let expected = Maps {
            uids: "0 100000 65536\n".to_owned(),
            gids: "0 5 1\n1 7 3\n".to_owned(),
        };
        assert_eq!(both, Some(expected));
        assert_eq!(maps(&labels(Some("0:1:2"), None)).unwrap(), None);
        assert!(maps(&labels(Some("0:1:2"), Some("0:1"))).is_err());
    }

    #[test]
    fn options_pass_the_labels_on() {
        assert_eq!(options(&labels(None, None)), Vec::<String>::new());
        assert_eq!(
            options(&labels(Some("0:1:2"), Some("0:3:4"))),
            ["uidmap=0:1:2", "gidmap=0:3:4"]
        );
    }
}
