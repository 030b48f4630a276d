//! placeholder
use crate::cli::MountArgs;
pub(crate) fn run(_args: &MountArgs) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
