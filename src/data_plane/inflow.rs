//! The receiving half of a stream of headers and payloads: decides where the next bytes go, so that small messages
//! cost one receive and large payloads are not copied.
//!
//! Bytes arrive in a staging buffer. When a header announces a payload, a buffer of exactly its length is taken;
//! what has been staged of it is copied, the rest is received straight into it. After a large payload the next
//! receive into the staging buffer is a short one, enough for a header, so that the payload behind it does not land
//! there. Knows no protocol and makes no system call.

use std::ops::Range;

use bytes::Bytes;

use crate::data_plane::buffers::PoolBuffer;

/// A payload of this length announces more of its kind.
const LARGE_PAYLOAD_BYTES: usize = 32 << 10;

/// Receiving state of one stream.
#[derive(Debug)]
pub struct Inflow {
    /// Absent while bytes are being received into it.
    staging: Option<PoolBuffer>,
    /// The staged bytes that nobody has consumed.
    staged: Range<usize>,
    body: Body,
    /// Bytes of a short receive.
    short_receive: usize,
    after_large_payload: bool,
}

/// What follows on the stream before the next header.
#[derive(Debug)]
enum Body {
    /// Nothing: a header comes next.
    None,
    /// A payload; the buffer is absent while bytes are being received into it.
    Payload { buffer: Option<PoolBuffer>, filled: usize, length: usize },
    /// Bytes that nobody wants.
    Unwanted { left: u64 },
}

impl Inflow {
    /// A stream whose headers have at most `staging_bytes`, and usually at most `short_receive` bytes.
    #[must_use]
    pub fn new(staging_bytes: usize, short_receive: usize) -> Self {
        assert!(short_receive <= staging_bytes, "a short receive is a part of the staging buffer");
        Self {
            staging: Some(PoolBuffer::with_length(staging_bytes)),
            staged: 0..0,
            body: Body::None,
            short_receive,
            after_large_payload: false,
        }
    }

    /// Puts bytes in front that arrived before this stream was set up; at most a staging buffer full.
    ///
    /// # Errors
    /// They are more than that.
    pub fn prepend(&mut self, early: &[u8]) -> Result<(), TooEarly> {
        let staging = self.staging.as_mut().expect("nothing is being received yet");
        assert!(self.staged.is_empty(), "early bytes come first");
        staging.get_mut(..early.len()).ok_or(TooEarly)?.copy_from_slice(early);
        self.staged = 0..early.len();
        Ok(())
    }

    /// The bytes of the next header and what follows it, as far as they are here; none in the middle of a payload.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match (&self.body, &self.staging) {
            (Body::None, Some(staging)) => &staging[self.staged.clone()],
            (Body::None, None) | (Body::Payload { .. } | Body::Unwanted { .. }, _) => &[],
        }
    }

    /// Takes a header of `bytes` off the stream.
    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.staged.len(), "only what is here can be consumed");
        self.staged.start += bytes;
    }

    /// Says that `length` bytes of payload come next.
    pub fn begin_payload(&mut self, length: usize) {
        assert!(matches!(self.body, Body::None), "one payload at a time");
        let mut buffer = PoolBuffer::with_length(length);
        let staging = self.staging.as_ref().expect("a header has been read from it");
        let filled = length.min(self.staged.len());
        buffer[..filled].copy_from_slice(&staging[self.staged.start..self.staged.start + filled]);
        self.staged.start += filled;
        self.after_large_payload = length >= LARGE_PAYLOAD_BYTES;
        self.body = Body::Payload { buffer: Some(buffer), filled, length };
    }

    /// Says that `length` bytes come next that are to be thrown away.
    pub fn begin_unwanted(&mut self, length: u64) {
        assert!(matches!(self.body, Body::None), "one payload at a time");
        self.body = Body::Unwanted { left: length };
        self.drop_unwanted();
    }

    /// The payload, once it is complete.
    pub fn take_payload(&mut self) -> Option<Bytes> {
        match &mut self.body {
            Body::Payload { buffer, filled, length } if filled == length => {
                let buffer = buffer.take().expect("a full buffer is received into no more");
                self.body = Body::None;
                Some(buffer.freeze())
            }
            Body::None | Body::Payload { .. } | Body::Unwanted { .. } => None,
        }
    }

    /// Whether a payload is arriving.
    #[must_use]
    pub fn is_in_payload(&self) -> bool {
        matches!(self.body, Body::Payload { .. })
    }

    /// Whether bytes are here that nobody has consumed, even while more are being received.
    #[must_use]
    pub fn holds_bytes(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Whether what follows is a header, or unwanted bytes have all been dropped.
    #[must_use]
    pub fn is_at_header(&self) -> bool {
        matches!(self.body, Body::None)
    }

    /// Where the next bytes go: a buffer that must come back by [`Inflow::on_received`], and which part of it.
    /// `needed` is how many bytes of a header are known to be missing.
    pub fn next_receive(&mut self, needed: usize) -> (PoolBuffer, Range<usize>) {
        if let Body::Payload { buffer, filled, length } = &mut self.body {
            assert!(filled < length, "a full payload is taken before more is received");
            return (buffer.take().expect("one receive at a time"), *filled..*length);
        }
        let mut staging = self.staging.take().expect("one receive at a time");
        if self.staged.is_empty() {
            self.staged = 0..0;
        } else if self.staged.start > 0 {
            staging.copy_within(self.staged.clone(), 0);
            self.staged = 0..self.staged.len();
        }
        let room = staging.len() - self.staged.end;
        assert!(room >= needed && room > 0, "a header fits the staging buffer");
        let is_short = self.after_large_payload && self.is_at_header();
        let length = if is_short { room.min(self.short_receive.max(needed)) } else { room };
        (staging, self.staged.end..self.staged.end + length)
    }

    /// Takes a buffer back, with `bytes` more in it.
    pub fn on_received(&mut self, returned: PoolBuffer, bytes: usize) {
        if let Body::Payload { buffer, filled, length } = &mut self.body {
            *filled += bytes;
            assert!(*filled <= *length && buffer.is_none(), "the payload's buffer comes back");
            *buffer = Some(returned);
            return;
        }
        assert!(self.staging.is_none(), "the staging buffer comes back");
        self.staging = Some(returned);
        self.staged.end += bytes;
        self.drop_unwanted();
    }

    fn drop_unwanted(&mut self) {
        if let Body::Unwanted { left } = &mut self.body {
            let staged = u64::try_from(self.staged.len()).expect("usize has at most 64 bits");
            let dropped = staged.min(*left);
            *left -= dropped;
            let is_over = *left == 0;
            self.staged.start += usize::try_from(dropped).expect("not more than is staged");
            if is_over {
                self.body = Body::None;
            }
        }
    }
}

/// More bytes came early than a staging buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more early bytes than a staging buffer holds")]
pub struct TooEarly;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: usize = 4;

    /// Messages of a test protocol: a length in 4 bytes, then that many bytes; odd lengths are unwanted.
    fn stream_of(lengths: &[u16]) -> Vec<u8> {
        let mut stream = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            stream.extend(u32::from(*length).to_le_bytes());
            stream.extend(vec![u8::try_from(number % 251).unwrap(); usize::from(*length)]);
        }
        stream
    }

    /// Takes out every payload that is complete; returns how many bytes of a header are missing.
    fn decode(inflow: &mut Inflow, payloads: &mut Vec<Bytes>) -> usize {
        loop {
            payloads.extend(inflow.take_payload());
            if !inflow.is_at_header() {
                return 0;
            }
            let bytes = inflow.bytes();
            let Some(header) = bytes.first_chunk::<HEADER>() else { return HEADER - bytes.len() };
            let length = u32::from_le_bytes(*header);
            inflow.consume(HEADER);
            if length % 2 == 0 {
                inflow.begin_payload(usize::try_from(length).unwrap());
            } else {
                inflow.begin_unwanted(u64::from(length));
            }
        }
    }

    proptest! {
        #[test]
        fn payloads_come_out_whole_and_in_order_however_the_stream_is_cut(
            lengths in prop::collection::vec(prop_oneof![0_u16..20, 4000_u16..5000, 40_000_u16..], 1..20),
            cuts in prop::collection::vec(1_usize..70_000, 1..50),
            early in 0_usize..100,
        ) {
            let stream = stream_of(&lengths);
            let mut inflow = Inflow::new(64 << 10, 512);
            let mut payloads = Vec::new();
            let mut at = early.min(stream.len());
            inflow.prepend(&stream[..at]).unwrap();
            let mut cuts = cuts.iter().cycle();
            loop {
                let needed = decode(&mut inflow, &mut payloads);
                if at == stream.len() {
                    break;
                }
                let (mut buffer, into) = inflow.next_receive(needed);
                let bytes = into.len().min(*cuts.next().unwrap()).min(stream.len() - at);
                buffer[into.start..into.start + bytes].copy_from_slice(&stream[at..at + bytes]);
                inflow.on_received(buffer, bytes);
                at += bytes;
            }
            let wanted: Vec<_> = lengths.iter().enumerate().filter(|(_, length)| **length % 2 == 0).collect();
            prop_assert_eq!(payloads.len(), wanted.len());
            for (payload, (number, length)) in payloads.iter().zip(wanted) {
                let byte = u8::try_from(number % 251).unwrap();
                prop_assert_eq!(payload.len(), usize::from(*length));
                prop_assert!(payload.iter().all(|found| *found == byte));
                prop_assert!(payload.as_ptr().addr().is_multiple_of(4096));
            }
        }
    }

    #[test]
    fn the_rest_of_a_large_payload_is_received_in_place_and_the_next_header_by_a_short_receive() {
        let mut inflow = Inflow::new(64 << 10, 512);
        let (buffer, into) = inflow.next_receive(HEADER);
        assert_eq!(into, 0..64 << 10);
        inflow.on_received(buffer, 1000);
        inflow.consume(HEADER);
        inflow.begin_payload(100_000);
        let (buffer, into) = inflow.next_receive(0);
        assert_eq!((buffer.len(), into), (100_000, 996..100_000));
        inflow.on_received(buffer, 99_004);
        assert_eq!(inflow.take_payload().unwrap().len(), 100_000);
        let (buffer, into) = inflow.next_receive(HEADER);
        assert_eq!(into, 0..512);
        inflow.on_received(buffer, HEADER);
        inflow.consume(HEADER);
        inflow.begin_payload(10);
        let (buffer, into) = inflow.next_receive(0);
        inflow.on_received(buffer, into.len());
        inflow.take_payload().unwrap();
        assert_eq!(inflow.next_receive(HEADER).1, 0..64 << 10);
    }

    #[test]
    fn too_many_early_bytes_are_refused() {
        assert_eq!(Inflow::new(4096, 512).prepend(&[0; 4097]), Err(TooEarly));
    }
}
