//! Any bytes as the requests of an NBD session: no panic, always progress, every accepted request inside the
//! export, and every reply as long as its own header says.
//!
//! Input: one byte that chooses what was negotiated, and then what a client sends.
//! Repeat a finding by `cargo +nightly fuzz run nbd_request fuzz/artifacts/nbd_request/FILE`.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use nbd_server::{
    Access, Allocation, Availability, Command, Decoded, Export, Exports, Extent, Failure, Handshake, Listing,
    Policy, Progress, ReplyEncoder, Request, Service, Session,
};

const SIZE_BYTES: u64 = (1 << 33) + 4096;

struct Node(Access);

impl Exports for Node {
    fn service(&self) -> Service {
        Service::Open
    }

    fn find(&self, _name: &str) -> Availability {
        Availability::Serving(Export {
            name: "mail".into(),
            description: String::new(),
            size_bytes: SIZE_BYTES,
            access: self.0,
        })
    }

    fn list(&self) -> Vec<Listing> {
        vec![]
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("small");
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

/// A session with the headers, the context and the access that the first byte asks for.
fn session(choice: u8) -> Session {
    let mut client = vec![0, 0, 0, 3];
    match choice & 3 {
        0 | 1 => {}
        2 => client.extend(option(8, b"")),
        _ => client.extend(option(11, b"")),
    }
    if choice & 4 != 0 {
        client.extend(option(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation"));
    }
    client.extend(option(7, &[0; 6]));
    let node = Node(if choice & 8 != 0 { Access::ReadOnly } else { Access::ReadWrite });
    let mut output = BytesMut::new();
    match Handshake::new(Policy::default()).on_bytes(&client, &node, &mut output) {
        Progress::Established(negotiated) => Session::new(&negotiated),
        Progress::More | Progress::Closed(_) => panic!("this negotiation is well-formed"),
    }
}

/// Checks the length that a reply announces against its own, `data_bytes` to come behind it.
fn check_reply(reply: &[u8], data_bytes: u64) {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let (header, announced) = match &reply[..4] {
        b"\x67\x44\x66\x98" => return assert_eq!(reply.len(), 16),
        b"\x66\x8e\x33\xef" => (20, number(&reply[16..20])),
        b"\x6e\x8a\x27\x8c" => (32, number(&reply[24..32])),
        other => panic!("no reply begins with {other:x?}"),
    };
    assert_eq!(reply[5], 1, "every chunk is the last of its reply");
    let behind = u64::try_from(reply.len() - header).expect("small") + data_bytes;
    assert_eq!(announced, behind);
}

fn answer(replies: ReplyEncoder, request: &Request, seed: &[u8]) {
    let mut reply = Vec::new();
    match request.command {
        Command::Read { .. } => {
            replies.read_header(request, &mut reply);
            check_reply(&reply, request.length);
        }
        Command::BlockStatus { .. } => {
            let extents = seed.iter().map(|byte| Extent {
                length: u64::from(*byte) << (byte % 40),
                allocation: match byte % 3 {
                    0 => Allocation::Data,
                    1 => Allocation::Zero,
                    _ => Allocation::Hole,
                },
            });
            replies.block_status(request, extents, &mut reply);
            assert!(reply.len() <= ReplyEncoder::BLOCK_STATUS_BYTES_MAX);
            check_reply(&reply, 0);
        }
        Command::Write | Command::Flush | Command::Trim | Command::WriteZeroes { .. } | Command::Cache => {
            replies.done(request.reply_to(), &mut reply);
            check_reply(&reply, 0);
        }
    }
    for failure in Failure::ALL {
        let mut reply = Vec::new();
        replies.error(request.reply_to(), failure, &mut reply);
        assert!(reply.len() <= ReplyEncoder::HEADER_BYTES_MAX);
        check_reply(&reply, 0);
    }
}

fuzz_target!(|input: &[u8]| {
    let [choice, stream @ ..] = input else { return };
    let mut session = session(*choice);
    if choice & 16 != 0 {
        session.shut_down();
    }
    let replies = session.replies();
    let mut rest = stream;
    loop {
        let (consumed, payload_bytes) = match session.decode(rest) {
            Decoded::NeedBytes(missing) => return assert!((1..=32).contains(&missing)),
            Decoded::Request { consumed, request, payload_bytes } => {
                let end = request.offset.checked_add(request.length).expect("no overflow");
                assert!(end <= SIZE_BYTES, "{request:?} is outside the export");
                let is_write = request.command == Command::Write;
                assert_eq!(u64::from(payload_bytes), if is_write { request.length } else { 0 });
                answer(replies, &request, rest);
                (consumed, payload_bytes)
            }
            Decoded::Refused { consumed, drain_bytes, reply_to, refusal } => {
                let mut reply = Vec::new();
                replies.error(reply_to, refusal.failure(), &mut reply);
                check_reply(&reply, 0);
                (consumed, drain_bytes)
            }
            Decoded::Disconnect { .. } => return,
            Decoded::Broken(violation) => {
                return assert_eq!(session.decode(rest), Decoded::Broken(violation));
            }
        };
        assert!(consumed > 0, "no progress");
        let behind = consumed + usize::try_from(payload_bytes).expect("bounded");
        rest = rest.get(behind..).unwrap_or_default();
    }
});
