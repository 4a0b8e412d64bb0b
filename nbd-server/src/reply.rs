//! Replies: the headers that go before a payload, and whole replies that have none (section Transmission).
//!
//! Only headers are written, so that the caller sends header and payload together without copying the payload. All
//! content of a read goes in one chunk that also ends the reply: it may only be sent when the data is at hand,
//! because a content chunk that failed half-way could not be taken back.

use bytes::BufMut;

use crate::constants::{
    EXTENTS_MAX, NBD_EXTENDED_REPLY_MAGIC, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_BLOCK_STATUS,
    NBD_REPLY_TYPE_BLOCK_STATUS_EXT, NBD_REPLY_TYPE_ERROR, NBD_REPLY_TYPE_NONE, NBD_REPLY_TYPE_OFFSET_DATA,
    NBD_SIMPLE_REPLY_MAGIC, NBD_STATE_HOLE, NBD_STATE_ZERO, NBD_STRUCTURED_REPLY_MAGIC,
};
use crate::errno::Failure;
use crate::handshake::HeaderStyle;
use crate::meta_context::ContextId;
use crate::request::{Command, ExtentCount, NeedsChunks, ReplyTo, Request, Terms};

/// The longest text in an error chunk of this server.
pub(crate) const ERROR_TEXT_BYTES_MAX: usize = 64;

/// Bytes of the header of an extended chunk, the longest header [Extended reply chunk message].
const EXTENDED_REPLY_BYTES: usize = 32;
/// Bytes of the offset at the front of a content chunk [Structured reply types].
const CHUNK_OFFSET_BYTES: u64 = 8;
/// Bytes of the number and the text length at the front of an error chunk [Structured reply types].
const CHUNK_ERROR_BYTES: usize = 6;

/// The longest extent that a 32-bit descriptor can tell and that ends on a block.
const EXTENT_BYTES_MAX_32: u64 = 0xffff_f000;

/// What is known of a range [`base:allocation` metadata context].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// May hold data; always a safe answer.
    Data,
    /// Is allocated and reads as zero.
    Zero,
    /// Is not allocated and reads as zero.
    Hole,
}

impl Allocation {
    fn status_flags(self) -> u32 {
        match self {
            Self::Data => 0,
            Self::Zero => NBD_STATE_ZERO,
            Self::Hole => NBD_STATE_HOLE | NBD_STATE_ZERO,
        }
    }
}

/// A run of bytes with one status; it begins where the one before ended, the first at the offset of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length of the run.
    pub length: u64,
    /// What is known of it.
    pub allocation: Allocation,
}

/// Writes the replies of one session, in the style that was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyEncoder {
    size_bytes: u64,
    headers: HeaderStyle,
    allocation_context: Option<ContextId>,
}

impl ReplyEncoder {
    /// No reply of this encoder is longer, but for those of [`ReplyEncoder::block_status`]; a buffer of this size
    /// is always enough for a header.
    pub const HEADER_BYTES_MAX: usize = EXTENDED_REPLY_BYTES + CHUNK_ERROR_BYTES + ERROR_TEXT_BYTES_MAX;

    /// No reply of [`ReplyEncoder::block_status`] is longer.
    pub const BLOCK_STATUS_BYTES_MAX: usize = EXTENDED_REPLY_BYTES + 8 + EXTENTS_MAX * 16;

    pub(crate) fn new(terms: &Terms) -> Self {
        Self {
            size_bytes: terms.size_bytes,
            headers: terms.headers,
            allocation_context: terms.allocation_context,
        }
    }

    /// The header of a successful read; exactly `request.length` bytes of data must follow it.
    ///
    /// Call it when the data is there: after this header the reply can no longer become an error. A read of no
    /// bytes gets a complete reply without content, as no chunk may be empty.
    pub fn read_header(&self, request: &Request, output: &mut impl BufMut) {
        let length = match request.command {
            Command::Read { .. } => u32::try_from(request.length).expect("a checked read has at most 32 MiB"),
            Command::Write
            | Command::Flush
            | Command::Trim
            | Command::WriteZeroes { .. }
            | Command::Cache
            | Command::BlockStatus { .. } => panic!("{:?} has no data in its reply", request.command),
        };
        let reply_to = request.reply_to();
        if length == 0 || self.headers == HeaderStyle::Simple {
            return self.done(reply_to, output);
        }
        let length = CHUNK_OFFSET_BYTES + u64::from(length);
        self.chunk_header(reply_to, NBD_REPLY_TYPE_OFFSET_DATA, length, output);
        output.put_u64(request.offset);
    }

    /// The complete reply to a request that succeeded and has nothing to tell.
    pub fn done(&self, reply_to: ReplyTo, output: &mut impl BufMut) {
        if self.is_simple(reply_to) {
            simple_reply(reply_to, 0, output);
        } else {
            self.chunk_header(reply_to, NBD_REPLY_TYPE_NONE, 0, output);
        }
    }

    /// The complete reply to a request that failed or was refused.
    pub fn error(&self, reply_to: ReplyTo, failure: Failure, output: &mut impl BufMut) {
        let number = failure.errno().number();
        if self.is_simple(reply_to) {
            return simple_reply(reply_to, number, output);
        }
        let text = failure.text();
        let text_length = u16::try_from(text.len()).expect("a text of errno.rs is short");
        let length = u64::try_from(CHUNK_ERROR_BYTES + text.len()).expect("a usize holds at most 64 bits");
        self.chunk_header(reply_to, NBD_REPLY_TYPE_ERROR, length, output);
        output.put_u32(number);
        output.put_u16(text_length);
        output.put_slice(text.as_bytes());
    }

    /// The complete reply to a status query [Structured reply types].
    ///
    /// `extents` begin at the offset of the request and may be longer, shorter or more than wanted: they are
    /// joined, cut and counted here. The last extent may run over the request, but not over the end of the
    /// export. Without any extent the whole range is reported as data, which is always safe.
    pub fn block_status(
        &self,
        request: &Request,
        extents: impl IntoIterator<Item = Extent>,
        output: &mut impl BufMut,
    ) {
        let Command::BlockStatus { extents: count } = request.command else {
            panic!("{:?} has no extents in its reply", request.command)
        };
        let context = self.allocation_context.expect("a checked query has a context");
        let extents = self.fit_extents(request, count, extents);
        let number = u32::try_from(extents.len()).expect("extents are bounded");
        let reply_to = request.reply_to();
        match self.headers {
            HeaderStyle::Simple => panic!("a context cannot be selected without structured replies"),
            HeaderStyle::Structured => {
                let length = 4 + u64::from(number) * 8;
                self.chunk_header(reply_to, NBD_REPLY_TYPE_BLOCK_STATUS, length, output);
                output.put_u32(context.number());
                for extent in extents {
                    output.put_u32(u32::try_from(extent.length).expect("fit_extents cut it to 32 bits"));
                    output.put_u32(extent.allocation.status_flags());
                }
            }
            HeaderStyle::Extended => {
                let length = 8 + u64::from(number) * 16;
                self.chunk_header(reply_to, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, length, output);
                output.put_u32(context.number());
                output.put_u32(number);
                for extent in extents {
                    output.put_u64(extent.length);
                    output.put_u64(u64::from(extent.allocation.status_flags()));
                }
            }
        }
    }

    /// Makes any extents obey the document: at least one, none empty, neighbours differ, all but the last inside
    /// the request, the last inside the export, and with `NBD_CMD_FLAG_REQ_ONE` one inside the request.
    fn fit_extents(
        &self,
        request: &Request,
        count: ExtentCount,
        extents: impl IntoIterator<Item = Extent>,
    ) -> Vec<Extent> {
        let (extents_max, reach) = match count {
            ExtentCount::One => (1, request.length),
            ExtentCount::Many => (EXTENTS_MAX, self.size_bytes - request.offset),
        };
        let extent_bytes_max = match self.headers {
            HeaderStyle::Simple | HeaderStyle::Structured => EXTENT_BYTES_MAX_32,
            HeaderStyle::Extended => u64::MAX,
        };
        let mut fitted: Vec<Extent> = Vec::new();
        let mut covered = 0;
        for extent in extents {
            let length = extent.length.min(reach - covered);
            covered += length;
            let is_full = fitted.len() == extents_max;
            match fitted.last_mut() {
                Some(last) if last.allocation == extent.allocation => last.length += length,
                // What does not fit into the answer, the client asks for again.
                Some(_) if is_full => break,
                Some(_) | None if length > 0 => fitted.push(Extent { length, ..extent }),
                Some(_) | None => {}
            }
            // Only what begins inside the request is told.
            if covered >= request.length {
                break;
            }
        }
        if fitted.is_empty() {
            fitted.push(Extent { length: request.length, allocation: Allocation::Data });
        }
        let last = fitted.last_mut().expect("there is at least one");
        last.length = last.length.min(extent_bytes_max);
        fitted
    }

    /// Simple replies are forbidden with extended headers, and for reads and status queries with structured ones.
    fn is_simple(&self, reply_to: ReplyTo) -> bool {
        match self.headers {
            HeaderStyle::Simple => true,
            HeaderStyle::Structured => reply_to.needs_chunks == NeedsChunks::No,
            HeaderStyle::Extended => false,
        }
    }

    /// The header of the one chunk of a reply, which is therefore always the last.
    fn chunk_header(&self, reply_to: ReplyTo, kind: u16, length: u64, output: &mut impl BufMut) {
        match self.headers {
            HeaderStyle::Simple => panic!("no chunks were negotiated"),
            HeaderStyle::Structured => {
                output.put_u32(NBD_STRUCTURED_REPLY_MAGIC);
                output.put_u16(NBD_REPLY_FLAG_DONE);
                output.put_u16(kind);
                output.put_u64(reply_to.cookie.0);
                output.put_u32(u32::try_from(length).expect("a chunk holds 32 MiB at most"));
            }
            HeaderStyle::Extended => {
                output.put_u32(NBD_EXTENDED_REPLY_MAGIC);
                output.put_u16(NBD_REPLY_FLAG_DONE);
                output.put_u16(kind);
                output.put_u64(reply_to.cookie.0);
                output.put_u64(reply_to.offset);
                output.put_u64(length);
            }
        }
    }
}

/// A simple reply, whose error is zero for success [Simple reply message].
fn simple_reply(reply_to: ReplyTo, error: u32, output: &mut impl BufMut) {
    output.put_u32(NBD_SIMPLE_REPLY_MAGIC);
    output.put_u32(error);
    output.put_u64(reply_to.cookie.0);
}
