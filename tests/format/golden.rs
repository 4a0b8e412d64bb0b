//! Images of every structure, as version 1 writes them.

use std::path::PathBuf;

use replicator::checksum::Crc32c;
use replicator::generation::lineage::{Generation, Lineage};
use replicator::layout::activity_page::ActivityPage;
use replicator::layout::bitmap_page::{BITMAP_PAGE_BLOCKS, BitmapPage, PageHeader};
use replicator::layout::checksum_page::ChecksumPage;
use replicator::layout::journal_batch::{BatchHeader, encode_descriptor, parse_descriptor};
use replicator::layout::locator::Locator;
use replicator::layout::rescue_image::{RangeTotals, RescueHead, RescueImage, RescuedRange};
use replicator::layout::superblock::{
    DurableDisk, JournalAnchor, PeerSlot, ResourceName, ResyncPosition, Superblock, SuperblockFlags,
};
use replicator::layout::zones::Zones;
use replicator::promotion::membership::{InSyncSet, MembershipRecord, VoterList};
use replicator::promotion::tiebreaker_file::TiebreakerState;
use replicator::record::{Record, RecordKind};
use replicator::units::{BLOCK_SIZE, BlockRange, GenerationId, Incarnation, Lsn, NodeId, Term, VoterId};

/// A structure: its file, its bytes as the code writes them, and whether bytes are accepted as it.
struct Image {
    name: &'static str,
    bytes: Vec<u8>,
    accepts: fn(&[u8]) -> bool,
}

fn superblock() -> Superblock {
    let volume_bytes = 10 << 30;
    let mut lineage = Lineage::zeroed();
    let term = Term { number: 3, taker: 0x0102_0304_0506_0708 };
    lineage.append(Generation { id: GenerationId(0x1111), term, granted: true, first_lsn: Lsn(1) }, &[]);
    lineage.append(Generation { id: GenerationId(0x2222), term, granted: false, first_lsn: Lsn(5000) }, &[]);
    let mut peers = [PeerSlot::default(); 7];
    let base_generation = GenerationId(0x1111);
    let (node, base_lsn, acknowledged) = (Some(NodeId(1)), Lsn(4999), Lsn(5003));
    peers[0] = PeerSlot {
        node,
        base_generation,
        base_lsn,
        acknowledged,
        bitmap_slot: 0,
        has_dirty_bits: true,
        marked_up_to: Lsn(0x0405),
        has_cleared: true,
    };
    let mut voters = VoterList::default();
    voters.ids[..3].copy_from_slice(&[VoterId(0xa), VoterId(0xb), VoterId(0xc)]);
    let in_sync = InSyncSet::of(NodeId(0), Incarnation(0x77)).with(NodeId(1), Incarnation(0x78));
    Superblock {
        sequence: 42,
        resource: ResourceName::parse("mail").unwrap(),
        node: NodeId(0),
        voter: VoterId(0xa),
        volume_bytes,
        max_peers: 2,
        zones: Zones::for_volume(volume_bytes, 1 << 30, 2).unwrap(),
        disk: DurableDisk::Outdated,
        flags: SuperblockFlags { ended_as_primary: true, stopped_cleanly: true, journal_nonvolatile: false },
        resync: Some(ResyncPosition {
            generation: GenerationId(0x1111),
            lsn: Lsn(4999),
            source: Some(NodeId(1)),
        }),
        consistent_at: Lsn(0x0607),
        membership: MembershipRecord { term, version: 2, primary: Some(NodeId(0)), in_sync, voters },
        incarnation_recorded: Incarnation(0x77),
        incarnation: Incarnation(0x79),
        pins: voters,
        lineage,
        peers,
        journal: JournalAnchor {
            tail_offset: 0x10_0000,
            tail_lsn: Lsn(4000),
            tail_generation: GenerationId(0x1111),
            predecessor: Crc32c(0xdead_beef),
            session: 9,
            session_first_lsn: Lsn(4990),
            data_flushed: Lsn(4995),
        },
    }
}

fn batch() -> Vec<u8> {
    let records = [
        Record::write(Lsn(100), BlockRange::new(7, 2), vec![0xab; 2 * BLOCK_SIZE].into()),
        Record::zero(Lsn(101), RecordKind::Zeroes, BlockRange::new(0, 16)),
        Record::zero(Lsn(102), RecordKind::Trim, BlockRange::new(0, 1 << 32)),
        Record::write(Lsn(103), BlockRange::new(9, 1), vec![0xcd; BLOCK_SIZE].into()),
    ];
    let header = BatchHeader {
        journal: VoterId(0xa),
        ring_offset: 0x3000,
        session: 9,
        generation: GenerationId(0x2222),
        first_lsn: Lsn(100),
        predecessor: Crc32c(0xfeed_f00d),
        flushed_up_to: Lsn(99),
        written_back_up_to: Lsn(64),
    };
    let (mut bytes, _) = encode_descriptor(&header, &records);
    records.iter().for_each(|record| bytes.extend_from_slice(&record.payload));
    bytes
}

fn tiebreaker() -> TiebreakerState {
    let record = superblock().membership;
    let resource = ResourceName::parse("mail").unwrap();
    let mut state = TiebreakerState::new(resource, NodeId(2), VoterId(0xc));
    (state.sequence, state.record, state.known) = (17, record, record.voters);
    state
}

/// Two ranges and the last block.
fn rescue_image() -> Vec<u8> {
    let mut totals = RangeTotals::default();
    let ranges = totals.encode(&[
        RescuedRange { blocks: BlockRange::new(3, 2), lsn: Some(Lsn(5001)) },
        RescuedRange { blocks: BlockRange::new(900, 1), lsn: None },
    ]);
    let superblock = superblock();
    let head = RescueHead {
        resource: superblock.resource,
        volume_bytes: superblock.volume_bytes,
        node: (NodeId(1), "beta".to_owned()),
        peer: (NodeId(0), "alpha.example.org".to_owned()),
        common: GenerationId(0x1111),
        fork: Lsn(4999),
        end: Lsn(5003),
        is_damaged: false,
        lineage: superblock.lineage,
    };
    [ranges, RescueImage { head, begun: 1_763_671_515, totals }.encode()].concat()
}

fn accepts_rescue_image(bytes: &[u8]) -> bool {
    let (ranges, block) = bytes.split_at(bytes.len() - BLOCK_SIZE);
    let Ok(image) = RescueImage::parse(block) else { return false };
    let mut read = RangeTotals::default();
    read.parse(image.head.volume_bytes, ranges).is_ok() && image.check_ranges(&read).is_ok()
}

fn images() -> Vec<Image> {
    let mut bitmap = BitmapPage::clean(1, 5);
    bitmap.header.sequence = 3;
    [0, 9, BITMAP_PAGE_BLOCKS - 1].into_iter().for_each(|block| bitmap.set(block..block + 1));
    let header = PageHeader { peer_slot: 0, page_index: 2, sequence: 1 };
    let checksums = ChecksumPage { header, sums: (0..1008).map(Crc32c).collect() };
    let activity = ActivityPage { header, extents: vec![0, 1, 4_194_303] };
    let locator = Locator { voter: VoterId(0xa), metadata_bytes: 0x4100_0000, volume_bytes: 10 << 30 };
    vec![
        Image {
            name: "superblock",
            bytes: superblock().encode().to_vec(),
            accepts: |bytes| Superblock::parse(bytes) == Ok(superblock()),
        },
        Image { name: "locator", bytes: locator.encode(), accepts: |bytes| Locator::parse(bytes).is_ok() },
        Image { name: "batch", bytes: batch(), accepts: accepts_batch },
        Image {
            name: "bitmap_page",
            bytes: bitmap.encode(),
            accepts: |bytes| BitmapPage::parse(bytes, 1, 5).is_ok(),
        },
        Image {
            name: "checksum_page",
            bytes: checksums.encode(),
            accepts: |bytes| ChecksumPage::parse(bytes, 2).is_ok(),
        },
        Image {
            name: "activity_page",
            bytes: activity.encode(),
            accepts: |bytes| ActivityPage::parse(bytes, 2).is_ok(),
        },
        Image {
            name: "tiebreaker",
            bytes: tiebreaker().encode().to_vec(),
            accepts: |bytes| TiebreakerState::parse(bytes) == Ok(tiebreaker()),
        },
        Image { name: "rescue_image", bytes: rescue_image(), accepts: accepts_rescue_image },
    ]
}

fn accepts_batch(bytes: &[u8]) -> bool {
    let Ok(parsed) = parse_descriptor(bytes) else {
        return false;
    };
    let payload = bytes[BLOCK_SIZE..].to_vec();
    parsed.descriptor_blocks == 1 && parsed.into_records(payload.into()).is_ok()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/format/golden/v1/{name}.bin"))
}

#[test]
fn the_code_writes_the_golden_images_and_reads_them_back() {
    for image in images() {
        let golden = std::fs::read(path(image.name)).expect("golden images are in the tree");
        assert!(golden == image.bytes, "{} differs from its golden image", image.name);
        assert!((image.accepts)(&golden), "{} is read back", image.name);
    }
}

#[test]
fn every_flipped_bit_of_every_structure_is_refused() {
    for image in images() {
        let mut bytes = image.bytes;
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!(image.accepts)(&bytes), "{}: bit {} of byte {}", image.name, bit % 8, bit / 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn an_unknown_version_is_refused_by_name() {
    let mut block = superblock().encode();
    block[8] = 2;
    let refused = Superblock::parse(&block[..]).unwrap_err().to_string();
    assert_eq!(refused, "superblock of format version 2, this program knows 1");
}

#[test]
#[ignore = "writes the golden images; run it only after an intended change of the format"]
fn write_the_golden_images() {
    for image in images() {
        std::fs::write(path(image.name), image.bytes).expect("the folder is in the tree");
    }
}
