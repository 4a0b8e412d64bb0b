//! `twinblk demo`: two replicas and a tiebreaker on this machine, for the first minute with twinblk.

use super::args::DemoArgs;

/// `twinblk demo`
pub fn run(_args: &DemoArgs) -> anyhow::Result<()> {
    anyhow::bail!("the demo is not there yet")
}
