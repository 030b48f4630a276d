//! `lacewing top`: the piece layer, live.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lacewing_rpc::control::control_client::ControlClient;
use lacewing_rpc::control::{SwarmNode, SwarmRequest};

use super::view::View;
use crate::adapters::content::connect;
use crate::cli::TopArgs;
use crate::output::{print, print_json, refusal};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// With ten thousand members.
const MAX_ANSWER: usize = 256 << 20;
/// Lines of a terminal that nobody told the height of, less those above the table.
const LINES: usize = 40;
/// Nodes shown where there is no terminal.
const ALL: usize = usize::MAX;

/// Shows the cluster until Ctrl-C, or once.
///
/// # Errors
/// Nobody answers at the address; it has no piece layer.
pub(crate) fn run(args: &TopArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let first = View::new(&runtime.block_on(ask(&args.address))?, None);
    let live = !args.once && !args.json && std::io::stdout().is_terminal();
    if args.json {
        return print_json(&first);
    }
    if !live {
        return print(&first.text(ALL));
    }
    let (mut before, mut at) = (first, Instant::now());
    loop {
        show(&before)?;
        std::thread::sleep(EVERY);
        let said = runtime.block_on(ask(&args.address))?;
        let now = View::new(&said, Some((&before, at.elapsed())));
        (before, at) = (now, Instant::now());
    }
}

async fn ask(address: &Path) -> Result<Vec<SwarmNode>> {
    let mut client = ControlClient::new(connect(address)).max_decoding_message_size(MAX_ANSWER);
    let answer = client.swarm(SwarmRequest { all: true }).await;
    Ok(answer
        .map_err(|status| refusal(address, &status))?
        .into_inner()
        .nodes)
}

fn show(view: &View) -> Result<()> {
    let mut out = std::io::stdout().lock();
    // To the top, and nothing of the last picture left.
    write!(out, "\x1b[H\x1b[2J{}", view.text(LINES)).context("writing")?;
    out.flush().context("writing")
}
