//! `twinblk run`: the daemon of a resource, in the foreground.
//!
//! Rule: configuration, identity and secret are checked before a socket or a disk is opened. What runs then
//! is the control plane's business.

use std::path::Path;

use replicator::units::NodeId;
use tokio::sync::mpsc;

use super::args::{Places, RunArgs};
use super::create_metadata::disk_paths;
use super::{host, logging, start_refusal};
use crate::config_file::{ResourceConfig, SecretUse};
use crate::control_plane::plane_link::PlaneLink;
use crate::control_plane::{self, DataPlane, RunError};
use crate::data_plane::rescue_writer::RescueSettings;
use crate::data_plane::spawn::{self, Settings};

/// `twinblk run`
pub fn run(places: &Places, args: &RunArgs) -> anyhow::Result<()> {
    let asked = places.node.as_deref();
    let (config, local) =
        ResourceConfig::load_for_node(&places.config_dir, &args.resource, asked, SecretUse::Needed)?;
    host::require_io_uring()?;
    host::make_run_dir(&places.run_dir)?;
    let _log = logging::start(args.log_format);
    super::warn(&config);
    let node = &config.node(local).name;
    tracing::info!(resource = %config.resource, node = %node, "starting {} on {node}", config.resource);
    let outcome =
        control_plane::run(&config, local, &places.run_dir, || start(&config, local, &places.run_dir));
    outcome.map_err(|error| start_refusal::of_daemon(&config.resource, &error))
}

/// Opens the disks and starts the data plane.
fn start(config: &ResourceConfig, local: NodeId, run_dir: &Path) -> Result<DataPlane, RunError> {
    let settings = Settings {
        config: config.to_core(local),
        disks: disk_paths(config.node(local)),
        busy_poll: config.busy_poll,
        continuity_page: run_dir.join(format!("{}.run", config.resource)),
        rescue: rescue_settings(config, local),
    };
    let (to_control, heard) = mpsc::unbounded_channel();
    let plane = spawn::DataPlane::spawn(settings, to_control)?;
    let teller = plane.teller();
    let link = PlaneLink::new(move |what| teller.tell(what));
    Ok(DataPlane { link, heard, voter: plane.voter() })
}

fn rescue_settings(config: &ResourceConfig, local: NodeId) -> RescueSettings {
    let stem = format!("{}-{}", config.resource, config.node(local).name);
    RescueSettings { folder: config.rescue.folder.clone(), stem, bytes_max: config.rescue.bytes_max }
}
