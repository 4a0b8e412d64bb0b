//! The tiebreaker's file: two copies of one page of 4 KiB. Its bytes, and which copy counts.
//!
//! Rule: a store writes the same page to the first copy, flushes, writes it to the second, flushes, and only
//! then counts as durable. So at most one copy is ever torn, and a copy that rots later is no loss of memory:
//! the other says the same. The file is never restored from a backup: an old record promotes stale data.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::checksum::Crc32c;
use crate::layout::disk_struct;
use crate::layout::superblock::ResourceName;
use crate::peer::fields::{FieldError, FieldReader, FieldWriter, MEMBERSHIP_RECORD_BYTES};
use crate::promotion::membership::{MembershipRecord, VoterList};
use crate::units::{BLOCK_SIZE, NodeId, VOTERS_MAX, VoterId};

/// Bytes of the file: the copies follow one another.
pub const TIEBREAKER_FILE_BYTES: usize = 2 * BLOCK_SIZE;
/// First bytes of each copy.
pub const TIEBREAKER_MAGIC: [u8; 8] = *b"TWINBLKT";
/// The format version that this build writes and reads.
pub const TIEBREAKER_FORMAT_VERSION: u32 = 1;

disk_struct! {
    /// A copy.
    pub struct TiebreakerBytes {
        /// `TWINBLKT`.
        magic: [u8; 8],
        /// Format version.
        version: U32,
        /// CRC32C of the whole copy with this field zero.
        crc: U32,
        /// Grows with every store.
        sequence: U64,
        /// Random identity of the tiebreaker.
        voter: U64,
        /// Name of the resource, padded with zeroes.
        resource: [u8; 64],
        /// Bytes of the name.
        resource_length: u8,
        /// Number of the tiebreaker.
        node: u8,
        /// Zero.
        reserved_1: [u8; 6],
        /// The voters' record, as PROTOCOL.md lays it out.
        record: [u8; MEMBERSHIP_RECORD_BYTES],
        /// Identities of the voters that were met, by number; zero if not met.
        known: [U64; VOTERS_MAX],
        /// Zero.
        reserved_2: [u8; 3752],
    }
}
const _: () = assert!(size_of::<TiebreakerBytes>() == BLOCK_SIZE);

/// Everything that a tiebreaker remembers across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TiebreakerState {
    /// Grows with every store.
    pub sequence: u64,
    /// Which resource it votes for.
    pub resource: ResourceName,
    /// Its number.
    pub node: NodeId,
    /// Its random identity.
    pub voter: VoterId,
    /// The record it has stored.
    pub record: MembershipRecord,
    /// The identities of the voters that it has met, its own among them.
    pub known: VoterList,
}

/// Why bytes are no tiebreaker's file. Such a tiebreaker must not vote: it may have forgotten a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TiebreakerFileError {
    /// Not 4 KiB.
    #[error("a copy of {0} bytes, {BLOCK_SIZE} are expected")]
    Length(usize),
    /// Something else.
    #[error("no tiebreaker's file: its magic is missing")]
    Magic,
    /// Of another version.
    #[error("format version {0}, this program knows {TIEBREAKER_FORMAT_VERSION}")]
    Version(u32),
    /// Damaged.
    #[error("damaged: its checksum is {found}, its content has {computed}")]
    Sum {
        /// In the copy.
        found: Crc32c,
        /// Of its content.
        computed: Crc32c,
    },
    /// Reserved bytes are set.
    #[error("its reserved bytes are not zero")]
    Reserved,
    /// No name of a resource.
    #[error("it names no resource")]
    Resource,
    /// No identity, or another than it knows of itself, or a number that no tiebreaker has.
    #[error("it has no identity of its own")]
    Identity,
    /// The record is none.
    #[error("its record is refused: {0}")]
    Record(FieldError),
}

/// Why a file as a whole is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TiebreakerChooseError {
    /// Both copies are refused.
    #[error("neither copy is usable: the first is refused ({first}), and the second ({second})")]
    Neither {
        /// The first.
        first: TiebreakerFileError,
        /// The second.
        second: TiebreakerFileError,
    },
    /// Both are valid, but no store leaves such a pair: a part of the file came from elsewhere.
    #[error("its copies do not belong together: sequence {first} and sequence {second}")]
    Strangers {
        /// Sequence of the first.
        first: u64,
        /// Sequence of the second.
        second: u64,
    },
}

impl TiebreakerState {
    /// What `tiebreaker --init` writes: an empty record.
    #[must_use]
    pub fn new(resource: ResourceName, node: NodeId, voter: VoterId) -> Self {
        let mut known = VoterList::default();
        known.ids[node.index()] = voter;
        Self { sequence: 1, resource, node, voter, record: MembershipRecord::default(), known }
    }

    /// The page to be written to both copies, one after the other.
    #[must_use]
    pub fn encode(&self) -> Box<[u8; BLOCK_SIZE]> {
        let mut record = Vec::with_capacity(MEMBERSHIP_RECORD_BYTES);
        FieldWriter::new(&mut record).record(&self.record);
        let name = self.resource.as_str().as_bytes();
        let mut resource = [0; 64];
        resource[..name.len()].copy_from_slice(name);
        let mut bytes = TiebreakerBytes {
            magic: TIEBREAKER_MAGIC,
            version: TIEBREAKER_FORMAT_VERSION.into(),
            crc: 0.into(),
            sequence: self.sequence.into(),
            voter: self.voter.0.into(),
            resource,
            resource_length: u8::try_from(name.len()).expect("a name has at most 64 bytes"),
            node: self.node.0,
            reserved_1: [0; 6],
            record: record.try_into().expect("a record has MEMBERSHIP_RECORD_BYTES"),
            known: self.known.ids.map(|id| id.0.into()),
            reserved_2: [0; 3752],
        };
        bytes.crc = Crc32c::of(bytes.as_bytes()).0.into();
        Box::new(bytes.as_bytes().try_into().expect("the lengths are equal"))
    }

    /// The state in one copy.
    ///
    /// # Errors
    /// The copy is not exactly what was written.
    pub fn parse(copy: &[u8]) -> Result<Self, TiebreakerFileError> {
        let read = TiebreakerBytes::read_from_bytes(copy);
        let mut bytes = read.map_err(|_| TiebreakerFileError::Length(copy.len()))?;
        if bytes.magic != TIEBREAKER_MAGIC {
            return Err(TiebreakerFileError::Magic);
        }
        if bytes.version.get() != TIEBREAKER_FORMAT_VERSION {
            return Err(TiebreakerFileError::Version(bytes.version.get()));
        }
        let found = Crc32c(bytes.crc.get());
        bytes.crc = 0.into();
        let computed = Crc32c::of(bytes.as_bytes());
        if found != computed {
            return Err(TiebreakerFileError::Sum { found, computed });
        }
        if bytes.reserved_1 != [0; 6] || bytes.reserved_2 != [0; 3752] {
            return Err(TiebreakerFileError::Reserved);
        }
        let (name, padding) = bytes
            .resource
            .split_at_checked(bytes.resource_length.into())
            .ok_or(TiebreakerFileError::Resource)?;
        let resource = str::from_utf8(name).ok().and_then(ResourceName::parse);
        let resource = resource.filter(|_| padding.iter().all(|byte| *byte == 0));
        let mut reader = FieldReader::new(&bytes.record);
        let record = reader.record().map_err(TiebreakerFileError::Record)?;
        let known = VoterList { ids: bytes.known.map(|id| VoterId(id.get())) };
        let (node, voter) = (NodeId(bytes.node), VoterId(bytes.voter.get()));
        if voter.0 == 0 || known.ids.get(node.index()) != Some(&voter) {
            return Err(TiebreakerFileError::Identity);
        }
        let resource = resource.ok_or(TiebreakerFileError::Resource)?;
        Ok(Self { sequence: bytes.sequence.get(), resource, node, voter, record, known })
    }
}

/// The state in a file with these two copies: the newer one. The caller stores it again, unchanged,
/// before it is used, so that both copies say the same.
///
/// # Errors
/// Neither copy is usable, or they cannot be of one file.
pub fn choose_newest(first: &[u8], second: &[u8]) -> Result<TiebreakerState, TiebreakerChooseError> {
    match (TiebreakerState::parse(first), TiebreakerState::parse(second)) {
        (Ok(first), Ok(second)) => choose(first, second),
        (Ok(state), Err(_)) | (Err(_), Ok(state)) => Ok(state),
        (Err(first), Err(second)) => Err(TiebreakerChooseError::Neither { first, second }),
    }
}

/// The first copy is written first: it is the same as the second, or newer by one.
fn choose(first: TiebreakerState, second: TiebreakerState) -> Result<TiebreakerState, TiebreakerChooseError> {
    let identity = |state: &TiebreakerState| (state.voter, state.node, state.resource.clone());
    let follows = second.sequence.checked_add(1) == Some(first.sequence)
        && (first.record == second.record || second.record.may_give_way_to(&first.record));
    if identity(&first) == identity(&second) && (first == second || follows) {
        return Ok(first);
    }
    Err(TiebreakerChooseError::Strangers { first: first.sequence, second: second.sequence })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promotion::membership::InSyncSet;
    use crate::units::{Incarnation, Term};

    fn state(sequence: u64) -> TiebreakerState {
        let resource = ResourceName::parse("mail").expect("a name");
        let mut state = TiebreakerState::new(resource, NodeId(2), VoterId(77));
        state.sequence = sequence;
        state.known.ids[..2].copy_from_slice(&[VoterId(5), VoterId(6)]);
        state.record = MembershipRecord {
            term: Term { number: sequence, taker: 3 },
            version: 9,
            primary: Some(NodeId(1)),
            in_sync: InSyncSet::of(NodeId(1), Incarnation(4)),
            voters: state.known,
        };
        state
    }

    #[test]
    fn a_state_comes_back_as_it_was_stored() {
        assert_eq!(TiebreakerState::parse(&state(6).encode()[..]), Ok(state(6)));
        let fresh = TiebreakerState::new(state(1).resource, NodeId(2), VoterId(77));
        assert_eq!(TiebreakerState::parse(&fresh.encode()[..]), Ok(fresh));
    }

    #[test]
    fn a_reign_in_the_place_of_a_vote_for_a_higher_term_of_its_number_is_the_newer_copy() {
        let (mut granted, mut vote) = (state(6), state(5));
        (granted.record.term, vote.record.term) = (Term::asked(6, 4), Term::asked(6, 8));
        let chosen = choose_newest(&granted.encode()[..], &vote.encode()[..]);
        assert_eq!(chosen, Ok(granted.clone()), "it was killed between the copies");
        vote.record = MembershipRecord { version: 10, ..granted.record };
        assert!(choose_newest(&granted.encode()[..], &vote.encode()[..]).is_err(), "it went back");
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_refused() {
        let page = state(6).encode();
        for bit in 0..BLOCK_SIZE * 8 {
            let mut bytes = *page;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(TiebreakerState::parse(&bytes).is_err(), "bit {bit}");
        }
        for length in [0, 1, BLOCK_SIZE - 1] {
            assert_eq!(TiebreakerState::parse(&page[..length]), Err(TiebreakerFileError::Length(length)));
        }
    }

    /// Changes a byte and makes the checksum right again.
    fn forged(at: usize, byte: u8) -> Result<TiebreakerState, TiebreakerFileError> {
        let mut bytes = TiebreakerBytes::read_from_bytes(&state(6).encode()[..]).expect("a page");
        bytes.as_mut_bytes()[at] = byte;
        bytes.crc = 0.into();
        bytes.crc = Crc32c::of(bytes.as_bytes()).0.into();
        TiebreakerState::parse(bytes.as_bytes())
    }

    #[test]
    fn a_page_with_a_right_checksum_and_a_wrong_field_is_refused_by_name() {
        assert_eq!(forged(8, 2), Err(TiebreakerFileError::Version(2)));
        assert_eq!(forged(24, 78), Err(TiebreakerFileError::Identity));
        assert_eq!(forged(32, b'-'), Err(TiebreakerFileError::Resource));
        assert_eq!(forged(95, 1), Err(TiebreakerFileError::Resource));
        assert_eq!(forged(96, 65), Err(TiebreakerFileError::Resource));
        assert_eq!(forged(97, 9), Err(TiebreakerFileError::Identity));
        assert_eq!(forged(98, 1), Err(TiebreakerFileError::Reserved));
        assert_eq!(forged(4095, 1), Err(TiebreakerFileError::Reserved));
        assert!(matches!(forged(104 + 24, 9), Err(TiebreakerFileError::Record(_))));
    }

    #[test]
    fn a_store_that_is_cut_anywhere_leaves_the_state_before_or_after_it() {
        let (before, after) = (state(6).encode(), state(7).encode());
        for cut in 0..=BLOCK_SIZE {
            let torn = [&after[..cut], &before[cut..]].concat();
            let in_first = choose_newest(&torn, &before[..]).expect("the second is whole");
            assert!(in_first == state(6) || in_first == state(7), "cut {cut}");
            assert_eq!(choose_newest(&after[..], &torn), Ok(state(7)), "cut {cut}");
        }
    }

    #[test]
    fn a_copy_that_rots_after_the_store_costs_no_memory() {
        let (page, rotten) = (state(7).encode(), [0; BLOCK_SIZE]);
        assert_eq!(choose_newest(&page[..], &rotten), Ok(state(7)));
        assert_eq!(choose_newest(&rotten, &page[..]), Ok(state(7)));
        assert!(matches!(choose_newest(&rotten, &rotten), Err(TiebreakerChooseError::Neither { .. })));
    }

    #[test]
    fn copies_that_no_store_leaves_behind_are_refused() {
        let choose = |first: &TiebreakerState, second: &TiebreakerState| {
            choose_newest(&first.encode()[..], &second.encode()[..])
        };
        let other_voter = TiebreakerState::new(state(7).resource, NodeId(2), VoterId(78));
        let strangers = |first, second| Err(TiebreakerChooseError::Strangers { first, second });
        assert_eq!(choose(&state(7), &other_voter), strangers(7, 1));
        assert_eq!(choose(&state(7), &state(5)), strangers(7, 5), "a store between them is missing");
        assert_eq!(choose(&state(6), &state(7)), strangers(6, 7), "the second copy is never the newer");
        let same_number = TiebreakerState { sequence: 7, ..state(8) };
        assert_eq!(choose(&state(7), &same_number), strangers(7, 7));
    }
}
