//! Generates the gRPC types from `proto/`, with a protobuf compiler written in Rust: nothing to install.

use std::error::Error;

/// Every file that holds a service; what they import comes along.
const FILES: [&str; 5] = [
    "containerd/services/snapshots/v1/snapshots.proto",
    "containerd/services/content/v1/content.proto",
    "containerd/services/images/v1/images.proto",
    "runtime/v1/images.proto",
    "lacewing/v1/control.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        // Status is printed as JSON: serialisable, and with its maps in order.
        .type_attribute("lacewing.v1", "#[derive(serde::Serialize)]")
        .btree_map("lacewing.v1")
        // It holds secrets.
        .skip_debug(["runtime.v1.AuthConfig", "runtime.v1.PullImageRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
