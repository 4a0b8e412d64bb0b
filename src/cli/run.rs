//! `twinblk run`: the daemon of a resource, in the foreground.
//!
//! Rule: configuration, identity and secret are checked before a socket or a disk is opened. What runs then
//! is the control plane's business.

use super::args::{Places, RunArgs};
use super::logging;
use super::create_metadata::disk_paths;
use crate::config_file::ResourceConfig;
use crate::control_plane::plane_link::PlaneLink;
use crate::control_plane::{self, RunError};
use crate::data_plane::spawn::{DataPlane, Settings};

/// `twinblk run`
pub fn run(places: &Places, args: &RunArgs) -> anyhow::Result<()> {
    let config = ResourceConfig::load(&places.config_dir, &args.resource)?;
    let local = config.local(places.node.as_deref())?;
    config.load_secret()?;
    logging::start(args.log_format);
    super::warn(&config);
    let node = &config.node(local).name;
    tracing::info!(resource = %config.resource, node = %node, "starting {} on {node}", config.resource);
    let settings = Settings {
        config: config.to_core(local),
        disks: disk_paths(config.node(local)),
        continuity_page: places.run_dir.join(format!("{}.run", config.resource)),
    };
    let mut running = None;
    let outcome = control_plane::run(&config, local, &places.run_dir, || {
        let (to_control, heard) = tokio::sync::mpsc::unbounded_channel();
        let spawned = DataPlane::spawn(settings, to_control);
        let plane = spawned.map_err(|error| RunError::DataPlane(error.to_string()))?;
        let (voter, teller) = (plane.voter(), plane.teller());
        running = Some(plane);
        let link = PlaneLink::new(move |what| teller.tell(what));
        Ok(control_plane::DataPlane { link, heard, voter })
    });
    if let Some(plane) = running {
        plane.join();
    }
    Ok(outcome?)
}
