//! `lacewing inspect`: what a converted image or an index file consists of.

use std::path::Path;

use anyhow::{Context, Result};
use lacewing_converter::{BlobInspection, ImageInspection, Inspection, LayerInspection};

use crate::cli::InspectArgs;
use crate::output::{bytes, percent, print, print_json, short, table};
use crate::{WrongUse, convert, registry};

/// Shows and, if asked, exports.
///
/// # Errors
/// The converter's.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    crate::limits::raise_open_files();
    let inspection = match Path::new(&args.reference) {
        file if file.is_file() => of_file(file, args)?,
        _ => of_image(args)?,
    };
    if args.json {
        return print_json(&inspection);
    }
    print(&text(&inspection))
}

fn of_file(file: &Path, args: &InspectArgs) -> Result<Inspection> {
    if args.export.is_some() {
        return Err(WrongUse("--export needs an image: an index alone has no data".to_owned()).into());
    }
    Ok(lacewing_converter::inspect_file(file)?)
}

fn of_image(args: &InspectArgs) -> Result<Inspection> {
    let reference = convert::reference(&args.reference)?;
    let client = registry::command_client(&args.registry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    if let Some(dir) = &args.export {
        std::fs::create_dir_all(dir).with_context(|| format!("making directory {}", dir.display()))?;
        runtime.block_on(lacewing_converter::export(&client, &reference, dir))?;
    }
    Ok(runtime.block_on(lacewing_converter::inspect(&client, &reference))?)
}

fn text(inspection: &Inspection) -> String {
    let images = inspection.images.iter().map(image_text);
    format!(
        "{}\n\n{}",
        inspection.reference,
        images.collect::<Vec<_>>().join("\n")
    )
}

fn image_text(image: &ImageInspection) -> String {
    let layers: Vec<_> = image.layers.iter().map(layer_row).collect();
    let blobs: Vec<_> = image.blobs.iter().map(blob_row).collect();
    let head = [
        "LAYER",
        "STORED",
        "INDEX",
        "PLAIN INDEX",
        "DIRS",
        "FILES",
        "LINKS",
        "OTHER",
        "BYTES",
        "START-UP",
        "BLOBS",
    ];
    let mut text = String::new();
    if !image.manifest.is_empty() {
        text.push_str(&format!("image {}  {}\n", image.platform, image.manifest));
    }
    text.push_str(&table(&head, &layers));
    if !blobs.is_empty() {
        text.push('\n');
        text.push_str(&table(
            &["BLOB", "STORED", "NEEDED", "PLAIN NEEDED", "FRAMES", "CHUNKS"],
            &blobs,
        ));
    }
    text.push_str(&format!(
        "\n{} in files, {} of it distinct ({}); stored in {} ({}), indexes {}\n",
        bytes(image.file_bytes),
        bytes(image.distinct_bytes),
        percent(image.distinct_bytes, image.file_bytes),
        bytes(image.stored_bytes),
        percent(image.stored_bytes, image.distinct_bytes),
        bytes(image.index_bytes),
    ));
    text
}

fn layer_row(layer: &LayerInspection) -> Vec<String> {
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let blobs: Vec<String> = layer.blobs.iter().map(|blob| short(blob)).collect();
    vec![
        dash(short(&layer.layer)),
        bytes(layer.layer_len),
        bytes(layer.index_len),
        bytes(layer.index_plain_len),
        layer.directories.to_string(),
        layer.files.to_string(),
        layer.symlinks.to_string(),
        layer.specials.to_string(),
        bytes(layer.file_bytes),
        bytes(layer.prefetch_bytes),
        dash(blobs.join(" ")),
    ]
}

fn blob_row(blob: &BlobInspection) -> Vec<String> {
    vec![
        short(&blob.blob),
        bytes(blob.stored_len),
        bytes(blob.needed_stored),
        bytes(blob.needed_plain),
        blob.frames.to_string(),
        blob.chunks.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_blobs_have_a_row_each() {
        let layer = LayerInspection {
            layer: "sha256:0123456789abcdef".to_owned(),
            files: 42,
            blobs: vec!["sha256:fedcba9876543210".to_owned()],
            ..LayerInspection::default()
        };
        let blob = BlobInspection {
            blob: "sha256:fedcba9876543210".to_owned(),
            chunks: 7,
            ..BlobInspection::default()
        };
        let image = ImageInspection {
            layers: vec![layer],
            blobs: vec![blob],
            ..ImageInspection::default()
        };
        let text = image_text(&image);
        assert!(
            text.contains("0123456789ab") && text.contains("fedcba987654"),
            "{text}"
        );
    }
}
