//! `lacewing inspect`: what a converted image or an index file consists of.

use anyhow::{Context, Result};

use crate::cli::InspectArgs;
use crate::output::print_json;
use crate::{convert, registry};

/// Shows and, if asked, exports.
///
/// # Errors
/// The converter's.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let reference = convert::reference(&args.reference)?;
    crate::limits::raise_open_files();
    let client = registry::command_client(&args.registry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    if let Some(dir) = &args.export {
        std::fs::create_dir_all(dir).with_context(|| format!("making directory {}", dir.display()))?;
        runtime.block_on(lacewing_converter::export(&client, &reference, dir))?;
    }
    let inspection = runtime.block_on(lacewing_converter::inspect(&client, &reference))?;
    print_json(&inspection)
}
