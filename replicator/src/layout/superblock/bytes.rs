//! The superblock as it lies on disk. Only the structures; `encoding` gives the bytes their meaning.

use zerocopy::little_endian::{U32, U64};

use crate::layout::disk_struct;
use crate::units::BLOCK_SIZE;

/// First bytes of a superblock.
pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"TBLKSUPR";
/// Zones that a superblock has room for.
pub const ZONES_STORED: usize = 16;
/// Node number that stands for nobody.
pub const NODE_NONE: u8 = 0xff;

disk_struct! {
    /// One superblock copy.
    pub struct SuperblockBytes {
        /// [`SUPERBLOCK_MAGIC`].
        magic: [u8; 8],
        /// Format version.
        version: U32,
        /// CRC32C of the whole block with this field zero.
        crc: U32,
        /// Grows with every write.
        sequence: U64,
        /// Name of the resource, zero padded.
        resource: [u8; 64],
        /// Length of the name.
        resource_length: u8,
        /// Node number.
        node: u8,
        /// Peers that there is room for.
        max_peers: u8,
        /// Disk state.
        disk: u8,
        /// Bit 0 ended as Primary, 1 stopped cleanly, 2 journal non-volatile.
        flags: U32,
        /// Identity of the metadata.
        voter: U64,
        /// Size of the volume.
        volume_bytes: U64,
        /// 1 if the three resync fields mean something, else they are zero.
        resync_present: u8,
        /// In whose bitmap everything is marked that this node lacks; 255 before one has said that it is.
        resync_source: u8,
        /// Zero.
        reserved_1: [u8; 6],
        /// Generation of the resync's common point.
        resync_generation: U64,
        /// Lsn of the resync's common point.
        resync_lsn: U64,
        /// Term of the voters' record: number.
        term_number: U64,
        /// Term of the voters' record: taker.
        term_taker: U64,
        /// Version of the voters' record.
        membership_version: U64,
        /// Primary of the voters' record, or nobody.
        membership_primary: u8,
        /// Entries of the lineage.
        generation_count: u8,
        /// Zones in use.
        zone_count: u8,
        /// Zero.
        reserved_2: [u8; 5],
        /// In-sync set: incarnation of each node, zero if it is no member.
        in_sync: [U64; 8],
        /// Voters of the record.
        voters: [U64; 9],
        /// Last incarnation known to be recorded.
        incarnation_recorded: U64,
        /// Incarnation drawn at the last start.
        incarnation: U64,
        /// Voters as met at first contact.
        pins: [U64; 9],
        /// Where recovery starts.
        journal: JournalAnchorBytes,
        /// Bit n: entry n of the lineage is granted.
        granted: U64,
        /// What is kept for each peer.
        peers: [PeerSlotBytes; 7],
        /// Where everything lies.
        zones: [ZoneBytes; ZONES_STORED],
        /// The lineage, oldest first.
        generations: [GenerationBytes; 64],
        /// For each peer: everything up to here that it lacks is in its bitmap.
        marked_up_to: [U64; 7],
        /// After a resync: only together with its journal up to here is the disk one state of the volume.
        consistent_at: U64,
        /// Zero.
        reserved_3: [u8; 920],
    }
}

disk_struct! {
    /// One zone.
    pub struct ZoneBytes {
        /// Kind; 0 in an entry that is not used.
        kind: u8,
        /// Peer slot of a bitmap.
        slot: u8,
        /// State.
        state: u8,
        /// Zero.
        reserved: [u8; 5],
        /// Offset from the start of the metadata area.
        offset: U64,
        /// Length.
        length: U64,
    }
}

disk_struct! {
    /// One entry of the lineage.
    pub struct GenerationBytes {
        /// Identity.
        id: U64,
        /// Term: number.
        term_number: U64,
        /// Term: taker.
        term_taker: U64,
        /// First write.
        first_lsn: U64,
    }
}

disk_struct! {
    /// What is kept for one peer.
    pub struct PeerSlotBytes {
        /// Generation of the base.
        base_generation: U64,
        /// Lsn of the base.
        base_lsn: U64,
        /// Newest acknowledged Lsn.
        acknowledged: U64,
        /// Node number, or nobody.
        node: u8,
        /// Which bitmap zone.
        bitmap_slot: u8,
        /// 1 if the bitmap has a set bit.
        has_dirty_bits: u8,
        /// 1 if the peer has cleared marks for this node that hold no more.
        has_cleared: u8,
        /// Zero.
        reserved: [u8; 4],
    }
}

disk_struct! {
    /// Where recovery starts.
    pub struct JournalAnchorBytes {
        /// Ring offset of the oldest batch kept.
        tail_offset: U64,
        /// First Lsn kept.
        tail_lsn: U64,
        /// Its generation.
        tail_generation: U64,
        /// Session number.
        session: U64,
        /// First Lsn of the session.
        session_first_lsn: U64,
        /// Written and flushed in the data area up to here.
        data_flushed: U64,
        /// CRC of the descriptor before the tail.
        predecessor: U32,
        /// Zero.
        reserved: [u8; 4],
    }
}

const _: () = assert!(size_of::<SuperblockBytes>() == BLOCK_SIZE);
const _: () = assert!(core::mem::offset_of!(SuperblockBytes, crc) == 12);
const _: () = assert!(size_of::<ZoneBytes>() == 24);
const _: () = assert!(size_of::<GenerationBytes>() == 32);
const _: () = assert!(size_of::<PeerSlotBytes>() == 32);
const _: () = assert!(size_of::<JournalAnchorBytes>() == 56);
