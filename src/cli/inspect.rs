//! `twinblk inspect`: the metadata of a resource that is stopped, as it lies on disk; or a rescue image.
//!
//! Rule: opens read-only and changes nothing. While a daemon uses the disk its word counts, not ours: then
//! inspection is refused, because a journal that moves cannot be summed up.

mod rescue;
pub mod show;

use std::convert::Infallible;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use replicator::journal::recovery::{RecoveryPlan, RecoveryScan};
use replicator::layout::locator::CandidateAreas;
use replicator::layout::superblock::{Superblock, SuperblockError, choose_newest};
use replicator::layout::zones::{SUPERBLOCK_0_OFFSET, SUPERBLOCK_1_OFFSET};
use replicator::units::{BLOCK_SIZE, bytes_usize};
use rustix::fs::FlockOperation;

use super::args::{InspectArgs, Places};
use super::exit::{Ended, Status};
use crate::config_file::values::{BadValue, check_resource_name};
use crate::config_file::{MetadataPlace, ResourceConfig, SecretUse};

/// Metadata as it was found.
#[derive(Debug)]
pub struct Found {
    /// The file or device.
    path: PathBuf,
    /// Where the metadata area starts on it.
    offset: u64,
    /// What is wrong with each of the two superblock copies, if anything is.
    copies: [Option<SuperblockError>; 2],
    /// The newest valid superblock.
    superblock: Superblock,
    /// What recovery would make of the journal, or why it cannot be read.
    journal: Result<RecoveryPlan, String>,
}

/// `twinblk inspect`
pub fn run(places: &Places, args: &InspectArgs) -> anyhow::Result<()> {
    let (path, place) = subject(places, &args.subject)?;
    if place == Place::Either && shows_rescue(&path, args.json)? {
        return Ok(());
    }
    let found = read(&path, place)?;
    if args.json {
        return super::status::print_json(&show::json(&found));
    }
    Ok(std::io::stdout().write_all(show::text(&found).as_bytes())?)
}

/// Shows the rescue image at a path, if there is one.
fn shows_rescue(path: &Path, as_json: bool) -> anyhow::Result<bool> {
    let name = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let end = file.seek(SeekFrom::End(0)).with_context(|| format!("cannot find the size of {name}"))?;
    match rescue::recognise(&file, end) {
        None => Ok(false),
        Some(Ok(image)) => rescue::show(path, &file, end, &image, as_json).map(|()| true),
        Some(Err(reason)) => Err(Ended::with(Status::Failed, format!("{name}: {reason}"))),
    }
}

impl Place {
    /// What else was looked for.
    fn what_else(self) -> &'static str {
        match self {
            Self::Beginning | Self::End => "",
            Self::Either => "; nor is it a rescue image that was finished",
        }
    }
}

/// The metadata that is meant.
///
/// # Errors
/// There is none, it cannot be read, or a daemon uses it.
pub fn find(places: &Places, args: &InspectArgs) -> anyhow::Result<Found> {
    let (path, place) = subject(places, &args.subject)?;
    read(&path, place)
}

/// Where on a file or device the metadata is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is a metadata device of its own.
    Beginning,
    /// It is internal.
    End,
    /// Nobody has said.
    Either,
}

/// The file or device that holds the metadata, and where on it.
fn subject(places: &Places, subject: &str) -> anyhow::Result<(PathBuf, Place)> {
    if subject.contains('/') {
        return Ok((PathBuf::from(subject), Place::Either));
    }
    if let Err(BadValue { wrong, instead }) = check_resource_name(subject) {
        return Err(Ended::with(
            Status::Usage,
            format!("{wrong}; {instead}, or a path with a slash: ./{subject}"),
        ));
    }
    let asked = places.node.as_deref();
    let (config, local) =
        ResourceConfig::load_for_node(&places.config_dir, subject, asked, SecretUse::NotNeeded)?;
    let node = config.node(local);
    Ok(match &node.metadata {
        MetadataPlace::Internal => (node.data.clone(), Place::End),
        MetadataPlace::Separate(path) => (path.clone(), Place::Beginning),
    })
}

fn read(path: &Path, place: Place) -> anyhow::Result<Found> {
    let name = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err() {
        let text = format!("{name} is in use by a running daemon");
        return Err(Ended::advised(Status::Refused, text, "`twinblk status`, or stop the daemon first"));
    }
    let end = file.seek(SeekFrom::End(0)).with_context(|| format!("cannot find the size of {name}"))?;
    let offset = find_area(&file, end, place).ok_or_else(|| {
        Ended::with(
            Status::Failed,
            format!("{name} holds no metadata that can be read: no locator at its end"),
        )
    })?;
    let copies = [SUPERBLOCK_0_OFFSET, SUPERBLOCK_1_OFFSET].map(|copy| read_block(&file, offset + copy));
    let [first, second] = copies.map(Option::unwrap_or_default);
    let (superblock, _) = choose_newest(&first, &second).map_err(|reason| {
        let text = format!("{name} holds no metadata that can be read: {reason}{}", place.what_else());
        Ended::with(Status::Failed, text)
    })?;
    let journal = scan_journal(&file, offset, &superblock).map_err(|error| error.to_string());
    let copies = [first, second].map(|block| Superblock::parse(&block).err());
    Ok(Found { path: path.to_owned(), offset, copies, superblock, journal })
}

/// The metadata area: the first place with a superblock, good or not; else the first.
fn find_area(file: &File, end: u64, place: Place) -> Option<u64> {
    let read = |offset| Ok::<_, Infallible>(read_block(file, offset).unwrap_or_default());
    let Ok(areas) = CandidateAreas::find(end, read);
    let places = match place {
        Place::Beginning => vec![0],
        Place::End => areas.located().to_vec(),
        // What a locator says goes first: whatever the data begins with is not ours.
        Place::Either => areas.located().iter().copied().chain([0]).collect(),
    };
    let copies = |area| [SUPERBLOCK_0_OFFSET, SUPERBLOCK_1_OFFSET].map(|copy| area + copy);
    let is_superblock = |offset| match Superblock::parse(&read_block(file, offset).unwrap_or_default()) {
        Err(SuperblockError::Magic | SuperblockError::Length(_)) => false,
        Ok(_) | Err(_) => true,
    };
    let found = places.iter().find(|area| copies(**area).into_iter().any(is_superblock));
    found.or(places.first()).copied()
}

/// A block, if the file has it.
fn read_block(file: &File, offset: u64) -> Option<Vec<u8>> {
    let mut block = vec![0; BLOCK_SIZE];
    file.read_exact_at(&mut block, offset).ok().map(|()| block)
}

fn scan_journal(file: &File, offset: u64, superblock: &Superblock) -> std::io::Result<RecoveryPlan> {
    let ring_offset = offset + superblock.zones.journal().offset;
    let mut scan = RecoveryScan::new(superblock);
    while let Some(read) = scan.next_read() {
        let mut bytes = vec![0; bytes_usize(read.length)];
        file.read_exact_at(&mut bytes, ring_offset + read.ring_offset)?;
        scan.on_bytes(Bytes::from(bytes));
    }
    Ok(scan.finish())
}

#[cfg(test)]
mod tests {
    use replicator::layout::locator::Locator;

    use super::*;

    /// A metadata file as `create-metadata` leaves it, its journal empty.
    fn metadata_file(path: &Path) -> Superblock {
        let superblock = show::tests::superblock();
        let file = File::create(path).expect("created");
        file.set_len(superblock.zones.metadata_bytes()).expect("long enough");
        for sequence in [1, 2] {
            let copy = Superblock { sequence, ..superblock.clone() };
            let zone = copy.zones.superblocks()[copy.copy_index()];
            file.write_all_at(&copy.encode()[..], zone.offset).expect("written");
        }
        superblock
    }

    #[test]
    fn a_metadata_file_is_read_and_an_empty_journal_recovered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("meta");
        let superblock = metadata_file(&path);
        let found = read(&path, Place::Either).expect("metadata");
        assert_eq!(found.superblock.sequence, 2);
        assert_eq!(found.superblock.voter, superblock.voter);
        assert_eq!(found.copies, [None, None]);
        let plan = found.journal.as_ref().expect("a journal");
        assert_eq!(plan.end, replicator::units::Lsn::ZERO);
        assert!(show::text(&found).contains("resource: mail"), "{}", show::text(&found));
        assert_eq!(show::json(&found)["superblock"]["resource"], "mail");
    }

    #[test]
    fn one_damaged_copy_is_named_and_the_other_one_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("meta");
        metadata_file(&path);
        let file = File::options().write(true).open(&path).expect("open");
        file.write_all_at(b"x", 100).expect("damaged");
        let found = read(&path, Place::Either).expect("metadata");
        assert!(matches!(found.copies, [Some(_), None]), "{:?}", found.copies);
        assert_eq!(found.superblock.sequence, 1);
    }

    #[test]
    fn internal_metadata_is_found_at_the_end_of_the_data_whatever_the_data_begins_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let (own, path) = (folder.path().join("meta"), folder.path().join("data"));
        let superblock = metadata_file(&own);
        let metadata = std::fs::read(&own).expect("read");
        // A client keeps a copy of some metadata in the volume.
        let mut bytes = metadata[..bytes_usize(superblock.volume_bytes).min(metadata.len())].to_vec();
        bytes.resize(bytes_usize(superblock.volume_bytes), 7);
        bytes.extend(metadata);
        let file = File::create(&path).expect("created");
        file.write_all_at(&bytes, 0).expect("written");
        for place in [Place::End, Place::Either] {
            let read_back = File::open(&path).expect("open");
            let lost = find_area(&read_back, superblock.volume_bytes, place);
            assert_eq!(lost, (place == Place::Either).then_some(0), "without a locator");
        }
        let metadata_bytes = superblock.zones.metadata_bytes();
        let locator =
            Locator { voter: superblock.voter, metadata_bytes, volume_bytes: superblock.volume_bytes };
        for offset in Locator::offsets(superblock.volume_bytes + metadata_bytes) {
            file.write_all_at(&locator.encode(), offset).expect("written");
        }
        for place in [Place::End, Place::Either] {
            assert_eq!(read(&path, place).expect("metadata").offset, superblock.volume_bytes);
        }
        assert_eq!(read(&path, Place::Beginning).expect("the copy").offset, 0);
    }

    #[test]
    fn a_disk_in_use_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("meta");
        metadata_file(&path);
        let daemon = File::open(&path).expect("open");
        rustix::fs::flock(&daemon, FlockOperation::LockExclusive).expect("locked");
        let error = read(&path, Place::Either).expect_err("in use");
        assert_eq!(error.downcast_ref::<Ended>().expect("an end").status.number(), 11);
    }

    #[test]
    fn what_is_no_metadata_is_called_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text");
        std::fs::write(&path, "short").expect("written");
        assert!(
            read(&path, Place::Either).expect_err("no metadata").to_string().contains("holds no metadata")
        );
    }
}
