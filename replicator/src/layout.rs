//! On-disk records: encode, parse, verify. No policy, no I/O; docs/FORMAT.md has the same tables in words.
//! `parse` is the only way from bytes to a header, so a header that anyone holds is verified.

pub mod activity_page;
pub mod bitmap_page;
pub mod checksum_page;
pub mod format_version;
pub mod journal_batch;
pub mod locator;
mod page;
pub mod record_table;
pub mod rescue_image;
pub mod superblock;
pub mod zones;

/// One row of a byte table: where a field of an on-disk structure lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteField {
    /// Offset from the structure's first byte.
    pub offset: usize,
    /// Length.
    pub bytes: usize,
    /// Name, the same in code and document.
    pub name: &'static str,
}

/// Declares an on-disk structure without padding, together with its byte table.
macro_rules! disk_struct {
    (
        $(#[$doc:meta])*
        pub struct $name:ident { $( $(#[$field_doc:meta])* $field:ident: $kind:ty, )* }
    ) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout,
            zerocopy::Immutable, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name { $( $(#[$field_doc])* pub $field: $kind, )* }

        impl $name {
            /// Offset, size and name of every field; docs/FORMAT.md is compared with it.
            pub const BYTE_TABLE: &'static [crate::layout::ByteField] = &[ $( crate::layout::ByteField {
                offset: core::mem::offset_of!($name, $field),
                bytes: size_of::<$kind>(),
                name: stringify!($field),
            }, )* ];
        }
    };
}
pub(crate) use disk_struct;

/// The byte tables of every on-disk structure, by the name under which docs/FORMAT.md shows them.
pub const BYTE_TABLES: &[(&str, &[ByteField])] = &[
    ("SuperblockBytes", superblock::bytes::SuperblockBytes::BYTE_TABLE),
    ("ZoneBytes", superblock::bytes::ZoneBytes::BYTE_TABLE),
    ("GenerationBytes", superblock::bytes::GenerationBytes::BYTE_TABLE),
    ("PeerSlotBytes", superblock::bytes::PeerSlotBytes::BYTE_TABLE),
    ("JournalAnchorBytes", superblock::bytes::JournalAnchorBytes::BYTE_TABLE),
    ("LocatorBytes", locator::LocatorBytes::BYTE_TABLE),
    ("BatchHeaderBytes", journal_batch::BatchHeaderBytes::BYTE_TABLE),
    ("RecordEntryBytes", record_table::RecordEntryBytes::BYTE_TABLE),
    ("PageHeaderBytes", page::PageHeaderBytes::BYTE_TABLE),
    ("RescueImageBytes", rescue_image::RescueImageBytes::BYTE_TABLE),
    ("RescueRangeBytes", rescue_image::RescueRangeBytes::BYTE_TABLE),
    ("TiebreakerBytes", crate::promotion::tiebreaker_file::TiebreakerBytes::BYTE_TABLE),
];
