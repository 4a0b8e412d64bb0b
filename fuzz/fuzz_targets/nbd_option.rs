//! Any bytes as an NBD negotiation: no panic, bounded output, and the same course however the bytes are cut.
//!
//! Input: one byte that chooses the node's state, one that chooses the fragments, and then what a client sends.
//! Repeat a finding by `cargo +nightly fuzz run nbd_option fuzz/artifacts/nbd_option/FILE`.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use nbd_server::{Access, Availability, Export, Exports, Handshake, Listing, Policy, Progress, Service};

/// The longest answer to one option here: two clipped strings, their headers, and a few short replies.
const OPTION_REPLY_BYTES_MAX: usize = 2 * 4096 + 1024;

enum Node {
    Primary,
    Secondary,
    Stopping,
}

impl Exports for Node {
    fn service(&self) -> Service {
        match self {
            Self::Primary | Self::Secondary => Service::Open,
            Self::Stopping => Service::ShuttingDown,
        }
    }

    fn find(&self, name: &str) -> Availability {
        assert!(name.len() <= 4096 && !name.contains('\0'), "the rules for strings hold before a lookup");
        match self {
            _ if !name.is_empty() && name != "mail" => Availability::Unknown,
            Self::Primary => Availability::Serving(Export {
                name: "mail".into(),
                description: "d".repeat(5000),
                size_bytes: 1 << 40,
                access: Access::ReadWrite,
            }),
            Self::Secondary | Self::Stopping => Availability::Refused { text: "s".repeat(5000) },
        }
    }

    fn list(&self) -> Vec<Listing> {
        vec![Listing { name: "n".repeat(5000), description: "d".repeat(5000) }]
    }
}

/// Output, how the negotiation ended (if it did), and the bytes that belong to the session.
fn course(node: &Node, stream: &[u8], fragment_bytes: usize) -> (Vec<u8>, Option<Progress>, Vec<u8>) {
    let mut handshake = Handshake::new(Policy::default());
    let mut output = BytesMut::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let (fragment, behind) = rest.split_at(fragment_bytes.min(rest.len()));
        rest = behind;
        match handshake.on_bytes(fragment, node, &mut output) {
            Progress::More => {}
            Progress::Established(mut negotiated) => {
                let leftover = [&negotiated.leftover[..], rest].concat();
                negotiated.leftover = Bytes::new();
                return (output.to_vec(), Some(Progress::Established(negotiated)), leftover);
            }
            closed @ Progress::Closed(_) => return (output.to_vec(), Some(closed), vec![]),
        }
    }
    (output.to_vec(), None, vec![])
}

fuzz_target!(|input: &[u8]| {
    let [choice, fragment_bytes, stream @ ..] = input else { return };
    let node = match choice % 4 {
        0 => Node::Secondary,
        1 => Node::Stopping,
        _ => Node::Primary,
    };
    let whole = course(&node, stream, stream.len());
    let options_max = (stream.len() / 16).min(64);
    assert!(whole.0.len() <= options_max * OPTION_REPLY_BYTES_MAX, "{} bytes of output", whole.0.len());
    assert_eq!(whole, course(&node, stream, usize::from(*fragment_bytes).max(1)));
});
