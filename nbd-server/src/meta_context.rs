//! Metadata contexts: the queries of a client, and what they select. There is one context, `base:allocation`.
//!
//! Parses and matches only; the options that carry queries are answered in `option.rs`.

use bytes::Buf;

use crate::constants::{BASE_ALLOCATION, STRING_BYTES_MAX};

/// The number by which replies name a selected context [Option reply types].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextId(u32);

impl ContextId {
    /// The number of `base:allocation` in every session that selected it.
    pub(crate) const ALLOCATION: Self = Self(1);

    /// The number as it stands in a reply.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT` breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What a client asks of the metadata contexts of one export.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MetaQuery<'a> {
    /// The export that the question is about.
    pub export_name: &'a str,
    /// No query at all was sent.
    pub is_empty: bool,
    /// `base:` was among the queries.
    pub asks_namespace: bool,
    /// `base:allocation` was among the queries.
    pub asks_allocation: bool,
}

impl<'a> MetaQuery<'a> {
    /// Reads the data of the option; it must be exact, with nothing behind the last query.
    pub fn parse(mut data: &'a [u8]) -> Result<Self, Malformed> {
        let export_name = take_string(&mut data)?;
        let count = data.try_get_u32().map_err(|_| Malformed)?;
        let mut query =
            Self { export_name, is_empty: count == 0, asks_namespace: false, asks_allocation: false };
        // The count may lie; the data ends the loop early then, as each query takes at least four bytes of it.
        for _ in 0..count {
            let text = take_string(&mut data)?;
            let Some((namespace, _leaf)) = text.split_once(':') else { return Err(Malformed) };
            // Unknown namespaces and leaves select nothing, and are no error.
            query.asks_namespace |= namespace == "base" && text.len() == "base:".len();
            query.asks_allocation |= text == BASE_ALLOCATION;
        }
        if data.is_empty() { Ok(query) } else { Err(Malformed) }
    }

    /// For `NBD_OPT_LIST_META_CONTEXT`: no query and `base:` are wildcards.
    pub fn lists_allocation(&self) -> bool {
        self.is_empty || self.asks_namespace || self.asks_allocation
    }

    /// For `NBD_OPT_SET_META_CONTEXT`: only the full name selects.
    pub fn selects_allocation(&self) -> bool {
        self.asks_allocation
    }
}

/// A string with its length in 32 bits before it.
pub(crate) fn take_string<'a>(data: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    let length = data.try_get_u32().map_err(|_| Malformed)?;
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    let (string, rest) = data.split_at_checked(length).ok_or(Malformed)?;
    *data = rest;
    checked_string(string)
}

/// The rules for every string of the protocol: at most 4096 bytes, UTF-8, no NUL (section Conventions).
pub(crate) fn checked_string(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > STRING_BYTES_MAX || bytes.contains(&0) {
        return Err(Malformed);
    }
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(name: &str, queries: &[&str]) -> Vec<u8> {
        let length = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
        let mut data = Vec::new();
        data.extend(length(name.len()));
        data.extend(name.as_bytes());
        data.extend(length(queries.len()));
        for query in queries {
            data.extend(length(query.len()));
            data.extend(query.as_bytes());
        }
        data
    }

    #[test]
    fn each_query_lists_and_selects_what_the_document_says() {
        let rows: [(&[&str], bool, bool); 7] = [
            (&[], true, false),
            (&["base:"], true, false),
            (&["base:allocation"], true, true),
            (&["base:allocation", "base:allocation"], true, true),
            (&["base:unknown"], false, false),
            (&["x-other:allocation", "qemu:"], false, false),
            (&["x-other:", "base:allocation"], true, true),
        ];
        for (queries, lists, selects) in rows {
            let bytes = data("mail", queries);
            let query = MetaQuery::parse(&bytes).unwrap();
            assert_eq!(
                (query.lists_allocation(), query.selects_allocation()),
                (lists, selects),
                "{queries:?}"
            );
        }
    }

    #[test]
    fn a_query_without_a_namespace_is_malformed() {
        assert_eq!(MetaQuery::parse(&data("mail", &["allocation"])), Err(Malformed));
        assert_eq!(MetaQuery::parse(&data("mail", &[""])), Err(Malformed));
    }

    #[test]
    fn every_truncation_and_every_extra_byte_is_malformed() {
        let whole = data("mail", &["base:allocation", "x-a:b"]);
        for end in 0..whole.len() {
            assert_eq!(MetaQuery::parse(&whole[..end]), Err(Malformed), "cut at {end}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert_eq!(MetaQuery::parse(&longer), Err(Malformed));
    }

    #[test]
    fn a_count_that_lies_ends_with_the_data() {
        let mut bytes = data("mail", &[]);
        bytes[8..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(MetaQuery::parse(&bytes), Err(Malformed));
    }

    #[test]
    fn strings_are_short_utf8_without_nul() {
        assert_eq!(checked_string(&[b'a'; 4096]).map(str::len), Ok(4096));
        assert_eq!(checked_string(&[b'a'; 4097]), Err(Malformed));
        assert_eq!(checked_string(b"a\0b"), Err(Malformed));
        assert_eq!(checked_string(&[0xff]), Err(Malformed));
        assert_eq!(checked_string("Grüße".as_bytes()), Ok("Grüße"));
    }
}
