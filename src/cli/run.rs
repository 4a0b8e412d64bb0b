//! `twinblk run`: the daemon of a resource, in the foreground.
//!
//! Rule: configuration, identity and secret are checked before a socket or a disk is opened. What runs then
//! is the control plane's business.

use super::args::{Places, RunArgs};
use super::logging;
use crate::config_file::ResourceConfig;

/// `twinblk run`
pub fn run(places: &Places, args: &RunArgs) -> anyhow::Result<()> {
    let config = ResourceConfig::load(&places.config_dir, &args.resource)?;
    let local = config.local(places.node.as_deref())?;
    config.load_secret()?;
    logging::start(args.log_format);
    super::warn(&config);
    let node = &config.node(local).name;
    tracing::info!(resource = %config.resource, node = %node, "starting {} on {node}", config.resource);
    anyhow::bail!("running a resource is not there yet")
}
