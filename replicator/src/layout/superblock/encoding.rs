//! Superblock to bytes and back. Everything that no node writes is refused here, with its reason.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::bytes::{
    GenerationBytes, JournalAnchorBytes, NODE_NONE, PeerSlotBytes, SUPERBLOCK_MAGIC, SuperblockBytes,
    ZoneBytes,
};
use super::{
    DurableDisk, JournalAnchor, PeerSlot, ResourceName, ResyncPosition, Superblock, SuperblockError,
    SuperblockFlags,
};
use crate::checksum::Crc32c;
use crate::generation::lineage::{Generation, Lineage};
use crate::layout::format_version::FORMAT_VERSION;
use crate::layout::zones::{Zone, ZoneKind, ZoneState, Zones, check_volume};
use crate::promotion::membership::{InSyncSet, MembershipRecord, VoterList};
use crate::units::{
    BLOCK_BYTES, BLOCK_SIZE, GenerationId, Incarnation, Lsn, NodeId, REPLICAS_MAX, Term, VOTERS_MAX, VoterId,
};

const FLAG_ENDED_AS_PRIMARY: u32 = 1;
const FLAG_STOPPED_CLEANLY: u32 = 2;
const FLAG_JOURNAL_NONVOLATILE: u32 = 4;

pub(super) fn encode(superblock: &Superblock) -> Box<[u8; BLOCK_SIZE]> {
    let anchor = &superblock.journal;
    assert!(anchor_is_possible(anchor, &superblock.zones), "I7: impossible journal position {anchor:?}");
    assert!(superblock.voter.0 != 0, "metadata has an identity");
    let mut bytes = SuperblockBytes::new_zeroed();
    bytes.magic = SUPERBLOCK_MAGIC;
    bytes.version = U32::new(FORMAT_VERSION);
    bytes.sequence = U64::new(superblock.sequence);
    let name = superblock.resource.as_str().as_bytes();
    bytes.resource[..name.len()].copy_from_slice(name);
    bytes.resource_length = u8::try_from(name.len()).expect("a resource name has at most 64 bytes");
    bytes.node = superblock.node.0;
    bytes.max_peers = superblock.max_peers;
    bytes.disk = superblock.disk.code();
    bytes.flags = U32::new(flag_bits(superblock.flags));
    bytes.voter = U64::new(superblock.voter.0);
    bytes.volume_bytes = U64::new(superblock.volume_bytes);
    if let Some(resync) = superblock.resync {
        bytes.resync_present = 1;
        bytes.resync_source = resync.source.map_or(NODE_NONE, |node| node.0);
        bytes.resync_generation = U64::new(resync.generation.0);
        bytes.resync_lsn = U64::new(resync.lsn.0);
    }
    bytes.consistent_at = U64::new(superblock.consistent_at.0);
    encode_membership(&superblock.membership, &mut bytes);
    bytes.incarnation_recorded = U64::new(superblock.incarnation_recorded.0);
    bytes.incarnation = U64::new(superblock.incarnation.0);
    bytes.pins = superblock.pins.ids.map(|id| U64::new(id.0));
    bytes.journal = encode_anchor(anchor);
    for (place, peer) in bytes.marked_up_to.iter_mut().zip(&superblock.peers) {
        *place = U64::new(peer.marked_up_to.0);
    }
    for (place, peer) in bytes.peers.iter_mut().zip(&superblock.peers) {
        *place = encode_peer(peer);
    }
    encode_zones(&superblock.zones, &mut bytes);
    encode_lineage(&superblock.lineage, &mut bytes);
    bytes.crc = U32::new(Crc32c::of(bytes.as_bytes()).0);
    let mut block = Box::new([0; BLOCK_SIZE]);
    block.copy_from_slice(bytes.as_bytes());
    block
}

fn flag_bits(flags: SuperblockFlags) -> u32 {
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    bit(flags.ended_as_primary, FLAG_ENDED_AS_PRIMARY)
        | bit(flags.stopped_cleanly, FLAG_STOPPED_CLEANLY)
        | bit(flags.journal_nonvolatile, FLAG_JOURNAL_NONVOLATILE)
}

fn encode_membership(membership: &MembershipRecord, bytes: &mut SuperblockBytes) {
    bytes.term_number = U64::new(membership.term.number);
    bytes.term_taker = U64::new(membership.term.taker);
    bytes.membership_version = U64::new(membership.version);
    bytes.membership_primary = membership.primary.map_or(NODE_NONE, |node| node.0);
    for (node, incarnation) in membership.in_sync.iter() {
        bytes.in_sync[node.index()] = U64::new(incarnation.0);
    }
    bytes.voters = membership.voters.ids.map(|id| U64::new(id.0));
}

fn encode_anchor(anchor: &JournalAnchor) -> JournalAnchorBytes {
    JournalAnchorBytes {
        tail_offset: U64::new(anchor.tail_offset),
        tail_lsn: U64::new(anchor.tail_lsn.0),
        tail_generation: U64::new(anchor.tail_generation.0),
        session: U64::new(anchor.session),
        session_first_lsn: U64::new(anchor.session_first_lsn.0),
        data_flushed: U64::new(anchor.data_flushed.0),
        predecessor: U32::new(anchor.predecessor.0),
        reserved: [0; 4],
    }
}

fn encode_peer(peer: &PeerSlot) -> PeerSlotBytes {
    PeerSlotBytes {
        base_generation: U64::new(peer.base_generation.0),
        base_lsn: U64::new(peer.base_lsn.0),
        acknowledged: U64::new(peer.acknowledged.0),
        node: peer.node.map_or(NODE_NONE, |node| node.0),
        bitmap_slot: peer.bitmap_slot,
        has_dirty_bits: u8::from(peer.has_dirty_bits),
        has_cleared: u8::from(peer.has_cleared),
        reserved: [0; 4],
    }
}

fn encode_zones(zones: &Zones, bytes: &mut SuperblockBytes) {
    bytes.zone_count = u8::try_from(zones.all().len()).expect("at most 13 kinds of zones");
    for (place, zone) in bytes.zones.iter_mut().zip(zones.all()) {
        let (kind, slot) = zone.kind.code();
        let (offset, length) = (U64::new(zone.offset), U64::new(zone.length));
        *place = ZoneBytes { kind, slot, state: zone.state.code(), reserved: [0; 5], offset, length };
    }
}

fn encode_lineage(lineage: &Lineage, bytes: &mut SuperblockBytes) {
    let mut granted = 0;
    for (at, generation) in lineage.generations().iter().enumerate() {
        granted |= u64::from(generation.granted) << at;
        bytes.generations[at] = GenerationBytes {
            id: U64::new(generation.id.0),
            term_number: U64::new(generation.term.number),
            term_taker: U64::new(generation.term.taker),
            first_lsn: U64::new(generation.first_lsn.0),
        };
    }
    bytes.granted = U64::new(granted);
    bytes.generation_count = u8::try_from(lineage.generations().len()).expect("at most 64 generations");
}

pub(super) fn parse(block: &[u8]) -> Result<Superblock, SuperblockError> {
    let bytes = verified_bytes(block)?;
    let volume_bytes = bytes.volume_bytes.get();
    check_volume(volume_bytes)?;
    let zones = parse_zones(&bytes, volume_bytes)?;
    let voter = VoterId(bytes.voter.get());
    if voter.0 == 0 {
        return Err(SuperblockError::Nameless);
    }
    let mut peers = [PeerSlot::default(); 7];
    for (at, (place, peer)) in peers.iter_mut().zip(&bytes.peers).enumerate() {
        *place = parse_peer(peer).ok_or(SuperblockError::Peer(at))?;
        place.marked_up_to = Lsn(bytes.marked_up_to[at].get());
    }
    Ok(Superblock {
        sequence: bytes.sequence.get(),
        resource: parse_resource(&bytes).ok_or(SuperblockError::Resource)?,
        node: replica(bytes.node).ok_or(SuperblockError::Node(bytes.node))?,
        voter,
        volume_bytes,
        max_peers: bytes.max_peers,
        disk: DurableDisk::from_code(bytes.disk).ok_or(SuperblockError::Disk(bytes.disk))?,
        flags: parse_flags(bytes.flags.get())?,
        resync: parse_resync(&bytes)?,
        consistent_at: Lsn(bytes.consistent_at.get()),
        membership: parse_membership(&bytes).ok_or(SuperblockError::Membership)?,
        incarnation_recorded: Incarnation(bytes.incarnation_recorded.get()),
        incarnation: Incarnation(bytes.incarnation.get()),
        pins: voter_list(&bytes.pins),
        lineage: parse_lineage(&bytes)?,
        peers,
        journal: parse_anchor(&bytes.journal, &zones)?,
        zones,
    })
}

/// The bytes, once magic, version and checksum hold and every reserved byte is zero.
fn verified_bytes(block: &[u8]) -> Result<SuperblockBytes, SuperblockError> {
    let mut bytes =
        SuperblockBytes::read_from_bytes(block).map_err(|_| SuperblockError::Length(block.len()))?;
    if bytes.magic != SUPERBLOCK_MAGIC {
        return Err(SuperblockError::Magic);
    }
    if bytes.version.get() != FORMAT_VERSION {
        return Err(SuperblockError::Version(bytes.version.get()));
    }
    let stored = Crc32c(bytes.crc.get());
    bytes.crc = U32::ZERO;
    let computed = Crc32c::of(bytes.as_bytes());
    if stored != computed {
        return Err(SuperblockError::Checksum { stored, computed });
    }
    let zero = |reserved: &[u8]| reserved.iter().all(|byte| *byte == 0);
    let own = zero(&bytes.reserved_1) && zero(&bytes.reserved_2) && zero(&bytes.reserved_3);
    let peers = bytes.peers.iter().all(|peer| zero(&peer.reserved));
    let zones = bytes.zones.iter().all(|zone| zero(&zone.reserved));
    if !(own && peers && zones && zero(&bytes.journal.reserved)) {
        return Err(SuperblockError::Reserved);
    }
    Ok(bytes)
}

fn parse_resource(bytes: &SuperblockBytes) -> Option<ResourceName> {
    let (name, padding) = bytes.resource.split_at_checked(usize::from(bytes.resource_length))?;
    let padded = padding.iter().all(|byte| *byte == 0);
    ResourceName::parse(std::str::from_utf8(name).ok()?).filter(|_| padded)
}

fn replica(node: u8) -> Option<NodeId> {
    (usize::from(node) < REPLICAS_MAX).then_some(NodeId(node))
}

/// `Some(None)` for nobody, `None` for a number that no replica has.
fn replica_or_nobody(node: u8) -> Option<Option<NodeId>> {
    if node == NODE_NONE { Some(None) } else { replica(node).map(Some) }
}

fn parse_flags(bits: u32) -> Result<SuperblockFlags, SuperblockError> {
    let known = FLAG_ENDED_AS_PRIMARY | FLAG_STOPPED_CLEANLY | FLAG_JOURNAL_NONVOLATILE;
    if bits & !known != 0 {
        return Err(SuperblockError::Flags(bits & !known));
    }
    Ok(SuperblockFlags {
        ended_as_primary: bits & FLAG_ENDED_AS_PRIMARY != 0,
        stopped_cleanly: bits & FLAG_STOPPED_CLEANLY != 0,
        journal_nonvolatile: bits & FLAG_JOURNAL_NONVOLATILE != 0,
    })
}

fn parse_resync(bytes: &SuperblockBytes) -> Result<Option<ResyncPosition>, SuperblockError> {
    let (generation, lsn) = (GenerationId(bytes.resync_generation.get()), Lsn(bytes.resync_lsn.get()));
    match (bytes.resync_present, replica_or_nobody(bytes.resync_source)) {
        (0, Some(Some(NodeId(0)))) if generation.0 == 0 && lsn == Lsn::ZERO => Ok(None),
        (1, Some(source)) => Ok(Some(ResyncPosition { generation, lsn, source })),
        _ => Err(SuperblockError::Resync),
    }
}

fn voter_list(ids: &[U64; VOTERS_MAX]) -> VoterList {
    VoterList { ids: ids.map(|id| VoterId(id.get())) }
}

fn parse_membership(bytes: &SuperblockBytes) -> Option<MembershipRecord> {
    let numbered = (0u8..).zip(bytes.in_sync.iter().map(|incarnation| incarnation.get()));
    let members = numbered.filter(|(_, incarnation)| *incarnation != 0);
    let in_sync = members.fold(InSyncSet::default(), |set, (node, incarnation)| {
        set.with(NodeId(node), Incarnation(incarnation))
    });
    Some(MembershipRecord {
        term: Term { number: bytes.term_number.get(), taker: bytes.term_taker.get() },
        version: bytes.membership_version.get(),
        primary: replica_or_nobody(bytes.membership_primary)?,
        in_sync,
        voters: voter_list(&bytes.voters),
    })
}

fn parse_lineage(bytes: &SuperblockBytes) -> Result<Lineage, SuperblockError> {
    let count = usize::from(bytes.generation_count);
    let granted = bytes.granted.get();
    let mut generations = Vec::with_capacity(count.min(bytes.generations.len()));
    for (at, stored) in bytes.generations.iter().enumerate() {
        let used = at < count;
        if !used && (stored.as_bytes().iter().any(|byte| *byte != 0) || granted >> at & 1 != 0) {
            return Err(SuperblockError::Reserved);
        }
        if used {
            generations.push(Generation {
                id: GenerationId(stored.id.get()),
                term: Term { number: stored.term_number.get(), taker: stored.term_taker.get() },
                granted: granted >> at & 1 != 0,
                first_lsn: Lsn(stored.first_lsn.get()),
            });
        }
    }
    if count > bytes.generations.len() {
        return Err(SuperblockError::Lineage(crate::generation::lineage::LineageError::TooLong(count)));
    }
    Ok(Lineage::parse(generations)?)
}

fn parse_peer(peer: &PeerSlotBytes) -> Option<PeerSlot> {
    let flag = |byte: u8| match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    };
    Some(PeerSlot {
        node: replica_or_nobody(peer.node)?,
        base_generation: GenerationId(peer.base_generation.get()),
        base_lsn: Lsn(peer.base_lsn.get()),
        acknowledged: Lsn(peer.acknowledged.get()),
        bitmap_slot: (usize::from(peer.bitmap_slot) < REPLICAS_MAX - 1).then_some(peer.bitmap_slot)?,
        has_dirty_bits: flag(peer.has_dirty_bits)?,
        has_cleared: flag(peer.has_cleared)?,
        marked_up_to: Lsn::ZERO,
    })
}

fn parse_zones(bytes: &SuperblockBytes, volume_bytes: u64) -> Result<Zones, SuperblockError> {
    let count = usize::from(bytes.zone_count);
    let (used, free) = bytes.zones.split_at_checked(count).ok_or(SuperblockError::Zones)?;
    if free.iter().any(|zone| zone.as_bytes().iter().any(|byte| *byte != 0)) {
        return Err(SuperblockError::Reserved);
    }
    let zones = used.iter().map(parse_zone).collect::<Result<Vec<_>, _>>()?;
    Zones::from_stored(zones, volume_bytes, bytes.max_peers).ok_or(SuperblockError::Zones)
}

fn parse_zone(stored: &ZoneBytes) -> Result<Zone, SuperblockError> {
    let kinds = [
        ZoneKind::Superblock0,
        ZoneKind::Superblock1,
        ZoneKind::ActivityLog,
        ZoneKind::Bitmap(stored.slot),
        ZoneKind::Checksums,
        ZoneKind::Journal,
        ZoneKind::Locator,
    ];
    let kind = kinds.into_iter().find(|kind| kind.code() == (stored.kind, stored.slot));
    let kind = kind.ok_or(SuperblockError::ZoneKind(stored.kind))?;
    let state = ZoneState::from_code(stored.state).filter(|state| *state == kind.known_state());
    let state = state.ok_or(SuperblockError::ZoneState { kind, state: stored.state })?;
    Ok(Zone { kind, state, offset: stored.offset.get(), length: stored.length.get() })
}

fn parse_anchor(stored: &JournalAnchorBytes, zones: &Zones) -> Result<JournalAnchor, SuperblockError> {
    let anchor = JournalAnchor {
        tail_offset: stored.tail_offset.get(),
        tail_lsn: Lsn(stored.tail_lsn.get()),
        tail_generation: GenerationId(stored.tail_generation.get()),
        predecessor: Crc32c(stored.predecessor.get()),
        session: stored.session.get(),
        session_first_lsn: Lsn(stored.session_first_lsn.get()),
        data_flushed: Lsn(stored.data_flushed.get()),
    };
    if anchor_is_possible(&anchor, zones) { Ok(anchor) } else { Err(SuperblockError::Journal) }
}

/// The tail lies in the ring, on a block, and only records that are flushed in the data area lie before it (I7).
fn anchor_is_possible(anchor: &JournalAnchor, zones: &Zones) -> bool {
    anchor.tail_offset < zones.journal().length
        && anchor.tail_offset.is_multiple_of(BLOCK_BYTES)
        && anchor.tail_lsn > Lsn::ZERO
        && anchor.session_first_lsn > Lsn::ZERO
        && anchor.tail_lsn.previous() <= anchor.data_flushed
        && anchor.data_flushed < Lsn(u64::MAX)
        && anchor.session < u64::MAX
}
