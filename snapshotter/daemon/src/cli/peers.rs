//! Commands on the piece layer: files got through it, and a look at it.

use std::path::PathBuf;

use clap::Args;

use crate::places;

/// `lacewing get`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lacewing get https://models.example/llm.safetensors
  lacewing get -o llm --digest sha256:9f86… https://bucket.s3.example/llm?X-Amz-Signature=…")]
pub(crate) struct GetArgs {
    /// Where the file is
    pub(crate) url: String,
    /// Where it goes [default: the address's last part, here]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// What it must be; nothing else becomes FILE
    #[arg(long, value_name = "sha256:HEX")]
    pub(crate) digest: Option<String>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value_os_t = places::address())]
    pub(crate) address: PathBuf,
}

/// `lacewing top`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lacewing top\n  lacewing top --once --json | jq .registry_copies")]
pub(crate) struct TopArgs {
    /// Print it once
    #[arg(long)]
    pub(crate) once: bool,
    /// Print it once, as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value_os_t = places::address())]
    pub(crate) address: PathBuf,
}

/// `lacewing explain`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lacewing explain sha256:9f86…                 all pieces of it that are known\n  \
lacewing explain sha256:9f86…@4194304+4194304"
)]
pub(crate) struct ExplainArgs {
    /// A blob or an index, as sha256:HEX, or one piece of it: sha256:HEX@OFFSET+LENGTH
    #[arg(value_name = "PIECE")]
    pub(crate) piece: String,
    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The daemon's socket
    #[arg(long, value_name = "SOCK", default_value_os_t = places::address())]
    pub(crate) address: PathBuf,
}
