//! The server half of the NBD protocol, without I/O.
//!
//! Bytes of one client go in; answers, verified requests and the reasons to hang up come out. The rules are those
//! of the protocol document (`doc/proto.md` of the nbd project, with its `extension-ext-header` branch); every
//! public item names its section in brackets, such as [Request message].
//!
//! The order of a connection:
//! 1. send [`Handshake::greeting`] and feed everything the client sends to [`Handshake::on_bytes`], until it
//!    says [`Progress::Established`] or [`Progress::Closed`];
//! 2. make a [`Session`] of what was [`Negotiated`], begin with the bytes in [`Negotiated::leftover`], and call
//!    [`Session::decode`] at the front of the stream; the payload of a write, or of a refused request, is the
//!    caller's to take off the stream before it calls again;
//! 3. answer each request, in any order, by the [`ReplyEncoder`] of the session: it writes headers only, so that
//!    payload travels without a copy.
//!
//! ```
//! use bytes::BytesMut;
//! use nbd_server::{
//!     Access, Availability, Command, Decoded, Export, Exports, Handshake, Listing, Policy, Progress, Service,
//!     Session,
//! };
//!
//! struct Volume;
//!
//! impl Exports for Volume {
//!     fn service(&self) -> Service {
//!         Service::Open
//!     }
//!     fn find(&self, name: &str) -> Availability {
//!         if name != "mail" {
//!             return Availability::Unknown;
//!         }
//!         let description = "the mail spool".into();
//!         let export =
//!             Export { name: name.into(), description, size_bytes: 1 << 30, access: Access::ReadWrite };
//!         Availability::Serving(export)
//!     }
//!     fn list(&self) -> Vec<Listing> {
//!         vec![Listing { name: "mail".into(), description: String::new() }]
//!     }
//! }
//!
//! // What a client sends: its flags, the option to use an export, and at once its first request.
//! let flags = [0, 0, 0, 3];
//! let export_name = b"IHAVEOPT\0\0\0\x01\0\0\0\x04mail";
//! let read = b"\x25\x60\x95\x13\0\0\0\0a cookie\0\0\0\0\0\0\x10\0\0\0\x02\0";
//! let client = [&flags[..], export_name, read].concat();
//!
//! let mut handshake = Handshake::new(Policy::default());
//! let mut output = BytesMut::new();
//! let Progress::Established(negotiated) = handshake.on_bytes(&client, &Volume, &mut output) else {
//!     panic!("this client says all that is needed")
//! };
//!
//! let mut session = Session::new(&negotiated);
//! let Decoded::Request { request, .. } = session.decode(&negotiated.leftover) else {
//!     panic!("the request is complete and good")
//! };
//! assert!(matches!(request.command, Command::Read { .. }));
//! assert_eq!((request.offset, request.length), (4096, 512));
//!
//! output.clear();
//! session.replies().read_header(&request, &mut output);
//! assert_eq!(output[..], *b"\x67\x44\x66\x98\0\0\0\0a cookie"); // and now 512 bytes of data
//! ```
//!
//! This crate opens nothing, reads no clock, starts no thread and stores no data; limits on time and on the number
//! of connections are the caller's.
#![forbid(unsafe_code)]

pub mod constants;
mod errno;
mod export;
mod handshake;
mod meta_context;
mod option;
mod reply;
mod request;
mod session;

pub use errno::{Errno, Failure};
pub use export::{Access, Availability, Export, Exports, Listing, Service};
pub use handshake::{CloseReason, Handshake, HeaderStyle, Limits, Negotiated, Policy, Progress, TlsPolicy};
pub use meta_context::ContextId;
pub use reply::{Allocation, Extent, ReplyEncoder};
pub use request::{
    Command, Cookie, Durability, ExtentCount, Fragments, Holes, Refusal, ReplyTo, Request, ZeroSpeed,
};
pub use session::{Decoded, Session, Violation};
