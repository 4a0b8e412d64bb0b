//! Answers the options of a client, one function for each [Option types].
//!
//! An option gets its informational replies and then exactly one acknowledgement or error. A refusal keeps the
//! session usable; only `NBD_OPT_EXPORT_NAME`, which has no way to refuse, and `NBD_OPT_ABORT` end it. Where the
//! bytes of an option come from, and how long they may be, is `handshake.rs`.

use bytes::{Buf, BufMut, BytesMut};

use crate::constants::{
    BASE_ALLOCATION, BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED, EXPORT_NAME_ZEROES, NBD_INFO_BLOCK_SIZE,
    NBD_INFO_DESCRIPTION, NBD_INFO_EXPORT, NBD_INFO_NAME, NBD_OPT_ABORT, NBD_OPT_EXPORT_NAME,
    NBD_OPT_EXTENDED_HEADERS, NBD_OPT_GO, NBD_OPT_INFO, NBD_OPT_LIST, NBD_OPT_LIST_META_CONTEXT,
    NBD_OPT_SET_META_CONTEXT, NBD_OPT_STARTTLS, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK,
    NBD_REP_ERR_EXT_HEADER_REQD, NBD_REP_ERR_INVALID, NBD_REP_ERR_POLICY, NBD_REP_ERR_SHUTDOWN,
    NBD_REP_ERR_TOO_BIG, NBD_REP_ERR_UNKNOWN, NBD_REP_ERR_UNSUP, NBD_REP_INFO, NBD_REP_MAGIC,
    NBD_REP_META_CONTEXT, NBD_REP_SERVER, PAYLOAD_BYTES_MAX, STRING_BYTES_MAX,
};
use crate::export::{Availability, Export, Exports, Service};
use crate::handshake::{CloseReason, HeaderStyle, Policy, TlsPolicy};
use crate::meta_context::{ContextId, Malformed, MetaQuery, checked_string, take_string};

/// Whether the answer to `NBD_OPT_EXPORT_NAME` ends in zeroes [Handshake flags].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zeroes {
    Sent,
    Omitted,
}

/// What the options of one client have agreed on so far.
#[derive(Debug)]
pub(crate) struct Haggling {
    pub policy: Policy,
    pub zeroes: Zeroes,
    pub headers: HeaderStyle,
    /// The export for which the client selected `base:allocation`; it counts only if the same name is chosen.
    pub allocation_selected_for: Option<String>,
}

/// Where an option leads.
#[derive(Debug)]
pub(crate) enum Verdict {
    Continue,
    Transmit { export: Export, allocation_context: Option<ContextId> },
    Close(CloseReason),
}

/// An option whose data is complete.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientOption<'a> {
    pub number: u32,
    pub data: &'a [u8],
}

impl Haggling {
    /// Answers one option whose data is within the limit.
    pub fn answer(
        &mut self,
        option: ClientOption<'_>,
        exports: &dyn Exports,
        output: &mut BytesMut,
    ) -> Verdict {
        let replies = &mut Replies { option: option.number, output };
        match (exports.service(), option.number) {
            (_, NBD_OPT_ABORT) => abort(replies),
            (Service::ShuttingDown, NBD_OPT_EXPORT_NAME) => Verdict::Close(CloseReason::ShuttingDown),
            (Service::ShuttingDown, _) => replies.refuse(NBD_REP_ERR_SHUTDOWN, "the server is shutting down"),
            (Service::Open, NBD_OPT_EXPORT_NAME) => self.export_name(option.data, exports, replies.output),
            (Service::Open, NBD_OPT_LIST) => list(option.data, exports, replies),
            (Service::Open, NBD_OPT_STARTTLS) => self.start_tls(option.data, replies),
            (Service::Open, NBD_OPT_INFO) => self.info(option.data, exports, replies),
            (Service::Open, NBD_OPT_GO) => self.go(option.data, exports, replies),
            (Service::Open, NBD_OPT_STRUCTURED_REPLY) => self.structured_reply(option.data, replies),
            (Service::Open, NBD_OPT_LIST_META_CONTEXT) => {
                self.list_meta_context(option.data, exports, replies)
            }
            (Service::Open, NBD_OPT_SET_META_CONTEXT) => self.set_meta_context(option.data, exports, replies),
            (Service::Open, NBD_OPT_EXTENDED_HEADERS) => self.extended_headers(option.data, replies),
            (Service::Open, _) => replies.refuse(NBD_REP_ERR_UNSUP, "unknown option"),
        }
    }

    /// Answers an option whose data was too long to keep and has been skipped.
    pub fn answer_skipped(&mut self, number: u32, exports: &dyn Exports, output: &mut BytesMut) -> Verdict {
        let replies = &mut Replies { option: number, output };
        if number == NBD_OPT_SET_META_CONTEXT {
            // A new selection replaces the old one even when it fails.
            self.allocation_selected_for = None;
        }
        match (exports.service(), number) {
            (_, NBD_OPT_ABORT) => abort(replies),
            (_, NBD_OPT_EXPORT_NAME) => Verdict::Close(CloseReason::BadExportName),
            (Service::ShuttingDown, _) => replies.refuse(NBD_REP_ERR_SHUTDOWN, "the server is shutting down"),
            (Service::Open, known) if is_known(known) => {
                replies.refuse(NBD_REP_ERR_TOO_BIG, "option data is too long")
            }
            (Service::Open, _) => replies.refuse(NBD_REP_ERR_UNSUP, "unknown option"),
        }
    }

    /// `NBD_OPT_EXPORT_NAME`: the one option that can only succeed or hang up.
    fn export_name(&mut self, data: &[u8], exports: &dyn Exports, output: &mut BytesMut) -> Verdict {
        let Ok(name) = checked_string(data) else { return Verdict::Close(CloseReason::BadExportName) };
        let export = match exports.find(name) {
            Availability::Serving(export) => export,
            Availability::Refused { text } => return Verdict::Close(CloseReason::ExportRefused { text }),
            Availability::Unknown => {
                return Verdict::Close(CloseReason::UnknownExport { name: name.to_owned() });
            }
        };
        output.put_u64(export.size_bytes);
        output.put_u16(export.transmission_flags(self.headers));
        match self.zeroes {
            Zeroes::Sent => output.put_bytes(0, EXPORT_NAME_ZEROES),
            Zeroes::Omitted => {}
        }
        Verdict::Transmit { export, allocation_context: self.allocation_context(name) }
    }

    /// `NBD_OPT_STARTTLS`, by policy [TLS support].
    fn start_tls(&self, data: &[u8], replies: &mut Replies<'_>) -> Verdict {
        if !data.is_empty() {
            return replies.refuse(NBD_REP_ERR_INVALID, "this option has no data");
        }
        match self.policy.tls {
            TlsPolicy::Refused => replies.refuse(NBD_REP_ERR_POLICY, "TLS is not offered here"),
        }
    }

    /// `NBD_OPT_INFO`: describes the export and stays in the negotiation.
    fn info(&self, data: &[u8], exports: &dyn Exports, replies: &mut Replies<'_>) -> Verdict {
        match self.describe(data, exports, replies) {
            Ok(_described) => replies.acknowledge(),
            Err(refused) => refused,
        }
    }

    /// `NBD_OPT_GO`: the same replies as `NBD_OPT_INFO`; the acknowledgement begins transmission.
    fn go(&self, data: &[u8], exports: &dyn Exports, replies: &mut Replies<'_>) -> Verdict {
        match self.describe(data, exports, replies) {
            Ok((export, name)) => {
                replies.send(NBD_REP_ACK, &[]);
                Verdict::Transmit { export, allocation_context: self.allocation_context(name) }
            }
            Err(refused) => refused,
        }
    }

    /// The information replies that `NBD_OPT_INFO` and `NBD_OPT_GO` share [Option reply types].
    ///
    /// Block sizes are sent to everyone: a client that did not ask for them may ignore them, and is served.
    fn describe<'a>(
        &self,
        data: &'a [u8],
        exports: &dyn Exports,
        replies: &mut Replies<'_>,
    ) -> Result<(Export, &'a str), Verdict> {
        let request = InfoRequest::parse(data)
            .map_err(|Malformed| replies.refuse(NBD_REP_ERR_INVALID, "malformed export name or list"))?;
        let export = served(request.name, exports, replies)?;

        let mut info = BytesMut::new();
        info.put_u16(NBD_INFO_EXPORT);
        info.put_u64(export.size_bytes);
        info.put_u16(export.transmission_flags(self.headers));
        replies.send(NBD_REP_INFO, &info);
        if request.wants_name {
            replies.send_info_text(NBD_INFO_NAME, &export.name);
        }
        if request.wants_description {
            replies.send_info_text(NBD_INFO_DESCRIPTION, &export.description);
        }
        info.clear();
        info.put_u16(NBD_INFO_BLOCK_SIZE);
        info.put_u32(BLOCK_BYTES_MIN);
        info.put_u32(BLOCK_BYTES_PREFERRED);
        info.put_u32(PAYLOAD_BYTES_MAX);
        replies.send(NBD_REP_INFO, &info);
        Ok((export, request.name))
    }

    /// `NBD_OPT_STRUCTURED_REPLY`. Asking twice is harmless; asking after extended headers is a step back.
    fn structured_reply(&mut self, data: &[u8], replies: &mut Replies<'_>) -> Verdict {
        if !data.is_empty() {
            return replies.refuse(NBD_REP_ERR_INVALID, "this option has no data");
        }
        match self.headers {
            HeaderStyle::Simple | HeaderStyle::Structured => {
                self.headers = HeaderStyle::Structured;
                replies.acknowledge()
            }
            HeaderStyle::Extended => {
                replies.refuse(NBD_REP_ERR_EXT_HEADER_REQD, "extended headers are already in use")
            }
        }
    }

    /// `NBD_OPT_LIST_META_CONTEXT`: context numbers are zero here, they mean nothing before a selection.
    fn list_meta_context(&self, data: &[u8], exports: &dyn Exports, replies: &mut Replies<'_>) -> Verdict {
        match self.meta_query(data, exports, replies) {
            Ok(query) => {
                if query.lists_allocation() {
                    replies.send_meta_context(0, BASE_ALLOCATION);
                }
                replies.acknowledge()
            }
            Err(refused) => refused,
        }
    }

    /// `NBD_OPT_SET_META_CONTEXT`: replaces the previous selection, even when it fails.
    fn set_meta_context(&mut self, data: &[u8], exports: &dyn Exports, replies: &mut Replies<'_>) -> Verdict {
        self.allocation_selected_for = None;
        match self.meta_query(data, exports, replies) {
            Ok(query) => {
                if query.selects_allocation() {
                    self.allocation_selected_for = Some(query.export_name.to_owned());
                    replies.send_meta_context(ContextId::ALLOCATION.number(), BASE_ALLOCATION);
                }
                replies.acknowledge()
            }
            Err(refused) => refused,
        }
    }

    /// What both metadata options demand: structured replies first, exact data, an export that is served.
    fn meta_query<'a>(
        &self,
        data: &'a [u8],
        exports: &dyn Exports,
        replies: &mut Replies<'_>,
    ) -> Result<MetaQuery<'a>, Verdict> {
        match self.headers {
            HeaderStyle::Simple => {
                return Err(replies.refuse(NBD_REP_ERR_INVALID, "structured replies must come first"));
            }
            HeaderStyle::Structured | HeaderStyle::Extended => {}
        }
        let query = MetaQuery::parse(data)
            .map_err(|Malformed| replies.refuse(NBD_REP_ERR_INVALID, "malformed metadata query"))?;
        served(query.export_name, exports, replies)?;
        Ok(query)
    }

    /// `NBD_OPT_EXTENDED_HEADERS`: 64-bit lengths in both directions; includes structured replies.
    fn extended_headers(&mut self, data: &[u8], replies: &mut Replies<'_>) -> Verdict {
        if !data.is_empty() {
            return replies.refuse(NBD_REP_ERR_INVALID, "this option has no data");
        }
        self.headers = HeaderStyle::Extended;
        replies.acknowledge()
    }

    fn allocation_context(&self, chosen: &str) -> Option<ContextId> {
        (self.allocation_selected_for.as_deref() == Some(chosen)).then_some(ContextId::ALLOCATION)
    }
}

/// `NBD_OPT_ABORT`: acknowledged always, also with data and during a shutdown.
fn abort(replies: &mut Replies<'_>) -> Verdict {
    replies.send(NBD_REP_ACK, &[]);
    Verdict::Close(CloseReason::Aborted)
}

/// `NBD_OPT_LIST`: one reply for each export, and one acknowledgement behind them all.
fn list(data: &[u8], exports: &dyn Exports, replies: &mut Replies<'_>) -> Verdict {
    if !data.is_empty() {
        return replies.refuse(NBD_REP_ERR_INVALID, "this option has no data");
    }
    for listing in exports.list() {
        let name = clip(&listing.name);
        let mut entry = BytesMut::new();
        entry.put_u32(length_32(name.len()));
        entry.put_slice(name.as_bytes());
        entry.put_slice(clip(&listing.description).as_bytes());
        replies.send(NBD_REP_SERVER, &entry);
    }
    replies.acknowledge()
}

/// The export of this name, or the refusal that has been sent.
fn served(name: &str, exports: &dyn Exports, replies: &mut Replies<'_>) -> Result<Export, Verdict> {
    match exports.find(name) {
        Availability::Serving(export) => Ok(export),
        Availability::Refused { text } => Err(replies.refuse(NBD_REP_ERR_UNKNOWN, &text)),
        Availability::Unknown => Err(replies.refuse(NBD_REP_ERR_UNKNOWN, "no export has this name")),
    }
}

/// Whether the number is an option that this server answers with more than "unknown".
fn is_known(number: u32) -> bool {
    matches!(
        number,
        NBD_OPT_EXPORT_NAME
            | NBD_OPT_ABORT
            | NBD_OPT_LIST
            | NBD_OPT_STARTTLS
            | NBD_OPT_INFO
            | NBD_OPT_GO
            | NBD_OPT_STRUCTURED_REPLY
            | NBD_OPT_LIST_META_CONTEXT
            | NBD_OPT_SET_META_CONTEXT
            | NBD_OPT_EXTENDED_HEADERS
    )
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`: name length, name, count, and the kinds of information wanted.
struct InfoRequest<'a> {
    name: &'a str,
    wants_name: bool,
    wants_description: bool,
}

impl<'a> InfoRequest<'a> {
    fn parse(mut data: &'a [u8]) -> Result<Self, Malformed> {
        let name = take_string(&mut data)?;
        let count = data.try_get_u16().map_err(|_| Malformed)?;
        if data.len() != usize::from(count) * 2 {
            return Err(Malformed);
        }
        let mut request = Self { name, wants_name: false, wants_description: false };
        while let Ok(kind) = data.try_get_u16() {
            request.wants_name |= kind == NBD_INFO_NAME;
            request.wants_description |= kind == NBD_INFO_DESCRIPTION;
        }
        Ok(request)
    }
}

/// Writes the replies to one option [Fixed newstyle negotiation].
struct Replies<'a> {
    option: u32,
    output: &'a mut BytesMut,
}

impl Replies<'_> {
    fn send(&mut self, kind: u32, data: &[u8]) {
        self.output.put_u64(NBD_REP_MAGIC);
        self.output.put_u32(self.option);
        self.output.put_u32(kind);
        self.output.put_u32(length_32(data.len()));
        self.output.put_slice(data);
    }

    fn send_info_text(&mut self, kind: u16, text: &str) {
        let mut info = BytesMut::new();
        info.put_u16(kind);
        info.put_slice(clip(text).as_bytes());
        self.send(NBD_REP_INFO, &info);
    }

    fn send_meta_context(&mut self, id: u32, name: &str) {
        let mut context = BytesMut::new();
        context.put_u32(id);
        context.put_slice(name.as_bytes());
        self.send(NBD_REP_META_CONTEXT, &context);
    }

    fn acknowledge(&mut self) -> Verdict {
        self.send(NBD_REP_ACK, &[]);
        Verdict::Continue
    }

    fn refuse(&mut self, error: u32, text: &str) -> Verdict {
        self.send(error, clip(text).as_bytes());
        Verdict::Continue
    }
}

/// The front of a string that may go on the wire: at most 4096 bytes, up to the first NUL (section Conventions).
fn clip(text: &str) -> &str {
    let end = text.find('\0').unwrap_or(text.len()).min(STRING_BYTES_MAX);
    &text[..text.floor_char_boundary(end)]
}

/// The length of a reply, which is always small: strings are clipped.
fn length_32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a reply is made of clipped strings")
}
