//! What the probe of the kernel found is believed for one boot.

use lacewing_fusefs::{Feature, Options};

use crate::image::mixed;
use crate::node::{node, quiet_auto, verify};

#[test]
fn a_kernel_that_can_do_everything_is_probed_once_per_boot() {
    let Some(mut node) = node(quiet_auto) else { return };
    let note = node.root.path().join("probed");
    let Ok(noted) = std::fs::read(&note) else {
        eprintln!(
            "skipped: this kernel lacks a feature: {:?}",
            node.engine().features()
        );
        return;
    };
    let all = node.engine().features().clone();
    let layer = mixed(12, 20, 1);
    let path = node.show(&layer);
    // From now on every probe fails.
    std::fs::write(node.root.path().join("probe"), "no directory").unwrap();
    node.stop();
    node.start(quiet_auto);
    assert_eq!(*node.engine().features(), all);
    verify(&path, &layer);
    let denied = |options: &mut Options| {
        quiet_auto(options);
        options.deny = vec![Feature::NoOpendir];
    };
    node.stop();
    node.start(denied);
    assert!(
        matches!(node.engine().features().erofs_file, Some(Err(_))),
        "not asked"
    );
    node.stop();
    std::fs::write(&note, [&noted[..noted.len() - 1], b"?"].concat()).unwrap();
    node.start(quiet_auto);
    assert!(
        matches!(node.engine().features().erofs_file, Some(Err(_))),
        "another boot"
    );
}
