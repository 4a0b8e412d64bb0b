//! Every number of the protocol, under the names and in the order of the protocol document.
//!
//! Numbers only: what they mean is decided where they are used. Numbers of this server's own choice (limits) stand
//! at the end and say so. All integers are sent in network byte order (section Conventions).

/// First eight bytes of every connection, ASCII `NBDMAGIC` [Newstyle negotiation].
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// ASCII `IHAVEOPT`: second magic of the greeting, and first field of each option [Newstyle negotiation].
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// First field of each reply to an option [Fixed newstyle negotiation].
pub const NBD_REP_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First field of a request [Request message].
pub const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
/// First field of a request with an extended header [Extended request message].
pub const NBD_EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First field of a simple reply [Simple reply message].
pub const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First field of a chunk of a structured reply [Structured reply chunk message].
pub const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First field of a chunk with an extended header [Extended reply chunk message].
pub const NBD_EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// The server speaks fixed newstyle [Handshake flags].
pub const NBD_FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// The server can leave out the 124 zeroes after `NBD_OPT_EXPORT_NAME` [Handshake flags].
pub const NBD_FLAG_NO_ZEROES: u16 = 1 << 1;

/// The client speaks fixed newstyle [Client flags].
pub const NBD_FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// The client wants no zeroes after `NBD_OPT_EXPORT_NAME` [Client flags].
pub const NBD_FLAG_C_NO_ZEROES: u32 = 1 << 1;

/// Always set [Transmission flags].
pub const NBD_FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Writes get `NBD_EPERM` [Transmission flags].
pub const NBD_FLAG_READ_ONLY: u16 = 1 << 1;
/// `NBD_CMD_FLUSH` is served [Transmission flags].
pub const NBD_FLAG_SEND_FLUSH: u16 = 1 << 2;
/// `NBD_CMD_FLAG_FUA` is served [Transmission flags].
pub const NBD_FLAG_SEND_FUA: u16 = 1 << 3;
/// The medium turns [Transmission flags].
pub const NBD_FLAG_ROTATIONAL: u16 = 1 << 4;
/// `NBD_CMD_TRIM` is served [Transmission flags].
pub const NBD_FLAG_SEND_TRIM: u16 = 1 << 5;
/// `NBD_CMD_WRITE_ZEROES` is served [Transmission flags].
pub const NBD_FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// `NBD_CMD_FLAG_DF` is served; only with structured replies [Transmission flags].
pub const NBD_FLAG_SEND_DF: u16 = 1 << 7;
/// A flush on one connection covers all [Transmission flags].
pub const NBD_FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Of the resize extension [Transmission flags].
pub const NBD_FLAG_SEND_RESIZE: u16 = 1 << 9;
/// `NBD_CMD_CACHE` is served [Transmission flags].
pub const NBD_FLAG_SEND_CACHE: u16 = 1 << 10;
/// `NBD_CMD_FLAG_FAST_ZERO` is served [Transmission flags].
pub const NBD_FLAG_SEND_FAST_ZERO: u16 = 1 << 11;
/// `NBD_CMD_BLOCK_STATUS` with a payload is served [Transmission flags].
pub const NBD_FLAG_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

/// Choose an export, without a way to refuse politely [Option types].
pub const NBD_OPT_EXPORT_NAME: u32 = 1;
/// End the negotiation [Option types].
pub const NBD_OPT_ABORT: u32 = 2;
/// List the exports [Option types].
pub const NBD_OPT_LIST: u32 = 3;
/// Withdrawn [Option types].
pub const NBD_OPT_PEEK_EXPORT: u32 = 4;
/// Begin TLS [Option types].
pub const NBD_OPT_STARTTLS: u32 = 5;
/// Describe an export [Option types].
pub const NBD_OPT_INFO: u32 = 6;
/// Describe an export and begin transmission [Option types].
pub const NBD_OPT_GO: u32 = 7;
/// Use structured replies [Option types].
pub const NBD_OPT_STRUCTURED_REPLY: u32 = 8;
/// List metadata contexts [Option types].
pub const NBD_OPT_LIST_META_CONTEXT: u32 = 9;
/// Select metadata contexts [Option types].
pub const NBD_OPT_SET_META_CONTEXT: u32 = 10;
/// Use extended headers [Option types].
pub const NBD_OPT_EXTENDED_HEADERS: u32 = 11;

/// Accepted; ends the replies to an option [Option reply types].
pub const NBD_REP_ACK: u32 = 1;
/// One export of a list [Option reply types].
pub const NBD_REP_SERVER: u32 = 2;
/// One piece of information about an export [Option reply types].
pub const NBD_REP_INFO: u32 = 3;
/// One metadata context [Option reply types].
pub const NBD_REP_META_CONTEXT: u32 = 4;
/// Bit of every reply that refuses [Option reply types].
pub const NBD_REP_FLAG_ERROR: u32 = 1 << 31;
/// Unknown option [Option reply types].
pub const NBD_REP_ERR_UNSUP: u32 = NBD_REP_FLAG_ERROR | 1;
/// Forbidden by policy [Option reply types].
pub const NBD_REP_ERR_POLICY: u32 = NBD_REP_FLAG_ERROR | 2;
/// Malformed, or not now [Option reply types].
pub const NBD_REP_ERR_INVALID: u32 = NBD_REP_FLAG_ERROR | 3;
/// Not on this platform [Option reply types].
pub const NBD_REP_ERR_PLATFORM: u32 = NBD_REP_FLAG_ERROR | 4;
/// TLS first [Option reply types].
pub const NBD_REP_ERR_TLS_REQD: u32 = NBD_REP_FLAG_ERROR | 5;
/// No such export [Option reply types].
pub const NBD_REP_ERR_UNKNOWN: u32 = NBD_REP_FLAG_ERROR | 6;
/// The server is shutting down [Option reply types].
pub const NBD_REP_ERR_SHUTDOWN: u32 = NBD_REP_FLAG_ERROR | 7;
/// The client must ask for block sizes [Option reply types].
pub const NBD_REP_ERR_BLOCK_SIZE_REQD: u32 = NBD_REP_FLAG_ERROR | 8;
/// The option or its answer is too large [Option reply types].
pub const NBD_REP_ERR_TOO_BIG: u32 = NBD_REP_FLAG_ERROR | 9;
/// Extended headers are in use, or needed [Option reply types].
pub const NBD_REP_ERR_EXT_HEADER_REQD: u32 = NBD_REP_FLAG_ERROR | 10;

/// Size and transmission flags [Option reply types].
pub const NBD_INFO_EXPORT: u16 = 0;
/// Canonical name [Option reply types].
pub const NBD_INFO_NAME: u16 = 1;
/// Description for people [Option reply types].
pub const NBD_INFO_DESCRIPTION: u16 = 2;
/// Minimum, preferred and maximum block size [Option reply types].
pub const NBD_INFO_BLOCK_SIZE: u16 = 3;

/// Force unit access [Command flags].
pub const NBD_CMD_FLAG_FUA: u16 = 1 << 0;
/// Keep the blocks allocated [Command flags].
pub const NBD_CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Do not fragment the reply [Command flags].
pub const NBD_CMD_FLAG_DF: u16 = 1 << 2;
/// Exactly one extent [Command flags].
pub const NBD_CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Zero fast, or not at all [Command flags].
pub const NBD_CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// The length is that of a payload behind the header; extended headers only [Command flags].
pub const NBD_CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// The last chunk of a reply [Structured reply flags].
pub const NBD_REPLY_FLAG_DONE: u16 = 1 << 0;

/// Success without content [Structured reply types].
pub const NBD_REPLY_TYPE_NONE: u16 = 0;
/// Offset and data [Structured reply types].
pub const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Offset and length of zeroes [Structured reply types].
pub const NBD_REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Extents with 32 bits [Structured reply types].
pub const NBD_REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Extents with 64 bits [Structured reply types].
pub const NBD_REPLY_TYPE_BLOCK_STATUS_EXT: u16 = 6;
/// Bit of every chunk type that reports an error [Structured reply types].
pub const NBD_REPLY_TYPE_FLAG_ERROR: u16 = 1 << 15;
/// An error of the whole request [Structured reply types].
pub const NBD_REPLY_TYPE_ERROR: u16 = NBD_REPLY_TYPE_FLAG_ERROR | 1;
/// An error at an offset [Structured reply types].
pub const NBD_REPLY_TYPE_ERROR_OFFSET: u16 = NBD_REPLY_TYPE_FLAG_ERROR | 2;

/// Not allocated [`base:allocation` metadata context].
pub const NBD_STATE_HOLE: u32 = 1 << 0;
/// Reads as zero [`base:allocation` metadata context].
pub const NBD_STATE_ZERO: u32 = 1 << 1;

/// Read [Request types].
pub const NBD_CMD_READ: u16 = 0;
/// Write; its payload follows the header [Request types].
pub const NBD_CMD_WRITE: u16 = 1;
/// Disconnect; has no reply [Request types].
pub const NBD_CMD_DISC: u16 = 2;
/// Flush [Request types].
pub const NBD_CMD_FLUSH: u16 = 3;
/// Discard [Request types].
pub const NBD_CMD_TRIM: u16 = 4;
/// Prefetch [Request types].
pub const NBD_CMD_CACHE: u16 = 5;
/// Write zeroes [Request types].
pub const NBD_CMD_WRITE_ZEROES: u16 = 6;
/// Query extents [Request types].
pub const NBD_CMD_BLOCK_STATUS: u16 = 7;
/// Of the resize extension [Request types].
pub const NBD_CMD_RESIZE: u16 = 8;

/// Not permitted [Error values].
pub const NBD_EPERM: u32 = 1;
/// Input or output error [Error values].
pub const NBD_EIO: u32 = 5;
/// No memory [Error values].
pub const NBD_ENOMEM: u32 = 12;
/// Invalid argument [Error values].
pub const NBD_EINVAL: u32 = 22;
/// No space left [Error values].
pub const NBD_ENOSPC: u32 = 28;
/// Too large [Error values].
pub const NBD_EOVERFLOW: u32 = 75;
/// Not supported; for `NBD_CMD_FLAG_FAST_ZERO` only [Error values].
pub const NBD_ENOTSUP: u32 = 95;
/// The server is shutting down [Error values].
pub const NBD_ESHUTDOWN: u32 = 108;

/// No string on the wire is longer (section Conventions).
pub const STRING_BYTES_MAX: usize = 4096;
/// Zeroes behind the answer to `NBD_OPT_EXPORT_NAME` for clients that did not decline them [Newstyle negotiation].
pub const EXPORT_NAME_ZEROES: usize = 124;
/// Bytes of the client flags [Newstyle negotiation].
pub const CLIENT_FLAGS_BYTES: usize = 4;
/// Bytes of an option before its data: magic, option, length [Newstyle negotiation].
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes of a request header [Request message].
pub const REQUEST_BYTES: usize = 28;
/// Bytes of an extended request header [Extended request message].
pub const EXTENDED_REQUEST_BYTES: usize = 32;
/// The name of the one metadata context that the document defines [Metadata contexts].
pub const BASE_ALLOCATION: &str = "base:allocation";

/// This server's choice: any offset and length is served [Block size constraints].
pub const BLOCK_BYTES_MIN: u32 = 1;
/// This server's choice: the unit in which it journals and mirrors [Block size constraints].
pub const BLOCK_BYTES_PREFERRED: u32 = 4096;
/// This server's choice, and the least that clients may expect: the largest payload [Block size constraints].
pub const PAYLOAD_BYTES_MAX: u32 = 1 << 25;
/// This server's choice: the most extents in one answer; the document allows 2^20 [Structured reply types].
pub const EXTENTS_MAX: usize = 1024;
