//! How bytes are cut never matters: neither to the negotiation nor to the session.

use bytes::BytesMut;
use nbd_server::{Decoded, Handshake, Policy, Progress};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use proptest::{collection, sample};

use crate::client::{
    PRIMARY, compact, extended, extended_session, info_data, meta_data, option, simple_session,
};

/// Everything that a negotiation did: its output, its end, and the bytes that it left.
type Course = (Vec<u8>, Option<Progress>, Vec<u8>);

fn course(fragments: &[&[u8]]) -> Course {
    let mut handshake = Handshake::new(Policy::default());
    let mut output = BytesMut::new();
    for (index, fragment) in fragments.iter().enumerate() {
        let rest = || fragments[index + 1..].concat();
        match handshake.on_bytes(fragment, &PRIMARY, &mut output) {
            Progress::More => {}
            Progress::Established(mut negotiated) => {
                let leftover = [&negotiated.leftover[..], &rest()].concat();
                negotiated.leftover = bytes::Bytes::new();
                return (output.to_vec(), Some(Progress::Established(negotiated)), leftover);
            }
            Progress::Closed(reason) => return (output.to_vec(), Some(Progress::Closed(reason)), vec![]),
        }
    }
    (output.to_vec(), None, vec![])
}

fn some_option() -> impl Strategy<Value = Vec<u8>> {
    let name = sample::select(vec!["", "mail", "male"]);
    let query = sample::select(vec!["base:", "base:allocation", "x-a:b", "bad"]);
    prop_oneof![
        (0_u32..14).prop_map(|number| option(number, b"")),
        (0_u32..14, collection::vec(any::<u8>(), 0..40)).prop_map(|(number, data)| option(number, &data)),
        (6_u32..8, name.clone(), collection::vec(0_u16..5, 0..4))
            .prop_map(|(number, name, kinds)| option(number, &info_data(name, &kinds))),
        (9_u32..11, name, collection::vec(query, 0..3))
            .prop_map(|(number, name, queries)| option(number, &meta_data(name, &queries))),
        Just(option(99, &vec![7; 66_000])),
        collection::vec(any::<u8>(), 0..20),
    ]
}

fn cut<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut fragments = Vec::new();
    let mut rest = bytes;
    for length in lengths {
        let (fragment, behind) = rest.split_at((*length).min(rest.len()));
        fragments.push(fragment);
        rest = behind;
    }
    fragments.push(rest);
    fragments
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_negotiation_does_not_depend_on_how_its_bytes_are_cut(
        flags in prop_oneof![8 => 0_u32..4, 1 => any::<u32>()],
        options in collection::vec(some_option(), 0..8),
        lengths in collection::vec(0_usize..200, 0..60),
    ) {
        let bytes = [&flags.to_be_bytes()[..], &options.concat()].concat();
        let whole = course(&[&bytes]);
        assert_eq!(course(&cut(&bytes, &lengths)), whole);
        assert_eq!(course(&bytes.chunks(1).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn a_session_needs_exactly_the_bytes_that_a_header_lacks(
        flags in any::<u16>(), command in 0_u16..10, offset in any::<u64>(), length in any::<u64>(),
        behind in collection::vec(any::<u8>(), 0..40),
    ) {
        let short = u32::try_from(length & 0xffff_ffff).unwrap();
        let headers = [
            (simple_session as fn() -> nbd_server::Session, compact(flags, command, offset, short)),
            (extended_session, extended(flags, command, offset, length)),
        ];
        for (open, header) in headers {
            let mut session = open();
            for end in 0..header.len() {
                assert_eq!(session.decode(&header[..end]), Decoded::NeedBytes(header.len() - end));
            }
            let exact = session.decode(&header);
            assert_eq!(open().decode(&[&header[..], &behind].concat()), exact);
        }
    }
}
