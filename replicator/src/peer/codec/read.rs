//! The bodies of a read over the wire: which blocks are wanted, and their bytes with a checksum each.

use crate::layout::record_table::encode_record_table;
use crate::peer::codec::resync::range;
use crate::peer::codec::{MessageError, parse_table};
use crate::peer::fields::{FieldError, FieldReader, FieldWriter};
use crate::peer::frame::ReceivedFrame;
use crate::peer::message::Message;
use crate::record::{Record, RecordKind};
use crate::remote_read::{READ_BLOCKS_MAX, ReadRequest};
use crate::units::Lsn;

pub(super) fn write_request(request: &ReadRequest, writer: &mut FieldWriter<'_>) {
    writer.u64(request.number);
    writer.u64(request.range.first);
    writer.u32(u32::try_from(request.range.count).expect("a question is bounded"));
    writer.reserved(4);
}

pub(super) fn read_request(reader: &mut FieldReader<'_>) -> Result<ReadRequest, FieldError> {
    let number = reader.u64("number")?;
    let first = reader.u64("first_block")?;
    let count = u64::from(reader.u32("count")?);
    reader.reserved(4)?;
    if count > READ_BLOCKS_MAX {
        return Err(FieldError::Value { field: "count", value: count });
    }
    Ok(ReadRequest { number, range: range(first, count)? })
}

pub(super) fn write_blocks(blocks: &Record, out: &mut Vec<u8>) {
    FieldWriter::new(out).lsn(blocks.lsn);
    encode_record_table(std::slice::from_ref(blocks), out);
}

/// One write with its payload, every block of it verified.
pub(super) fn parse_blocks(frame: &ReceivedFrame) -> Result<Message, MessageError> {
    let message_type = frame.message_type;
    let body_error = |reason| MessageError::Body { message_type, reason };
    let mut reader = FieldReader::new(&frame.body);
    let number = reader.lsn("number").map_err(body_error)?;
    if number == Lsn::ZERO {
        return Err(body_error(FieldError::Value { field: "number", value: 0 }));
    }
    let mut blocks = parse_table(frame, reader.rest(), number, 1)?;
    let blocks = blocks.pop().expect("as many as were asked for");
    if blocks.kind != RecordKind::Write {
        let kind = FieldError::Value { field: "kind", value: blocks.kind.code().into() };
        return Err(body_error(kind));
    }
    Ok(Message::BlocksRead(Box::new(blocks)))
}
