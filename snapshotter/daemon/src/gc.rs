//! `lacewing gc`: removes what nothing refers to.

use anyhow::Result;
use lacewing_rpc::control::CollectRequest;
use lacewing_rpc::control::control_client::ControlClient;

use crate::adapters::content::connect;
use crate::cli::GcArgs;
use crate::output::{bytes, print, refusal};

/// Asks the daemon and tells what went.
///
/// # Errors
/// Nobody answers at the address.
pub(crate) fn run(args: &GcArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(async {
        let mut client = ControlClient::new(connect(&args.address));
        client.collect(CollectRequest {}).await
    });
    let answer = answer
        .map_err(|status| refusal(&args.address, &status))?
        .into_inner();
    print(&format!("{} layers, {}\n", answer.layers, bytes(answer.bytes)))
}
