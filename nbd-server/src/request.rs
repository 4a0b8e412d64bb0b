//! Requests: from the bytes of a header to a [`Request`] that is known to be good, or to the reason why it is not.
//!
//! All refusals are decided in [`Terms::check`], in one order. A refused request still owns its payload on the
//! wire; how long that is follows from the header alone, whatever else is wrong with it.

use bytes::Buf;

use crate::constants::{
    NBD_CMD_BLOCK_STATUS, NBD_CMD_CACHE, NBD_CMD_DISC, NBD_CMD_FLAG_DF, NBD_CMD_FLAG_FAST_ZERO,
    NBD_CMD_FLAG_FUA, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_FLAG_REQ_ONE, NBD_CMD_FLUSH,
    NBD_CMD_READ, NBD_CMD_TRIM, NBD_CMD_WRITE, NBD_CMD_WRITE_ZEROES, NBD_EXTENDED_REQUEST_MAGIC,
    NBD_REQUEST_MAGIC, PAYLOAD_BYTES_MAX,
};
use crate::errno::Failure;
use crate::export::{Access, Service};
use crate::handshake::HeaderStyle;
use crate::meta_context::ContextId;

/// The client's mark on a request, repeated in its replies; may be zero, may repeat [Request message].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie(pub u64);

/// When the effect of a request must be on stable storage [Command flags].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// After the next flush.
    OnFlush,
    /// Before the reply. Accepted on every command; means nothing to those that change no data.
    BeforeReply,
}

/// In how many pieces a read may be answered [Command flags].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragments {
    /// In as many as the server likes.
    Any,
    /// In one. [`ReplyEncoder::read_header`](crate::ReplyEncoder::read_header) never makes more.
    One,
}

/// Whether zeroes may be written by deallocating [Command flags].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holes {
    /// Holes that read as zero will do.
    Allowed,
    /// The blocks must stay allocated.
    Forbidden,
}

/// What to do when zeroing is no faster than writing [Command flags].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroSpeed {
    /// Zero all the same.
    Any,
    /// Fail with [`Failure::NotSupported`], and leave the data as it was.
    FastOnly,
}

/// How many extents a status query wants [Command flags].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentCount {
    /// As many as are known.
    Many,
    /// Exactly one, not longer than the request.
    One,
}

/// What a request asks for [Request types].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Read; at most 32 MiB.
    Read {
        /// In how many pieces.
        fragments: Fragments,
    },
    /// Write the payload; at most 32 MiB.
    Write,
    /// Make every write durable whose reply was sent before, on any connection.
    Flush,
    /// The contents are no longer needed; of any length.
    Trim,
    /// Make the range read as zero; of any length.
    WriteZeroes {
        /// Whether the range may be deallocated.
        holes: Holes,
        /// Whether a slow way will do.
        speed: ZeroSpeed,
    },
    /// A hint that the range will be read; of any length.
    Cache,
    /// Which parts of the range are allocated; of any length but zero.
    BlockStatus {
        /// How many extents.
        extents: ExtentCount,
    },
}

/// A request that may be executed: known command, known flags, inside the export, permitted.
///
/// The length may be zero for all but [`Command::BlockStatus`]; there is nothing to do then but to reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The client's mark.
    pub cookie: Cookie,
    /// What to do.
    pub command: Command,
    /// First byte of the range; zero for [`Command::Flush`].
    pub offset: u64,
    /// Bytes of the range; zero for [`Command::Flush`].
    pub length: u64,
    /// When the effect must be durable.
    pub durability: Durability,
}

impl Request {
    /// What a reply must repeat.
    pub fn reply_to(&self) -> ReplyTo {
        let needs_chunks = match self.command {
            Command::Read { .. } | Command::BlockStatus { .. } => NeedsChunks::Yes,
            Command::Write
            | Command::Flush
            | Command::Trim
            | Command::WriteZeroes { .. }
            | Command::Cache => NeedsChunks::No,
        };
        ReplyTo { cookie: self.cookie, offset: self.offset, needs_chunks }
    }
}

/// What a reply must repeat of its request; kept instead of the request while that is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// The client's mark.
    pub cookie: Cookie,
    pub(crate) offset: u64,
    pub(crate) needs_chunks: NeedsChunks,
}

/// Whether structured replies, once negotiated, are the only ones allowed [Structured reply chunk message].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NeedsChunks {
    Yes,
    No,
}

/// Why a request is not executed. The connection stays usable [Request types].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The volume is no longer served here.
    ShuttingDown,
    /// No such command.
    UnknownCommand,
    /// A flag that does not exist, does not belong to the command, or was not negotiated.
    UnexpectedFlag,
    /// A change to a read-only export.
    ReadOnly,
    /// A status query, but no metadata context was selected.
    NoContextSelected,
    /// A status query of no bytes, which no extent could answer.
    EmptyQuery,
    /// A flush with an offset or a length.
    FlushOfRange,
    /// A read of more than 32 MiB.
    ReadTooLong,
    /// A write or a write of zeroes beyond the end.
    WriteBeyondEnd,
    /// Anything else beyond the end.
    BeyondEnd,
}

impl Refusal {
    /// The outcome to report to the client.
    pub fn failure(self) -> Failure {
        match self {
            Self::ShuttingDown => Failure::ShuttingDown,
            Self::ReadOnly => Failure::ReadOnly,
            Self::WriteBeyondEnd => Failure::NoSpace,
            Self::UnknownCommand
            | Self::UnexpectedFlag
            | Self::NoContextSelected
            | Self::EmptyQuery
            | Self::FlushOfRange
            | Self::ReadTooLong
            | Self::BeyondEnd => Failure::InvalidRequest,
        }
    }
}

/// The fields of a request, as they stood in its header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub flags: u16,
    pub command: u16,
    pub cookie: Cookie,
    pub offset: u64,
    pub length: u64,
}

/// The first field of a request is not the magic that was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrongMagic {
    pub found: u32,
}

impl Header {
    /// Reads a header from bytes that hold at least one of this style.
    pub fn decode(headers: HeaderStyle, mut bytes: &[u8]) -> Result<Self, WrongMagic> {
        let magic = match headers {
            HeaderStyle::Simple | HeaderStyle::Structured => NBD_REQUEST_MAGIC,
            HeaderStyle::Extended => NBD_EXTENDED_REQUEST_MAGIC,
        };
        let found = bytes.get_u32();
        if found != magic {
            return Err(WrongMagic { found });
        }
        Ok(Self {
            flags: bytes.get_u16(),
            command: bytes.get_u16(),
            cookie: Cookie(bytes.get_u64()),
            offset: bytes.get_u64(),
            length: match headers {
                HeaderStyle::Simple | HeaderStyle::Structured => u64::from(bytes.get_u32()),
                HeaderStyle::Extended => bytes.get_u64(),
            },
        })
    }

    /// Bytes that follow the header on the wire and belong to the request, good or not.
    ///
    /// A write has a payload even if a client with extended headers forgot to say so by
    /// `NBD_CMD_FLAG_PAYLOAD_LEN`: to take its data for the next request would let a client smuggle commands.
    pub fn payload_bytes(&self, headers: HeaderStyle) -> u64 {
        let announced = match headers {
            HeaderStyle::Simple | HeaderStyle::Structured => false,
            HeaderStyle::Extended => self.flags & NBD_CMD_FLAG_PAYLOAD_LEN != 0,
        };
        if self.command == NBD_CMD_WRITE || announced { self.length } else { 0 }
    }

    /// Whether this is `NBD_CMD_DISC`, which counts whatever its other fields say.
    pub fn is_disconnect(&self) -> bool {
        self.command == NBD_CMD_DISC
    }

    /// What a reply to a refusal must repeat.
    pub fn reply_to(&self) -> ReplyTo {
        let needs_chunks = match self.command {
            NBD_CMD_READ | NBD_CMD_BLOCK_STATUS => NeedsChunks::Yes,
            _other => NeedsChunks::No,
        };
        ReplyTo { cookie: self.cookie, offset: self.offset, needs_chunks }
    }
}

/// What the requests of one session are held against.
#[derive(Debug)]
pub(crate) struct Terms {
    pub size_bytes: u64,
    pub access: Access,
    pub headers: HeaderStyle,
    pub allocation_context: Option<ContextId>,
    pub service: Service,
}

/// The commands that have a reply, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Read,
    Write,
    Flush,
    Trim,
    Cache,
    WriteZeroes,
    BlockStatus,
}

/// What a command may carry and do: one row of the rules.
struct Rule {
    /// Flags besides `NBD_CMD_FLAG_FUA`, which every command accepts.
    flags: u16,
    changes_data: bool,
    beyond_end: Refusal,
}

impl Verb {
    fn of(command: u16) -> Option<Self> {
        Some(match command {
            NBD_CMD_READ => Self::Read,
            NBD_CMD_WRITE => Self::Write,
            NBD_CMD_FLUSH => Self::Flush,
            NBD_CMD_TRIM => Self::Trim,
            NBD_CMD_CACHE => Self::Cache,
            NBD_CMD_WRITE_ZEROES => Self::WriteZeroes,
            NBD_CMD_BLOCK_STATUS => Self::BlockStatus,
            _unknown => return None,
        })
    }

    /// The rules of [Request types] and [Command flags], one row for each command.
    fn rule(self, headers: HeaderStyle) -> Rule {
        // DF is offered with structured replies only, PAYLOAD_LEN exists with extended headers only.
        let (dont_fragment, payload_length) = match headers {
            HeaderStyle::Simple => (0, 0),
            HeaderStyle::Structured => (NBD_CMD_FLAG_DF, 0),
            HeaderStyle::Extended => (NBD_CMD_FLAG_DF, NBD_CMD_FLAG_PAYLOAD_LEN),
        };
        let (flags, changes_data, beyond_end) = match self {
            Self::Read => (dont_fragment, false, Refusal::BeyondEnd),
            Self::Write => (payload_length, true, Refusal::WriteBeyondEnd),
            Self::Flush => (0, false, Refusal::FlushOfRange),
            Self::Trim => (0, true, Refusal::BeyondEnd),
            Self::Cache => (0, false, Refusal::BeyondEnd),
            Self::WriteZeroes => {
                (NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO, true, Refusal::WriteBeyondEnd)
            }
            Self::BlockStatus => (NBD_CMD_FLAG_REQ_ONE, false, Refusal::BeyondEnd),
        };
        Rule { flags, changes_data, beyond_end }
    }

    fn command(self, flags: u16) -> Command {
        let has = |flag| flags & flag != 0;
        match self {
            Self::Read => Command::Read {
                fragments: if has(NBD_CMD_FLAG_DF) { Fragments::One } else { Fragments::Any },
            },
            Self::Write => Command::Write,
            Self::Flush => Command::Flush,
            Self::Trim => Command::Trim,
            Self::Cache => Command::Cache,
            Self::WriteZeroes => Command::WriteZeroes {
                holes: if has(NBD_CMD_FLAG_NO_HOLE) { Holes::Forbidden } else { Holes::Allowed },
                speed: if has(NBD_CMD_FLAG_FAST_ZERO) { ZeroSpeed::FastOnly } else { ZeroSpeed::Any },
            },
            Self::BlockStatus => Command::BlockStatus {
                extents: if has(NBD_CMD_FLAG_REQ_ONE) { ExtentCount::One } else { ExtentCount::Many },
            },
        }
    }
}

impl Terms {
    /// Decides whether a request is executed: every refusal of the transmission phase is in this function.
    pub fn check(&self, header: &Header) -> Result<Request, Refusal> {
        if self.service == Service::ShuttingDown {
            return Err(Refusal::ShuttingDown);
        }
        let verb = Verb::of(header.command).ok_or(Refusal::UnknownCommand)?;
        let rule = verb.rule(self.headers);
        if header.flags & !(rule.flags | NBD_CMD_FLAG_FUA) != 0 {
            return Err(Refusal::UnexpectedFlag);
        }
        if rule.changes_data && self.access == Access::ReadOnly {
            return Err(Refusal::ReadOnly);
        }
        self.check_range(verb, header, &rule)?;
        let durability =
            if header.flags & NBD_CMD_FLAG_FUA != 0 { Durability::BeforeReply } else { Durability::OnFlush };
        Ok(Request {
            cookie: header.cookie,
            command: verb.command(header.flags),
            offset: header.offset,
            length: header.length,
            durability,
        })
    }

    fn check_range(&self, verb: Verb, header: &Header, rule: &Rule) -> Result<(), Refusal> {
        match verb {
            Verb::Flush if header.offset != 0 || header.length != 0 => return Err(Refusal::FlushOfRange),
            Verb::BlockStatus if self.allocation_context.is_none() => return Err(Refusal::NoContextSelected),
            Verb::BlockStatus if header.length == 0 => return Err(Refusal::EmptyQuery),
            Verb::Read if header.length > u64::from(PAYLOAD_BYTES_MAX) => return Err(Refusal::ReadTooLong),
            Verb::Read
            | Verb::Write
            | Verb::Flush
            | Verb::Trim
            | Verb::Cache
            | Verb::WriteZeroes
            | Verb::BlockStatus => {}
        }
        // The sum of offset and length is never formed: it may not fit in 64 bits.
        if header.length > self.size_bytes || header.offset > self.size_bytes - header.length {
            return Err(rule.beyond_end);
        }
        Ok(())
    }
}
