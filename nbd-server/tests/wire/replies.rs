//! Replies in all three styles, byte by byte [Simple reply message; Structured reply chunk message; Extended reply
//! chunk message].

use nbd_server::{Allocation, Decoded, Extent, Failure, ReplyEncoder, Session};

use crate::client::{
    SIZE_BYTES, compact, extended, extended_session, hex, request, simple_session, structured_session,
};

const OFFSET: u64 = 0x3000;

const READ: u16 = 0;
const WRITE: u16 = 1;
const BLOCK_STATUS: u16 = 7;
const REQ_ONE: u16 = 8;

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

/// Session, and the header of a request to it.
type Style = (Session, fn(u16, u16, u64, u32) -> Vec<u8>);

fn styles() -> [Style; 3] {
    let wide: fn(u16, u16, u64, u32) -> Vec<u8> =
        |flags, command, offset, length| extended(flags, command, offset, length.into());
    [(simple_session(), compact), (structured_session(), compact), (extended_session(), wide)]
}

/// The reply of each style to a request that `encode` answers.
fn reply_in_each_style(
    command: u16,
    length: u32,
    encode: fn(ReplyEncoder, nbd_server::Request, &mut Vec<u8>),
) -> [Vec<u8>; 3] {
    styles().map(|(mut session, header)| {
        let request = request(&mut session, &header(0, command, OFFSET, length));
        encoded(|bytes| encode(session.replies(), request, bytes))
    })
}

#[test]
fn the_header_of_a_read_announces_exactly_its_data() {
    let headers =
        reply_in_each_style(READ, 4096, |replies, request, bytes| replies.read_header(&request, bytes));
    let expected = [
        hex("67446698 00000000 1122334455667788"),
        hex("668e33ef 0001 0001 1122334455667788 00001008 0000000000003000"),
        hex("6e8a278c 0001 0001 1122334455667788 0000000000003000 0000000000001008 0000000000003000"),
    ];
    assert_eq!(headers, expected);
}

#[test]
fn a_read_of_no_bytes_is_a_complete_reply_without_content() {
    let replies =
        reply_in_each_style(READ, 0, |replies, request, bytes| replies.read_header(&request, bytes));
    let expected = [
        hex("67446698 00000000 1122334455667788"),
        hex("668e33ef 0001 0000 1122334455667788 00000000"),
        hex("6e8a278c 0001 0000 1122334455667788 0000000000003000 0000000000000000"),
    ];
    assert_eq!(replies, expected);
}

#[test]
fn success_without_content_is_simple_unless_headers_are_extended() {
    let replies = reply_in_each_style(WRITE, 1, |replies, request, bytes| {
        replies.done(request.reply_to(), bytes);
    });
    let expected = [
        hex("67446698 00000000 1122334455667788"),
        hex("67446698 00000000 1122334455667788"),
        hex("6e8a278c 0001 0000 1122334455667788 0000000000003000 0000000000000000"),
    ];
    assert_eq!(replies, expected);
}

#[test]
fn a_failed_read_is_an_error_chunk_unless_replies_are_simple() {
    let replies = reply_in_each_style(READ, 4096, |replies, request, bytes| {
        replies.error(request.reply_to(), Failure::IoFault, bytes);
    });
    let text = b"input or output failed";
    let with_text = |header: &str| [&hex(header)[..], text].concat();
    let expected = [
        hex("67446698 00000005 1122334455667788"),
        with_text("668e33ef 0001 8001 1122334455667788 0000001c 00000005 0016"),
        with_text("6e8a278c 0001 8001 1122334455667788 0000000000003000 000000000000001c 00000005 0016"),
    ];
    assert_eq!(replies, expected);
}

#[test]
fn a_failed_write_is_a_simple_reply_unless_headers_are_extended() {
    let replies = reply_in_each_style(WRITE, 1, |replies, request, bytes| {
        replies.error(request.reply_to(), Failure::NoSpace, bytes);
    });
    assert_eq!(replies[0], hex("67446698 0000001c 1122334455667788"));
    assert_eq!(replies[1], replies[0]);
    let header = "6e8a278c 0001 8001 1122334455667788 0000000000003000 0000000000000022 0000001c 001c";
    assert_eq!(replies[2], [&hex(header)[..], b"beyond the end of the export"].concat());
}

#[test]
fn a_refused_request_is_answered_like_a_failed_one() {
    for (mut session, header) in styles() {
        let decoded = session.decode(&header(0, READ, SIZE_BYTES, 1));
        let Decoded::Refused { reply_to, refusal, .. } = decoded else { panic!("{decoded:?}") };
        let refused = encoded(|bytes| session.replies().error(reply_to, refusal.failure(), bytes));
        let good = request(&mut session, &header(0, READ, 0, 1));
        let mut failed =
            encoded(|bytes| session.replies().error(good.reply_to(), Failure::InvalidRequest, bytes));
        if failed.starts_with(&hex("6e8a278c")) {
            // Extended replies repeat the offset, which is not the same here.
            failed[16..24].copy_from_slice(&SIZE_BYTES.to_be_bytes());
        }
        assert_eq!(refused, failed);
    }
}

#[test]
fn no_header_is_longer_than_the_constant_for_buffers() {
    for (mut session, header) in styles() {
        let request = request(&mut session, &header(0, READ, OFFSET, 1 << 25));
        let replies = session.replies();
        let mut lengths = vec![encoded(|bytes| replies.read_header(&request, bytes)).len()];
        for failure in Failure::ALL {
            lengths.push(encoded(|bytes| replies.error(request.reply_to(), failure, bytes)).len());
        }
        assert!(lengths.iter().all(|length| *length <= ReplyEncoder::HEADER_BYTES_MAX), "{lengths:?}");
    }
}

/// The extents that a client reads out of a reply, checking the chunk around them.
fn told(session: &mut Session, flags: u16, offset: u64, length: u64, extents: &[Extent]) -> Vec<(u64, u64)> {
    let is_extended = matches!(session.decode(&[0; 4]), Decoded::NeedBytes(28));
    let header = if is_extended {
        extended(flags, BLOCK_STATUS, offset, length)
    } else {
        compact(flags, BLOCK_STATUS, offset, u32::try_from(length).unwrap())
    };
    let request = request(session, &header);
    let bytes = encoded(|bytes| session.replies().block_status(&request, extents.to_vec(), bytes));
    assert!(bytes.len() <= ReplyEncoder::BLOCK_STATUS_BYTES_MAX);
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    if is_extended {
        assert_eq!(bytes[..8], hex("6e8a278c 0001 0006"));
        assert_eq!(number(&bytes[24..32]) + 32, u64::try_from(bytes.len()).unwrap());
        assert_eq!(number(&bytes[32..36]), 1);
        let pairs = bytes[40..].chunks(16).map(|pair| (number(&pair[..8]), number(&pair[8..])));
        assert_eq!(number(&bytes[36..40]), u64::try_from(pairs.len()).unwrap());
        pairs.collect()
    } else {
        assert_eq!(bytes[..8], hex("668e33ef 0001 0005"));
        assert_eq!(number(&bytes[16..20]) + 20, u64::try_from(bytes.len()).unwrap());
        assert_eq!(number(&bytes[20..24]), 1);
        bytes[24..].chunks(8).map(|pair| (number(&pair[..4]), number(&pair[4..]))).collect()
    }
}

fn extent(length: u64, allocation: Allocation) -> Extent {
    Extent { length, allocation }
}

#[test]
fn status_flags_are_those_of_base_allocation() {
    let extents = [extent(1, Allocation::Data), extent(2, Allocation::Zero), extent(3, Allocation::Hole)];
    for session in [&mut structured_session(), &mut extended_session()] {
        assert_eq!(told(session, 0, 0, 6, &extents), [(1, 0), (2, 2), (3, 3)]);
    }
}

#[test]
fn a_query_always_gets_an_extent_and_never_an_empty_one() {
    let empty = extent(0, Allocation::Hole);
    for session in [&mut structured_session(), &mut extended_session()] {
        assert_eq!(told(session, 0, 0, 6, &[]), [(6, 0)]);
        assert_eq!(told(session, 0, 0, 6, &[empty, extent(6, Allocation::Zero), empty]), [(6, 2)]);
    }
}

#[test]
fn neighbours_with_one_status_are_told_as_one() {
    let hole = extent(4, Allocation::Hole);
    let told = told(&mut structured_session(), 0, 0, 12, &[hole, hole, extent(4, Allocation::Data)]);
    assert_eq!(told, [(8, 3), (4, 0)]);
}

#[test]
fn the_last_extent_may_run_over_the_request_but_not_over_the_export() {
    let extents = [extent(4, Allocation::Data), extent(100, Allocation::Hole), extent(1, Allocation::Data)];
    for session in [&mut structured_session(), &mut extended_session()] {
        assert_eq!(told(session, 0, 0, 8, &extents), [(4, 0), (100, 3)]);
        assert_eq!(told(session, 0, SIZE_BYTES - 10, 8, &extents), [(4, 0), (6, 3)]);
        // What begins behind the request is not told.
        assert_eq!(told(session, 0, 0, 4, &extents), [(4, 0)]);
    }
}

#[test]
fn one_extent_means_one_that_stays_inside_the_request() {
    let extents = [extent(100, Allocation::Hole), extent(1, Allocation::Data)];
    for session in [&mut structured_session(), &mut extended_session()] {
        assert_eq!(told(session, REQ_ONE, 0, 8, &extents), [(8, 3)]);
        assert_eq!(told(session, REQ_ONE, 0, 200, &extents), [(100, 3)]);
        assert_eq!(told(session, REQ_ONE, 0, 8, &[]), [(8, 0)]);
    }
}

#[test]
fn extents_beyond_the_bound_are_left_for_the_next_query() {
    let extents: Vec<Extent> = (0..5000)
        .map(|index| extent(1, if index % 2 == 0 { Allocation::Data } else { Allocation::Hole }))
        .collect();
    for session in [&mut structured_session(), &mut extended_session()] {
        assert_eq!(told(session, 0, 0, 5000, &extents).len(), 1024);
    }
}

#[test]
fn lengths_that_32_bits_cannot_tell_are_cut_there_and_only_there() {
    let whole = [extent(SIZE_BYTES, Allocation::Hole)];
    assert_eq!(told(&mut structured_session(), 0, 0, 4096, &whole), [(0xffff_f000, 3)]);
    assert_eq!(told(&mut extended_session(), 0, 0, SIZE_BYTES, &whole), [(SIZE_BYTES, 3)]);
}
