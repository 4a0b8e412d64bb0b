//! Every row of the table by itself, and the accidents that one voter withstands alone.

mod small_world;

use super::*;
use crate::peer::message::VoteStage;
use crate::promotion::membership::InSyncSet;
use crate::units::{GenerationId, Lsn, VoterId};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const T: NodeId = NodeId(2);
/// The runs that the record names.
const A_RUN: Incarnation = Incarnation(11);
const B_RUN: Incarnation = Incarnation(12);
const TIMEOUT: Span = Span::from_millis(3000);

fn voters() -> VoterList {
    let mut voters = VoterList::default();
    voters.ids[..3].copy_from_slice(&[VoterId(100), VoterId(101), VoterId(102)]);
    voters
}

fn term(number: u64) -> Term {
    Term::asked(number, 2 * (1000 - number))
}

fn record(number: u64, primary: Option<NodeId>, in_sync: InSyncSet) -> MembershipRecord {
    MembershipRecord { term: term(number), version: 3, primary, in_sync, voters: voters() }
}

fn both() -> InSyncSet {
    InSyncSet::of(A, A_RUN).with(B, B_RUN)
}

fn position(lsn: u64) -> Position {
    Position { term: term(5), first_lsn: Lsn(90), lsn: Lsn(lsn), generation: GenerationId(7) }
}

/// A tiebreaker that has heard nothing from the Primary for a long time.
fn tiebreaker(record: &MembershipRecord) -> VoterView<'_> {
    VoterView {
        record,
        node: T,
        position: None,
        incarnation: Incarnation(0),
        continues: None,
        now: Tick(60_000_000),
        started: Tick(0),
        last_primary_frame: None,
        reign: Reign::MayLast,
        seen_primary: SeenPrimary::Nobody,
        peer_timeout: TIMEOUT,
        asks_a_majority: true,
        has_usable_disk: true,
        is_settled: true,
        voters: 3,
        known: voters(),
    }
}

/// Replica A in the run that the record names, with everything up to 100.
fn replica_a(record: &MembershipRecord) -> VoterView<'_> {
    let position = Some(position(100));
    VoterView { node: A, position, incarnation: A_RUN, ..tiebreaker(record) }
}

/// The tiebreaker as one that stores records.
fn storing(known: &VoterList) -> Voter<'_> {
    Voter { node: T, known, asks_a_majority: true }
}

/// B, a member with everything up to 100, asks for term 6.
fn request() -> VoteRequest {
    VoteRequest {
        round: 1,
        stage: VoteStage::Take,
        candidate: B,
        incarnation: B_RUN,
        basis: Basis::Member { continues: B_RUN },
        position: position(100),
        record: record(6, Some(B), InSyncSet::of(B, B_RUN)),
        peer_is_fenced: false,
    }
}

#[test]
fn a_member_is_granted_its_term_by_everybody_who_has_nothing_against_it() {
    let record = record(5, Some(A), both());
    assert_eq!(may_grant(&tiebreaker(&record), &request()), Ok(()));
    assert_eq!(may_grant(&replica_a(&record), &request()), Ok(()));
}

#[test]
fn other_voters_are_refused_wherever_they_differ() {
    let record = record(5, Some(A), both());
    let empty = MembershipRecord::default();
    let view = tiebreaker(&record);
    let denied = |view: &VoterView<'_>, change: fn(&mut VoteRequest)| {
        let mut request = request();
        request.basis = if view.record.is_empty() { Basis::First } else { request.basis };
        change(&mut request);
        may_grant(view, &request) == Err(Denial::OtherVoters)
    };
    assert!(denied(&view, |request| request.record.voters.ids[0] = VoterId(999)), "not as recorded");
    assert!(denied(&view, |request| request.record.voters.ids[2] = VoterId(999)), "not this voter");
    assert!(denied(&view, |request| request.record.voters.ids[3] = VoterId(103)), "one more");
    assert!(denied(&view, |request| request.record.voters.ids[1] = VoterId(0)), "one that nobody met");
    assert!(denied(&VoterView { voters: 4, ..view }, |_| ()), "another number by configuration");
    assert!(denied(&VoterView { voters: 2, ..view }, |_| ()), "fewer by configuration");
    let mut emptied = record;
    emptied.voters.ids[0] = seats::NOBODY;
    let view = tiebreaker(&emptied);
    assert!(denied(&view, |_| ()), "it asks for the list before the one that the voter has stored");
    assert!(!denied(&view, |request| request.record.voters.ids[0] = seats::NOBODY));
    let mut without_itself = record;
    without_itself.voters.ids[2] = seats::NOBODY;
    let view = tiebreaker(&without_itself);
    assert!(denied(&view, |request| request.record.voters.ids[2] = seats::NOBODY), "it has no seat itself");
    let fresh = tiebreaker(&empty);
    assert!(!denied(&fresh, |_| ()));
    assert!(denied(&fresh, |request| request.record.voters.ids[0] = VoterId(0)), "one that nobody met");
    assert!(denied(&fresh, |request| request.record.voters.ids[0] = VoterId(999)), "not the one met");
    let mut itself = VoterList::default();
    itself.ids[2] = VoterId(9);
    assert!(denied(&VoterView { known: itself, ..fresh }, |_| ()), "listed as another than it is");
}

#[test]
fn nobody_deposes_a_primary_that_the_voter_is_or_sees() {
    let record = record(5, Some(A), both());
    let here = VoterView { seen_primary: SeenPrimary::Here, ..replica_a(&record) };
    let linked = VoterView { seen_primary: SeenPrimary::Linked(A), ..tiebreaker(&record) };
    for view in [here, linked] {
        let fenced = VoteRequest { peer_is_fenced: true, ..request() };
        assert_eq!(may_grant(&view, &fenced), Err(Denial::PrimaryLives { primary: A }));
    }
}

#[test]
fn a_voter_without_a_record_votes_in_the_first_promotion_only() {
    let empty = MembershipRecord::default();
    let first = VoteRequest { basis: Basis::First, ..request() };
    assert_eq!(may_grant(&tiebreaker(&empty), &first), Ok(()));
    assert_eq!(may_grant(&tiebreaker(&empty), &request()), Err(Denial::EmptyRecord));
    let reported = VoteRequest { basis: Basis::AllReported, ..request() };
    assert_eq!(may_grant(&tiebreaker(&empty), &reported), Err(Denial::EmptyRecord));
}

#[test]
fn a_voter_with_a_record_never_votes_for_a_first_promotion_or_an_old_term() {
    let record = record(5, Some(A), both());
    let first = VoteRequest { basis: Basis::First, ..request() };
    let denial = Err(Denial::OlderTerm { term: term(5) });
    assert_eq!(may_grant(&tiebreaker(&record), &first), denial);
    for taker in [0, 995, u64::MAX] {
        let mut same = request();
        same.record.term = Term { number: 5, taker };
        assert_eq!(may_grant(&tiebreaker(&record), &same), denial, "taker {taker}");
    }
}

#[test]
fn a_candidate_outside_the_set_is_refused_whatever_it_holds() {
    let alone = record(5, Some(A), InSyncSet::of(A, A_RUN));
    let ahead = VoteRequest { position: position(1000), peer_is_fenced: true, ..request() };
    let denial = Err(Denial::NotAMember { term: term(5) });
    assert_eq!(may_grant(&tiebreaker(&alone), &ahead), denial);
    assert_eq!(may_grant(&tiebreaker(&alone), &VoteRequest { basis: Basis::AllReported, ..ahead }), denial);
}

#[test]
fn a_member_that_did_not_continue_its_recorded_run_is_no_member() {
    let record = record(5, Some(A), both());
    let restarted = Basis::Member { continues: Incarnation(77) };
    let request = VoteRequest { basis: restarted, incarnation: Incarnation(77), ..request() };
    assert_eq!(may_grant(&tiebreaker(&record), &request), Err(Denial::NotAMember { term: term(5) }));
}

#[test]
fn reports_count_for_nothing_while_a_member_lives() {
    let record = record(5, Some(A), both());
    let reported = VoteRequest { basis: Basis::AllReported, position: position(101), ..request() };
    assert_eq!(may_grant(&replica_a(&record), &reported), Err(Denial::MemberLives { member: A }));
    let equal = VoteRequest { position: position(100), ..reported };
    assert_eq!(may_grant(&replica_a(&record), &equal), Ok(()), "it holds just what the member holds");
    let continued = VoterView { incarnation: Incarnation(50), continues: Some(A_RUN), ..replica_a(&record) };
    assert_eq!(may_grant(&continued, &reported), Err(Denial::MemberLives { member: A }));
    let restarted = VoterView { incarnation: Incarnation(50), ..replica_a(&record) };
    assert_eq!(may_grant(&restarted, &reported), Ok(()));
    let behind = VoteRequest { position: position(99), ..reported };
    assert_eq!(may_grant(&restarted, &behind), Err(Denial::Behind { lsn: Lsn(100) }), "nodes compare");
}

#[test]
fn a_member_votes_for_nobody_behind_it_and_a_non_member_does_not_compare() {
    let record = record(5, Some(A), both());
    let behind = VoteRequest { position: position(99), ..request() };
    assert_eq!(may_grant(&replica_a(&record), &behind), Err(Denial::Behind { lsn: Lsn(100) }));
    let former = VoterView { incarnation: Incarnation(50), ..replica_a(&record) };
    assert_eq!(may_grant(&former, &behind), Ok(()));
    assert_eq!(may_grant(&tiebreaker(&record), &behind), Ok(()));
}

#[test]
fn the_identity_of_a_generation_never_decides_who_is_ahead() {
    let record = record(5, Some(A), both());
    for generation in [1, 7, u64::MAX] {
        let position = Position { generation: GenerationId(generation), ..position(100) };
        assert_eq!(may_grant(&replica_a(&record), &VoteRequest { position, ..request() }), Ok(()));
    }
    let older_reign = Position { term: term(4), ..position(1000) };
    let request = VoteRequest { position: older_reign, ..request() };
    assert_eq!(may_grant(&replica_a(&record), &request), Err(Denial::Behind { lsn: Lsn(100) }));
}

#[test]
fn a_voter_is_named_in_sync_only_at_exactly_the_candidates_position_and_in_its_present_run() {
    let own = record(5, Some(A), both());
    let naming = |run, lsn| VoteRequest {
        record: record(6, Some(B), InSyncSet::of(B, B_RUN).with(A, run)),
        position: position(lsn),
        ..request()
    };
    let view = replica_a(&own);
    let denial = Err(Denial::NotInSync { lsn: Lsn(100) });
    assert_eq!(may_grant(&view, &naming(A_RUN, 100)), Ok(()));
    assert_eq!(may_grant(&view, &naming(A_RUN, 101)), denial, "the candidate is ahead");
    assert_eq!(may_grant(&view, &naming(Incarnation(50), 100)), denial, "another run");
    let mut other = naming(A_RUN, 100);
    other.position.generation = GenerationId(8);
    assert_eq!(may_grant(&view, &other), denial, "another generation");
    let restarted = VoterView { incarnation: Incarnation(50), ..view };
    assert_eq!(may_grant(&restarted, &naming(Incarnation(50), 100)), denial, "no member any more");
    let continued = VoterView { continues: Some(A_RUN), ..restarted };
    assert_eq!(may_grant(&continued, &naming(Incarnation(50), 100)), Ok(()), "its runs are exchanged");
}

#[test]
fn the_lease_ends_two_timeouts_after_the_last_frame_and_after_the_start() {
    let record = record(5, Some(A), both());
    let at = |now, started, heard: Option<u64>| {
        let view = VoterView {
            now: Tick(now),
            started: Tick(started),
            last_primary_frame: heard.map(Tick),
            ..tiebreaker(&record)
        };
        may_grant(&view, &request())
    };
    let remaining = |span| Err(Denial::Lease { remaining: Span(span) });
    assert_eq!(at(10_000_000, 0, Some(4_000_001)), remaining(1));
    assert_eq!(at(10_000_000, 0, Some(4_000_000)), Ok(()));
    assert_eq!(at(10_000_000, 9_000_000, None), remaining(5_000_000));
    assert_eq!(at(10_000_000, 9_000_000, Some(1)), remaining(5_000_000));
    assert_eq!(at(6_000_000, 0, None), Ok(()));
}

#[test]
fn the_lease_is_not_waited_for_where_the_reign_is_known_to_be_over() {
    let own = record(5, Some(A), both());
    fn fresh(record: &MembershipRecord) -> VoterView<'_> {
        VoterView { last_primary_frame: Some(Tick(60_000_000)), ..tiebreaker(record) }
    }
    let waits = |view: &VoterView<'_>, request: &VoteRequest| {
        matches!(may_grant(view, request), Err(Denial::Lease { .. }))
    };
    assert!(waits(&fresh(&own), &request()));
    assert!(!waits(&VoterView { reign: Reign::Over, ..fresh(&own) }, &request()), "told");
    assert!(!waits(&fresh(&own), &VoteRequest { peer_is_fenced: true, ..request() }), "fenced");
    assert!(!waits(&fresh(&record(5, None, both())), &request()), "demoted");
    assert!(!waits(&fresh(&record(5, Some(B), both())), &request()), "the restarted Primary asks itself");
    let former = VoterView { last_primary_frame: Some(Tick(60_000_000)), ..replica_a(&own) };
    assert!(!waits(&former, &request()), "the restarted Primary is asked");
}

#[test]
fn a_late_proposal_never_replaces_the_record_that_followed_it() {
    let known = voters();
    let known = storing(&known);
    let with_b = MembershipRecord { version: 4, ..record(5, Some(A), both()) };
    let without_b = MembershipRecord { version: 5, ..record(5, Some(A), InSyncSet::of(A, A_RUN)) };
    assert_eq!(may_store(&with_b, known, &without_b, A), Ok(()));
    let denial = StoreDenial::OlderRecord { term: term(5), version: 5 };
    assert_eq!(may_store(&without_b, known, &with_b, A), Err(denial));
    assert_eq!(may_store(&without_b, known, &without_b, A), Err(denial));
    // B, still believing to be in the set, gets no vote from who knows better.
    let denied = may_grant(&tiebreaker(&without_b), &request());
    assert_eq!(denied, Err(Denial::NotAMember { term: term(5) }));
}

#[test]
fn a_restart_proves_nothing_to_a_voter() {
    let record = record(5, Some(B), both());
    let restarted = VoteRequest {
        candidate: A,
        incarnation: Incarnation(50),
        basis: Basis::Member { continues: Incarnation(50) },
        position: position(90),
        record: self::record(6, Some(A), InSyncSet::of(A, Incarnation(50))),
        ..request()
    };
    let denial = Err(Denial::NotAMember { term: term(5) });
    assert_eq!(may_grant(&tiebreaker(&record), &restarted), denial);
    // Nor while the member that holds 91 to 100 lives.
    let b = VoterView { node: B, incarnation: B_RUN, ..replica_a(&record) };
    let reported = VoteRequest { basis: Basis::AllReported, ..restarted };
    assert_eq!(may_grant(&b, &reported), Err(Denial::MemberLives { member: B }));
}

#[test]
fn a_voter_that_restarts_in_a_partition_waits_like_any_other() {
    let record = record(5, Some(A), both());
    let b = VoterView {
        node: B,
        incarnation: Incarnation(51),
        continues: Some(B_RUN),
        started: Tick(59_999_000),
        ..replica_a(&record)
    };
    assert_eq!(may_grant(&b, &request()), Err(Denial::Lease { remaining: Span(5_999_000) }));
}

#[test]
fn a_candidacy_without_a_chance_changes_nothing() {
    let alone = record(5, Some(A), InSyncSet::of(A, A_RUN));
    for number in 6..20 {
        let mut request = request();
        request.record.term = term(number);
        assert_eq!(may_grant(&tiebreaker(&alone), &request), Err(Denial::NotAMember { term: term(5) }));
        let linked = VoterView { seen_primary: SeenPrimary::Linked(A), ..tiebreaker(&alone) };
        assert_eq!(may_grant(&linked, &request), Err(Denial::PrimaryLives { primary: A }));
    }
}

#[test]
fn a_replica_that_is_asked_for_its_agreement_objects_only_as_primary_or_as_one_that_is_ahead() {
    let record = record(5, Some(B), both());
    let view = VoterView { asks_a_majority: false, ..replica_a(&record) };
    let ask = |change: fn(&mut VoteRequest)| {
        let mut request = request();
        (request.basis, request.position) = (Basis::Agreement, position(100));
        request.record.in_sync = InSyncSet::of(B, Incarnation(77));
        change(&mut request);
        request
    };
    assert_eq!(may_grant(&view, &ask(|_| ())), Ok(()), "neither lease nor membership nor voters count");
    assert_eq!(
        may_grant(&view, &ask(|it| it.position = position(99))),
        Err(Denial::Behind { lsn: Lsn(100) })
    );
    let primary = VoterView { seen_primary: SeenPrimary::Here, ..view };
    assert_eq!(may_grant(&primary, &ask(|_| ())), Err(Denial::PrimaryLives { primary: A }));
    let old = ask(|it| it.record.term = term(5));
    assert_eq!(may_grant(&view, &old), Err(Denial::OlderTerm { term: term(5) }));
    let named = ask(|it| it.record.in_sync = it.record.in_sync.with(A, A_RUN));
    assert_eq!(may_grant(&view, &named), Ok(()));
    let resynced = VoterView { has_usable_disk: false, ..view };
    assert_eq!(may_grant(&resynced, &named), Err(Denial::NotInSync { lsn: Lsn(100) }));
    assert_eq!(may_grant(&resynced, &ask(|_| ())), Ok(()), "it is not counted on");
    // Whoever counts majorities grants nothing without one, and the other way round.
    let counts = VoterView { asks_a_majority: true, ..view };
    assert_eq!(may_grant(&counts, &ask(|_| ())), Err(Denial::OtherVoters));
    assert_eq!(may_grant(&view, &ask(|it| it.basis = Basis::First)), Err(Denial::OtherVoters));
}

#[test]
fn within_a_reign_only_its_primary_changes_the_record() {
    let known = voters();
    let known = storing(&known);
    let own = record(5, Some(A), both());
    let update = MembershipRecord { version: 4, ..own };
    let denial = |from, number| Err(StoreDenial::NotThePrimary { from, term: term(number) });
    assert_eq!(may_store(&own, known, &update, A), Ok(()));
    assert_eq!(may_store(&own, known, &update, B), denial(B, 5));
    let usurped = MembershipRecord { primary: Some(B), ..update };
    assert_eq!(may_store(&own, known, &usurped, B), denial(B, 5));
    let next = record(6, Some(B), both());
    assert_eq!(may_store(&own, known, &next, B), Ok(()));
    assert_eq!(may_store(&own, known, &next, A), denial(A, 6));
    assert_eq!(
        may_store(&next, known, &update, A),
        Err(StoreDenial::OlderRecord { term: term(6), version: 3 })
    );
    let ended = MembershipRecord { primary: None, version: 5, ..own };
    assert_eq!(may_store(&own, known, &ended, A), Ok(()));
    assert_eq!(may_store(&ended, known, &MembershipRecord { version: 6, ..own }, A), denial(A, 5));
    let missed = record(6, None, InSyncSet::of(B, B_RUN));
    for from in [A, B] {
        assert_eq!(may_store(&own, known, &missed, from), denial(from, 6), "it may never have been granted");
    }
    assert_eq!(may_store(&MembershipRecord::default(), known, &own, A), Ok(()));
}

#[test]
fn what_is_passed_on_replaces_older_records_that_name_the_voter_whoever_brings_it() {
    let own = record(5, Some(A), both());
    let known = storing(&own.voters);
    let newer = MembershipRecord { version: own.version + 1, ..own };
    assert_eq!(may_replace(&own, known, &newer), Ok(()));
    assert_eq!(may_replace(&own, known, &record(6, None, both())), Ok(()));
    assert_eq!(may_replace(&MembershipRecord::default(), known, &own), Ok(()));
    for older in [own, record(4, Some(A), both())] {
        let stored = StoreDenial::OlderRecord { term: term(5), version: own.version };
        assert_eq!(may_replace(&own, known, &older), Err(stored));
    }
    // The list of the others changes by records; one that does not name this voter is not for it.
    let mut others = newer;
    others.voters.ids[0] = VoterId(99);
    assert_eq!(may_replace(&own, known, &others), Ok(()));
    for stranger in [VoterId(99), seats::NOBODY, VoterId(0)] {
        others.voters.ids[2] = stranger;
        assert_eq!(may_replace(&own, known, &others), Err(StoreDenial::OtherVoters), "{stranger}");
    }
    // Whoever has stored nothing yet has promised nothing: whom it has met as others does not matter.
    others.voters = own.voters;
    for another in [VoterId(99), seats::NOBODY] {
        others.voters.ids[0] = another;
        assert_eq!(may_replace(&MembershipRecord::default(), known, &others), Ok(()));
    }
}

#[test]
fn a_record_that_a_candidate_alone_can_have_made_shows_no_reign() {
    let asked = MembershipRecord { version: 1, ..record(5, Some(A), both()) };
    let given_up = MembershipRecord { version: 2, primary: None, ..asked };
    assert!(!shows_a_reign(&asked) && !shows_a_reign(&given_up));
    let changed = MembershipRecord { version: 2, ..asked };
    let ended = MembershipRecord { version: 3, primary: None, ..asked };
    assert!(shows_a_reign(&changed) && shows_a_reign(&ended));
}

#[test]
fn a_vote_for_a_term_that_was_never_granted_gives_way_to_the_reign_of_that_number() {
    let known = voters();
    let voter = storing(&known);
    let granted = record(5, Some(A), both());
    let rival = Term::asked(5, granted.term.taker + 2);
    let vote = MembershipRecord { term: rival, version: 1, primary: Some(B), ..granted };
    let given_up = vote.ended();
    for own in [vote, given_up] {
        assert!(own.order() > granted.order());
        assert_eq!(may_store(&own, voter, &granted, A), Ok(()));
        assert_eq!(may_replace(&own, voter, &granted), Ok(()));
        // Without a majority two may reign in terms of one number: the order of the terms decides.
        let alone = Voter { asks_a_majority: false, ..voter };
        let older = StoreDenial::OlderRecord { term: rival, version: own.version };
        assert_eq!(may_replace(&own, alone, &granted), Err(older));
        assert_eq!(
            may_store(&own, voter, &granted, B),
            Err(StoreDenial::NotThePrimary { from: B, term: granted.term })
        );
    }
    for reign in
        [MembershipRecord { version: 2, ..vote }, MembershipRecord { version: 3, primary: None, ..vote }]
    {
        let older = StoreDenial::OlderRecord { term: rival, version: reign.version };
        assert_eq!(may_replace(&reign, voter, &granted), Err(older), "somebody lies");
    }
    let forced = MembershipRecord { term: Term::forced(5, rival.taker), ..granted };
    for own in [vote, granted] {
        let denied = StoreDenial::OlderRecord { term: own.term, version: own.version };
        assert_eq!(may_replace(&own, voter, &forced), Err(denied), "the vote may be one of a majority");
        assert_eq!(may_replace(&forced, voter, &own), Ok(()), "no majority has granted what was forced");
    }
    let next = MembershipRecord { term: Term::forced(6, 0), ..granted };
    assert_eq!(may_replace(&granted, voter, &next), Ok(()));
}

#[test]
fn a_candidate_is_known_to_one_voter_as_this_run_and_to_another_as_the_one_before() {
    let before = Incarnation(B_RUN.0 + 1);
    let asks = VoteRequest { basis: Basis::Member { continues: before }, ..request() };
    for run in [B_RUN, before] {
        let record = record(5, Some(A), both().with(B, run));
        assert_eq!(may_grant(&tiebreaker(&record), &asks), Ok(()));
    }
    let other = record(5, Some(A), both().with(B, Incarnation(99)));
    assert_eq!(may_grant(&tiebreaker(&other), &asks), Err(Denial::NotAMember { term: term(5) }));
}

#[test]
fn a_candidate_that_its_own_record_calls_a_living_member_is_not_in_its_own_way() {
    let record = record(5, Some(A), both());
    let own = VoterView { node: B, incarnation: B_RUN, ..replica_a(&record) };
    let asks = VoteRequest { basis: Basis::AllReported, ..request() };
    let asks = VoteRequest { position: position(101), ..asks };
    assert_eq!(may_grant(&own, &asks), Ok(()));
    assert_eq!(may_grant(&replica_a(&record), &asks), Err(Denial::MemberLives { member: A }));
}

#[test]
fn a_candidates_own_vote_is_no_matter_of_the_record_that_it_has_stored() {
    let record = record(5, Some(A), InSyncSet::of(A, A_RUN));
    let own = VoterView { node: B, incarnation: B_RUN, ..replica_a(&record) };
    assert_eq!(may_grant(&own, &request()), Ok(()), "it may be a vote that came to nothing");
}

#[test]
fn whoever_holds_exactly_what_a_living_member_holds_counts_as_one_to_that_member() {
    let record = record(5, Some(A), InSyncSet::of(A, A_RUN));
    let denied = Err(Denial::NotAMember { term: term(5) });
    assert_eq!(may_grant(&replica_a(&record), &request()), Ok(()));
    let elsewhere = VoteRequest { position: position(101), ..request() };
    assert_eq!(may_grant(&replica_a(&record), &elsewhere), denied);
    let restarted = VoterView { incarnation: Incarnation(50), ..replica_a(&record) };
    assert_eq!(may_grant(&restarted, &request()), denied, "it is no member itself");
    let resynced = VoterView { has_usable_disk: false, ..replica_a(&record) };
    assert_eq!(may_grant(&resynced, &request()), denied, "its position is where a resync began");
    let unsettled = VoterView { is_settled: false, ..replica_a(&record) };
    assert_eq!(
        may_grant(&unsettled, &request()),
        denied,
        "it may have acknowledged more than it has flushed"
    );
    assert_eq!(may_grant(&tiebreaker(&record), &request()), denied, "it holds nothing");
}
