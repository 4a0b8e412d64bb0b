//! The sending half of a stream: pieces in, one vectored send at a time out, short sends resumed where they ended.
//! Headers that follow one another share memory, so that many small answers are one piece. Makes no system call.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

/// Something queued: a part of the shared header memory, or bytes that somebody else made.
#[derive(Debug)]
enum Piece {
    Header(Range<usize>),
    Payload(Bytes),
}

/// Sending state of one stream.
#[derive(Debug, Default)]
pub struct Outflow {
    headers: Vec<u8>,
    queue: Vec<Piece>,
    is_sending: bool,
    /// Bytes queued in all since the beginning.
    queued_bytes: u64,
    /// Bytes that the kernel has taken since the beginning.
    sent_bytes: u64,
    /// Where each message that is not sent as a whole ends, and what it weighs for its owner.
    ends: VecDeque<(u64, u64)>,
}

/// Messages that went out as a whole with one send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentMessages {
    /// How many.
    pub messages: usize,
    /// The sum of their weights.
    pub weight: u64,
}

impl Outflow {
    /// Queues one message: `header` writes its first bytes, `payloads` follow. `weight` comes back when it is sent.
    pub fn push(
        &mut self,
        header: impl FnOnce(&mut Vec<u8>),
        payloads: impl IntoIterator<Item = Bytes>,
        weight: u64,
    ) {
        let start = self.headers.len();
        header(&mut self.headers);
        let end = self.headers.len();
        match self.queue.last_mut() {
            Some(Piece::Header(range)) if range.end == start => range.end = end,
            Some(Piece::Header(_) | Piece::Payload(_)) | None => self.queue.push(Piece::Header(start..end)),
        }
        assert!(start < end, "every message has a header");
        let mut length = end - start;
        for payload in payloads {
            if !payload.is_empty() {
                length += payload.len();
                self.queue.push(Piece::Payload(payload));
            }
        }
        self.queued_bytes += u64::try_from(length).expect("usize has at most 64 bits");
        self.ends.push_back((self.queued_bytes, weight));
    }

    /// What to send next, unless a send is under way or nothing is queued.
    pub fn next_send(&mut self) -> Option<Vec<Bytes>> {
        if self.is_sending || self.queue.is_empty() {
            return None;
        }
        self.is_sending = true;
        let headers = Bytes::from(std::mem::take(&mut self.headers));
        let piece = |piece| match piece {
            Piece::Header(range) => headers.slice(range),
            Piece::Payload(bytes) => bytes,
        };
        Some(self.queue.drain(..).map(piece).collect())
    }

    /// Takes the pieces of a send back, of which the kernel took `bytes`. Returns which messages are out, and what
    /// must be sent at once because the send was short.
    pub fn on_sent(&mut self, mut pieces: Vec<Bytes>, bytes: usize) -> (SentMessages, Option<Vec<Bytes>>) {
        assert!(self.is_sending, "a send ends only after it began");
        self.sent_bytes += u64::try_from(bytes).expect("usize has at most 64 bits");
        let mut sent = SentMessages::default();
        while let Some((_, weight)) = self.ends.pop_front_if(|(end, _)| *end <= self.sent_bytes) {
            sent.messages += 1;
            sent.weight += weight;
        }
        drop_front(&mut pieces, bytes);
        self.is_sending = !pieces.is_empty();
        (sent, self.is_sending.then_some(pieces))
    }

    /// Messages that are not sent as a whole.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.ends.len()
    }

    /// Bytes that the kernel has not taken yet.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.queued_bytes - self.sent_bytes
    }

    /// Whether everything is sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// Takes the first `bytes` off `pieces`.
fn drop_front(pieces: &mut Vec<Bytes>, bytes: usize) {
    let mut left = bytes;
    let whole = pieces.iter().take_while(|piece| {
        let fits = piece.len() <= left;
        left -= if fits { piece.len() } else { 0 };
        fits
    });
    let whole = whole.count();
    pieces.drain(..whole);
    if let Some(first) = pieces.first_mut() {
        *first = first.slice(left..);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_answers_become_one_piece_and_payloads_stay_where_they_are() {
        let mut outflow = Outflow::default();
        outflow.push(|header| header.extend(b"one"), [], 0);
        outflow.push(|header| header.extend(b"two"), [], 0);
        let payload = Bytes::from_static(b"payload");
        outflow.push(|header| header.extend(b"three"), [payload.clone()], 0);
        let pieces = outflow.next_send().unwrap();
        assert_eq!(pieces, [&b"onetwothree"[..], b"payload"]);
        assert_eq!(pieces[1].as_ptr(), payload.as_ptr());
        assert_eq!(outflow.next_send(), None);
    }

    proptest! {
        #[test]
        fn short_sends_lose_nothing_and_messages_are_counted_when_their_last_byte_is_out(
            messages in prop::collection::vec((1_usize..50, prop::collection::vec(0_usize..100, 0..4)), 1..20),
            shares in prop::collection::vec(1_usize..200, 1..20),
        ) {
            let mut outflow = Outflow::default();
            let mut wanted = Vec::new();
            let mut ends = Vec::new();
            for (number, (header, payloads)) in messages.iter().enumerate() {
                let byte = u8::try_from(number).unwrap();
                let payloads: Vec<Bytes> = payloads.iter().map(|length| Bytes::from(vec![byte; *length])).collect();
                wanted.extend(vec![byte; header + payloads.iter().map(Bytes::len).sum::<usize>()]);
                ends.push(wanted.len());
                outflow.push(|memory| memory.extend(vec![byte; *header]), payloads, 10);
            }
            let (mut sent, mut messages_out, mut weight) = (Vec::<u8>::new(), 0, 0);
            let mut shares = shares.iter().cycle();
            let mut next = outflow.next_send();
            while let Some(pieces) = next {
                let all = pieces.concat();
                let taken = all.len().min(*shares.next().unwrap());
                sent.extend(&all[..taken]);
                let (out, rest) = outflow.on_sent(pieces, taken);
                messages_out += out.messages;
                weight += out.weight;
                prop_assert_eq!(messages_out, ends.iter().filter(|end| **end <= sent.len()).count());
                next = rest;
            }
            prop_assert_eq!(sent, wanted);
            prop_assert!(outflow.is_empty() && outflow.bytes() == 0);
            prop_assert_eq!(weight, 10 * u64::try_from(messages.len()).unwrap());
        }
    }
}
