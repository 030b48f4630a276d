//! The library alone: a snapshotter with no lazy layers, as good as containerd's overlayfs snapshotter.
//!
//! `serve --root DIR --address SOCK`, then in containerd's configuration a proxy plugin of type `snapshot` at SOCK.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lacewing_snapshotter::{
    LayerRequest, Layers, MountError, Offer, Options, ShownLayer, Snapshotter, Usage,
};
use tokio::net::UnixListener;

/// Nothing is ever lazy.
struct NoLayers;

#[tonic::async_trait]
impl Layers for NoLayers {
    async fn offer(&self, _: &LayerRequest) -> Offer {
        Offer::Ordinary {
            reason: "this snapshotter has no lazy layers".to_owned(),
        }
    }

    fn show(&self, layer: u64, _copy: u32) -> Result<ShownLayer, MountError> {
        Err(MountError {
            layer,
            reason: "no such layer".to_owned(),
        })
    }

    fn show_as(&self, layer: u64, _copy: u32, _direct: bool) -> Result<PathBuf, MountError> {
        Err(MountError {
            layer,
            reason: "no such layer".to_owned(),
        })
    }

    async fn release(&self, _layer: u64) {}

    fn usage(&self, _layer: u64) -> Usage {
        Usage::default()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [_, root, _, address] = arguments.as_slice() else {
        return Err("usage: serve --root DIR --address SOCK".into());
    };
    let snapshotter = Snapshotter::open(Path::new(root), Arc::new(NoLayers), Options::default())?;
    snapshotter.restore().await?;
    if Path::new(address).exists() {
        std::fs::remove_file(address)?;
    }
    let socket = lacewing_snapshotter::connections(UnixListener::bind(address)?);
    tonic::transport::Server::builder()
        .add_service(lacewing_snapshotter::service(snapshotter))
        .serve_with_incoming(socket)
        .await?;
    Ok(())
}
