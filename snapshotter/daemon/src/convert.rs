//! `lacewing convert`: options to the converter, its report to people or machines.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use lacewing_converter::limits::MAX_RECORD;
use lacewing_converter::{ConvertOptions, Record, Report};
use lacewing_oci::Reference;

use crate::cli::ConvertArgs;
use crate::output::{bytes, percent, print, print_json, short, table};
use crate::{WrongUse, progress, registry};

/// Converts and reports.
///
/// # Errors
/// The converter's; [`WrongUse`] for references that are none.
pub(crate) fn run(args: &ConvertArgs) -> Result<()> {
    let (src, dst) = (reference(&args.src)?, reference(&args.dst)?);
    let options = options(args)?;
    crate::limits::raise_open_files();
    let client = registry::command_client(&args.registry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let progress = progress::progress(args.json);
    let report = runtime.block_on(async {
        tokio::select! {
            report = lacewing_converter::convert(&client, &src, &dst, &options, progress) => report.map_err(Into::into),
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; nothing appears under {dst}")),
        }
    });
    // Threads that read or compress have nothing left to do for anybody.
    runtime.shutdown_background();
    let report = report?;
    if args.json {
        return print_json(&report);
    }
    print(&text(&report))
}

/// Reads a reference.
///
/// # Errors
/// [`WrongUse`].
pub(crate) fn reference(text: &str) -> Result<Reference> {
    text.parse()
        .map_err(|error: lacewing_oci::Error| WrongUse(error.to_string()).into())
}

fn options(args: &ConvertArgs) -> Result<ConvertOptions> {
    let mut options = ConvertOptions::default();
    options.chunk_size = args.chunk_size.unwrap_or(options.chunk_size);
    options.level = args.level.unwrap_or(options.level);
    options.dedup_against = args
        .dedup_against
        .iter()
        .map(|text| reference(text))
        .collect::<Result<_>>()?;
    options.auto_dedup = !args.no_dedup;
    options.record = args.record.as_deref().map(read_record).transpose()?;
    options.native = args.native;
    options.dry_run = args.dry_run;
    options.jobs = args.jobs.map_or(0, usize::from);
    let all = args.platforms.iter().any(|platform| platform == "all");
    options.platforms = if all { Vec::new() } else { args.platforms.clone() };
    Ok(options)
}

/// Reads the file of `--record`, at most as much as a record may have.
fn read_record(file: &Path) -> Result<Arc<Record>> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|opened| opened.take(MAX_RECORD + 1).read_to_end(&mut bytes));
    read.map_err(|error| WrongUse(format!("{}: {error}", file.display())))?;
    let record = Record::parse(&bytes).with_context(|| file.display().to_string())?;
    Ok(Arc::new(record))
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for image in &report.images {
        let rows: Vec<Vec<String>> = image.layers.iter().map(row).collect();
        text.push_str(&format!("image {}  {}\n", image.platform, image.manifest));
        text.push_str(&table(
            &["LAYER", "STORED", "PLAIN", "FILES", "NEW BLOB", "INDEX", "SHARED"],
            &rows,
        ));
        text.push('\n');
    }
    let new = report.blob_len.saturating_add(report.index_len);
    text.push_str(&format!(
        "{} of layers; blobs and indexes {} ({} of them)\n",
        bytes(report.layer_len),
        bytes(new),
        percent(new, report.layer_len)
    ));
    if report.record_files > 0 {
        text.push_str(&format!(
            "{} that the record names come first; {} of its {} files are in the image\n",
            bytes(report.recorded_len),
            report.record_files_found,
            report.record_files
        ));
    }
    text.push_str(&format!(
        "{} plain in {:.1} s, {:.1} s of CPU\n",
        bytes(report.plain_len),
        report.wall_seconds,
        report.cpu_seconds
    ));
    match report.dry_run {
        true => text.push_str("dry run: nothing was written\n"),
        false => text.push_str(&format!("{}  {}\n", report.target, report.digest)),
    }
    text
}

fn row(layer: &lacewing_converter::LayerReport) -> Vec<String> {
    vec![
        short(&layer.layer),
        bytes(layer.layer_len),
        bytes(layer.plain_len),
        layer.inodes.to_string(),
        bytes(layer.blob_len),
        bytes(layer.index_len),
        bytes(layer.dedup_len.saturating_add(layer.dedup_earlier_len)),
    ]
}
