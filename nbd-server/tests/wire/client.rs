//! What the tests share: exports to serve, and the bytes that a client would send.

use bytes::BytesMut;
use nbd_server::{
    Access, Availability, CloseReason, Decoded, Export, Exports, Handshake, Listing, Negotiated, Policy,
    Progress, Request, Service, Session,
};

/// 1 TiB: larger than 32 bits can tell.
pub const SIZE_BYTES: u64 = 1 << 40;

pub const SECONDARY: &str = "mail is Secondary on b; Primary is a";

/// The exports of one node.
pub enum Node {
    Primary(Access),
    Secondary,
    Stopping,
}

pub const PRIMARY: Node = Node::Primary(Access::ReadWrite);

pub fn export(access: Access) -> Export {
    Export { name: "mail".into(), description: "the mail spool".into(), size_bytes: SIZE_BYTES, access }
}

impl Exports for Node {
    fn service(&self) -> Service {
        match self {
            Self::Primary(_) | Self::Secondary => Service::Open,
            Self::Stopping => Service::ShuttingDown,
        }
    }

    fn find(&self, name: &str) -> Availability {
        match self {
            _ if name != "mail" && !name.is_empty() => Availability::Unknown,
            Self::Primary(access) => Availability::Serving(export(*access)),
            Self::Secondary | Self::Stopping => Availability::Refused { text: SECONDARY.into() },
        }
    }

    fn list(&self) -> Vec<Listing> {
        match self {
            Self::Primary(_) => {
                vec![Listing { name: "mail".into(), description: "the mail spool".into() }]
            }
            Self::Secondary | Self::Stopping => vec![],
        }
    }
}

/// Bytes from hexadecimal digits; spaces are for the reader.
pub fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

pub fn length_32(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_be_bytes()
}

/// An option as a client sends it.
pub fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length_32(data), data].concat()
}

/// A reply as the document lays it out.
pub fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    [&hex("0003e889045565a9"), &option.to_be_bytes()[..], &kind.to_be_bytes(), &length_32(data), data]
        .concat()
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
pub fn info_data(name: &str, kinds: &[u16]) -> Vec<u8> {
    let count = u16::try_from(kinds.len()).unwrap();
    let mut data = [&length_32(name.as_bytes()), name.as_bytes(), &count.to_be_bytes()].concat();
    kinds.iter().for_each(|kind| data.extend(kind.to_be_bytes()));
    data
}

/// The data of the metadata options.
pub fn meta_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let count = u32::try_from(queries.len()).unwrap();
    let mut data = [&length_32(name.as_bytes()), name.as_bytes(), &count.to_be_bytes()].concat();
    for query in queries {
        data.extend(length_32(query.as_bytes()));
        data.extend(query.as_bytes());
    }
    data
}

/// Feeds everything at once, client flags 3 first; the answers and where the negotiation stands.
pub fn talk(node: &Node, options: &[Vec<u8>]) -> (Vec<u8>, Progress) {
    talk_with_flags(node, 3, &options.concat())
}

pub fn talk_with_flags(node: &Node, flags: u32, bytes: &[u8]) -> (Vec<u8>, Progress) {
    let mut output = BytesMut::new();
    let input = [&flags.to_be_bytes(), bytes].concat();
    let progress = Handshake::new(Policy::default()).on_bytes(&input, node, &mut output);
    (output.to_vec(), progress)
}

/// The answer to these options, which must leave the negotiation open.
pub fn answer(node: &Node, options: &[Vec<u8>]) -> Vec<u8> {
    let (output, progress) = talk(node, options);
    assert_eq!(progress, Progress::More);
    output
}

/// Why these options end the connection; nothing may have been answered.
pub fn closed(node: &Node, options: &[Vec<u8>]) -> CloseReason {
    let (output, progress) = talk(node, options);
    assert_eq!(output, b"");
    let Progress::Closed(reason) = progress else { panic!("{progress:?}") };
    reason
}

/// What these options, and then `NBD_OPT_GO`, agree on.
pub fn negotiated(node: &Node, options: &[Vec<u8>]) -> Negotiated {
    let go = option(7, &info_data("mail", &[]));
    let (_, progress) = talk(node, &[options, &[go]].concat());
    let Progress::Established(negotiated) = progress else { panic!("{progress:?}") };
    negotiated
}

pub fn simple_session() -> Session {
    Session::new(&negotiated(&PRIMARY, &[]))
}

pub fn structured_session() -> Session {
    let allocation = option(10, &meta_data("mail", &["base:allocation"]));
    Session::new(&negotiated(&PRIMARY, &[option(8, b""), allocation]))
}

pub fn extended_session() -> Session {
    let allocation = option(10, &meta_data("mail", &["base:allocation"]));
    Session::new(&negotiated(&PRIMARY, &[option(11, b""), allocation]))
}

pub const COOKIE: u64 = 0x1122_3344_5566_7788;

/// A compact request header.
pub fn compact(flags: u16, command: u16, offset: u64, length: u32) -> Vec<u8> {
    let front = [&hex("25609513"), &flags.to_be_bytes()[..], &command.to_be_bytes()].concat();
    [&front, &COOKIE.to_be_bytes()[..], &offset.to_be_bytes(), &length.to_be_bytes()].concat()
}

/// An extended request header.
pub fn extended(flags: u16, command: u16, offset: u64, length: u64) -> Vec<u8> {
    let front = [&hex("21e41c71"), &flags.to_be_bytes()[..], &command.to_be_bytes()].concat();
    [&front, &COOKIE.to_be_bytes()[..], &offset.to_be_bytes(), &length.to_be_bytes()].concat()
}

/// The request in these bytes, which must be a good one.
pub fn request(session: &mut Session, bytes: &[u8]) -> Request {
    let decoded = session.decode(bytes);
    let Decoded::Request { request, .. } = decoded else { panic!("{decoded:?}") };
    request
}

/// The error number and the bytes to drain of a request that must be refused.
pub fn refusal(session: &mut Session, bytes: &[u8]) -> (u32, u32) {
    let decoded = session.decode(bytes);
    let Decoded::Refused { consumed, drain_bytes, refusal, .. } = decoded else { panic!("{decoded:?}") };
    assert_eq!(consumed, bytes.len());
    (refusal.failure().errno().number(), drain_bytes)
}
