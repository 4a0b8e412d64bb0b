//! Whatever a shell can tell a tiebreaker, in any order: candidates, Primaries and liars, links that come and go, time,
//! deaths in the middle of a store. It grants no term number to two candidates, takes back nothing that anybody has
//! heard, and speaks of nothing that is not in both copies of its file.
//!
//! Input: choices, a byte or a few each. Repeat a finding by
//! `cargo +nightly fuzz run tiebreaker_events fuzz/artifacts/tiebreaker_events/FILE`.
#![no_main]

#[path = "../tiebreaker_events/bench.rs"]
mod bench;
#[path = "../replica_events/frames.rs"]
#[allow(dead_code, reason = "what a replica hears, too")]
mod frames;
#[path = "../replica_events/script.rs"]
mod script;

use libfuzzer_sys::fuzz_target;
use replicator::peer::message::Message;
use replicator::promotion::membership::MembershipRecord;
use replicator::units::{NodeId, Span, VoterId};

use bench::Bench;
use frames::voter_id;
use script::Script;

/// Longer sequences find nothing that shorter ones do not.
const STEPS_MAX: usize = 400;

fn message(bench: &Bench, peer: NodeId, script: &mut Script<'_>) -> Message {
    let known = bench.known(peer);
    let mut message = match script.below(8) {
        0 => known.any_message(script),
        1..=3 => known.vote_message(14, script),
        _ => {
            let row = script.pick(&[14, 16, 16, 17, 18, 19]);
            known.vote_message(row, script)
        }
    };
    // Nobody says who votes without saying in what term.
    if let Message::State(state) = &mut message
        && state.record.is_empty()
    {
        state.record = MembershipRecord::default();
    }
    message
}

/// One thing that happens.
fn step(bench: &mut Bench, script: &mut Script<'_>) {
    match script.below(12) {
        0..=4 => {
            let peer = bench.a_peer(script);
            let message = message(bench, peer, script);
            bench.hears(peer, &message, script);
        }
        5 | 6 => bench.stores(),
        7 => {
            let peer = if script.rarely(16) { NodeId(script.below(9)) } else { bench.a_peer(script) };
            let voter = if script.rarely(8) { VoterId(script.byte().into()) } else { voter_id(peer) };
            bench.connect(peer, voter);
        }
        8 => {
            let peer = bench.a_peer(script);
            bench.lose(peer, script);
        }
        9 if script.rarely(4) => bench.restart(script),
        _ => bench.passes(Span(script.pick(&[0, 1000, 500_000, 1_000_000, 3_100_000, 6_100_000]))),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script::new(data);
    let mut bench = Bench::new(&mut script);
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        step(&mut bench, &mut script);
        // Mostly the file is stored before anything else happens.
        if !script.rarely(4) {
            bench.stores();
        }
    }
    bench.stores();
});
