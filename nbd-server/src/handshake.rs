//! The negotiation with one client, from the greeting to the transmission phase [Newstyle negotiation].
//!
//! Takes bytes in any fragments and keeps only the option that is under way, so a client can make it hold no more
//! than one option's data. Its result depends on the bytes and on [`Exports`] alone, never on how they were cut.
//! It does not read sockets or keep time: the caller ends a handshake that takes too long.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::constants::{
    CLIENT_FLAGS_BYTES, IHAVEOPT, NBD_FLAG_C_FIXED_NEWSTYLE, NBD_FLAG_C_NO_ZEROES, NBD_FLAG_FIXED_NEWSTYLE,
    NBD_FLAG_NO_ZEROES, NBDMAGIC, OPTION_HEADER_BYTES,
};
use crate::export::{Export, Exports};
use crate::meta_context::ContextId;
use crate::option::{ClientOption, Haggling, Verdict, Zeroes};

/// How `NBD_OPT_STARTTLS` is answered [TLS support].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsPolicy {
    /// `NOTLS`: with `NBD_REP_ERR_POLICY`.
    Refused,
}

/// What one client may cost during negotiation; the document allows a server to defend itself
/// [Termination of the session during option haggling].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Options before the session is closed.
    pub options_max: u32,
    /// Data of one option that is kept; more is skipped, and the option refused.
    pub option_bytes_max: u32,
    /// Data of one option that is skipped; with more, the session is closed.
    pub skipped_bytes_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { options_max: 64, option_bytes_max: 64 * 1024, skipped_bytes_max: 1 << 25 }
    }
}

/// The choices of the operator for all negotiations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether TLS is offered.
    pub tls: TlsPolicy,
    /// What one client may cost.
    pub limits: Limits,
}

impl Default for Policy {
    fn default() -> Self {
        Self { tls: TlsPolicy::Refused, limits: Limits::default() }
    }
}

/// The headers of the transmission phase, as negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderStyle {
    /// Compact requests, simple replies [Simple reply message].
    Simple,
    /// Compact requests, structured replies where the document demands them [Structured reply chunk message].
    Structured,
    /// Extended requests and extended replies only [Extended reply chunk message].
    Extended,
}

/// What a finished negotiation agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The export that the client chose.
    pub export: Export,
    /// The headers of requests and replies.
    pub headers: HeaderStyle,
    /// The number of `base:allocation`, if the client selected it for this export.
    pub allocation_context: Option<ContextId>,
    /// Bytes that followed the negotiation: the front of the request stream.
    pub leftover: Bytes,
}

/// Why a negotiation ended without a session; for the log.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The client sent `NBD_OPT_ABORT`.
    #[error("the client aborted the negotiation")]
    Aborted,
    /// The client set flags that this server did not offer [Client flags].
    #[error("unknown client flags {flags:#x}")]
    UnknownClientFlags {
        /// All flags of the client.
        flags: u32,
    },
    /// An option did not begin with `IHAVEOPT`.
    #[error("an option begins with {found:#x}")]
    BadOptionMagic {
        /// What stood there instead.
        found: u64,
    },
    /// One option announced more data than is worth skipping.
    #[error("option {option} announces {length} bytes")]
    OptionTooLong {
        /// The option.
        option: u32,
        /// The announced length.
        length: u32,
    },
    /// The client went on for too long.
    #[error("more than {options_max} options")]
    TooManyOptions {
        /// The limit.
        options_max: u32,
    },
    /// `NBD_OPT_EXPORT_NAME` with a name that breaks the rules for strings.
    #[error("malformed export name")]
    BadExportName,
    /// `NBD_OPT_EXPORT_NAME` with a name that no export has.
    #[error("no export is called {name:?}")]
    UnknownExport {
        /// The name.
        name: String,
    },
    /// `NBD_OPT_EXPORT_NAME` with an export that is not served here now.
    #[error("{text}")]
    ExportRefused {
        /// What a politer option would have told the client.
        text: String,
    },
    /// `NBD_OPT_EXPORT_NAME` during a shutdown.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// What came of feeding bytes.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Send what was written to the output and feed more bytes.
    More,
    /// Send the output; the transmission phase begins.
    Established(Negotiated),
    /// Send the output and close.
    Closed(CloseReason),
}

/// The server's half of one negotiation.
#[derive(Debug)]
pub struct Handshake {
    haggling: Haggling,
    state: State,
    /// The part of the current item that has arrived; grows with the data, not with the length that was announced.
    pending: Vec<u8>,
    options_seen: u32,
}

#[derive(Debug, Clone, Copy)]
enum State {
    ExpectClientFlags,
    ExpectOption,
    ExpectData { option: u32, length: usize },
    SkipData { option: u32, remaining: usize },
    Finished,
}

impl Handshake {
    /// A negotiation in which nothing has been said.
    pub fn new(policy: Policy) -> Self {
        let haggling = Haggling {
            policy,
            zeroes: Zeroes::Sent,
            headers: HeaderStyle::Simple,
            allocation_selected_for: None,
        };
        Self { haggling, state: State::ExpectClientFlags, pending: Vec::new(), options_seen: 0 }
    }

    /// The first bytes of every connection; the server speaks first [Newstyle negotiation].
    pub fn greeting() -> [u8; 18] {
        let mut bytes = [0; 18];
        let mut rest = &mut bytes[..];
        rest.put_u64(NBDMAGIC);
        rest.put_u64(IHAVEOPT);
        rest.put_u16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
        bytes
    }

    /// Takes what the client sent, in any fragments, and appends the answers to `output`.
    ///
    /// The answers to one option are bounded; a caller that wants to bound all of them sends the output before it
    /// feeds more. After anything but [`Progress::More`] the negotiation is over, and feeding it is a bug.
    pub fn on_bytes(&mut self, input: &[u8], exports: &dyn Exports, output: &mut BytesMut) -> Progress {
        let mut input = input;
        while self.take_item(&mut input) {
            let progress = self.on_item(exports, output);
            match progress {
                Progress::More => {}
                Progress::Established(negotiated) => {
                    self.state = State::Finished;
                    let leftover = Bytes::copy_from_slice(input);
                    return Progress::Established(Negotiated { leftover, ..negotiated });
                }
                Progress::Closed(reason) => {
                    self.state = State::Finished;
                    return Progress::Closed(reason);
                }
            }
        }
        Progress::More
    }

    /// Takes input until the item that is expected is complete; false if the input ends before.
    fn take_item(&mut self, input: &mut &[u8]) -> bool {
        match &mut self.state {
            State::ExpectClientFlags => self.gather(input, CLIENT_FLAGS_BYTES),
            State::ExpectOption => self.gather(input, OPTION_HEADER_BYTES),
            State::ExpectData { length, .. } => {
                let length = *length;
                self.gather(input, length)
            }
            State::SkipData { remaining, .. } => {
                let skipped = (*remaining).min(input.len());
                *remaining -= skipped;
                input.advance(skipped);
                *remaining == 0
            }
            State::Finished => panic!("bytes for a negotiation that is over"),
        }
    }

    /// Acts on a complete item.
    fn on_item(&mut self, exports: &dyn Exports, output: &mut BytesMut) -> Progress {
        let item = std::mem::take(&mut self.pending);
        match self.state {
            State::ExpectClientFlags => self.on_client_flags(&item),
            State::ExpectOption => self.on_option_header(&item),
            State::ExpectData { option, .. } => {
                let option = ClientOption { number: option, data: &item };
                let verdict = self.haggling.answer(option, exports, output);
                self.on_verdict(verdict)
            }
            State::SkipData { option, .. } => {
                let verdict = self.haggling.answer_skipped(option, exports, output);
                self.on_verdict(verdict)
            }
            State::Finished => panic!("an item of a negotiation that is over"),
        }
    }

    /// Moves input to `pending` until that holds `length` bytes; false if the input ends before.
    fn gather(&mut self, input: &mut &[u8], length: usize) -> bool {
        let missing = length - self.pending.len();
        let taken = missing.min(input.len());
        self.pending.extend_from_slice(&input[..taken]);
        input.advance(taken);
        taken == missing
    }

    /// [Client flags]: an unknown flag ends the session.
    ///
    /// A client that does not claim fixed newstyle is answered as if it did, as the document permits.
    fn on_client_flags(&mut self, mut item: &[u8]) -> Progress {
        let flags = item.get_u32();
        if flags & !(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES) != 0 {
            return Progress::Closed(CloseReason::UnknownClientFlags { flags });
        }
        if flags & NBD_FLAG_C_NO_ZEROES != 0 {
            self.haggling.zeroes = Zeroes::Omitted;
        }
        self.state = State::ExpectOption;
        Progress::More
    }

    /// Decides from the header alone whether the data is kept, skipped, or not worth the time.
    fn on_option_header(&mut self, mut item: &[u8]) -> Progress {
        let limits = self.haggling.policy.limits;
        let (magic, option, length) = (item.get_u64(), item.get_u32(), item.get_u32());
        if magic != IHAVEOPT {
            return Progress::Closed(CloseReason::BadOptionMagic { found: magic });
        }
        if self.options_seen == limits.options_max {
            return Progress::Closed(CloseReason::TooManyOptions { options_max: limits.options_max });
        }
        self.options_seen += 1;
        if length > limits.option_bytes_max.max(limits.skipped_bytes_max) {
            return Progress::Closed(CloseReason::OptionTooLong { option, length });
        }
        let bytes = usize::try_from(length).expect("a usize holds 32 bits on Linux");
        self.state = if length > limits.option_bytes_max {
            State::SkipData { option, remaining: bytes }
        } else {
            State::ExpectData { option, length: bytes }
        };
        Progress::More
    }

    fn on_verdict(&mut self, verdict: Verdict) -> Progress {
        match verdict {
            Verdict::Continue => {
                self.state = State::ExpectOption;
                Progress::More
            }
            Verdict::Transmit { export, allocation_context } => Progress::Established(Negotiated {
                export,
                headers: self.haggling.headers,
                allocation_context,
                leftover: Bytes::new(),
            }),
            Verdict::Close(reason) => Progress::Closed(reason),
        }
    }
}
