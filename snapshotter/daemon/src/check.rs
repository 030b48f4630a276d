//! `lacewing check`: the converter's proof, as an exit status and a list.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::output::{print, print_json, short};
use crate::{Outcome, convert, registry};

#[derive(Debug, Serialize)]
struct Answer {
    reference: String,
    equal: bool,
    differences: Vec<lacewing_converter::Difference>,
}

/// Checks and lists.
///
/// # Errors
/// What cannot be read at all.
pub(crate) fn run(args: &CheckArgs) -> Result<Outcome> {
    let reference = convert::reference(&args.reference)?;
    crate::limits::raise_open_files();
    let client = registry::command_client(&args.registry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let differences = runtime.block_on(lacewing_converter::check(&client, &reference))?;
    let equal = differences.is_empty();
    if args.json {
        print_json(&Answer {
            reference: args.reference.clone(),
            equal,
            differences,
        })?;
    } else if equal {
        print(&format!("{}: equal to its original layers\n", args.reference))?;
    } else {
        let lines = differences
            .iter()
            .map(|d| format!("{} {}: {}\n", short(&d.layer), d.path, d.what));
        print(&lines.collect::<String>())?;
        eprintln!("{}: {} differences", args.reference, differences.len());
    }
    Ok(if equal { Outcome::Done } else { Outcome::Differs })
}
