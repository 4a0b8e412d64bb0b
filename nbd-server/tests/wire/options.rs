//! Every option, byte by byte [Option types; Option reply types].

use nbd_server::{Access, CloseReason, Handshake, HeaderStyle, Progress};

use crate::client::{
    Node, PRIMARY, SECONDARY, answer, closed, hex, info_data, negotiated, option, reply, talk,
    talk_with_flags,
};

const INVALID: u32 = 0x8000_0003;
const UNKNOWN: u32 = 0x8000_0006;
const SHUTDOWN: u32 = 0x8000_0007;

/// The kind of the last reply in `output`, whose text may be anything.
fn last_kind(option: u32, output: &[u8]) -> u32 {
    let header = [&hex("0003e889045565a9"), &option.to_be_bytes()[..]].concat();
    let at = output.windows(12).rposition(|window| window == header).expect("a reply to this option");
    u32::from_be_bytes(output[at + 12..at + 16].try_into().unwrap())
}

#[test]
fn the_greeting_is_fixed_newstyle_without_zeroes() {
    assert_eq!(Handshake::greeting(), *hex("4e42444d41474943 49484156454f5054 0003"));
}

#[test]
fn export_name_answers_size_and_flags_and_the_zeroes_unless_declined() {
    let expected = hex("0000010000000000 0d6d");
    let (output, progress) = talk_with_flags(&PRIMARY, 3, &option(1, b"mail"));
    assert_eq!(output, expected);
    assert!(matches!(progress, Progress::Established(_)));
    for flags in [0, 1] {
        let (output, _) = talk_with_flags(&PRIMARY, flags, &option(1, b"mail"));
        assert_eq!(output, [&expected[..], &[0; 124]].concat());
    }
}

#[test]
fn export_name_hangs_up_on_everything_that_it_cannot_refuse() {
    let long = [b'a'; 4097];
    assert_eq!(closed(&PRIMARY, &[option(1, &long)]), CloseReason::BadExportName);
    assert_eq!(closed(&PRIMARY, &[option(1, &vec![b'a'; 65_537])]), CloseReason::BadExportName);
    assert_eq!(closed(&PRIMARY, &[option(1, b"ma\0il")]), CloseReason::BadExportName);
    assert_eq!(closed(&PRIMARY, &[option(1, b"\xff")]), CloseReason::BadExportName);
    let unknown = CloseReason::UnknownExport { name: "male".into() };
    assert_eq!(closed(&PRIMARY, &[option(1, b"male")]), unknown);
    let refused = CloseReason::ExportRefused { text: SECONDARY.into() };
    assert_eq!(closed(&Node::Secondary, &[option(1, b"mail")]), refused);
    assert_eq!(closed(&Node::Stopping, &[option(1, b"mail")]), CloseReason::ShuttingDown);
}

#[test]
fn go_and_info_tell_the_same_and_only_go_begins_transmission() {
    let kinds = [1, 2, 3, 1, 9];
    let expected = |number| {
        [
            reply(number, 3, &hex("0000 0000010000000000 0d6d")),
            reply(number, 3, b"\0\x01mail"),
            reply(number, 3, b"\0\x02the mail spool"),
            reply(number, 3, &hex("0003 00000001 00001000 02000000")),
            reply(number, 1, b""),
        ]
        .concat()
    };
    let (output, progress) = talk(&PRIMARY, &[option(7, &info_data("mail", &kinds))]);
    assert_eq!(output, expected(7));
    assert!(matches!(progress, Progress::Established(_)));
    assert_eq!(answer(&PRIMARY, &[option(6, &info_data("mail", &kinds))]), expected(6));
}

#[test]
fn go_without_wishes_tells_size_flags_and_block_sizes_and_never_zeroes() {
    let (output, _) = talk_with_flags(&PRIMARY, 1, &option(7, &info_data("", &[])));
    let expected = [
        reply(7, 3, &hex("0000 0000010000000000 0d6d")),
        reply(7, 3, &hex("0003 00000001 00001000 02000000")),
        reply(7, 1, b""),
    ];
    assert_eq!(output, expected.concat());
}

#[test]
fn the_flags_in_go_depend_on_what_was_negotiated_before() {
    for (before, flags) in [(8, "0ded"), (11, "0ded")] {
        let (output, _) = talk(&PRIMARY, &[option(before, b""), option(7, &info_data("mail", &[]))]);
        let info = reply(7, 3, &hex(&format!("0000 0000010000000000 {flags}")));
        assert_eq!(output[20..20 + info.len()], info, "after option {before}");
    }
    let (output, _) = talk(&Node::Primary(Access::ReadOnly), &[option(1, b"mail")]);
    assert_eq!(output, hex("0000010000000000 050f"));
}

#[test]
fn a_name_that_no_export_has_is_unknown_and_leaves_the_session_alive() {
    for number in [6, 7] {
        let output = answer(&PRIMARY, &[option(number, &info_data("male", &[])), option(3, b"")]);
        assert_eq!(output[..20], reply(number, UNKNOWN, b"no export has this name")[..20]);
        assert_eq!(last_kind(3, &output), 1);
    }
}

#[test]
fn a_secondary_tells_why_it_does_not_serve() {
    for number in [6, 7] {
        let output = answer(&Node::Secondary, &[option(number, &info_data("mail", &[]))]);
        assert_eq!(output, reply(number, UNKNOWN, SECONDARY.as_bytes()));
    }
    assert_eq!(answer(&Node::Secondary, &[option(3, b"")]), reply(3, 1, b""));
}

#[test]
fn go_with_inexact_data_is_invalid() {
    let good = info_data("mail", &[1, 3]);
    let rows: Vec<Vec<u8>> = vec![
        vec![],
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        [&good[..], &[0, 3]].concat(),
        // The name would reach into the count, or far behind the data.
        [&hex("00000006"), &b"mail"[..], &[0, 0]].concat(),
        [&hex("ffffffff"), &b"mail"[..], &[0, 0]].concat(),
        info_data("ma\0il", &[]),
        info_data(&"a".repeat(4097), &[]),
        [&hex("00000001 ff"), &[0, 0][..]].concat(),
    ];
    for data in rows {
        for number in [6, 7] {
            let output = answer(&PRIMARY, &[option(number, &data)]);
            assert_eq!(last_kind(number, &output), INVALID, "{data:x?}");
        }
    }
}

#[test]
fn list_names_each_export_once_and_acknowledges_once() {
    let expected = [reply(3, 2, b"\0\0\0\x04mailthe mail spool"), reply(3, 1, b"")];
    assert_eq!(answer(&PRIMARY, &[option(3, b"")]), expected.concat());
}

#[test]
fn options_without_data_refuse_data() {
    for number in [3, 5, 8, 11] {
        let output = answer(&PRIMARY, &[option(number, b"x")]);
        assert_eq!(last_kind(number, &output), INVALID, "option {number}");
    }
}

#[test]
fn abort_is_acknowledged_always_and_closes() {
    for node in [PRIMARY, Node::Secondary, Node::Stopping] {
        for data in [&b""[..], b"junk", &vec![0; 70_000]] {
            let (output, progress) = talk(&node, &[option(2, data), option(3, b"")]);
            assert_eq!(output, reply(2, 1, b""));
            assert_eq!(progress, Progress::Closed(CloseReason::Aborted));
        }
    }
}

#[test]
fn starttls_is_refused_by_policy_and_tls_is_never_demanded() {
    let output = answer(&PRIMARY, &[option(5, b"")]);
    assert_eq!(output[..20], reply(5, 0x8000_0002, b"TLS is not offered here")[..20]);
}

#[test]
fn structured_replies_and_extended_headers_are_acknowledged() {
    assert_eq!(negotiated(&PRIMARY, &[]).headers, HeaderStyle::Simple);
    assert_eq!(answer(&PRIMARY, &[option(8, b"")]), reply(8, 1, b""));
    assert_eq!(negotiated(&PRIMARY, &[option(8, b"")]).headers, HeaderStyle::Structured);
    assert_eq!(answer(&PRIMARY, &[option(11, b"")]), reply(11, 1, b""));
    assert_eq!(negotiated(&PRIMARY, &[option(11, b"")]).headers, HeaderStyle::Extended);
    let upgraded = negotiated(&PRIMARY, &[option(8, b""), option(11, b"")]);
    assert_eq!(upgraded.headers, HeaderStyle::Extended);
}

#[test]
fn structured_replies_after_extended_headers_are_a_step_back_and_refused() {
    let output = answer(&PRIMARY, &[option(11, b""), option(8, b"")]);
    assert_eq!(last_kind(8, &output), 0x8000_000a);
    let kept = negotiated(&PRIMARY, &[option(11, b""), option(8, b"")]);
    assert_eq!(kept.headers, HeaderStyle::Extended);
}

#[test]
fn a_refused_option_changes_nothing() {
    let kept = negotiated(&PRIMARY, &[option(8, b"x"), option(11, b"x")]);
    assert_eq!(kept.headers, HeaderStyle::Simple);
}

#[test]
fn unknown_options_are_unsupported_and_skipped_whatever_their_length() {
    for number in [0, 4, 12, u32::MAX] {
        for length in [0, 1, 65_536, 65_537, 300_000] {
            let output = answer(&PRIMARY, &[option(number, &vec![0xaa; length]), option(8, b"")]);
            let mut expected = reply(number, 0x8000_0001, b"unknown option");
            expected.extend(reply(8, 1, b""));
            assert_eq!(output, expected, "option {number} with {length} bytes");
        }
    }
}

#[test]
fn known_options_with_more_than_64_kib_are_refused_as_too_big() {
    for number in [3, 5, 6, 7, 8, 9, 10, 11] {
        let output = answer(&PRIMARY, &[option(number, &vec![0; 65_537])]);
        assert_eq!(last_kind(number, &output), 0x8000_0009, "option {number}");
        let output = answer(&PRIMARY, &[option(number, &vec![0; 65_536])]);
        assert_eq!(last_kind(number, &output), INVALID, "option {number}");
    }
}

#[test]
fn during_a_shutdown_every_option_says_so() {
    for number in [3, 5, 6, 7, 8, 9, 10, 11, 77] {
        for length in [0, 65_537] {
            let output = answer(&Node::Stopping, &[option(number, &vec![0; length])]);
            assert_eq!(last_kind(number, &output), SHUTDOWN, "option {number}");
        }
    }
}

#[test]
fn bytes_behind_go_are_left_for_the_session() {
    let go = option(7, &info_data("mail", &[]));
    let (_, progress) = talk(&PRIMARY, &[go, b"the first request".to_vec()]);
    let Progress::Established(negotiated) = progress else { panic!("{progress:?}") };
    assert_eq!(negotiated.leftover, b"the first request"[..]);
}
