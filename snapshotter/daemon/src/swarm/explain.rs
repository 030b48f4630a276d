//! `lacewing explain`: whom this node would ask for a piece, why, and what happened.

use anyhow::{Context, Result};
use lacewing_rpc::control::control_client::ControlClient;
use lacewing_rpc::control::{ExplainRequest, ExplainedPiece};
use serde::Serialize;

use crate::WrongUse;
use crate::adapters::content::connect;
use crate::cli::ExplainArgs;
use crate::output::{print, print_json, refusal};

/// Asks and prints.
///
/// # Errors
/// Nobody answers at the address; nothing is known of the blob.
pub(crate) fn run(args: &ExplainArgs) -> Result<()> {
    let request = parse(&args.piece).ok_or_else(|| {
        WrongUse(format!(
            "{} is neither sha256:DIGEST nor sha256:DIGEST@OFFSET+LENGTH",
            args.piece
        ))
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let answer =
        runtime.block_on(async { ControlClient::new(connect(&args.address)).explain(request).await });
    let pieces = answer
        .map_err(|status| refusal(&args.address, &status))?
        .into_inner()
        .pieces;
    if args.json {
        return print_json(&pieces.iter().map(Told::from).collect::<Vec<_>>());
    }
    print(&pieces.iter().map(text).collect::<String>())
}

/// Reads `DIGEST` or `DIGEST@OFFSET+LENGTH`.
fn parse(text: &str) -> Option<ExplainRequest> {
    let Some((blob, piece)) = text.split_once('@') else {
        return text.starts_with("sha256:").then(|| ExplainRequest {
            blob: text.to_owned(),
            ..ExplainRequest::default()
        });
    };
    let (offset, len) = piece.split_once('+')?;
    Some(ExplainRequest {
        blob: blob.to_owned(),
        offset: offset.parse().ok()?,
        len: len.parse().ok().filter(|len| *len > 0)?,
    })
}

fn text(piece: &ExplainedPiece) -> String {
    let mut text = format!("piece {}+{}: ", piece.offset, piece.len);
    text += match (
        piece.here,
        piece.source.as_str(),
        piece.waits_for.is_empty() && !piece.waits_for_registry,
    ) {
        (true, ..) => "here",
        (false, "", true) => "not here",
        (false, _, true) => "was here",
        _ => "on its way",
    };
    if !piece.source.is_empty() {
        text += &format!("; came from {} after {} ms", piece.source, piece.took_ms);
    }
    text.push('\n');
    let mut line = |what: &str, said: String| {
        if !said.is_empty() {
            text.push_str(&format!("  {what:12} {said}\n"));
        }
    };
    line("asked", piece.asked.join(", "));
    if piece.asked_registry > 0 {
        line("registry", format!("asked {} times", piece.asked_registry));
    }
    line("wrong bytes", piece.wrong.join(", "));
    line("waits for", piece.waits_for.join(", "));
    let candidates = piece
        .candidates
        .iter()
        .map(|found| match found.standing.as_str() {
            "good" => found.address.clone(),
            standing => format!("{} ({standing})", found.address),
        });
    let candidates: Vec<String> = candidates.collect();
    let place = format!("tree {}, place {} in its order", piece.tree, piece.rank + 1);
    let registry = match (candidates.is_empty(), piece.registry_at_once) {
        (true, _) => "the registry: nobody is earlier",
        (false, true) => "or the registry at once, if they are slow",
        (false, false) => "the registry only when they have failed for two seconds",
    };
    line(
        "would ask",
        [candidates, vec![registry.to_owned()]].concat().join(", "),
    );
    line("why", place);
    text
}

/// As the protocol names it.
#[derive(Serialize)]
struct Told<'a> {
    offset: u64,
    len: u64,
    here: bool,
    tree: u32,
    rank: u32,
    candidates: Vec<(&'a str, &'a str)>,
    registry_at_once: bool,
    waits_for: &'a [String],
    waits_for_registry: bool,
    asked: &'a [String],
    asked_registry: u32,
    source: &'a str,
    took_ms: u64,
    wrong: &'a [String],
}

impl<'a> From<&'a ExplainedPiece> for Told<'a> {
    fn from(piece: &'a ExplainedPiece) -> Told<'a> {
        let candidates = piece.candidates.iter();
        Told {
            offset: piece.offset,
            len: piece.len,
            here: piece.here,
            tree: piece.tree,
            rank: piece.rank,
            candidates: candidates
                .map(|found| (found.address.as_str(), found.standing.as_str()))
                .collect(),
            registry_at_once: piece.registry_at_once,
            waits_for: &piece.waits_for,
            waits_for_registry: piece.waits_for_registry,
            asked: &piece.asked,
            asked_registry: piece.asked_registry,
            source: &piece.source,
            took_ms: piece.took_ms,
            wrong: &piece.wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pieces_are_read() {
        let whole = parse("sha256:ab").unwrap();
        assert_eq!((whole.blob.as_str(), whole.len), ("sha256:ab", 0));
        let piece = parse("sha256:ab@4096+100").unwrap();
        assert_eq!((piece.offset, piece.len), (4096, 100));
        for wrong in [
            "",
            "ab",
            "sha256:ab@",
            "sha256:ab@1",
            "sha256:ab@1+0",
            "sha256:ab@-1+2",
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_person_sees_who_and_why() {
        let piece = ExplainedPiece {
            offset: 0,
            len: 5,
            here: true,
            rank: 2,
            source: "10.0.0.2:7070".to_owned(),
            asked: vec!["10.0.0.1:7070".to_owned(), "10.0.0.2:7070".to_owned()],
            took_ms: 12,
            ..ExplainedPiece::default()
        };
        let text = text(&piece);
        assert!(
            text.contains("here; came from 10.0.0.2:7070 after 12 ms"),
            "{text}"
        );
        assert!(
            text.contains("asked        10.0.0.1:7070, 10.0.0.2:7070"),
            "{text}"
        );
        assert!(text.contains("place 3 in its order"), "{text}");
    }
}
