//! Whatever a shell can tell a replica, in any order: requests, I/O that completes, fails or finds bytes that were
//! never written, peers that say anything that can be said at any moment, orders, losses, time, restarts. No assert of
//! the core breaks, and no event brings about more than a bounded number of effects.
//!
//! Input: choices, a byte or a few each. Repeat a finding by
//! `cargo +nightly fuzz run replica_events fuzz/artifacts/replica_events/FILE`.
#![no_main]

#[path = "../replica_events/bench.rs"]
mod bench;
#[path = "../replica_events/disk.rs"]
mod disk;
#[path = "../replica_events/frames.rs"]
mod frames;
#[path = "../replica_events/script.rs"]
mod script;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use replicator::event::{
    Allocation, ConnectedClients, Durability, Event, FenceEnd, LinkLoss, NoLink, Order, OrderId, Request,
    Warrant,
};
use replicator::generation::split_brain::Discards;
use replicator::rescue::{Giving, Save};
use replicator::units::{ByteRange, NodeId, RequestId, Span, VoterId};

use bench::{Bench, VOLUME_BYTES};
use frames::voter_id;
use script::Script;

/// Longer sequences find nothing that shorter ones do not.
const STEPS_MAX: usize = 600;

fn span(script: &mut Script<'_>) -> Span {
    Span(script.pick(&[0, 1000, 10_000, 200_000, 1_000_000, 3_100_000, 6_100_000, 31_000_000]))
}

fn range(script: &mut Script<'_>) -> ByteRange {
    let offset = u64::from(script.byte()) * 4096;
    // Some are so large that a few of them fill the ring.
    let length = script.pick(&[0, 1, 1, 2, 3, 5, 250_u64]) * 4096;
    let offset = offset.min(VOLUME_BYTES - length);
    let (offset, length) = match script.below(4) {
        0 => (offset + u64::from(script.byte()), length + u64::from(script.byte())),
        _ => (offset, length),
    };
    ByteRange::new(offset, length.min(VOLUME_BYTES.saturating_sub(offset)))
}

fn request(script: &mut Script<'_>) -> Request {
    let durability = script.pick(&[Durability::Complete, Durability::Flushed]);
    let range = range(script);
    match script.below(8) {
        0 => Request::Read { range },
        1 => Request::Flush,
        2 => Request::Trim { range, durability },
        3 => {
            let allocation = script.pick(&[Allocation::Keep, Allocation::Release]);
            Request::WriteZeroes { range, allocation, durability }
        }
        4 => Request::BlockStatus { range },
        _ => {
            let length = usize::try_from(range.length).expect("small");
            let payload = Bytes::from(vec![script.byte(); length]);
            Request::Write { offset: range.offset, payload, durability }
        }
    }
}

fn order(bench: &Bench, script: &mut Script<'_>) -> Order {
    let replicas: Vec<NodeId> = bench.config.peers().collect();
    let peer = script.flag().then(|| script.pick(&replicas));
    match script.below(16) {
        0..=2 => Order::Promote {
            wait: span(script),
            warrant: script.pick(&[Warrant::Known, Warrant::Force, Warrant::PeerIsFenced]),
        },
        3 => Order::WeighForce,
        4 => Order::Outdate,
        5 => {
            Order::Demote { clients: script.pick(&[ConnectedClients::Refuse, ConnectedClients::Disconnect]) }
        }
        6 => Order::Connect { peer },
        7 => Order::Foresee { peer },
        8 => Order::Disconnect { peer },
        9 => Order::WaitConnect { wait: span(script) },
        10 => Order::WaitSync { wait: span(script) },
        11 => Order::PauseResync { is_paused: script.flag() },
        12 => Order::ServeAsWas { is_wanted: script.flag() },
        13 => Order::Explain,
        14 => Order::Stop,
        _ => {
            let what = script.pick(&[Discards::Changes, Discards::Everything]);
            let save = if script.flag() { Save::ByDefault } else { Save::No };
            Order::ResolveSplitBrain { peer, giving: Giving { what, save, is_rehearsal: script.rarely(4) } }
        }
    }
}

fn fence_end(script: &mut Script<'_>) -> FenceEnd {
    match script.below(10) {
        code @ 0..=7 => FenceEnd::Exited(code.into()),
        8 => FenceEnd::TimedOut(Span::from_millis(1000)),
        _ => FenceEnd::Signalled(9),
    }
}

/// One thing that happens.
fn step(bench: &mut Bench, script: &mut Script<'_>) {
    match script.below(24) {
        0 | 1 => bench.complete_all(8),
        2 | 3 => bench.complete(script.byte(), script),
        4 => bench.fail_rarely(script),
        5 | 6 => {
            let id = RequestId(bench.next_number());
            bench.happens(Event::RequestReceived { id, request: request(script) });
        }
        7 => {
            let what = order(bench, script);
            let order = OrderId(bench.next_number());
            if what == Order::Stop {
                bench.stops.insert(order);
            }
            bench.happens(Event::OperatorAsked { order, what });
        }
        8 | 9 => {
            let peer = bench.a_peer(script);
            let voter = if script.rarely(16) { VoterId(script.byte().into()) } else { voter_id(peer) };
            bench.connect(peer, voter);
        }
        10 => {
            let peer = bench.a_peer(script);
            let reason = script.pick(&[0, 1, 2, 3]);
            bench.lose(
                peer,
                [LinkLoss::Closed, LinkLoss::Socket(104), LinkLoss::BadFrame, LinkLoss::Dropped][reason]
                    .clone(),
            );
        }
        11..=13 => {
            let peer = bench.a_peer(script);
            let message = bench.known(peer).any_message(script);
            bench.hears(peer, &message, script);
        }
        14..=18 => answer(bench, script),
        19 => bench.passes(span(script)),
        20 => match bench.replica.next_wakeup() {
            Some(wakes) => bench.passes(wakes.since(bench.now)),
            None => bench.passes(Span::from_millis(1)),
        },
        21 => shell(bench, script),
        22 => {
            let peer = bench.a_peer(script);
            bench.note_frames_sent(peer);
        }
        _ if script.rarely(4) => bench.restart(script),
        _ => bench.settle(),
    }
}

/// The oldest thing that was said, or all of them, are answered honestly.
fn answer(bench: &mut Bench, script: &mut Script<'_>) {
    let count = if script.flag() { bench.heard.len() } else { 1 };
    for _ in 0..count {
        let Some((peer, message)) = bench.heard.pop_front() else { return };
        for answer in bench.known(peer).answers(&message, script) {
            bench.hears(peer, &answer, script);
        }
    }
}

/// What is neither disk nor link.
fn shell(bench: &mut Bench, script: &mut Script<'_>) {
    match script.below(5) {
        0 => {
            if let Some(run) = bench.fences.pop_front() {
                bench.happens(Event::FenceCommandEnded { run, end: fence_end(script) });
            }
        }
        1 => {
            if let Some(step) = bench.rescues.pop_front() {
                bench.happens(Event::RescueDone { step, file: "/a".to_owned() });
            }
        }
        2 => {
            if let Some(step) = bench.rescues.pop_front() {
                bench.happens(Event::RescueFailed { step, reason: "full".to_owned() });
            }
        }
        3 => bench.happens(Event::ClientsCounted { clients: script.below(3).into() }),
        _ => {
            let peer = bench.a_peer(script);
            let reason = NoLink { reason: "no".to_owned(), action: None };
            bench.happens(Event::PeerUnreachable { peer, reason });
        }
    }
}

impl Bench {
    fn fail_rarely(&mut self, script: &mut Script<'_>) {
        if script.rarely(4) {
            self.fail(script.byte());
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let mut bench = Bench::new(&mut script);
    // Mostly the start is over before anything else happens.
    if !script.rarely(8) {
        bench.complete_all(20);
    }
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        step(&mut bench, &mut script);
        // Several facts may come in one round.
        if !script.rarely(8) {
            bench.settle();
        }
        if bench.is_over {
            bench.restart(&mut script);
        }
    }
    bench.passes(Span::from_millis(1));
    bench.complete_all(20);
    // Looking at it breaks nothing either.
    let _ = bench.replica.status(bench.now);
});
