//! A member of the in-sync set reads for a Primary that has no disk: at once and in the order of the stream, so that the
//! answer holds every write that was complete when the question was sent, and none that came after it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::effect::{Completion, Effect, Effects};
use crate::peer::message::Message;
use crate::read::Reads;
use crate::record::Record;
use crate::remote_read::{READ_BYTES_MAX, READS_MAX, ReadRequest};
use crate::units::{BLOCK_BYTES, BlockRange, ByteRange, Lsn, NodeId, RequestId, Term};

use super::receiving::Stage;
use super::{IoPurpose, Replica};

/// Reads for the Primary that this node takes records from.
#[derive(Debug, Default)]
pub(super) struct Lending {
    reads: Reads,
    /// The blocks of each question.
    ranges: BTreeMap<u64, BlockRange>,
}

impl Lending {
    fn bytes(&self) -> u64 {
        self.ranges.values().map(|range| range.bytes()).sum()
    }
}

impl Replica {
    pub(super) fn on_read_blocks(
        &mut self,
        node: NodeId,
        term: Term,
        request: ReadRequest,
        effects: &mut Effects,
    ) {
        let ReadRequest { number, range } = request;
        // A node whose disk has failed takes records from nobody.
        let is_servable = self.is_from_source(node, term);
        let Some(inbound) = self.inbound.as_mut().filter(|_| is_servable) else {
            return; // Of an earlier introduction; it is asked again.
        };
        if matches!(inbound.stage, Stage::Preparing { .. } | Stage::AwaitingResync)
            || inbound.resync.is_some()
        {
            return self.drop_link(node, "it reads from a copy that is not whole yet", effects);
        }
        let lending = &mut inbound.lending;
        let is_over_limit =
            lending.ranges.len() >= READS_MAX || lending.bytes() + range.bytes() > READ_BYTES_MAX;
        let wrong = match () {
            () if range.end() * BLOCK_BYTES > self.config.volume_bytes => {
                "it reads beyond the end of the volume"
            }
            () if is_over_limit => "it reads more at a time than is allowed",
            () if lending.ranges.contains_key(&number) => "it uses the number of a read twice",
            () => "",
        };
        if !wrong.is_empty() {
            return self.drop_link(node, wrong, effects);
        }
        lending.ranges.insert(number, range);
        let bytes = ByteRange::new(range.byte_offset(), range.bytes());
        lending.reads.arrive(RequestId(number), bytes, Lsn::ZERO);
        let (mut orders, numbers) = (Effects::default(), &mut self.numbers);
        lending.reads.advance(Lsn(u64::MAX), &self.write_back, &mut || numbers.next(), &mut orders);
        for order in orders.drain() {
            if let Effect::ReadData { io, .. } = &order {
                self.purposes.insert(*io, IoPurpose::Lending);
            }
            effects.push(order);
        }
        self.answer_lent_reads(effects);
    }

    pub(super) fn on_lent_bytes(&mut self, io: crate::event::IoId, bytes: Bytes, effects: &mut Effects) {
        if let Some(inbound) = &mut self.inbound {
            inbound.lending.reads.on_bytes(io, vec![bytes]);
            self.answer_lent_reads(effects);
        }
    }

    fn answer_lent_reads(&mut self, effects: &mut Effects) {
        let Some(inbound) = &mut self.inbound else { return };
        let from = inbound.from;
        let mut answers = Effects::default();
        inbound.lending.reads.answer(&mut answers);
        for answer in answers.drain() {
            let Effect::CompleteRequest { id, outcome: Completion::Bytes(pieces) } = answer else {
                unreachable!("only bytes are asked for");
            };
            let range = self.inbound.as_mut().and_then(|inbound| inbound.lending.ranges.remove(&id.0));
            let range = range.expect("every question is remembered");
            let payload = match &pieces[..] {
                [whole] => whole.clone(),
                parts => Bytes::from(parts.concat()),
            };
            let blocks = Record::write(Lsn(id.0), range, payload);
            self.send(from, &Message::BlocksRead(Box::new(blocks)), effects);
        }
    }
}
