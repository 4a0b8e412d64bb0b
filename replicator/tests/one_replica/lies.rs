//! What a peer says that is not so, or makes no sense: it ends its link, or counts for nothing, and never this replica.

use replicator::peer::message::Progress;

use super::candidate::{promoted, told};
use super::*;

#[test]
fn a_record_of_a_primarys_own_term_that_it_has_not_made_is_not_stored() {
    let mut bench = promoted();
    for ahead in 1..4 {
        let record = MembershipRecord { version: ahead + 1, primary: Some(GAMMA), ..told(&bench) };
        let record = MembershipRecord { in_sync: record.in_sync.with(GAMMA, Incarnation(7)), ..record };
        bench.hears(GAMMA, &Message::RecordPassedOn(Box::new(record)));
        bench.store();
        assert_eq!(bench.replica.status(bench.now).role, Role::Primary, "version {}", record.version);
    }
}

#[test]
fn a_primary_is_nobodys_target_whatever_generations_a_peer_shows() {
    let mut bench = promoted();
    let introduction = bench.said_to(ALPHA).introduction;
    let mut lineage = Lineage::zeroed();
    let term = Term { number: 9, taker: 9 };
    lineage.append(Generation { id: GenerationId(99), term, granted: true, first_lsn: Lsn(1) }, &[]);
    let state = PeerState { introduction, lineage, ..state(Role::Secondary, 7) };
    bench.hears(ALPHA, &Message::State(Box::new(state)));
    bench.store();
    let status = bench.replica.status(bench.now);
    assert_eq!(status.role, Role::Primary);
    assert_eq!(status.connections[0].connection_state, ConnectionState::StandAlone);
    assert_eq!(status.connections[0].rule.as_deref(), Some("Superseded"));
}

#[test]
fn a_peer_that_wants_writes_whose_generation_is_forgotten_loses_its_link() {
    let mut bench = Bench::following();
    let mut lineage = Lineage::zeroed();
    for id in 100..165 {
        let term = Term { number: 1, taker: 9 };
        let generation = Generation { id: GenerationId(id), term, granted: true, first_lsn: Lsn(11) };
        lineage.append(generation, &[]);
        bench.hears(ALPHA, &Message::NewGeneration { generation, lineage: lineage.clone() });
        bench.store();
    }
    assert!(
        lineage.find(GenerationId::ZEROED).is_none(),
        "nobody knows any more what writes 1 to 10 were of"
    );
    bench.loses(ALPHA);
    bench.link(GAMMA);
    let introduction = bench.said_to(GAMMA).introduction;
    let gamma = PeerState { node: GAMMA, introduction, lineage, ..state(Role::Secondary, 3) };
    bench.hears(GAMMA, &Message::State(Box::new(gamma)));
    bench.hears(GAMMA, &Message::CatchUpFrom { end: Lsn(3) });
    let (end, window_bytes) = (Lsn(3), 1 << 20);
    let window =
        Progress { received: end, journaled: end, flushed: end, data_flushed: Lsn::ZERO, window_bytes };
    bench.hears(GAMMA, &Message::Progress(window));
    assert_eq!(bench.dropped, [GAMMA]);
    let reason = bench.replica.status(bench.now).connections[1].reason.clone();
    assert!(reason.is_some_and(|reason| reason.contains("does not know any more")));
}

#[test]
fn a_state_with_a_number_of_a_write_near_the_end_of_all_numbers_is_refused() {
    let mut bench = Bench::start();
    bench.link(ALPHA);
    bench.hears(ALPHA, &Message::State(Box::new(state(Role::Secondary, u64::MAX))));
    assert_eq!(bench.dropped, [ALPHA]);
    assert_eq!(bench.replica.status(bench.now).connections[0].refused_frames, 1);
}

#[test]
fn a_generation_that_knows_nothing_of_the_one_before_it_ends_the_link() {
    let mut bench = Bench::following();
    let generation = |id, first_lsn| Generation {
        id: GenerationId(id),
        term: Term { number: 1, taker: 9 },
        granted: true,
        first_lsn: Lsn(first_lsn),
    };
    let announce = |generations: &[Generation]| Message::NewGeneration {
        generation: *generations.last().expect("one at least"),
        lineage: Lineage::parse(generations.to_vec()).expect("in order"),
    };
    let zeroed = Lineage::zeroed().generations()[0];
    bench.hears(ALPHA, &announce(&[zeroed, generation(7, 11)]));
    assert!(bench.storing.is_some() && bench.dropped.is_empty(), "the first one is being recorded");
    bench.hears(ALPHA, &announce(&[generation(8, 11)]));
    assert_eq!(bench.dropped, [ALPHA], "writes 1 to 10 would be of none");
}

#[test]
fn a_resync_that_begins_before_its_lineage_ends_the_link() {
    let mut bench = Bench::start();
    bench.link(ALPHA);
    // Beta has nothing that alpha knows of, so that every block is copied.
    let mut lineage = Lineage::zeroed();
    let term = Term { number: 1, taker: 9 };
    let generation = Generation { id: GenerationId(9), term, granted: true, first_lsn: Lsn(100) };
    lineage.append(generation, &[]);
    let alpha = PeerState { lineage: lineage.clone(), oldest_kept: Lsn(200), ..state(Role::Primary, 200) };
    bench.hears(ALPHA, &Message::State(Box::new(alpha)));
    bench.store();
    bench.hears(ALPHA, &Message::Flush { up_to: Lsn(0) });
    bench.store();
    assert_eq!(bench.sent_to(ALPHA, |message| matches!(message, Message::DirtyRuns { .. })), 1);
    let lineage = Lineage::parse(vec![generation]).expect("one");
    bench.hears(ALPHA, &Message::ResyncFrom { start: Lsn(50), lineage });
    assert_eq!(bench.dropped, [ALPHA], "write 51 would be of no generation");
}

#[test]
fn marks_beyond_the_end_of_the_volume_end_the_link() {
    let mut bench = Bench::following();
    bench.loses(ALPHA);
    bench.link(GAMMA);
    let introduction = bench.said_to(GAMMA).introduction;
    let gamma = PeerState { node: GAMMA, introduction, ..state(Role::Secondary, 3) };
    let gamma = PeerState { has_dirty_bits: true, ..gamma };
    bench.hears(GAMMA, &Message::State(Box::new(gamma)));
    let runs = vec![BlockRange::new(0, 1), BlockRange::new(VOLUME_BYTES / 4096 - 1, 2)];
    bench.hears(GAMMA, &Message::DirtyRuns { runs, is_last: true });
    assert_eq!(bench.dropped, [GAMMA]);
}

#[test]
fn a_source_announces_no_more_generations_at_once_than_a_lineage_holds() {
    let mut bench = Bench::following();
    let mut lineage = Lineage::zeroed();
    for id in 100..200 {
        let term = Term { number: 1, taker: 9 };
        let generation = Generation { id: GenerationId(id), term, granted: true, first_lsn: Lsn(11) };
        lineage.append(generation, &[]);
        // The disk does not answer, so that none of them is taken in.
        bench.hears(ALPHA, &Message::NewGeneration { generation, lineage: lineage.clone() });
    }
    assert_eq!(bench.dropped, [ALPHA]);
}
