//! One block, two client writes and its copy, in every order in which they can be written, sent, received and written
//! back: at the end the target holds what the source holds, and no two writes to the block are ever under way at once.

use std::collections::VecDeque;

use replicator::event::IoId;
use replicator::record::{Record, RecordKind};
use replicator::resync::target::Receiving;
use replicator::units::{BlockRange, Lsn};

const BLOCK: BlockRange = BlockRange { first: 7, count: 1 };
const COPY: IoId = IoId(1);
/// Client writes during the resync; their number is their value.
const WRITES: u64 = 2;

/// What is on its way, in the order in which it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Record(u64),
    Copy(u64),
    End,
}

#[derive(Clone, Debug)]
struct World {
    /// Newest write accepted at the source, and newest one in its data area.
    accepted: u64,
    source: u64,
    is_copied: bool,
    stream: VecDeque<Sent>,
    receiving: Receiving,
    /// Records in the target's journal that are not written back.
    pending: Vec<u64>,
    /// The copy, and the record, that is being written to the target's data area.
    copying: Option<u64>,
    writing_back: Option<u64>,
    target: u64,
}

/// One thing that may happen next.
#[derive(Clone, Copy, Debug)]
enum Step {
    ClientWrites,
    SourceWritesBack,
    SourceCopies,
    TargetReceives,
    CopyArrives,
    WriteBackBegins,
    WriteBackEnds,
}

const STEPS: [Step; 7] = [
    Step::ClientWrites,
    Step::SourceWritesBack,
    Step::SourceCopies,
    Step::TargetReceives,
    Step::CopyArrives,
    Step::WriteBackBegins,
    Step::WriteBackEnds,
];

fn record(lsn: u64) -> Record {
    Record::zero(Lsn(lsn), RecordKind::Trim, BLOCK)
}

impl World {
    fn new() -> Self {
        Self {
            accepted: 0,
            source: 0,
            is_copied: false,
            stream: VecDeque::new(),
            receiving: Receiving::default(),
            pending: Vec::new(),
            copying: None,
            writing_back: None,
            // Something old that neither of the writes nor the copy holds.
            target: 99,
        }
    }

    /// The record that may be written back now.
    fn due(&self) -> Option<u64> {
        let limit = self.receiving.oldest_held().map_or(u64::MAX, |held| held.0 - 1);
        self.pending.iter().copied().filter(|lsn| *lsn <= limit).max()
    }

    /// The world after a step, if the step is possible.
    fn after(&self, step: Step) -> Option<Self> {
        let mut next = self.clone();
        match step {
            Step::ClientWrites if self.accepted < WRITES => {
                next.accepted += 1;
                next.stream.push_back(Sent::Record(next.accepted));
            }
            Step::SourceWritesBack if self.source < self.accepted => next.source = self.accepted,
            Step::SourceCopies if !self.is_copied => {
                next.is_copied = true;
                next.stream.extend([Sent::Copy(self.source), Sent::End]);
            }
            Step::TargetReceives => match next.stream.pop_front()? {
                Sent::Record(lsn) => {
                    next.receiving.on_record(&record(lsn));
                    next.pending.push(lsn);
                }
                Sent::Copy(value) => {
                    let wanted = next.receiving.on_copy(&record(1)).expect("the first one");
                    if !wanted.is_empty() {
                        assert_eq!(self.writing_back, None, "two writes to one block are under way");
                        next.receiving.on_write_ordered(COPY, BLOCK);
                        next.copying = Some(value);
                    }
                }
                Sent::End => next.receiving.on_end(Lsn(0)),
            },
            Step::CopyArrives => {
                next.target = next.copying.take()?;
                next.receiving.on_written(COPY);
            }
            Step::WriteBackBegins if self.writing_back.is_none() => {
                let lsn = self.due()?;
                assert_eq!(self.copying, None, "two writes to one block are under way");
                next.writing_back = Some(lsn);
            }
            Step::WriteBackEnds => {
                let lsn = next.writing_back.take()?;
                next.target = lsn;
                next.pending.retain(|pending| *pending > lsn);
            }
            Step::ClientWrites | Step::SourceWritesBack | Step::SourceCopies | Step::WriteBackBegins => {
                return None;
            }
        }
        Some(next)
    }
}

#[test]
fn whatever_the_order_the_newest_bytes_win_on_the_target() {
    let mut ends = 0_u64;
    let mut worlds = vec![World::new()];
    while let Some(world) = worlds.pop() {
        let next: Vec<World> = STEPS.into_iter().filter_map(|step| world.after(step)).collect();
        if next.is_empty() {
            ends += 1;
            assert_eq!((world.target, world.source), (WRITES, WRITES), "{world:?}");
        }
        worlds.extend(next);
    }
    assert!(ends > 1000, "{ends} orders");
}
