//! The superblock: everything a node must know at start before it has read its journal or met a peer.
//! Two copies of one block; each write goes to the older one, so a torn write leaves the state before it.

pub mod bytes;
mod encoding;

use crate::checksum::Crc32c;
use crate::generation::lineage::{Lineage, LineageError};
use crate::layout::format_version::FORMAT_VERSION;
use crate::layout::zones::{PEERS_MAX, ZoneKind, Zones, ZonesError};
use crate::promotion::membership::{MembershipRecord, VoterList};
use crate::units::{BLOCK_SIZE, GenerationId, Incarnation, Lsn, NodeId, VoterId};

/// Most bytes of a resource's name.
pub const RESOURCE_NAME_BYTES_MAX: usize = 64;

/// Name of a resource: `[a-z0-9][a-z0-9_-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceName(String);

impl ResourceName {
    /// `name`, if it is one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let starts = name.as_bytes().first().is_some_and(letter);
        let legal = name.bytes().all(|byte| letter(&byte) || byte == b'_' || byte == b'-');
        (starts && legal && name.len() <= RESOURCE_NAME_BYTES_MAX).then(|| Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ResourceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was last known of this node's disk. It tells what the disk *was*: at start it counts as at best
/// Consistent, whatever stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DurableDisk {
    /// Blocks of different moments: never served, never promoted (I6).
    Inconsistent,
    /// A consistent copy that a peer declared older than its own.
    Outdated,
    /// Held every completed write.
    UpToDate,
}

impl DurableDisk {
    /// Every state, with its number on disk.
    pub const ALL: [(Self, u8); 3] = [(Self::Inconsistent, 1), (Self::Outdated, 2), (Self::UpToDate, 3)];

    /// The number on disk.
    #[must_use]
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|(disk, _)| *disk == self).expect("the table has every state").1
    }

    /// The state with number `code`, if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, number)| *number == code).map(|(disk, _)| *disk)
    }
}

/// Facts of one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SuperblockFlags {
    /// The node was Primary when this was written, or stopped as Primary.
    pub ended_as_primary: bool,
    /// The daemon ended by order, everything flushed; taken away at every start.
    pub stopped_cleanly: bool,
    /// The operator declared that a completed journal write survives a power cut.
    pub journal_nonvolatile: bool,
}

/// A resync in which this node is the target, so that it goes on after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncPosition {
    /// Generation of the common point.
    pub generation: GenerationId,
    /// The common point: what this node reports as its Lsn until the resync ends.
    pub lsn: Lsn,
    /// In whose bitmap everything is marked that this node lacks; nobody before one has said that it is.
    pub source: Option<NodeId>,
}

/// What is kept for one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSlot {
    /// The peer; nobody in a free slot.
    pub node: Option<NodeId>,
    /// Generation up to which the peer is known to have flushed.
    pub base_generation: GenerationId,
    /// Lsn up to which the peer is known to have flushed. Every later record is in this node's journal or
    /// in the dirty bitmap (I4).
    pub base_lsn: Lsn,
    /// Newest Lsn that the peer acknowledged as journaled.
    pub acknowledged: Lsn,
    /// Which bitmap zone is the peer's.
    pub bitmap_slot: u8,
    /// Whether that bitmap has a set bit.
    pub has_dirty_bits: bool,
    /// Everything up to here that the peer lacks is in that bitmap: only later records are looked for in the journal.
    pub marked_up_to: Lsn,
    /// Whether the peer has cleared marks for this node that hold no more: it was the source of a resync of this node
    /// which another source has taken over, and so took back. The marks for it stay until this node has caught up with it.
    pub has_cleared: bool,
}

/// Where recovery starts, and what it holds the journal against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalAnchor {
    /// Offset in the ring of the oldest batch that is kept.
    pub tail_offset: u64,
    /// First Lsn that is kept.
    pub tail_lsn: Lsn,
    /// Generation of that batch; of the newest record if nothing is kept.
    pub tail_generation: GenerationId,
    /// CRC of the descriptor before the tail.
    pub predecessor: Crc32c,
    /// Number of the session: grows with every opening of the journal and with every cut.
    pub session: u64,
    /// First Lsn of the session. Every lower one was flushed in this journal when the session began; this
    /// one and every higher one counts only in batches of this session.
    pub session_first_lsn: Lsn,
    /// Every record up to here is written and flushed in the data area.
    pub data_flushed: Lsn,
}

impl JournalAnchor {
    /// The anchor of an empty ring in which write `last` was the newest; `Lsn::ZERO` on a new volume.
    #[must_use]
    pub fn empty(last: Lsn, generation: GenerationId) -> Self {
        Self {
            tail_offset: 0,
            tail_lsn: last.next(),
            tail_generation: generation,
            predecessor: Crc32c(0),
            session: 0,
            session_first_lsn: last.next(),
            data_flushed: last,
        }
    }
}

/// The decoded superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Grows with every write; the newest valid copy wins. The copy's place is `sequence % 2`.
    pub sequence: u64,
    /// Name of the resource.
    pub resource: ResourceName,
    /// Which of its nodes this is.
    pub node: NodeId,
    /// Random identity of this metadata.
    pub voter: VoterId,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Peers that there is room for.
    pub max_peers: u8,
    /// Where everything else lies.
    pub zones: Zones,
    /// What the disk was.
    pub disk: DurableDisk,
    /// Facts of one bit.
    pub flags: SuperblockFlags,
    /// The resync that is not finished.
    pub resync: Option<ResyncPosition>,
    /// After a resync: only together with its journal up to here is the disk one state of the volume.
    pub consistent_at: Lsn,
    /// The newest voters' record that this node stored.
    pub membership: MembershipRecord,
    /// The last incarnation of this node that is known to be recorded.
    pub incarnation_recorded: Incarnation,
    /// The incarnation drawn at the last start.
    pub incarnation: Incarnation,
    /// Identities of the voters as met at first contact.
    pub pins: VoterList,
    /// The generations of this node's data.
    pub lineage: Lineage,
    /// What is kept for each peer.
    pub peers: [PeerSlot; PEERS_MAX],
    /// Where recovery starts.
    pub journal: JournalAnchor,
}

/// Why a block is no superblock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Not one block long.
    #[error("{0} bytes are no superblock, it has {BLOCK_SIZE}")]
    Length(usize),
    /// Something else, or nothing.
    #[error("no superblock: its magic is missing")]
    Magic,
    /// Written by another version.
    #[error("superblock of format version {0}, this program knows {FORMAT_VERSION}")]
    Version(u32),
    /// Damaged.
    #[error("superblock damaged: its checksum is {stored}, its content has {computed}")]
    Checksum {
        /// What the block says.
        stored: Crc32c,
        /// What its bytes have.
        computed: Crc32c,
    },
    /// Bytes that this version leaves zero are not.
    #[error("superblock with reserved bytes that are not zero, written by a later program")]
    Reserved,
    /// A resource name with illegal letters.
    #[error("superblock with an illegal resource name")]
    Resource,
    /// A node number that no replica can have.
    #[error("superblock with node number {0}")]
    Node(u8),
    /// A metadata identity of zero.
    #[error("superblock without a voter identity")]
    Nameless,
    /// A volume or a number of peers out of range.
    #[error("superblock of an impossible volume: {0}")]
    Volume(#[from] ZonesError),
    /// A kind of zone that this version does not know.
    #[error("superblock with a zone of unknown kind {0}")]
    ZoneKind(u8),
    /// A zone in a state that this version does not know for it.
    #[error("zone {} is in state {state}, which this program does not know", .kind.name())]
    ZoneState {
        /// Which zone.
        kind: ZoneKind,
        /// The state's number.
        state: u8,
    },
    /// Zones that overlap, are missing, or are too small.
    #[error("superblock with zones that do not fit the volume")]
    Zones,
    /// A disk state that this version does not know.
    #[error("superblock with unknown disk state {0}")]
    Disk(u8),
    /// A flag that this version does not know.
    #[error("superblock with unknown flags {0:#x}")]
    Flags(u32),
    /// A resync position that is half there.
    #[error("superblock with an impossible resync position")]
    Resync,
    /// A voters' record that no voter writes.
    #[error("superblock with an impossible voters' record")]
    Membership,
    /// Generations out of order.
    #[error("superblock with an impossible lineage: {0}")]
    Lineage(#[from] LineageError),
    /// A peer slot that no node writes.
    #[error("superblock with impossible content in peer slot {0}")]
    Peer(usize),
    /// A journal position outside the ring, or Lsns that contradict each other.
    #[error("superblock with an impossible journal position")]
    Journal,
}

/// Why no superblock could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// Neither copy is valid.
    #[error("no valid superblock: copy 0: {first}; copy 1: {second}")]
    Neither {
        /// What is wrong with copy 0.
        first: SuperblockError,
        /// What is wrong with copy 1.
        second: SuperblockError,
    },
    /// The copies belong to different nodes or resources: a block went astray, or metadata was mixed up.
    #[error("superblock copies of different metadata: {first} and {second}")]
    DifferentIdentity {
        /// Identity in copy 0.
        first: VoterId,
        /// Identity in copy 1.
        second: VoterId,
    },
    /// A copy lies in the other copy's place.
    #[error("superblock with sequence {sequence} in the place of copy {copy}")]
    WrongPlace {
        /// Where it was found.
        copy: usize,
        /// Its sequence number.
        sequence: u64,
    },
}

/// The newest valid superblock of two copies, and which copy it is. One valid copy is enough.
///
/// # Errors
/// Neither copy is valid, or both are and contradict each other.
pub fn choose_newest(copy_0: &[u8], copy_1: &[u8]) -> Result<(Superblock, usize), ChooseError> {
    let chosen = match (Superblock::parse(copy_0), Superblock::parse(copy_1)) {
        (Ok(first), Ok(second)) => {
            let identity = |copy: &Superblock| (copy.voter, copy.node, copy.resource.clone());
            if identity(&first) != identity(&second) {
                return Err(ChooseError::DifferentIdentity { first: first.voter, second: second.voter });
            }
            if first.sequence >= second.sequence { (first, 0) } else { (second, 1) }
        }
        (Ok(first), Err(_)) => (first, 0),
        (Err(_), Ok(second)) => (second, 1),
        (Err(first), Err(second)) => return Err(ChooseError::Neither { first, second }),
    };
    let (superblock, copy) = chosen;
    if superblock.copy_index() != copy {
        return Err(ChooseError::WrongPlace { copy, sequence: superblock.sequence });
    }
    Ok((superblock, copy))
}

impl Superblock {
    /// The superblock of a volume that was just made: no record, no peer, an empty journal.
    #[must_use]
    pub fn created(
        resource: ResourceName,
        node: NodeId,
        voter: VoterId,
        volume_bytes: u64,
        zones: Zones,
        disk: DurableDisk,
        lineage: Lineage,
    ) -> Self {
        let newest = lineage.newest_id();
        Self {
            sequence: 0,
            resource,
            node,
            voter,
            volume_bytes,
            max_peers: zones.max_peers(),
            zones,
            disk,
            flags: SuperblockFlags::default(),
            resync: None,
            consistent_at: Lsn::ZERO,
            membership: MembershipRecord::default(),
            incarnation_recorded: Incarnation::default(),
            incarnation: Incarnation::default(),
            pins: VoterList::default(),
            lineage,
            peers: [PeerSlot::default(); PEERS_MAX],
            journal: JournalAnchor::empty(Lsn::ZERO, newest),
        }
    }

    /// Which of the two copies this superblock is written to.
    #[must_use]
    pub fn copy_index(&self) -> usize {
        usize::from(!self.sequence.is_multiple_of(2))
    }

    /// The slot kept for `node`.
    #[must_use]
    pub fn peer(&self, node: NodeId) -> Option<&PeerSlot> {
        self.peers.iter().find(|slot| slot.node == Some(node))
    }

    /// The block to write. The shell copies it into an aligned buffer.
    #[must_use]
    pub fn encode(&self) -> Box<[u8; BLOCK_SIZE]> {
        encoding::encode(self)
    }

    /// The superblock in a block.
    ///
    /// # Errors
    /// The block is no superblock, is damaged, is of another version, or holds what no node writes.
    pub fn parse(block: &[u8]) -> Result<Self, SuperblockError> {
        encoding::parse(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::lineage::Generation;
    use crate::promotion::membership::InSyncSet;
    use crate::units::Term;

    fn sample(sequence: u64) -> Superblock {
        let volume_bytes = 1 << 30;
        let mut lineage = Lineage::zeroed();
        for number in 1..64 {
            let term = Term { number, taker: 9 };
            let granted = number % 3 != 0;
            lineage
                .append(Generation { id: GenerationId(number), term, granted, first_lsn: Lsn(number) }, &[]);
        }
        let mut peers = [PeerSlot::default(); PEERS_MAX];
        let node = Some(NodeId(0));
        let (base_generation, base_lsn) = (GenerationId(3), Lsn(4));
        let bitmap_slot = 1;
        peers[0] = PeerSlot {
            node,
            base_generation,
            base_lsn,
            acknowledged: Lsn(9),
            bitmap_slot,
            has_dirty_bits: true,
            marked_up_to: Lsn(0x33),
            has_cleared: true,
        };
        let voters = VoterList { ids: [VoterId(5); 9] };
        let in_sync = InSyncSet::of(NodeId(1), Incarnation(77));
        let term = Term { number: 63, taker: 9 };
        Superblock {
            sequence,
            resource: ResourceName::parse("mail-1").unwrap(),
            node: NodeId(1),
            voter: VoterId(0xabcd),
            volume_bytes,
            max_peers: 2,
            zones: Zones::for_volume(volume_bytes, 64 << 20, 2).unwrap(),
            disk: DurableDisk::UpToDate,
            flags: SuperblockFlags {
                ended_as_primary: true,
                stopped_cleanly: false,
                journal_nonvolatile: true,
            },
            resync: Some(ResyncPosition {
                generation: GenerationId(2),
                lsn: Lsn(50),
                source: Some(NodeId(0)),
            }),
            consistent_at: Lsn(0x44),
            membership: MembershipRecord { term, version: 4, primary: Some(NodeId(1)), in_sync, voters },
            incarnation_recorded: Incarnation(77),
            incarnation: Incarnation(78),
            pins: voters,
            lineage,
            peers,
            journal: JournalAnchor { session: 6, ..JournalAnchor::empty(Lsn(100), GenerationId(63)) },
        }
    }

    #[test]
    fn a_superblock_comes_back_as_written() {
        let superblock = sample(4);
        assert_eq!(Superblock::parse(&superblock.encode()[..]), Ok(superblock));
    }

    #[test]
    fn every_flipped_bit_of_a_superblock_is_refused() {
        let mut block = sample(4).encode();
        for bit in 0..BLOCK_SIZE * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::parse(&block[..]).is_err(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn the_newest_valid_copy_wins_and_one_is_enough() {
        let (older, newer) = (sample(4).encode(), sample(5).encode());
        assert_eq!(choose_newest(&older[..], &newer[..]).unwrap(), (sample(5), 1));
        assert_eq!(choose_newest(&older[..], &[0; BLOCK_SIZE]).unwrap(), (sample(4), 0));
        assert_eq!(choose_newest(&[0; BLOCK_SIZE], &newer[..]).unwrap(), (sample(5), 1));
        let neither = choose_newest(&[0; BLOCK_SIZE], &[0; 5]).unwrap_err();
        assert_eq!(
            neither,
            ChooseError::Neither { first: SuperblockError::Magic, second: SuperblockError::Length(5) }
        );
    }

    #[test]
    fn copies_of_two_nodes_are_refused() {
        let other = Superblock { voter: VoterId(1), ..sample(5) };
        let refused = choose_newest(&sample(4).encode()[..], &other.encode()[..]).unwrap_err();
        assert_eq!(refused, ChooseError::DifferentIdentity { first: VoterId(0xabcd), second: VoterId(1) });
    }

    #[test]
    fn a_copy_in_the_other_copys_place_is_refused() {
        let refused = choose_newest(&sample(5).encode()[..], &[0; BLOCK_SIZE]).unwrap_err();
        assert_eq!(refused, ChooseError::WrongPlace { copy: 0, sequence: 5 });
    }

    #[test]
    fn names_with_illegal_letters_are_refused() {
        for name in ["", "-a", "_a", "A", "a.b", "a b", &"a".repeat(65)] {
            assert_eq!(ResourceName::parse(name), None, "{name:?}");
        }
        assert!(ResourceName::parse(&"a".repeat(64)).is_some());
    }
}
