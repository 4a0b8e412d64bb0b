//! Request headers and every refusal [Request message; Request types; Error values].

use nbd_server::{
    Access, Command, Cookie, Decoded, Durability, ExtentCount, Fragments, Holes, Request, Session, ZeroSpeed,
};

use crate::client::{
    COOKIE, Node, SIZE_BYTES, compact, extended, extended_session, hex, negotiated, refusal, request,
    simple_session, structured_session,
};

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ESHUTDOWN: u32 = 108;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

const FUA: u16 = 1;
const PAYLOAD_LEN: u16 = 1 << 5;

const MIB_32: u32 = 1 << 25;

fn write_zeroes(holes: Holes, speed: ZeroSpeed) -> Command {
    Command::WriteZeroes { holes, speed }
}

#[test]
fn a_compact_request_is_28_bytes_in_the_order_of_the_document() {
    let bytes = hex("25609513 0001 0001 0102030405060708 0000000000003000 00001000");
    assert_eq!(
        simple_session().decode(&bytes),
        Decoded::Request {
            consumed: 28,
            request: Request {
                cookie: Cookie(0x0102_0304_0506_0708),
                command: Command::Write,
                offset: 0x3000,
                length: 0x1000,
                durability: Durability::BeforeReply,
            },
            payload_bytes: 0x1000,
        }
    );
}

#[test]
fn an_extended_request_is_32_bytes_with_a_64_bit_length() {
    let bytes = hex("21e41c71 0020 0001 0102030405060708 0000000000003000 0000000000001000");
    assert_eq!(
        extended_session().decode(&bytes),
        Decoded::Request {
            consumed: 32,
            request: Request {
                cookie: Cookie(0x0102_0304_0506_0708),
                command: Command::Write,
                offset: 0x3000,
                length: 0x1000,
                durability: Durability::OnFlush,
            },
            payload_bytes: 0x1000,
        }
    );
}

#[test]
fn every_command_and_flag_is_told_apart() {
    let rows = [
        (0, READ, Command::Read { fragments: Fragments::Any }),
        (4, READ, Command::Read { fragments: Fragments::One }),
        (0, WRITE, Command::Write),
        (0, TRIM, Command::Trim),
        (0, CACHE, Command::Cache),
        (0, WRITE_ZEROES, write_zeroes(Holes::Allowed, ZeroSpeed::Any)),
        (2, WRITE_ZEROES, write_zeroes(Holes::Forbidden, ZeroSpeed::Any)),
        (16, WRITE_ZEROES, write_zeroes(Holes::Allowed, ZeroSpeed::FastOnly)),
        (18, WRITE_ZEROES, write_zeroes(Holes::Forbidden, ZeroSpeed::FastOnly)),
        (0, BLOCK_STATUS, Command::BlockStatus { extents: ExtentCount::Many }),
        (8, BLOCK_STATUS, Command::BlockStatus { extents: ExtentCount::One }),
    ];
    for (flags, number, command) in rows {
        assert_eq!(request(&mut structured_session(), &compact(flags, number, 5, 7)).command, command);
        assert_eq!(request(&mut extended_session(), &extended(flags, number, 5, 7)).command, command);
    }
    assert_eq!(request(&mut simple_session(), &compact(0, FLUSH, 0, 0)).command, Command::Flush);
}

#[test]
fn fua_is_accepted_on_every_command() {
    for (number, length) in
        [(READ, 1), (WRITE, 1), (FLUSH, 0), (TRIM, 1), (CACHE, 1), (WRITE_ZEROES, 1), (BLOCK_STATUS, 1)]
    {
        let request = request(&mut structured_session(), &compact(FUA, number, 0, length));
        assert_eq!(request.durability, Durability::BeforeReply, "command {number}");
    }
}

#[test]
fn flags_of_other_commands_and_unknown_flags_are_invalid() {
    // What each command accepts after structured replies, FUA aside.
    let rows =
        [(READ, 4), (WRITE, 0), (FLUSH, 0), (TRIM, 0), (CACHE, 0), (WRITE_ZEROES, 18), (BLOCK_STATUS, 8)];
    for (number, accepted) in rows {
        for bit in 1..16 {
            let flags = 1 << bit;
            let length = if number == FLUSH { 0 } else { 512 };
            let drained = if number == WRITE { 512 } else { 0 };
            let bytes = compact(flags, number, 0, length);
            if flags & accepted == 0 {
                assert_eq!(
                    refusal(&mut structured_session(), &bytes),
                    (EINVAL, drained),
                    "{number} {flags:#x}"
                );
            } else {
                request(&mut structured_session(), &bytes);
            }
        }
    }
}

#[test]
fn df_is_invalid_without_structured_replies() {
    assert_eq!(refusal(&mut simple_session(), &compact(4, READ, 0, 1)), (EINVAL, 0));
}

#[test]
fn unknown_commands_are_invalid() {
    for number in [8, 9, 0x0100, u16::MAX] {
        assert_eq!(refusal(&mut simple_session(), &compact(0, number, 0, 1)), (EINVAL, 0));
        assert_eq!(refusal(&mut extended_session(), &extended(0, number, 0, 1)), (EINVAL, 0));
    }
}

#[test]
fn the_end_of_the_export_is_checked_without_overflow() {
    let rows = [
        (READ, EINVAL),
        (TRIM, EINVAL),
        (CACHE, EINVAL),
        (BLOCK_STATUS, EINVAL),
        (WRITE, ENOSPC),
        (WRITE_ZEROES, ENOSPC),
    ];
    for (number, error) in rows {
        let drained = |length| if number == WRITE { length } else { 0 };
        let mut session = structured_session();
        request(&mut session, &compact(0, number, SIZE_BYTES - 512, 512));
        request(&mut session, &compact(0, number, SIZE_BYTES - 1, 1));
        for (offset, length) in
            [(SIZE_BYTES - 511, 512), (SIZE_BYTES, 1), (u64::MAX, 1), (u64::MAX - 511, 512)]
        {
            let refused = refusal(&mut session, &compact(0, number, offset, length));
            assert_eq!(refused, (error, drained(length)), "command {number} at {offset:#x}");
        }
    }
}

#[test]
fn lengths_of_64_bits_are_never_truncated() {
    for number in [TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS] {
        let request = request(&mut extended_session(), &extended(0, number, 0, SIZE_BYTES));
        assert_eq!(request.length, SIZE_BYTES, "command {number}");
    }
    // In 32 bits this would be one byte.
    for (number, error) in [(TRIM, EINVAL), (CACHE, EINVAL), (WRITE_ZEROES, ENOSPC), (BLOCK_STATUS, EINVAL)] {
        let bytes = extended(0, number, SIZE_BYTES - 1, (1 << 32) + 1);
        assert_eq!(refusal(&mut extended_session(), &bytes), (error, 0), "command {number}");
        let bytes = extended(0, number, 1, u64::MAX);
        assert_eq!(refusal(&mut extended_session(), &bytes), (error, 0), "command {number}");
    }
}

#[test]
fn only_what_carries_data_is_limited_to_32_mib() {
    let mut session = structured_session();
    for number in [READ, WRITE, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS] {
        assert_eq!(request(&mut session, &compact(0, number, 0, MIB_32)).length, u64::from(MIB_32));
    }
    for number in [TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS] {
        assert_eq!(request(&mut session, &compact(0, number, 0, u32::MAX)).length, u64::from(u32::MAX));
    }
    assert_eq!(refusal(&mut session, &compact(0, READ, 0, MIB_32 + 1)), (EINVAL, 0));
    assert_eq!(refusal(&mut extended_session(), &extended(0, READ, 0, 1 << 32)), (EINVAL, 0));
}

#[test]
fn requests_of_no_bytes_are_replied_to() {
    let mut session = structured_session();
    for number in [READ, WRITE, TRIM, CACHE, WRITE_ZEROES] {
        for offset in [0, SIZE_BYTES] {
            assert_eq!(request(&mut session, &compact(0, number, offset, 0)).length, 0, "command {number}");
        }
    }
    // No extent could answer it: none may be empty.
    assert_eq!(refusal(&mut session, &compact(0, BLOCK_STATUS, 0, 0)), (EINVAL, 0));
}

#[test]
fn a_flush_with_a_range_is_invalid() {
    assert_eq!(refusal(&mut simple_session(), &compact(0, FLUSH, 512, 0)), (EINVAL, 0));
    assert_eq!(refusal(&mut simple_session(), &compact(0, FLUSH, 0, 512)), (EINVAL, 0));
}

#[test]
fn a_status_query_without_a_context_is_invalid() {
    assert_eq!(refusal(&mut simple_session(), &compact(0, BLOCK_STATUS, 0, 512)), (EINVAL, 0));
}

#[test]
fn a_read_only_export_refuses_every_change_with_eperm() {
    let read_only = negotiated(&Node::Primary(Access::ReadOnly), &[]);
    let mut session = Session::new(&read_only);
    for number in [WRITE, TRIM, WRITE_ZEROES] {
        let drained = if number == WRITE { 512 } else { 0 };
        assert_eq!(refusal(&mut session, &compact(0, number, 0, 512)), (EPERM, drained));
        assert_eq!(refusal(&mut session, &compact(0, number, SIZE_BYTES, 512)), (EPERM, drained));
    }
    for number in [READ, CACHE] {
        request(&mut session, &compact(0, number, 0, 512));
    }
    request(&mut session, &compact(0, FLUSH, 0, 0));
}

#[test]
fn after_a_forced_demotion_every_request_gets_eshutdown_and_is_drained() {
    let mut session = structured_session();
    session.shut_down();
    for number in [READ, WRITE, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS] {
        let drained = if number == WRITE { 512 } else { 0 };
        assert_eq!(refusal(&mut session, &compact(0, number, 0, 512)), (ESHUTDOWN, drained));
    }
    assert_eq!(session.decode(&compact(0, DISC, 0, 0)), Decoded::Disconnect { consumed: 28 });
}

#[test]
fn a_payload_on_a_command_that_takes_none_is_drained_and_refused() {
    for number in [READ, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, 99] {
        let bytes = extended(PAYLOAD_LEN, number, 0, 512);
        assert_eq!(refusal(&mut extended_session(), &bytes), (EINVAL, 512), "command {number}");
        // With compact headers the flag does not exist, and nothing follows.
        let bytes = compact(PAYLOAD_LEN, number, 0, 512);
        assert_eq!(refusal(&mut structured_session(), &bytes), (EINVAL, 0), "command {number}");
    }
}

#[test]
fn an_extended_write_has_a_payload_even_if_the_flag_was_forgotten() {
    let decoded = extended_session().decode(&extended(0, WRITE, 0, 512));
    assert!(matches!(decoded, Decoded::Request { payload_bytes: 512, .. }), "{decoded:?}");
}

#[test]
fn cookies_are_opaque() {
    let mut bytes = compact(0, READ, 0, 1);
    assert_eq!(request(&mut simple_session(), &bytes).cookie, Cookie(COOKIE));
    bytes[8..16].fill(0);
    let mut session = simple_session();
    for _ in 0..2 {
        assert_eq!(request(&mut session, &bytes).cookie, Cookie(0));
    }
}
