//! `lacewing pull`: pulls through containerd's CRI, waits until all bytes are here where that is asked for, and gives the
//! image's blobs to containerd's content store where that is.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lacewing_rpc::control::CompleteRequest;
use lacewing_rpc::control::CompleteResponse;
use lacewing_rpc::control::control_client::ControlClient;
use lacewing_rpc::control::{GiveBackRequest, PreheatRequest, Preheated};
use lacewing_rpc::cri::{ImageSpec, PullImageRequest, encode_pull};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::adapters::content::connect;
use crate::cli::PullArgs;
use crate::credentials::image_service::{PULL, call};
use crate::output::{bytes, print, refusal};

/// How often it is looked whether all is here.
const LOOK: Duration = Duration::from_millis(500);

/// containerd's namespace of what its CRI pulls.
const CRI_NAMESPACE: &str = "k8s.io";

/// Pulls and waits.
///
/// # Errors
/// The pull fails; nobody answers at the address; no layer of the image is lazy; it does not get on.
pub(crate) fn run(args: &PullArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(pull(args))
}

async fn pull(args: &PullArgs) -> Result<()> {
    let mut control = ControlClient::new(connect(&args.address));
    if let Some(nodes) = &args.nodes {
        return preheat(&mut control, args, nodes).await;
    }
    let namespace = args.namespace.as_deref().unwrap_or(CRI_NAMESPACE);
    // CRI pulls into its own namespace alone; of others, what is there is given.
    let here = namespace != CRI_NAMESPACE || ask(&mut control, args).await?.layers > 0;
    if !here {
        through_cri(&args.containerd, &args.image)
            .await
            .with_context(|| format!("pulling {}", args.image))?;
    }
    if args.content {
        give_back(&mut control, args, namespace).await?;
        if !args.complete {
            return Ok(());
        }
    }
    if args.complete {
        let whole = wait(&mut control, args).await?;
        let text = format!(
            "{}: {} layers, {} here\n",
            args.image,
            whole.layers,
            bytes(whole.bytes_total)
        );
        return print(&text);
    }
    print(&format!("{}: pulled\n", args.image))
}

/// To containerd's content store, by the daemon: it has the credentials.
async fn give_back(control: &mut ControlClient<Channel>, args: &PullArgs, namespace: &str) -> Result<()> {
    let request = GiveBackRequest {
        image: args.image.clone(),
        namespace: namespace.to_owned(),
        all_platforms: args.all_platforms,
    };
    let given = control.give_back(request).await;
    let mut given = given
        .map_err(|status| refusal(&args.address, &status))?
        .into_inner();
    let (mut blobs, mut fetched, mut size) = (0_u64, 0_u64, 0_u64);
    loop {
        match given.message().await {
            Ok(Some(blob)) => {
                blobs += 1;
                if !blob.known {
                    fetched += 1;
                    size = size.saturating_add(blob.size);
                }
            }
            Ok(None) => break,
            Err(status) => bail!("{}: {}", args.image, status.message()),
        }
    }
    print(&format!(
        "{}: {blobs} blobs in containerd's content store ({namespace}), {fetched} fetched for it ({})\n",
        args.image,
        bytes(size)
    ))
}

/// On other nodes, by their daemons.
async fn preheat(control: &mut ControlClient<Channel>, args: &PullArgs, nodes: &str) -> Result<()> {
    let request = PreheatRequest {
        image: args.image.clone(),
        nodes: nodes.to_owned(),
    };
    let answer = control.preheat(request).await;
    let found = answer
        .map_err(|status| refusal(&args.address, &status))?
        .into_inner()
        .nodes;
    let row = |node: &Preheated| match node.error.as_str() {
        "" => format!("{}: pulled\n", node.address),
        error => format!("{}: {error}\n", node.address),
    };
    print(&found.iter().map(row).collect::<String>())?;
    let failed = found.iter().filter(|node| !node.error.is_empty()).count();
    if failed > 0 {
        bail!(
            "{}: {failed} of {} nodes have not pulled it",
            args.image,
            found.len()
        );
    }
    Ok(())
}

async fn ask(control: &mut ControlClient<Channel>, args: &PullArgs) -> Result<CompleteResponse> {
    let request = CompleteRequest {
        image: args.image.clone(),
    };
    let answer = control.complete(request).await;
    Ok(answer
        .map_err(|status| refusal(&args.address, &status))?
        .into_inner())
}

async fn wait(control: &mut ControlClient<Channel>, args: &PullArgs) -> Result<CompleteResponse> {
    let limit = args.timeout.map(Duration::from_secs);
    let start = tokio::time::Instant::now();
    loop {
        let found = ask(control, args).await?;
        if found.layers == 0 {
            bail!(
                "{}: the daemon holds no lazy layer of it; see `lacewing status`",
                args.image
            );
        }
        if found.bytes_present == found.bytes_total {
            return Ok(found);
        }
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            let trouble = if found.trouble.is_empty() {
                "it takes longer"
            } else {
                &found.trouble
            };
            let (present, total) = (bytes(found.bytes_present), bytes(found.bytes_total));
            bail!("{}: {present} of {total} are here: {trouble}", args.image);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Through containerd's own CRI service, with this snapshotter as that is configured.
pub(crate) async fn through_cri(containerd: &Path, image: &str) -> Result<()> {
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: image.to_owned(),
        }),
        auth: None,
    };
    let request = tonic::Request::new(encode_pull(&request).into());
    let answer = call(connect(containerd), PathAndQuery::from_static(PULL), request).await;
    match answer {
        Ok(_) => Ok(()),
        Err(status) => bail!("containerd at {}: {}", containerd.display(), status.message()),
    }
}
