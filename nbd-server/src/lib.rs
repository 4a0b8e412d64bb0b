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
