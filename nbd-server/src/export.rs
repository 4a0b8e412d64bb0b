//! What is offered to clients: one volume as an export, and whether it may be had at this moment.
//!
//! The transmission flags are computed here, from the export and from what was negotiated before. Which export is
//! served when is the caller's decision ([`Exports`]).

use crate::constants::{
    NBD_FLAG_CAN_MULTI_CONN, NBD_FLAG_HAS_FLAGS, NBD_FLAG_READ_ONLY, NBD_FLAG_SEND_CACHE, NBD_FLAG_SEND_DF,
    NBD_FLAG_SEND_FAST_ZERO, NBD_FLAG_SEND_FLUSH, NBD_FLAG_SEND_FUA, NBD_FLAG_SEND_TRIM,
    NBD_FLAG_SEND_WRITE_ZEROES,
};
use crate::handshake::HeaderStyle;

/// Whether clients may write [Transmission flags].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads and writes.
    ReadWrite,
    /// Reads only; everything that would change data gets `NBD_EPERM`.
    ReadOnly,
}

/// A volume as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The canonical name [Option reply types].
    pub name: String,
    /// A line for people [Option reply types]; may be empty.
    pub description: String,
    /// Size in bytes [Option reply types].
    pub size_bytes: u64,
    /// Whether clients may write.
    pub access: Access,
}

impl Export {
    /// What this server can do with the export, for a client with these headers [Transmission flags].
    ///
    /// `NBD_FLAG_CAN_MULTI_CONN` is always set: all connections share one data plane and one order, so a flush on
    /// any of them covers the writes of all.
    pub fn transmission_flags(&self, headers: HeaderStyle) -> u16 {
        let always = NBD_FLAG_HAS_FLAGS
            | NBD_FLAG_SEND_FLUSH
            | NBD_FLAG_SEND_FUA
            | NBD_FLAG_SEND_CACHE
            | NBD_FLAG_CAN_MULTI_CONN;
        let by_access = match self.access {
            Access::ReadWrite => NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO,
            Access::ReadOnly => NBD_FLAG_READ_ONLY,
        };
        let by_headers = match headers {
            HeaderStyle::Simple => 0,
            HeaderStyle::Structured | HeaderStyle::Extended => NBD_FLAG_SEND_DF,
        };
        always | by_access | by_headers
    }
}

/// Whether an export may be had at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Served here.
    Serving(Export),
    /// The name is known and not served here now (this node is Secondary, say); `text` tells the client why.
    Refused {
        /// The reason, for the people behind the client.
        text: String,
    },
    /// No export has this name.
    Unknown,
}

/// One entry of the list of exports [Option reply types].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The name to ask for.
    pub name: String,
    /// A line for people; may be empty.
    pub description: String,
}

/// Whether the server takes new clients [Terminating the transmission phase].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Options are answered.
    Open,
    /// Options get `NBD_REP_ERR_SHUTDOWN`.
    ShuttingDown,
}

/// The exports of a server. Asked when an option arrives and not before, because the role of the node may change
/// during a slow negotiation.
pub trait Exports {
    /// Whether new clients are taken at all.
    fn service(&self) -> Service;
    /// The export of this name; the empty name asks for the default export.
    fn find(&self, name: &str) -> Availability;
    /// Everything that is served now.
    fn list(&self) -> Vec<Listing>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(access: Access) -> Export {
        Export { name: "mail".into(), description: String::new(), size_bytes: 1, access }
    }

    #[test]
    fn df_is_offered_only_after_structured_replies_were_negotiated() {
        let export = export(Access::ReadWrite);
        // HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES CAN_MULTI_CONN CACHE FAST_ZERO, then also DF.
        assert_eq!(export.transmission_flags(HeaderStyle::Simple), 0x0d6d);
        assert_eq!(export.transmission_flags(HeaderStyle::Structured), 0x0ded);
        assert_eq!(export.transmission_flags(HeaderStyle::Extended), 0x0ded);
    }

    #[test]
    fn a_read_only_export_offers_nothing_that_changes_data() {
        assert_eq!(export(Access::ReadOnly).transmission_flags(HeaderStyle::Simple), 0x050f);
    }
}
