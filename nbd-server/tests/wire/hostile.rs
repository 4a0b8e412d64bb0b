//! Clients that break the rules: each is refused or cut off, and none gets anything executed by a trick.

use bytes::BytesMut;
use nbd_server::{CloseReason, Command, Decoded, Handshake, Policy, Progress, Session, Violation};

use crate::client::{
    PRIMARY, SIZE_BYTES, closed, compact, extended, extended_session, option, reply, simple_session,
    structured_session, talk, talk_with_flags,
};

const WRITE: u16 = 1;
const DISC: u16 = 2;

/// What a careless server would have executed: the commands that `bytes` lead to, payload taken off as told.
fn executed(session: &mut Session, mut bytes: &[u8]) -> Vec<Command> {
    let mut commands = Vec::new();
    loop {
        match session.decode(bytes) {
            Decoded::Request { consumed, request, payload_bytes } => {
                commands.push(request.command);
                bytes = &bytes[consumed + usize::try_from(payload_bytes).unwrap()..];
            }
            Decoded::Refused { consumed, drain_bytes, .. } => {
                bytes = &bytes[consumed + usize::try_from(drain_bytes).unwrap()..];
            }
            Decoded::NeedBytes(_) | Decoded::Disconnect { .. } | Decoded::Broken(_) => return commands,
        }
    }
}

#[test]
fn a_request_smuggled_in_the_payload_of_a_refused_write_is_never_executed() {
    let trim = compact(0, 4, 0, 4096);
    let refusals = [
        compact(0, WRITE, SIZE_BYTES, 28),
        compact(0, WRITE, u64::MAX - 3, 28),
        compact(1 << 9, WRITE, 0, 28),
        compact(1 << 5, WRITE, 0, 28),
    ];
    for write in refusals {
        let stream = [write, trim.clone(), compact(0, 3, 0, 0)].concat();
        assert_eq!(executed(&mut structured_session(), &stream), [Command::Flush]);
    }
    let trim = extended(0, 4, 0, 4096);
    let refusals = [
        extended(1 << 5, WRITE, SIZE_BYTES, 32),
        extended(0, WRITE, SIZE_BYTES, 32),
        extended(1 << 5, 0, 0, 32),
        extended(1 << 5, 7, 0, 32),
        extended(1 << 5, 999, 0, 32),
    ];
    for refused in refusals {
        let stream = [refused, trim.clone(), extended(0, 3, 0, 0)].concat();
        assert_eq!(executed(&mut extended_session(), &stream), [Command::Flush]);
    }
}

#[test]
fn nothing_after_a_disconnect_is_executed_even_with_junk_in_it() {
    for disconnect in [compact(0, DISC, 0, 0), compact(0xffff, DISC, u64::MAX, u32::MAX)] {
        let stream = [disconnect, compact(0, 3, 0, 0)].concat();
        let mut session = simple_session();
        assert_eq!(executed(&mut session, &stream), []);
        assert_eq!(session.decode(&compact(0, 3, 0, 0)), Decoded::Disconnect { consumed: 0 });
    }
}

#[test]
fn a_wrong_magic_ends_the_session_for_good() {
    let violation = Decoded::Broken(Violation::WrongMagic { found: 0x21e4_1c71 });
    let mut session = structured_session();
    // Extended headers were not negotiated; and the other way round.
    assert_eq!(session.decode(&extended(0, 3, 0, 0)), violation);
    assert_eq!(session.decode(&compact(0, 3, 0, 0)), violation);
    let compact_twice = compact(0, 3, 0, 0).repeat(2);
    let violation = Decoded::Broken(Violation::WrongMagic { found: 0x2560_9513 });
    assert_eq!(extended_session().decode(&compact_twice), violation);
}

#[test]
fn a_payload_of_more_than_32_mib_ends_the_session_and_one_of_32_mib_does_not() {
    let limit = 1 << 25;
    let served = simple_session().decode(&compact(0, WRITE, 0, limit));
    assert!(matches!(served, Decoded::Request { payload_bytes, .. } if payload_bytes == limit));
    let refused = simple_session().decode(&compact(0, WRITE, SIZE_BYTES, limit));
    assert!(matches!(refused, Decoded::Refused { drain_bytes, .. } if drain_bytes == limit));

    let too_long = |length| Decoded::Broken(Violation::PayloadTooLong { length });
    assert_eq!(simple_session().decode(&compact(0, WRITE, 0, limit + 1)), too_long((1 << 25) + 1));
    // In 32 bits this would be nothing.
    assert_eq!(extended_session().decode(&extended(1 << 5, WRITE, 0, 1 << 32)), too_long(1 << 32));
    assert_eq!(extended_session().decode(&extended(1 << 5, 4, 0, u64::MAX)), too_long(u64::MAX));
}

#[test]
fn unknown_client_flags_end_the_negotiation() {
    for flags in [4, 7, 0x8000_0001] {
        let (output, progress) = talk_with_flags(&PRIMARY, flags, &option(3, b""));
        assert_eq!(output, b"");
        assert_eq!(progress, Progress::Closed(CloseReason::UnknownClientFlags { flags }));
    }
}

#[test]
fn an_option_without_its_magic_ends_the_negotiation() {
    let mut bytes = option(3, b"");
    bytes[7] ^= 1;
    let reason = CloseReason::BadOptionMagic { found: 0x4948_4156_454f_5055 };
    assert_eq!(closed(&PRIMARY, &[bytes]), reason);
}

#[test]
fn an_option_that_announces_more_than_32_mib_ends_the_negotiation_at_its_header() {
    let announce = |length: u32| [b"IHAVEOPT", &99_u32.to_be_bytes()[..], &length.to_be_bytes()].concat();
    assert_eq!(talk(&PRIMARY, &[announce(1 << 25)]), (vec![], Progress::More));
    let reason = CloseReason::OptionTooLong { option: 99, length: (1 << 25) + 1 };
    assert_eq!(closed(&PRIMARY, &[announce((1 << 25) + 1)]), reason);
}

#[test]
fn the_65th_option_ends_the_negotiation() {
    let one = option(8, b"");
    let (_, progress) = talk(&PRIMARY, &[one.repeat(64)]);
    assert_eq!(progress, Progress::More);
    let (output, progress) = talk(&PRIMARY, &[one.repeat(65)]);
    assert_eq!(output, reply(8, 1, b"").repeat(64));
    assert_eq!(progress, Progress::Closed(CloseReason::TooManyOptions { options_max: 64 }));
}

#[test]
fn texts_that_are_too_long_for_the_wire_are_clipped_to_whole_characters() {
    struct Wordy;
    impl nbd_server::Exports for Wordy {
        fn service(&self) -> nbd_server::Service {
            nbd_server::Service::Open
        }
        fn find(&self, _name: &str) -> nbd_server::Availability {
            nbd_server::Availability::Refused { text: format!("x{}", "ü".repeat(4096)) }
        }
        fn list(&self) -> Vec<nbd_server::Listing> {
            vec![nbd_server::Listing { name: "a\0b".into(), description: "ü".repeat(4096) }]
        }
    }
    let input = [&[0, 0, 0, 3][..], &option(7, &[0; 6]), &option(3, b"")].concat();
    let mut output = BytesMut::new();
    let progress = Handshake::new(Policy::default()).on_bytes(&input, &Wordy, &mut output);
    assert_eq!(progress, Progress::More);
    let refused = reply(7, 0x8000_0006, format!("x{}", "ü".repeat(2047)).as_bytes());
    let listed = reply(3, 2, format!("\0\0\0\x01a{}", "ü".repeat(2048)).as_bytes());
    assert_eq!(output, [refused, listed, reply(3, 1, b"")].concat());
}

#[test]
#[should_panic(expected = "a negotiation that is over")]
fn feeding_a_negotiation_that_is_over_is_a_bug_of_the_caller() {
    let mut handshake = Handshake::new(Policy::default());
    let mut output = BytesMut::new();
    let input = [&[0, 0, 0, 3][..], &option(2, b"")].concat();
    let _closed = handshake.on_bytes(&input, &PRIMARY, &mut output);
    let _bug = handshake.on_bytes(b"x", &PRIMARY, &mut output);
}
