//! Fields of bodies, little-endian: how a number, a record or a lineage is written and read. Every read
//! names its field, so that a refusal says which one was wrong. Does not know which message it is in.

use crate::generation::lineage::{GENERATIONS_MAX, Generation, Lineage, LineageError, Position};
use crate::promotion::membership::{InSyncSet, MembershipRecord};
use crate::state::{DiskState, Role};
use crate::units::{GenerationId, Incarnation, Lsn, NodeId, REPLICAS_MAX, Term, VoterId};

/// Terms, versions and numbers of writes are below this where they are read.
const COUNTERS_END: u64 = 1 << 63;

/// Stands for "nobody" where a node number is expected.
const NOBODY: u8 = 0xff;

/// Bytes of a generation.
pub(crate) const GENERATION_BYTES: usize = 40;

/// Why bytes are not the fields that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// They end too early.
    #[error("it ends in the middle of {field}")]
    Truncated {
        /// In which field.
        field: &'static str,
    },
    /// They go on behind the last field.
    #[error("{bytes} bytes follow its last field")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// Bytes that must be zero are not.
    #[error("its reserved bytes are not zero")]
    Reserved,
    /// A value that the field cannot have.
    #[error("its field {field} has the value {value}")]
    Value {
        /// Which.
        field: &'static str,
        /// The value.
        value: u64,
    },
    /// The generations are no lineage.
    #[error("its lineage is refused: {0}")]
    Lineage(#[from] LineageError),
}

/// Bytes of a voters' record.
pub(crate) const MEMBERSHIP_RECORD_BYTES: usize = 168;

/// Writes fields one after the other.
pub(crate) struct FieldWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> FieldWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn reserved(&mut self, count: usize) {
        self.out.resize(self.out.len() + count, 0);
    }

    pub(crate) fn lsn(&mut self, value: Lsn) {
        self.u64(value.0);
    }

    pub(crate) fn continues(&mut self, value: Option<Incarnation>) {
        self.u64(value.unwrap_or_default().0);
    }

    pub(crate) fn replica(&mut self, node: Option<NodeId>) {
        self.u8(node.map_or(NOBODY, |node| node.0));
    }

    pub(crate) fn role(&mut self, role: Role) {
        self.u8(code_of(&ROLES, role));
    }

    pub(crate) fn disk(&mut self, disk: DiskState) {
        self.u8(code_of(&DISKS, disk));
    }

    pub(crate) fn term(&mut self, term: Term) {
        self.u64(term.number);
        self.u64(term.taker);
    }

    pub(crate) fn position(&mut self, position: Position) {
        self.term(position.term);
        self.lsn(position.first_lsn);
        self.lsn(position.lsn);
        self.u64(position.generation.0);
    }

    pub(crate) fn generation(&mut self, generation: &Generation) {
        self.u64(generation.id.0);
        self.term(generation.term);
        self.lsn(generation.first_lsn);
        self.u8(u8::from(generation.granted));
        self.reserved(7);
    }

    pub(crate) fn lineage(&mut self, lineage: &Lineage) {
        self.u32(u32::try_from(lineage.generations().len()).expect("at most GENERATIONS_MAX"));
        self.reserved(4);
        for generation in lineage.generations() {
            self.generation(generation);
        }
    }

    pub(crate) fn record(&mut self, record: &MembershipRecord) {
        self.term(record.term);
        self.u64(record.version);
        self.replica(record.primary);
        self.reserved(7);
        for node in (0u8..).take(REPLICAS_MAX).map(NodeId) {
            self.u64(record.in_sync.incarnation_of(node).unwrap_or_default().0);
        }
        for voter in record.voters.ids {
            self.u64(voter.0);
        }
    }
}

/// Roles that a node can have, with their numbers. `Unknown` is what others say of it, so it never travels.
const ROLES: [(Role, u8); 2] = [(Role::Primary, 1), (Role::Secondary, 2)];

/// States that a node's own disk can have, with their numbers. `DUnknown` is what others say of it.
const DISKS: [(DiskState, u8); 6] = [
    (DiskState::Diskless, 1),
    (DiskState::Failed, 2),
    (DiskState::Inconsistent, 3),
    (DiskState::Outdated, 4),
    (DiskState::Consistent, 5),
    (DiskState::UpToDate, 6),
];

/// The number of `value`, which the table must have: a sender says nothing that no receiver takes.
pub(crate) fn code_of<T: Copy + PartialEq + std::fmt::Debug>(table: &[(T, u8)], value: T) -> u8 {
    let row = table.iter().find(|row| row.0 == value);
    row.unwrap_or_else(|| panic!("{value:?} never travels")).1
}

/// The value with number `code`.
pub(crate) fn value_of<T: Copy>(table: &[(T, u8)], code: u8) -> Option<T> {
    table.iter().find(|row| row.1 == code).map(|row| row.0)
}

/// Reads fields one after the other.
pub(crate) struct FieldReader<'a> {
    bytes: &'a [u8],
}

impl<'a> FieldReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn take(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], FieldError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(FieldError::Truncated { field })?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn finish(self) -> Result<(), FieldError> {
        match self.bytes.len() {
            0 => Ok(()),
            bytes => Err(FieldError::Trailing { bytes }),
        }
    }

    pub(crate) fn reserved(&mut self, count: usize) -> Result<(), FieldError> {
        let reserved = self.take("reserved", count)?;
        if reserved.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(FieldError::Reserved) }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FieldError> {
        Ok(self.take(field, N)?.try_into().expect("take gives as many as asked"))
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, FieldError> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, FieldError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, FieldError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, FieldError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A field of one byte that numbers a choice.
    pub(crate) fn coded<T>(
        &mut self,
        field: &'static str,
        value_of: impl FnOnce(u8) -> Option<T>,
    ) -> Result<T, FieldError> {
        let code = self.u8(field)?;
        value_of(code).ok_or(FieldError::Value { field, value: code.into() })
    }

    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, FieldError> {
        self.coded(field, |code| value_of(&[(false, 0), (true, 1)], code))
    }

    pub(crate) fn role(&mut self) -> Result<Role, FieldError> {
        self.coded("role", |code| value_of(&ROLES, code))
    }

    pub(crate) fn disk(&mut self) -> Result<DiskState, FieldError> {
        self.coded("disk", |code| value_of(&DISKS, code))
    }

    pub(crate) fn lsn(&mut self, field: &'static str) -> Result<Lsn, FieldError> {
        Ok(Lsn(self.counter(field)?))
    }

    pub(crate) fn incarnation(&mut self) -> Result<Incarnation, FieldError> {
        Ok(Incarnation(self.u64("incarnation")?))
    }

    pub(crate) fn continues(&mut self) -> Result<Option<Incarnation>, FieldError> {
        Ok(optional(self.u64("continues")?))
    }

    /// A number that is counted up from what others say: so far below its end that the counting never gets there.
    fn counter(&mut self, field: &'static str) -> Result<u64, FieldError> {
        let value = self.u64(field)?;
        if value < COUNTERS_END { Ok(value) } else { Err(FieldError::Value { field, value }) }
    }

    /// The same of 4 bytes.
    pub(crate) fn counter_u32(&mut self, field: &'static str) -> Result<u32, FieldError> {
        let value = self.u32(field)?;
        if value < 1 << 31 { Ok(value) } else { Err(FieldError::Value { field, value: value.into() }) }
    }

    pub(crate) fn term(&mut self) -> Result<Term, FieldError> {
        let term = Term { number: self.counter("term number")?, taker: self.u64("term taker")? };
        if term.number == 0 && term.taker != 0 {
            return Err(FieldError::Value { field: "term taker", value: term.taker });
        }
        Ok(term)
    }

    pub(crate) fn position(&mut self) -> Result<Position, FieldError> {
        let term = self.term()?;
        let (first_lsn, lsn) = (self.lsn("first_lsn")?, self.lsn("lsn")?);
        let position = Position { term, first_lsn, lsn, generation: GenerationId(self.u64("generation")?) };
        if position.generation.0 == 0 && position != Position::default() {
            return Err(FieldError::Value { field: "generation", value: 0 });
        }
        Ok(position)
    }

    pub(crate) fn generation(&mut self) -> Result<Generation, FieldError> {
        let id = GenerationId(self.u64("generation")?);
        let term = self.term()?;
        let first_lsn = self.lsn("first_lsn")?;
        let granted = self.flag("granted")?;
        self.reserved(7)?;
        Ok(Generation { id, term, granted, first_lsn })
    }

    pub(crate) fn lineage(&mut self) -> Result<Lineage, FieldError> {
        let field = "lineage length";
        let count = self.u32(field)?;
        // Nothing is allocated for a count that is not legal or that the bytes cannot hold.
        let length = usize::try_from(count).ok().filter(|length| *length <= GENERATIONS_MAX);
        let length = length.ok_or(FieldError::Value { field, value: count.into() })?;
        self.reserved(4)?;
        if self.bytes.len() < length * GENERATION_BYTES {
            return Err(FieldError::Truncated { field: "lineage" });
        }
        let generations = (0..length).map(|_| self.generation()).collect::<Result<_, _>>()?;
        Ok(Lineage::parse(generations)?)
    }

    /// The number of a replica, or nobody.
    pub(crate) fn replica(&mut self, field: &'static str) -> Result<Option<NodeId>, FieldError> {
        match self.u8(field)? {
            NOBODY => Ok(None),
            number if usize::from(number) < REPLICAS_MAX => Ok(Some(NodeId(number))),
            number => Err(FieldError::Value { field, value: number.into() }),
        }
    }

    pub(crate) fn record(&mut self) -> Result<MembershipRecord, FieldError> {
        let term = self.term()?;
        let version = self.counter("version")?;
        let primary = self.replica("primary")?;
        self.reserved(7)?;
        let mut in_sync = InSyncSet::default();
        for node in (0u8..).take(REPLICAS_MAX).map(NodeId) {
            if let Some(incarnation) = optional(self.u64("in-sync set")?) {
                in_sync = in_sync.with(node, incarnation);
            }
        }
        let mut record = MembershipRecord { term, version, primary, in_sync, ..MembershipRecord::default() };
        for id in &mut record.voters.ids {
            *id = VoterId(self.u64("voters")?);
        }
        check_record(&record)?;
        Ok(record)
    }
}

/// Zero means "none" wherever an incarnation may be missing.
fn optional(value: u64) -> Option<Incarnation> {
    (value != 0).then_some(Incarnation(value))
}

/// An empty record knows voters at most; any other has somebody in sync, for the set is never empty, and names only
/// nodes that vote.
pub(crate) fn check_record(record: &MembershipRecord) -> Result<(), FieldError> {
    let value = |field, value| Err(FieldError::Value { field, value });
    match (record.is_empty(), record.primary, record.in_sync.is_empty()) {
        (true, None, true) if record.version == 0 => Ok(()),
        (true, None, true) => value("version", record.version),
        (true, Some(primary), _) => value("primary", primary.0.into()),
        (true, None, false) => value("in-sync set", members_of(record)),
        (false, _, true) => value("in-sync set", 0),
        (false, _, false) => match record.named().find(|node| record.voters.ids[node.index()].0 == 0) {
            Some(node) => value("voters", node.0.into()),
            None => Ok(()),
        },
    }
}

fn members_of(record: &MembershipRecord) -> u64 {
    crate::units::bytes_u64(record.in_sync.len())
}
