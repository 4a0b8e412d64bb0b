//! The metadata options, byte by byte [Metadata querying; `NBD_OPT_SET_META_CONTEXT`].

use nbd_server::Progress;

use crate::client::{
    Node, PRIMARY, SECONDARY, answer, info_data, meta_data, negotiated, option, reply, talk,
};

const LIST: u32 = 9;
const SET: u32 = 10;

fn structured() -> Vec<u8> {
    option(8, b"")
}

/// The answer to a metadata option after structured replies were agreed on.
fn ask(node: &Node, number: u32, data: &[u8]) -> Vec<u8> {
    let acknowledged = reply(8, 1, b"").len();
    answer(node, &[structured(), option(number, data)])[acknowledged..].to_vec()
}

fn is_selected(options: &[Vec<u8>]) -> bool {
    negotiated(&PRIMARY, &[&[structured()], options].concat()).allocation_context.is_some()
}

fn set(queries: &[&str]) -> Vec<u8> {
    option(SET, &meta_data("mail", queries))
}

#[test]
fn list_takes_no_query_and_base_as_wildcards() {
    let context = [reply(LIST, 4, b"\0\0\0\0base:allocation"), reply(LIST, 1, b"")].concat();
    for queries in [&[][..], &["base:"], &["base:allocation"], &["x-other:y", "base:allocation"]] {
        assert_eq!(ask(&PRIMARY, LIST, &meta_data("mail", queries)), context, "{queries:?}");
    }
    assert_eq!(ask(&PRIMARY, LIST, &meta_data("mail", &["base:other"])), reply(LIST, 1, b""));
}

#[test]
fn set_takes_the_full_name_only_and_numbers_the_context() {
    let context = [reply(SET, 4, b"\0\0\0\x01base:allocation"), reply(SET, 1, b"")].concat();
    assert_eq!(ask(&PRIMARY, SET, &meta_data("mail", &["base:allocation"])), context);
    assert_eq!(ask(&PRIMARY, SET, &meta_data("mail", &["base:allocation", "base:allocation"])), context);
    for queries in [&[][..], &["base:"], &["base:other"], &["qemu:dirty-bitmap:b"]] {
        assert_eq!(ask(&PRIMARY, SET, &meta_data("mail", queries)), reply(SET, 1, b""), "{queries:?}");
    }
}

#[test]
fn metadata_options_need_structured_replies_first() {
    for number in [LIST, SET] {
        let output = answer(&PRIMARY, &[option(number, &meta_data("mail", &["base:allocation"]))]);
        assert_eq!(output, reply(number, 0x8000_0003, b"structured replies must come first"));
        let extended = [option(11, b""), option(number, &meta_data("mail", &[]))];
        assert_eq!(answer(&PRIMARY, &extended)[20..][..8], reply(number, 1, b"")[..8]);
    }
}

#[test]
fn malformed_queries_are_invalid() {
    let good = meta_data("mail", &["base:allocation"]);
    let mut long_query = good.clone();
    long_query[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    let rows =
        [good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat(), long_query, meta_data("mail", &["x"])];
    for data in rows {
        for number in [LIST, SET] {
            assert_eq!(
                ask(&PRIMARY, number, &data),
                reply(number, 0x8000_0003, b"malformed metadata query"),
                "{data:x?}"
            );
        }
    }
}

#[test]
fn metadata_of_an_export_that_is_not_served_is_unknown() {
    for number in [LIST, SET] {
        let refused = ask(&Node::Secondary, number, &meta_data("mail", &[]));
        assert_eq!(refused, reply(number, 0x8000_0006, SECONDARY.as_bytes()));
        let unknown = ask(&PRIMARY, number, &meta_data("male", &[]));
        assert_eq!(unknown, reply(number, 0x8000_0006, b"no export has this name"));
    }
}

#[test]
fn a_new_selection_replaces_the_old_one_even_when_it_fails() {
    let good = set(&["base:allocation"]);
    assert!(is_selected(std::slice::from_ref(&good)));
    assert!(!is_selected(&[]));
    assert!(!is_selected(&[good.clone(), set(&[])]));
    assert!(!is_selected(&[good.clone(), option(SET, b"junk")]));
    assert!(!is_selected(&[good.clone(), option(SET, &vec![0; 65_537])]));
    assert!(!is_selected(&[good.clone(), option(SET, &meta_data("male", &["base:allocation"]))]));
    // Listing is only a question.
    assert!(is_selected(&[good.clone(), option(LIST, &meta_data("mail", &[]))]));
    assert!(is_selected(&[set(&[]), good]));
}

#[test]
fn a_selection_counts_only_for_the_export_that_it_named() {
    for (go, counts) in [(option(7, &info_data("", &[])), false), (option(1, b"mail"), true)] {
        let (_, progress) = talk(&PRIMARY, &[structured(), set(&["base:allocation"]), go]);
        let Progress::Established(negotiated) = progress else { panic!("{progress:?}") };
        assert_eq!(negotiated.allocation_context.is_some(), counts);
    }
}
