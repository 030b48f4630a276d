//! What the probe found, remembered for as long as the kernel runs.
//!
//! A probe costs some milliseconds at every start: a third of what `lacewing mount` takes, and of what a reader waits
//! for the successor of a worker that died. The same kernel does not lose features, so a probe that found all of them
//! is not made again in the same boot. One that missed some is: a module may have been loaded since.

use std::path::Path;

use tokio::runtime::Handle;

use crate::options::{Feature, Features};
use crate::probe::{in_user_namespace, probe};
use crate::store::pack::BootId;

/// Finds out what the kernel does for the store at `root`; see [`probe`]. The result also depends on the store's file
/// system, so the note lies there.
pub(crate) fn features(root: &Path, boot: BootId, deny: &[Feature], runtime: &Handle) -> Features {
    let note = root.join("probed");
    // Without full rights over the kernel, another process's findings say nothing.
    let ours = deny.is_empty() && !in_user_namespace();
    if ours && std::fs::read(&note).is_ok_and(|noted| noted == mark(boot)) {
        return ALL;
    }
    let found = probe(&root.join("probe"), deny, runtime);
    if ours && found == ALL {
        // Without the note the probe is made again, no more.
        let _ = std::fs::write(&note, mark(boot));
    }
    found
}

/// All features there are.
const ALL: Features = Features {
    erofs_file: Some(Ok(())),
    directio: true,
    resend: true,
    readdirplus: true,
    no_opendir: true,
    idmap: true,
};

/// Names the boot and the release whose probe found all features: another release may look for more.
fn mark(boot: BootId) -> Vec<u8> {
    [env!("CARGO_PKG_VERSION").as_bytes(), b" ", &boot.0].concat()
}
