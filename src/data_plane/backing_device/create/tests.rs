//! Metadata that was made is found again, on a file of its own and at the end of the data.

use std::path::Path;

use replicator::config::{
    Address, Config, OnNoData, OnPeerLost, RESYNC_DEFAULT, ReplicaConfig, ReplicationProtocol,
};
use replicator::generation::lineage::Lineage;
use replicator::layout::bitmap_page::BitmapPage;
use replicator::layout::superblock::{DurableDisk, PeerSlot, ResourceName};
use replicator::layout::zones::{SUPERBLOCK_1_OFFSET, Zones};
use replicator::units::{Lsn, NodeId, Span, VoterId};

use super::*;
use crate::data_plane::backing_device::signatures::signatures;
use crate::data_plane::backing_device::start::{DiskPaths, MetadataPlace, StartError};

const VOLUME_BYTES: u64 = 1 << 20;

fn superblock() -> Superblock {
    let created = Superblock::created(
        ResourceName::parse("mail").unwrap(),
        NodeId(1),
        VoterId(77),
        VOLUME_BYTES,
        Zones::for_volume(VOLUME_BYTES, 16 << 20, 2).unwrap(),
        DurableDisk::UpToDate,
        Lineage::zeroed(),
    );
    Superblock { sequence: 1, ..created }
}

fn config() -> Config {
    let replica = |name: &str| ReplicaConfig {
        name: name.into(),
        protocol: ReplicationProtocol::C,
        address: Address::default(),
    };
    Config {
        resource: "mail".into(),
        volume_bytes: VOLUME_BYTES,
        local: NodeId(1),
        replicas: vec![replica("alpha"), replica("beta")],
        has_tiebreaker: true,
        on_peer_lost: OnPeerLost::Quorum,
        on_no_data: OnNoData::Freeze,
        heartbeat: Span::from_millis(1000),
        peer_timeout: Span::from_millis(3000),
        disk_timeout: Span::from_millis(30_000),
        split_brain: Default::default(),
        resync: RESYNC_DEFAULT,
        digest: Default::default(),
    }
}

fn paths(folder: &Path, is_internal: bool) -> DiskPaths {
    let own = MetadataPlace::Own(folder.join("metadata"));
    let metadata = if is_internal { MetadataPlace::Internal } else { own };
    DiskPaths { data: folder.join("data"), metadata }
}

/// Makes files and metadata as the command line does.
fn create_in(folder: &Path, is_internal: bool, data_area: DataArea) {
    let superblock = superblock();
    let metadata_bytes = superblock.zones.metadata_bytes();
    let paths = paths(folder, is_internal);
    let inside = if is_internal { metadata_bytes } else { 0 };
    Device::prepare_file(&paths.data, VOLUME_BYTES + inside).unwrap();
    if let MetadataPlace::Own(path) = &paths.metadata {
        Device::prepare_file(path, metadata_bytes).unwrap();
    }
    let mut disks = OpenDisks::open(&paths).unwrap();
    disks.place_area(&superblock.zones, VOLUME_BYTES).unwrap();
    let mut written = 0;
    create(&disks, &superblock, data_area, &mut |done, _all| written = done).unwrap();
    assert_eq!(written, superblock.zones.journal().length);
}

#[test]
fn metadata_is_found_again_wherever_it_lies() {
    for is_internal in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        create_in(folder.path(), is_internal, DataArea::Keep);
        let mut disks = OpenDisks::open(&paths(folder.path(), is_internal)).unwrap();
        assert_eq!(disks.is_internal(), is_internal);
        let found = disks.read(&config()).unwrap();
        assert_eq!(found.superblock, Superblock { sequence: 2, ..superblock() });
        assert_eq!(found.recovery.end, Lsn::ZERO);
        assert!(found.bitmap_pages.is_empty());
        let (bytes, length) = (disks.metadata.bytes, 1 << 20);
        let head = disks.metadata.read_at(disks.metadata_offset, length).unwrap();
        let tail = disks.metadata.read_at(bytes - bytes_u64(length), length).unwrap();
        for (head, tail) in [(&head[..], &[][..]), (&[], &tail)] {
            assert_eq!(signatures(head, tail), ["twinblk metadata"]);
        }
    }
}

#[test]
fn a_forgotten_area_is_not_found_again_and_the_data_before_it_stays() {
    for is_internal in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        create_in(folder.path(), is_internal, DataArea::Keep);
        let mut disks = OpenDisks::open(&paths(folder.path(), is_internal)).unwrap();
        disks.data.write_at(0, &PoolBuffer::copy_of(&[7; 4096])).unwrap();
        let (place, bytes) = (superblock().zones.internal_offset(disks.data.bytes, VOLUME_BYTES), BLOCK_SIZE);
        forget_old_areas(&disks.metadata).unwrap();
        assert!(matches!(disks.read(&config()), Err(StartError::NoMetadata { .. })));
        assert_eq!(disks.data.read_at(0, bytes).unwrap()[0], 7);
        for offset in place.into_iter().flat_map(|area| [area, area + SUPERBLOCK_1_OFFSET]) {
            assert!(disks.data.read_at(offset, bytes).unwrap().iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn a_disk_without_metadata_names_the_command_that_makes_it() {
    for is_internal in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("data"), vec![0; 8 << 20]).unwrap();
        std::fs::write(folder.path().join("metadata"), vec![0; 8 << 20]).unwrap();
        let refused =
            OpenDisks::open(&paths(folder.path(), is_internal)).unwrap().read(&config()).unwrap_err();
        assert!(refused.to_string().ends_with("create it with `twinblk create-metadata mail`"), "{refused}");
    }
}

#[test]
fn metadata_of_another_resource_node_or_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    create_in(folder.path(), false, DataArea::Keep);
    let mut disks = OpenDisks::open(&paths(folder.path(), false)).unwrap();
    let mut refusal = |change: fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        disks.read(&config).unwrap_err()
    };
    let other = refusal(|config| config.resource = "web".into());
    assert!(matches!(other, StartError::OtherResource { .. }));
    assert!(matches!(refusal(|config| config.local = NodeId(0)), StartError::OtherNode { .. }));
    assert!(matches!(refusal(|config| config.volume_bytes *= 2), StartError::OtherSize { .. }));
    let crowd = refusal(|config| config.replicas = vec![config.replicas[0].clone(); 4]);
    assert!(matches!(crowd, StartError::TooFewPeers { room: 2, peers: 3, .. }));
}

#[test]
fn zeroing_the_data_area_leaves_nothing_of_it_and_keeping_it_leaves_everything() {
    for (data_area, byte) in [(DataArea::Keep, 7), (DataArea::Zero, 0)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("data"), vec![7; 1 << 20]).unwrap();
        create_in(folder.path(), false, data_area);
        let data = std::fs::read(folder.path().join("data")).unwrap();
        assert!(data.len() == 1 << 20 && data.iter().all(|found| *found == byte));
    }
}

#[test]
fn disks_that_are_too_small_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let zones = superblock().zones;
    std::fs::write(folder.path().join("data"), vec![7; 1 << 20]).unwrap();
    std::fs::write(folder.path().join("metadata"), vec![7; 1 << 20]).unwrap();
    for is_internal in [false, true] {
        let mut disks = OpenDisks::open(&paths(folder.path(), is_internal)).unwrap();
        let refused = disks.place_area(&zones, VOLUME_BYTES).unwrap_err();
        assert!(matches!(refused, DeviceError::TooSmall { .. }));
    }
}

#[test]
fn one_path_for_data_and_metadata_is_refused_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::write(&data, [0; 4096]).unwrap();
    let paths = DiskPaths { metadata: MetadataPlace::Own(data.clone()), data };
    let refused = OpenDisks::open(&paths).unwrap_err();
    assert!(refused.to_string().contains("metadata = \"internal\""), "{refused}");
}

#[test]
fn dirty_bitmaps_are_read_only_if_the_superblock_says_so_and_only_a_torn_page_is_forgiven() {
    let folder = tempfile::tempdir().unwrap();
    create_in(folder.path(), false, DataArea::Keep);
    let mut disks = OpenDisks::open(&paths(folder.path(), false)).unwrap();
    let mut page = BitmapPage::clean(1, 0);
    page.header.sequence = 1;
    page.set(5..6);
    let zone = superblock().zones.bitmap(1).unwrap();
    disks.metadata.write_at(zone.offset, &PoolBuffer::copy_of(&page.encode())).unwrap();
    assert!(disks.read(&config()).unwrap().bitmap_pages.is_empty());

    let mut dirty = Superblock { sequence: 3, ..superblock() };
    dirty.peers[0] =
        PeerSlot { node: Some(NodeId(0)), bitmap_slot: 1, has_dirty_bits: true, ..PeerSlot::default() };
    let place = dirty.zones.superblocks()[dirty.copy_index()].offset;
    disks.metadata.write_at(place, &PoolBuffer::copy_of(&dirty.encode()[..])).unwrap();
    assert_eq!(disks.read(&config()).unwrap().bitmap_pages, [page.clone()]);

    // The first sector of the page did not arrive.
    let mut torn = page.encode();
    torn[..512].fill(0);
    torn[4095] = 1;
    disks.metadata.write_at(zone.offset, &PoolBuffer::copy_of(&torn)).unwrap();
    let found = disks.read(&config()).unwrap().bitmap_pages;
    assert!(found[0].bits.iter().all(|byte| *byte == 0xFF), "nothing is known, so every block may differ");

    disks.metadata.write_at(zone.offset, &PoolBuffer::copy_of(&[1; 4096])).unwrap();
    assert!(matches!(disks.read(&config()), Err(StartError::BitmapPage { slot: 1, page: 0, .. })));
}
