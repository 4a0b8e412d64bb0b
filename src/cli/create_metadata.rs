//! `twinblk create-metadata`: prepares this node's disk for a resource.
//!
//! Rule: everything is looked at before anything is touched, and every reason against it is told at once.
//! What may be discarded takes `--force` and is named first; what is surely a mistake is refused always.

mod file_system;
mod rules;

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use replicator::generation::lineage::Lineage;
use replicator::layout::superblock::{DurableDisk, ResourceName, Superblock};
use replicator::layout::zones::{Zones, journal_bytes_default};
use replicator::units::{BLOCK_BYTES, GenerationId, NodeId, VoterId, bytes_u64, bytes_usize};

use self::rules::{Content, Findings, Force, FoundDisk};
use super::args::{CreateMetadataArgs, Places};
use super::exit::{Answer, Ended, Status};
use super::inspect::show::disk_name;
use super::start_refusal::of_disk;
use crate::config_file::values::show_size;
use crate::config_file::{MetadataPlace, NodeConfig, ResourceConfig, SecretUse};
use crate::data_plane::backing_device::create::{DataArea, create, forget_old_areas};
use crate::data_plane::backing_device::device::{Device, DeviceError, DeviceKind};
use crate::data_plane::backing_device::signatures::{PROBE_BYTES, signatures};
use crate::data_plane::backing_device::start::{self, DiskPaths, OpenDisks, StartError};

/// The name under which our own metadata is recognised.
const OWN_SIGNATURE: &str = "twinblk metadata";

/// `twinblk create-metadata`
pub fn run(places: &Places, args: &CreateMetadataArgs) -> anyhow::Result<Answer> {
    let asked = places.node.as_deref();
    let (config, local) =
        ResourceConfig::load_for_node(&places.config_dir, &args.resource, asked, SecretUse::NotNeeded)?;
    let node = config.node(local);
    let journal_bytes = node.journal_bytes.unwrap_or_else(|| journal_bytes_default(config.size_bytes));
    let zones = Zones::for_volume(config.size_bytes, journal_bytes, node.max_peers)
        .with_context(|| format!("{}: [[node]] {}", config.file.display(), node.name))?;
    let content = match (args.uptodate, args.uptodate_zeroed) {
        (true, _) => Content::Adopted,
        (false, true) => Content::Zeroed,
        (false, false) => Content::New,
    };
    let force = if args.force { Force::Given } else { Force::NotGiven };
    let findings = look(&config, node, &zones)?;
    let refusals = rules::refusals(&findings, content, force);
    if !refusals.is_empty() {
        let text = format!("{}: refused, nothing was changed\n  {}", config.resource, refusals.join("\n  "));
        return Err(Ended::with(Status::Refused, text));
    }
    for line in rules::discarded(&findings, content) {
        eprintln!("{}: {line}", config.resource);
    }
    let superblock = new_superblock(&config, local, zones, content)?;
    make(&disk_paths(node), &superblock, content).map_err(of_disk)?;
    Ok(Answer::Text(describe_done(&config, node, &superblock)))
}

/// The node's disks in the words of the data plane.
pub(super) fn disk_paths(node: &NodeConfig) -> DiskPaths {
    let metadata = match &node.metadata {
        MetadataPlace::Internal => start::MetadataPlace::Internal,
        MetadataPlace::Separate(path) => start::MetadataPlace::Own(path.clone()),
    };
    DiskPaths { data: node.data.clone(), metadata }
}

fn new_superblock(
    config: &ResourceConfig,
    local: NodeId,
    zones: Zones,
    content: Content,
) -> anyhow::Result<Superblock> {
    let (disk, lineage) = match content {
        Content::New => (DurableDisk::Inconsistent, Lineage::default()),
        Content::Zeroed => (DurableDisk::UpToDate, Lineage::zeroed()),
        Content::Adopted => (DurableDisk::UpToDate, Lineage::adopted(GenerationId(random_id()?))),
    };
    let resource = ResourceName::parse(&config.resource).expect("the configuration has checked the name");
    let voter = VoterId(random_id()?);
    let created = Superblock::created(resource, local, voter, config.size_bytes, zones, disk, lineage);
    Ok(Superblock { sequence: 1, ..created })
}

/// A random identity: neither none nor the one that all volumes of zeroes share.
fn random_id() -> anyhow::Result<u64> {
    loop {
        let id = getrandom::u64().context("the kernel gives no random bytes")?;
        if id != 0 && id != GenerationId::ZEROED.0 {
            return Ok(id);
        }
    }
}

/// Everything that the rules want to know of the disks. Changes nothing.
fn look(config: &ResourceConfig, node: &NodeConfig, zones: &Zones) -> anyhow::Result<Findings> {
    let metadata_path = match &node.metadata {
        MetadataPlace::Internal => None,
        MetadataPlace::Separate(path) => Some(path.clone()),
    };
    let data = look_at(&node.data, Depth::Ends)?;
    let metadata = metadata_path.as_deref().map(|path| look_at(path, Depth::Whole)).transpose()?.flatten();
    let old_on_data = data.as_ref().filter(|data| data.is_ours);
    let old_metadata = match old_superblock(node)? {
        Some(found) => Some(found),
        None => old_on_data.map(|_| format!("{} holds twinblk metadata", node.data.display())),
    };
    Ok(Findings {
        data_path: node.data.clone(),
        metadata_path,
        volume_bytes: config.size_bytes,
        metadata_bytes: zones.metadata_bytes(),
        data,
        metadata,
        old_metadata,
    })
}

/// How closely a disk is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// What shows at both ends.
    Ends,
    /// For a file, whether there is anything in between either.
    Whole,
}

/// What there is to know of one disk, if it is there.
fn look_at(path: &Path, depth: Depth) -> anyhow::Result<Option<FoundDisk>> {
    let Some(device) = open_if_there(path)? else { return Ok(None) };
    let (head, tail) = ends_of(&device).map_err(of_disk)?;
    let (head_names, tail_names) = (signatures(&head, &[]), signatures(&[], &tail));
    let is_ours = head_names.iter().chain(&tail_names).any(|name| *name == OWN_SIGNATURE);
    let head_names = foreign(head_names);
    // Where two things show, one of them is a leftover, and nobody knows which.
    let content_bytes = file_system::size_of(&head).filter(|_| head_names.len() == 1);
    let is_blank =
        depth == Depth::Whole && device.kind == DeviceKind::File && is_blank(&device).map_err(of_disk)?;
    Ok(Some(FoundDisk {
        kind: device.kind,
        bytes: device.bytes,
        head: head_names,
        tail: foreign(tail_names),
        content_bytes,
        is_ours,
        is_filled: !is_blank,
    }))
}

/// Whether a file holds nothing: holes, or the zeroes of metadata whose making was cut short, which gets its
/// superblocks last.
fn is_blank(device: &Device) -> Result<bool, DeviceError> {
    if !device.is_written()? {
        return Ok(true);
    }
    // We only make whole blocks.
    if !device.bytes.is_multiple_of(BLOCK_BYTES) {
        return Ok(false);
    }
    let mut at = 0;
    while at < device.bytes {
        let length = bytes_u64(PROBE_BYTES).min(device.bytes - at);
        if device.read_at(at, bytes_usize(length))?.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += length;
    }
    Ok(true)
}

fn foreign(names: Vec<&'static str>) -> Vec<&'static str> {
    names.into_iter().filter(|name| *name != OWN_SIGNATURE).collect()
}

/// The disk, if it is there; if not, it must be possible to make it.
fn open_if_there(path: &Path) -> anyhow::Result<Option<Device>> {
    if path.exists() {
        return Device::open(path).map(Some).map_err(of_disk);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let reason = if path.starts_with("/dev") {
        "a device that does not exist is not made".to_owned()
    } else if folder.is_dir() {
        return Ok(None);
    } else {
        format!("the folder {} does not exist", folder.display())
    };
    Err(Ended::with(Status::Configuration, format!("{} does not exist, and {reason}", path.display())))
}

/// The first and the last bytes of a disk.
fn ends_of(device: &Device) -> Result<(Vec<u8>, Vec<u8>), DeviceError> {
    let whole_blocks = device.bytes - device.bytes % 4096;
    let length = whole_blocks.min(bytes_u64(PROBE_BYTES));
    if length == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let head = device.read_at(0, bytes_usize(length))?;
    let tail = device.read_at(whole_blocks - length, bytes_usize(length))?;
    Ok((head.to_vec(), tail.to_vec()))
}

/// What the place of the new metadata holds of old metadata, in words.
fn old_superblock(node: &NodeConfig) -> anyhow::Result<Option<String>> {
    let paths = disk_paths(node);
    let holder = match &node.metadata {
        MetadataPlace::Internal => &node.data,
        MetadataPlace::Separate(path) => path,
    };
    if !holder.exists() || !node.data.exists() {
        return Ok(None);
    }
    let mut disks = OpenDisks::open(&paths).map_err(of_disk)?;
    let name = holder.display();
    let found = disks.find_area("").and_then(|()| disks.read_superblock());
    match found {
        Ok(None) | Err(StartError::NoMetadata { .. }) => Ok(None),
        Ok(Some(old)) => Ok(Some(format!(
            "{name} holds metadata of resource {} (node number {}, {}, disk {})",
            old.resource,
            old.node.0,
            show_size(old.volume_bytes),
            disk_name(old.disk)
        ))),
        Err(error @ StartError::Superblock { .. }) => {
            Ok(Some(format!("{name} holds metadata that cannot be read ({error})")))
        }
        Err(error) => Err(of_disk(error)),
    }
}

/// Makes files that are missing, and then the metadata.
fn make(paths: &DiskPaths, superblock: &Superblock, content: Content) -> Result<(), StartError> {
    let metadata_bytes = superblock.zones.metadata_bytes();
    match &paths.metadata {
        start::MetadataPlace::Internal => {
            Device::prepare_file(&paths.data, superblock.volume_bytes + metadata_bytes)?;
        }
        start::MetadataPlace::Own(path) => {
            Device::prepare_file(&paths.data, superblock.volume_bytes)?;
            Device::prepare_file(path, metadata_bytes)?;
        }
    }
    let mut disks = OpenDisks::open(paths)?;
    disks.place_area(&superblock.zones, superblock.volume_bytes)?;
    // What was discarded must not come back when the configuration changes back.
    forget_old_areas(&disks.data)?;
    forget_old_areas(&disks.metadata)?;
    let data_area = match content {
        Content::Zeroed => DataArea::Zero,
        Content::New | Content::Adopted => DataArea::Keep,
    };
    create(&disks, superblock, data_area, &mut show_progress)?;
    Ok(())
}

/// Making a large journal takes a while: a terminal is told how far it is.
fn show_progress(done: u64, all: u64) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let end = if done == all { "\r             \r" } else { "" };
        // Progress that cannot be shown is no reason to stop.
        let _ = write!(stderr, "\rjournal {:3} %{end}", done.saturating_mul(100) / all.max(1));
    }
}

fn describe_done(config: &ResourceConfig, node: &NodeConfig, superblock: &Superblock) -> String {
    let place = match &node.metadata {
        MetadataPlace::Internal => format!("at the end of {}", node.data.display()),
        MetadataPlace::Separate(path) => format!("on {}", path.display()),
    };
    format!(
        "{}: metadata of {} made {place}; journal {}, room for {} peers, disk {}",
        config.resource,
        node.name,
        show_size(superblock.zones.journal().length),
        superblock.max_peers,
        disk_name(superblock.disk)
    )
}

#[cfg(test)]
mod tests;
