//! What the rooms know, in the words of status.

use std::collections::HashMap;

use lacewing_fusefs::{Counters, Features, Way};
use lacewing_rpc::control::{Broken, Feature};
use lacewing_snapshotter::MountError;

/// What was found out about this kernel; `never`: why no layer can be lazy here.
pub(super) fn features(found: &Features, way: Way, never: Option<&str>) -> Vec<Feature> {
    let feature = |name: &str, used: bool, detail: &str| Feature {
        name: name.to_owned(),
        used,
        detail: detail.to_owned(),
    };
    let erofs = match &found.erofs_file {
        Some(Ok(())) => feature("file-backed-erofs", true, "the kernel mounts indexes as they are"),
        Some(Err(reason)) => feature("file-backed-erofs", false, reason),
        None => feature("file-backed-erofs", false, "not tried"),
    };
    vec![
        feature(
            "lazy",
            never.is_none(),
            never.unwrap_or("layers of converted images are lazy"),
        ),
        match (way, &found.erofs_file) {
            (Way::Fuse, Some(Err(lacking))) => feature(
                "trees-by-kernel",
                false,
                &format!("this process shows layers, over FUSE; for the kernel's EROFS: {lacking}"),
            ),
            (Way::Fuse, _) => feature(
                "trees-by-kernel",
                false,
                "this process shows layers, over FUSE, as the configuration says",
            ),
            _ => feature(
                "trees-by-kernel",
                true,
                "the kernel shows layers, by EROFS mounts",
            ),
        },
        erofs,
        match found.directio {
            true => feature(
                "directio",
                true,
                "one copy of the bytes in memory, charged to the reader",
            ),
            false => feature(
                "directio",
                false,
                "the kernel lacks the mount option; reads are cached twice",
            ),
        },
        match found.resend {
            true => feature("resend", true, "requests in flight survive the worker"),
            false => feature(
                "resend",
                false,
                "the kernel cannot send requests again; a dying worker may fail reads",
            ),
        },
        match found.idmap {
            true => feature(
                "fuse-idmap",
                way == Way::Fuse,
                "trees over FUSE can be shown to user namespaces",
            ),
            false => feature(
                "fuse-idmap",
                false,
                "trees over FUSE cannot be shown to containers with user namespaces of their own (Linux 6.12)",
            ),
        },
    ]
}

/// A layer that could not be shown again.
pub(super) fn broken((snapshot, error): &(String, MountError)) -> Broken {
    Broken {
        snapshot: snapshot.clone(),
        number: error.layer,
        reason: error.reason.clone(),
    }
}

/// The totals under their names in status.
pub(crate) fn counters(counted: &Counters) -> HashMap<String, u64> {
    [
        ("reads", counted.reads),
        ("read_bytes", counted.read_bytes),
        ("misses", counted.misses),
        ("read_errors", counted.read_errors),
        ("resent", counted.resent),
        ("source_bytes", counted.source_bytes),
        ("source_reads", counted.source_reads),
        ("decoded_bytes", counted.decoded_bytes),
        ("dedup_bytes", counted.dedup_bytes),
        ("corrupt", counted.corrupt),
        ("unstored", counted.unstored),
        ("evicted_bytes", counted.evicted_bytes),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count))
    .collect()
}
