//! The transmission phase of one connection: takes requests off the front of the stream (section Transmission).
//!
//! Knows what was negotiated, and whether the session is over. Payload never passes through here: the caller reads
//! it where it is wanted, and discards that of refused requests. Replies are `reply.rs`.

use thiserror::Error;

use crate::constants::{EXTENDED_REQUEST_BYTES, PAYLOAD_BYTES_MAX, REQUEST_BYTES};
use crate::export::Service;
use crate::handshake::{HeaderStyle, Negotiated};
use crate::reply::ReplyEncoder;
use crate::request::{Header, Refusal, ReplyTo, Request, Terms, WrongMagic};

/// A rule is broken so that the stream can no longer be trusted; the connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// A request does not begin with the magic that was negotiated.
    #[error("a request begins with {found:#x}")]
    WrongMagic {
        /// What stood there instead.
        found: u32,
    },
    /// The payload of a request is longer than 32 MiB, too long to be drained [Block size constraints].
    #[error("a request announces a payload of {length} bytes")]
    PayloadTooLong {
        /// The announced length.
        length: u64,
    },
}

/// What stands at the front of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Decoded {
    /// At least this many bytes are missing.
    NeedBytes(usize),
    /// A request to execute. Behind `consumed` header bytes follow exactly `payload_bytes` that belong to it.
    Request {
        /// Bytes of the header.
        consumed: usize,
        /// What to do.
        request: Request,
        /// Bytes to take off the stream next: the data of a write, otherwise zero.
        payload_bytes: u32,
    },
    /// A request to refuse: take `drain_bytes` off the stream and throw them away, then answer
    /// [`Refusal::failure`] by [`ReplyEncoder::error`]. The connection stays usable.
    Refused {
        /// Bytes of the header.
        consumed: usize,
        /// Payload of the refused request. Left on the stream it would be taken for requests.
        drain_bytes: u32,
        /// What the reply must repeat.
        reply_to: ReplyTo,
        /// Why.
        refusal: Refusal,
    },
    /// The client is done: finish what is in flight and close. Every later call says the same [Terminating the transmission phase].
    Disconnect {
        /// Bytes of the header.
        consumed: usize,
    },
    /// Close now. Every later call says the same.
    Broken(Violation),
}

/// The server's half of one connection in the transmission phase.
#[derive(Debug)]
pub struct Session {
    terms: Terms,
    ended: Option<Ended>,
}

#[derive(Debug, Clone, Copy)]
enum Ended {
    ByClient,
    Broken(Violation),
}

impl Session {
    /// The session that was negotiated. It begins with the bytes in [`Negotiated::leftover`].
    pub fn new(negotiated: &Negotiated) -> Self {
        let terms = Terms {
            size_bytes: negotiated.export.size_bytes,
            access: negotiated.export.access,
            headers: negotiated.headers,
            allocation_context: negotiated.allocation_context,
            service: Service::Open,
        };
        Self { terms, ended: None }
    }

    /// Encodes the replies of this session; a copy may be kept wherever replies are made.
    pub fn replies(&self) -> ReplyEncoder {
        ReplyEncoder::new(&self.terms)
    }

    /// From here on every request is refused with `NBD_ESHUTDOWN`: the node stops, or lost the Primary role.
    pub fn shut_down(&mut self) {
        self.terms.service = Service::ShuttingDown;
    }

    /// Decodes the request at the front of `input`, behind the payload of the one before.
    ///
    /// Depends on the bytes of one header and on what was negotiated, not on how the bytes were cut.
    pub fn decode(&mut self, input: &[u8]) -> Decoded {
        match self.ended {
            Some(Ended::ByClient) => return Decoded::Disconnect { consumed: 0 },
            Some(Ended::Broken(violation)) => return Decoded::Broken(violation),
            None => {}
        }
        let consumed = match self.terms.headers {
            HeaderStyle::Simple | HeaderStyle::Structured => REQUEST_BYTES,
            HeaderStyle::Extended => EXTENDED_REQUEST_BYTES,
        };
        if input.len() < consumed {
            return Decoded::NeedBytes(consumed - input.len());
        }
        let header = match Header::decode(self.terms.headers, input) {
            Ok(header) => header,
            Err(WrongMagic { found }) => return self.break_off(Violation::WrongMagic { found }),
        };
        if header.is_disconnect() {
            self.ended = Some(Ended::ByClient);
            return Decoded::Disconnect { consumed };
        }
        let length = header.payload_bytes(self.terms.headers);
        let payload_bytes = match u32::try_from(length) {
            Ok(bytes) if bytes <= PAYLOAD_BYTES_MAX => bytes,
            Ok(_) | Err(_) => return self.break_off(Violation::PayloadTooLong { length }),
        };
        match self.terms.check(&header) {
            Ok(request) => Decoded::Request { consumed, request, payload_bytes },
            Err(refusal) => Decoded::Refused {
                consumed,
                drain_bytes: payload_bytes,
                reply_to: header.reply_to(),
                refusal,
            },
        }
    }

    fn break_off(&mut self, violation: Violation) -> Decoded {
        self.ended = Some(Ended::Broken(violation));
        Decoded::Broken(violation)
    }
}
