//! The tiebreaker's memory: its identity and the voters' record, in a file of two equal blocks of 4 KiB.
//!
//! Rule: both copies are written and flushed, one after the other, before [`StateFile::store`] returns. So at any
//! moment one copy holds what was answered last or something newer, and one unreadable copy loses nothing. With
//! both unreadable the file is refused: a voter that has forgotten its record must not vote.
//! Writes go through the ring (tokio-uring's `File`): they never block the links, nobody else uses the file, and no
//! write is ever dropped half-way, which is where the ring has traps. Decides nothing about votes.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | magic `TWINTIEB` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | CRC32C of the block with this field as zero |
//! | 16 | 8 | sequence, grows with every store |
//! | 24 | 8 | identity of this voter |
//! | 32 | 64 | name of the resource, padded with zeroes |
//! | 96 | 8 | term number |
//! | 104 | 8 | term taker |
//! | 112 | 8 | record version |
//! | 120 | 1 | Primary, 255 for nobody |
//! | 121 | 7 | reserved, zero |
//! | 128 | 64 | incarnation of each member of the in-sync set, 0 for no member |
//! | 192 | 72 | identity of each voter, 0 for one that nobody has met |
//! | 264 | 3832 | reserved, zero |

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use replicator::checksum::Crc32c;
use replicator::promotion::membership::{InSyncSet, MembershipRecord, VoterList};
use replicator::units::{
    BLOCK_BYTES, BLOCK_SIZE, Incarnation, NodeId, REPLICAS_MAX, Term, VOTERS_MAX, VoterId,
};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

const MAGIC: [u8; 8] = *b"TWINTIEB";
const VERSION: u32 = 1;
const NOBODY: u8 = 0xff;
const COPIES: usize = 2;
const NAME_BYTES: usize = 64;
const CHECKSUM: Range<usize> = 12..16;
const TERM_OFFSET: usize = 96;
const RESERVED: Range<usize> = 121..128;
const IN_SYNC_OFFSET: usize = 128;
const END_OFFSET: usize = IN_SYNC_OFFSET + 8 * (REPLICAS_MAX + VOTERS_MAX);

const _: () = assert!(END_OFFSET == 264, "the table above is the layout");

/// Why the file is of no use.
#[derive(Debug, Error)]
pub enum StateError {
    /// There is one already; it may hold a vote.
    #[error("{} exists already; a tiebreaker's state is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is none.
    #[error("{} does not exist; `--init` makes it, once in the life of the resource", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("{} is locked: another tiebreaker runs on it", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Neither copy can be believed.
    #[error("{}: neither copy is readable ({first}; {second}); this voter must not vote", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with the first copy.
        first: BlockError,
        /// What is wrong with the second copy.
        second: BlockError,
    },
    /// It belongs to something else.
    #[error("{} belongs to resource `{found}`, not to `{expected}`", path.display())]
    OtherResource {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: String,
        /// By the configuration.
        expected: String,
    },
    /// The kernel failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
}

/// Why a block is no copy of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlockError {
    /// Something else, or nothing.
    #[error("no magic")]
    Magic,
    /// Of another release.
    #[error("version {0}, this build knows version {VERSION}")]
    Version(u32),
    /// Torn or rotten.
    #[error("checksum {found} instead of {computed}")]
    Checksum {
        /// In the block.
        found: Crc32c,
        /// Of the block.
        computed: Crc32c,
    },
    /// A field that cannot be.
    #[error("field `{0}` has an illegal value")]
    Field(&'static str),
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Grows with every store.
    pub sequence: u64,
    /// Identity of this voter.
    pub voter: VoterId,
    /// Name of the resource.
    pub resource: String,
    /// The record.
    pub record: MembershipRecord,
}

impl State {
    /// As it is written.
    fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK_SIZE);
        block.put_slice(&MAGIC);
        block.put_u32_le(VERSION);
        block.put_u32_le(0);
        block.put_u64_le(self.sequence);
        block.put_u64_le(self.voter.0);
        block.put_slice(self.resource.as_bytes());
        block.resize(TERM_OFFSET, 0);
        block.put_u64_le(self.record.term.number);
        block.put_u64_le(self.record.term.taker);
        block.put_u64_le(self.record.version);
        block.put_u8(self.record.primary.map_or(NOBODY, |node| node.0));
        block.resize(IN_SYNC_OFFSET, 0);
        for node in (0u8..).take(REPLICAS_MAX).map(NodeId) {
            block.put_u64_le(self.record.in_sync.incarnation_of(node).unwrap_or_default().0);
        }
        for voter in self.record.voters.ids {
            block.put_u64_le(voter.0);
        }
        assert_eq!(block.len(), END_OFFSET, "the fields fill what the table says");
        block.resize(BLOCK_SIZE, 0);
        let sum = sum_of(&block);
        block[CHECKSUM].copy_from_slice(&sum.0.to_le_bytes());
        block
    }

    /// The state in `block`, believed only if every field of it can be.
    fn parse(block: &[u8]) -> Result<Self, BlockError> {
        assert_eq!(block.len(), BLOCK_SIZE, "a copy is one block");
        let mut fields = block;
        if fields[..MAGIC.len()] != MAGIC {
            return Err(BlockError::Magic);
        }
        fields.advance(MAGIC.len());
        let version = fields.get_u32_le();
        if version != VERSION {
            return Err(BlockError::Version(version));
        }
        let (found, computed) = (Crc32c(fields.get_u32_le()), sum_of(block));
        if found != computed {
            return Err(BlockError::Checksum { found, computed });
        }
        if block[RESERVED].iter().chain(&block[END_OFFSET..]).any(|byte| *byte != 0) {
            return Err(BlockError::Field("reserved"));
        }
        let (sequence, voter) = (fields.get_u64_le(), VoterId(fields.get_u64_le()));
        if voter == VoterId::default() {
            return Err(BlockError::Field("voter"));
        }
        let resource = parse_name(&fields[..NAME_BYTES]).ok_or(BlockError::Field("resource"))?;
        let record = parse_record(&block[TERM_OFFSET..END_OFFSET])?;
        Ok(Self { sequence, voter, resource, record })
    }
}

/// Checksum of a block with the checksum's own field as zero.
fn sum_of(block: &[u8]) -> Crc32c {
    let zeroes = [0; CHECKSUM.end - CHECKSUM.start];
    Crc32c::of(&block[..CHECKSUM.start]).append(&zeroes).append(&block[CHECKSUM.end..])
}

/// A name that is padded with zeroes.
fn parse_name(bytes: &[u8]) -> Option<String> {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (name, padding) = bytes.split_at(length);
    let name = str::from_utf8(name).ok()?;
    padding.iter().all(|byte| *byte == 0).then(|| name.to_owned())
}

fn parse_record(mut fields: &[u8]) -> Result<MembershipRecord, BlockError> {
    let term = Term { number: fields.get_u64_le(), taker: fields.get_u64_le() };
    let version = fields.get_u64_le();
    let primary = match fields.get_u8() {
        NOBODY => None,
        node if usize::from(node) < REPLICAS_MAX => Some(NodeId(node)),
        _ => return Err(BlockError::Field("primary")),
    };
    fields.advance(RESERVED.len());
    let mut in_sync = InSyncSet::default();
    for node in (0u8..).take(REPLICAS_MAX).map(NodeId) {
        match fields.get_u64_le() {
            0 => {}
            incarnation => in_sync = in_sync.with(node, Incarnation(incarnation)),
        }
    }
    let mut voters = VoterList::default();
    for voter in &mut voters.ids {
        *voter = VoterId(fields.get_u64_le());
    }
    Ok(MembershipRecord { term, version, primary, in_sync, voters })
}

/// The file, locked for as long as this lives.
pub struct StateFile {
    file: tokio_uring::fs::File,
    /// A lock of its own descriptor, so that it ends at once with this and not when the ring has closed the file.
    _lock: fs::File,
    path: PathBuf,
    state: State,
}

impl StateFile {
    /// Makes the state of a new voter that has never voted.
    ///
    /// # Errors
    /// There is a file already, or the kernel failed; then there is none.
    pub fn create(path: &Path, resource: &str, voter: VoterId) -> Result<(), StateError> {
        let failed = |source| StateError::Io { path: path.to_owned(), source };
        let (record, resource) = (MembershipRecord::default(), resource.to_owned());
        let bytes = State { sequence: 1, voter, resource, record }.encode().repeat(COPIES);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Under its name only when it is whole: an interrupted attempt leaves nothing that looks like a voter.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist_noclobber(path).map_err(|refused| match refused.error.kind() {
            io::ErrorKind::AlreadyExists => StateError::Exists { path: path.to_owned() },
            _ => failed(refused.error),
        })?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Locks and reads the state. A copy that is unreadable or behind is written again at the next store.
    ///
    /// # Errors
    /// It is missing, locked, unreadable, of another resource, or the kernel failed.
    pub fn open(path: &Path, resource: &str) -> Result<Self, StateError> {
        let failed = |source| StateError::Io { path: path.to_owned(), source };
        let lock =
            OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StateError::Missing { path: path.to_owned() },
                _ => failed(error),
            })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::Locked { path: path.to_owned() }),
            Err(error) => return Err(failed(error.into())),
        }
        let mut bytes = Vec::new();
        (&lock).take(BLOCK_BYTES * 2).read_to_end(&mut bytes).map_err(failed)?;
        bytes.resize(BLOCK_SIZE * COPIES, 0);
        let state = choose_newest(path, &bytes)?;
        if state.resource != resource {
            let (found, expected) = (state.resource, resource.to_owned());
            return Err(StateError::OtherResource { path: path.to_owned(), found, expected });
        }
        let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        let file = tokio_uring::fs::File::from_std(file);
        Ok(Self { file, _lock: lock, path: path.to_owned(), state })
    }

    /// What the file holds.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Replaces the record; it is durable when this returns. Must run to its end.
    ///
    /// # Errors
    /// The kernel failed. What the file holds is then unknown until it is opened again.
    pub async fn store(&mut self, record: MembershipRecord) -> Result<(), StateError> {
        let sequence = self.state.sequence.checked_add(1).expect("2^64 stores are never reached");
        let state = State { sequence, record, ..self.state.clone() };
        for offset in [0, BLOCK_BYTES] {
            // The first is durable before the second is touched, so that one of them is whole at any moment.
            let (written, _) = self.file.write_all_at(state.encode(), offset).await;
            let flushed = match written {
                Ok(()) => self.file.sync_data().await,
                Err(error) => Err(error),
            };
            flushed.map_err(|source| StateError::Io { path: self.path.clone(), source })?;
        }
        self.state = state;
        Ok(())
    }
}

/// The newer of the two copies that can be believed.
fn choose_newest(path: &Path, bytes: &[u8]) -> Result<State, StateError> {
    let (first, second) = bytes.split_at(BLOCK_SIZE);
    match (State::parse(first), State::parse(second)) {
        (Ok(first), Ok(second)) => Ok(if first.sequence >= second.sequence { first } else { second }),
        (Ok(state), Err(reason)) | (Err(reason), Ok(state)) => {
            tracing::warn!(path = %path.display(), %reason, "one copy of the state is unreadable; the other is used");
            Ok(state)
        }
        (Err(first), Err(second)) => Err(StateError::Unreadable { path: path.to_owned(), first, second }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> MembershipRecord {
        let mut voters = VoterList::default();
        voters.ids[2] = VoterId(9);
        MembershipRecord {
            term: Term { number, taker: 77 },
            version: 3,
            primary: Some(NodeId(1)),
            in_sync: InSyncSet::of(NodeId(1), Incarnation(5)),
            voters,
        }
    }

    fn created() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mail.tiebreaker");
        StateFile::create(&path, "mail", VoterId(42)).expect("made");
        (folder, path)
    }

    #[test]
    fn a_new_state_is_empty_and_is_never_overwritten() {
        tokio_uring::start(async {
            let (_folder, path) = created();
            let refused = StateFile::create(&path, "mail", VoterId(43));
            assert!(matches!(refused, Err(StateError::Exists { .. })));
            let file = StateFile::open(&path, "mail").expect("opens");
            assert_eq!(file.state().voter, VoterId(42));
            assert!(file.state().record.is_empty());
        });
    }

    #[test]
    fn a_stored_record_survives_the_process_in_both_copies() {
        tokio_uring::start(async {
            let (_folder, path) = created();
            let mut file = StateFile::open(&path, "mail").expect("opens");
            file.store(record(7)).await.expect("stored");
            drop(file);
            let bytes = fs::read(&path).expect("the file");
            assert_eq!(bytes[..BLOCK_SIZE], bytes[BLOCK_SIZE..]);
            assert_eq!(StateFile::open(&path, "mail").expect("opens").state().record, record(7));
        });
    }

    #[test]
    fn one_unreadable_copy_loses_nothing_and_two_are_refused() {
        tokio_uring::start(async {
            let (_folder, path) = created();
            let mut file = StateFile::open(&path, "mail").expect("opens");
            file.store(record(7)).await.expect("stored");
            drop(file);
            let whole = fs::read(&path).expect("the file");
            for copy in [0, BLOCK_SIZE] {
                let mut bytes = whole.clone();
                bytes[copy + 100] ^= 1;
                fs::write(&path, &bytes).expect("written");
                assert_eq!(StateFile::open(&path, "mail").expect("opens").state().record, record(7));
                bytes[BLOCK_SIZE - copy + 200] ^= 1;
                fs::write(&path, &bytes).expect("written");
                let refused = StateFile::open(&path, "mail").err();
                assert!(matches!(refused, Some(StateError::Unreadable { .. })));
            }
        });
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let state = State { sequence: 3, voter: VoterId(1), resource: "mail".into(), record: record(2) };
        let mut bytes = state.encode();
        assert_eq!(State::parse(&bytes).as_ref(), Ok(&state));
        for bit in 0..BLOCK_SIZE * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(State::parse(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_store_that_was_cut_between_the_copies_leaves_the_newer_one() {
        let older = State { sequence: 3, voter: VoterId(1), resource: "mail".into(), record: record(2) };
        let newer = State { sequence: 4, record: record(3), ..older.clone() };
        let path = Path::new("mail");
        for bytes in [[newer.encode(), older.encode()].concat(), [older.encode(), newer.encode()].concat()] {
            assert_eq!(choose_newest(path, &bytes).expect("readable"), newer);
        }
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_has_the_file() {
        tokio_uring::start(async {
            let (_folder, path) = created();
            let first = StateFile::open(&path, "mail").expect("opens");
            assert!(matches!(StateFile::open(&path, "mail"), Err(StateError::Locked { .. })));
            drop(first);
            assert!(StateFile::open(&path, "mail").is_ok());
        });
    }

    #[test]
    fn a_state_of_another_resource_or_none_is_refused_by_name() {
        tokio_uring::start(async {
            let (folder, path) = created();
            assert!(matches!(StateFile::open(&path, "news"), Err(StateError::OtherResource { .. })));
            let nowhere = folder.path().join("nowhere");
            assert!(matches!(StateFile::open(&nowhere, "mail"), Err(StateError::Missing { .. })));
        });
    }

    #[test]
    fn the_bytes_are_those_of_the_table() {
        let state = State { sequence: 3, voter: VoterId(0x0807), resource: "mail".into(), record: record(2) };
        let bytes = state.encode();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        assert_eq!((&bytes[..8], &bytes[32..40]), (&b"TWINTIEB"[..], &b"mail\0\0\0\0"[..]));
        assert_eq!((bytes[8], word(16), word(24)), (1, 3, 0x0807));
        assert_eq!((word(96), word(104), word(112), bytes[120]), (2, 77, 3, 1));
        assert_eq!((word(128), word(136), word(192 + 16)), (0, 5, 9));
    }
}
