//! This replica as a target: what it keeps of a resync, and what it needs of its source's journal.

use replicator::layout::superblock::PeerSlot;
use replicator::units::REPLICAS_MAX;

use super::*;

/// A replica that has what its journal begins with, up to `end`.
fn shown(bench: &Bench, node: NodeId, role: Role, end: u64) -> PeerState {
    let introduction = bench.said_to(node).introduction;
    PeerState { node, introduction, ..state(role, end) }
}

fn introduces(bench: &mut Bench, state: PeerState) {
    bench.hears(state.node, &Message::State(Box::new(state)));
    passes(bench, 300);
}

/// So many milliseconds: what waits for a flush gets it.
fn passes(bench: &mut Bench, milliseconds: u32) {
    for _ in 0..milliseconds {
        bench.settle();
        bench.store();
    }
}

fn has_said_marks(bench: &Bench, to: NodeId) -> usize {
    bench.sent_to(to, |message| matches!(message, Message::DirtyRuns { .. }))
}

/// `source`, whose journal does not reach back to what beta has, begins to bring it up to date from `start` on.
fn begins_resync(bench: &mut Bench, source: NodeId, start: u64) {
    let state = shown(bench, source, Role::Primary, start);
    introduces(bench, PeerState { oldest_kept: Lsn(start + 1), has_dirty_bits: true, ..state });
    assert_eq!(has_said_marks(bench, source), 1, "it asks for a resync");
    bench.hears(source, &Message::ResyncFrom { start: Lsn(start), lineage: Lineage::zeroed() });
    bench.store();
}

/// Records come until `end`, and no more copies: the disk is one state of the volume with these records.
fn ends_resync(bench: &mut Bench, source: NodeId, start: u64, end: u64) {
    if end > start {
        bench.hears(source, &records(start + 1..end + 1));
    }
    bench.hears(source, &Message::ResyncEnd { consistent_at: Lsn(end) });
    bench.store();
    assert_eq!(bench.stored.resync, None, "it is over");
}

fn slot_of(bench: &Bench, node: NodeId) -> PeerSlot {
    *bench.stored.peer(node).expect("it was met")
}

#[test]
fn what_a_resync_left_to_the_journal_is_never_cut_off() {
    let mut bench = Bench::start();
    bench.link(ALPHA);
    begins_resync(&mut bench, ALPHA, 160);
    ends_resync(&mut bench, ALPHA, 160, 170);
    assert_eq!(bench.stored.consistent_at, Lsn(170));
    bench.loses(ALPHA);
    bench.link(ALPHA);
    assert_eq!(bench.said_to(ALPHA).stable, Lsn(170), "nobody has called them stable, and they cannot go");
    // Alpha has lost the last five of them, and goes on in a reign that a majority granted.
    let term = Term { number: 1, taker: 9 };
    let mut lineage = Lineage::zeroed();
    lineage.append(Generation { id: GenerationId(9), term, granted: true, first_lsn: Lsn(166) }, &[]);
    let alpha = shown(&bench, ALPHA, Role::Primary, 180);
    introduces(&mut bench, PeerState { lineage, ..alpha });
    assert_eq!(bench.sent_to(ALPHA, |message| matches!(message, Message::CatchUpFrom { .. })), 1);
    assert_eq!(has_said_marks(&bench, ALPHA), 2, "it is resynced again");
    assert_eq!(bench.stored.consistent_at, Lsn::ZERO, "what is forgotten is not looked for");
}

/// Alpha was bringing beta up to date, and has cleared marks meanwhile; gamma, which holds less, has done the rest.
fn taken_over() -> Bench {
    let mut bench = Bench::start();
    bench.link(ALPHA);
    begins_resync(&mut bench, ALPHA, 160);
    bench.loses(ALPHA);
    bench.link(GAMMA);
    begins_resync(&mut bench, GAMMA, 160);
    ends_resync(&mut bench, GAMMA, 160, 165);
    // Beta follows gamma, and hears that alpha has all that was marked for it.
    let gamma = shown(&bench, GAMMA, Role::Primary, 165);
    introduces(&mut bench, gamma);
    let mut flushed = [Lsn::ZERO; REPLICAS_MAX];
    flushed[..3].copy_from_slice(&[Lsn(170), Lsn(165), Lsn(165)]);
    let (disk, stable_up_to) = (DiskState::UpToDate, Lsn(160));
    bench.hears(GAMMA, &Message::Heartbeat { role: Role::Primary, disk, stable_up_to, flushed });
    bench.store();
    let alpha = slot_of(&bench, ALPHA);
    assert!(alpha.has_dirty_bits && alpha.has_cleared, "a restart forgets neither: {alpha:?}");
    bench.loses(GAMMA);
    bench.link(ALPHA);
    assert!(bench.said_to(ALPHA).has_dirty_bits);
    bench
}

#[test]
fn what_a_second_source_took_back_stays_marked_for_the_first_until_it_has_been_caught_up_with() {
    let mut ahead = taken_over();
    let alpha = shown(&ahead, ALPHA, Role::Secondary, 170);
    introduces(&mut ahead, alpha);
    assert_eq!(has_said_marks(&ahead, ALPHA), 2, "every block is compared");

    let mut equal = taken_over();
    let alpha = shown(&equal, ALPHA, Role::Secondary, 165);
    introduces(&mut equal, alpha);
    let slot = slot_of(&equal, ALPHA);
    assert!(!slot.has_dirty_bits && !slot.has_cleared, "{slot:?}");
    assert!(!equal.said_to(ALPHA).has_dirty_bits);
}

#[test]
fn marks_of_a_resync_that_skipped_no_write_are_dropped_when_a_third_node_shows_the_first_one() {
    let mut bench = Bench::start();
    bench.link(ALPHA);
    begins_resync(&mut bench, ALPHA, 0);
    ends_resync(&mut bench, ALPHA, 0, 2);
    bench.loses(ALPHA);
    bench.link(GAMMA);
    assert!(bench.said_to(GAMMA).has_dirty_bits, "nothing is known of it");
    let gamma = shown(&bench, GAMMA, Role::Secondary, 2);
    introduces(&mut bench, gamma);
    assert!(!bench.said_to(GAMMA).has_dirty_bits);
    let gamma = shown(&bench, GAMMA, Role::Secondary, 2);
    introduces(&mut bench, gamma);
    assert_eq!(has_said_marks(&bench, GAMMA), 0, "they are equal");
}

#[test]
fn a_target_whose_journal_is_full_makes_room_for_what_a_secondary_ships() {
    let volume = BlockRange::new(0, VOLUME_BYTES / 4096);
    let payload = Bytes::from(vec![1; bytes_usize(VOLUME_BYTES)]);
    let ship = |bench: &mut Bench, lsn: u64, stable_up_to| {
        let records = vec![Record::write(Lsn(lsn), volume, payload.clone())];
        let batch = RecordBatch { generation: GenerationId::ZEROED, stable_up_to, records };
        bench.hears(ALPHA, &Message::Records(batch));
        passes(bench, 300);
        assert!(bench.dropped.is_empty(), "no room for record {lsn}");
    };
    let mut bench = Bench::start();
    bench.link(ALPHA);
    let alpha = shown(&bench, ALPHA, Role::Primary, 50);
    introduces(&mut bench, alpha);
    (1..51).for_each(|lsn| ship(&mut bench, lsn, Lsn(lsn)));
    bench.loses(ALPHA);
    // Alpha is Primary no more, so that nobody says what it has flushed but itself, once.
    bench.link(ALPHA);
    let alpha = shown(&bench, ALPHA, Role::Secondary, 75);
    introduces(&mut bench, alpha);
    (51..76).for_each(|lsn| ship(&mut bench, lsn, Lsn::ZERO));
    assert_eq!(bench.durable(), Lsn(75));
}
