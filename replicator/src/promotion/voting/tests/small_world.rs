//! The table as a whole, against the rules once more in a small world.

use super::*;

/// The rules once more, in the order of the prose and not of the table.
fn oracle(view: &VoterView<'_>, request: &VoteRequest) -> Vec<&'static str> {
    let recorded = |node| view.record.in_sync.incarnation_of(node);
    let alive = recorded(view.node).is_some_and(|run| run == view.incarnation || view.continues == Some(run));
    let compares = match request.basis {
        Basis::First => false,
        Basis::Member { .. } => alive,
        Basis::AllReported => recorded(view.node).is_some(),
        Basis::Agreement => unreachable!("no majority is asked: it has a test of its own"),
    };
    let mut against = Vec::new();
    let mut holds = |name, condition| {
        if condition {
            against.push(name)
        }
    };
    holds("PrimaryLives", view.seen_primary != SeenPrimary::Nobody);
    let silent_for = view.now.0 - view.last_primary_frame.unwrap_or(view.started).0;
    let waits = silent_for < 2 * view.peer_timeout.0
        && view.reign == Reign::MayLast
        && !request.peer_is_fenced
        && view.record.primary.is_some_and(|primary| primary != view.node && primary != request.candidate);
    holds("Lease", waits);
    holds("OtherVoters", request.record.voters != view.known);
    holds("EmptyRecord", view.record.term.number == 0 && request.basis != Basis::First);
    let repeated = request.basis == Basis::First && view.record.term.number > 0;
    holds("OlderTerm", repeated || request.record.term.number <= view.record.term.number);
    let holds_the_same = view.node == request.candidate || (alive && view.position == Some(request.position));
    holds(
        "NotAMember",
        match request.basis {
            Basis::First => false,
            Basis::Member { continues } => {
                !holds_the_same
                    && ![Some(continues), Some(request.incarnation)].contains(&recorded(request.candidate))
            }
            Basis::AllReported => !holds_the_same && recorded(request.candidate).is_none(),
            Basis::Agreement => unreachable!("no majority is asked: it has a test of its own"),
        },
    );
    let is_equal = view.node == request.candidate || view.position == Some(request.position);
    holds("MemberLives", alive && !is_equal && request.basis == Basis::AllReported);
    let ahead = view.position.is_some_and(|own| own.lsn > request.position.lsn);
    holds("Behind", compares && ahead);
    let named = request.record.in_sync.incarnation_of(view.node).filter(|_| view.node != request.candidate);
    let fits = view.position == Some(request.position) && (compares || request.basis == Basis::First);
    holds("NotInSync", named.is_some_and(|run| run != view.incarnation || !fits));
    against
}

fn name_of(vote: Result<(), Denial>) -> &'static str {
    match vote {
        Ok(()) => "Granted",
        Err(Denial::OtherVoters) => "OtherVoters",
        Err(Denial::PrimaryLives { .. }) => "PrimaryLives",
        Err(Denial::EmptyRecord) => "EmptyRecord",
        Err(Denial::OlderTerm { .. }) => "OlderTerm",
        Err(Denial::NotAMember { .. }) => "NotAMember",
        Err(Denial::MemberLives { .. }) => "MemberLives",
        Err(Denial::Behind { .. }) => "Behind",
        Err(Denial::NotInSync { .. }) => "NotInSync",
        Err(Denial::Lease { .. }) => "Lease",
    }
}

/// Every view of a small world.
fn views(records: &[MembershipRecord]) -> Vec<VoterView<'_>> {
    let old_run = Incarnation(50);
    let runs = [
        (A, A_RUN, None),
        (A, old_run, None),
        (A, old_run, Some(A_RUN)),
        (B, B_RUN, None),
        (B, old_run, None),
        (T, Incarnation(0), None),
    ];
    let mut views = Vec::new();
    for record in records {
        for (node, incarnation, continues) in runs {
            for seen_primary in [SeenPrimary::Nobody, SeenPrimary::Here, SeenPrimary::Linked(A)] {
                for reign in [Reign::MayLast, Reign::Over] {
                    for heard in [None, Some(Tick(55_000_000))] {
                        let position = (node != T).then(|| position(100));
                        let last_primary_frame = heard;
                        let base = tiebreaker(record);
                        views.push(VoterView {
                            node,
                            position,
                            incarnation,
                            continues,
                            last_primary_frame,
                            reign,
                            seen_primary,
                            ..base
                        });
                    }
                }
            }
        }
    }
    views
}

/// Every request of a small world.
fn requests() -> Vec<VoteRequest> {
    let mut requests = Vec::new();
    let bases = [
        Basis::First,
        Basis::AllReported,
        Basis::Member { continues: A_RUN },
        Basis::Member { continues: B_RUN },
    ];
    for (candidate, incarnation, other) in [(A, A_RUN, B), (B, B_RUN, A)] {
        for basis in bases {
            for (number, lsn) in [(5, 99), (5, 100), (6, 99), (6, 100), (6, 101)] {
                for named in [None, Some(A_RUN), Some(B_RUN), Some(Incarnation(50))] {
                    for (peer_is_fenced, same_voters) in [(false, true), (true, true), (false, false)] {
                        let mut in_sync = InSyncSet::of(candidate, incarnation);
                        if let Some(run) = named {
                            in_sync = in_sync.with(other, run);
                        }
                        let mut record = record(number, Some(candidate), in_sync);
                        if !same_voters {
                            record.voters.ids[0] = VoterId(999);
                        }
                        let position = position(lsn);
                        let base = request();
                        requests.push(VoteRequest {
                            candidate,
                            incarnation,
                            basis,
                            position,
                            record,
                            peer_is_fenced,
                            ..base
                        });
                    }
                }
            }
        }
    }
    requests
}

#[test]
fn exactly_one_row_decides_every_request_in_a_small_world() {
    let records = [
        MembershipRecord { voters: voters(), ..MembershipRecord::default() },
        record(5, Some(A), InSyncSet::of(A, A_RUN)),
        record(5, Some(A), both()),
        record(5, None, both()),
    ];
    let mut decided = std::collections::BTreeMap::new();
    for view in views(&records) {
        for request in requests() {
            let against = oracle(&view, &request);
            for row in GRANT_ROWS {
                let denial = (row.denies)(&view, &request);
                let name = denial.map_or("", |denial| name_of(Err(denial)));
                let expected = if against.contains(&row.name) { row.name } else { "" };
                assert_eq!(name, expected, "row {} of {view:?} and {request:?}", row.name);
            }
            let deciding = GRANT_ROWS.iter().map(|row| row.name).find(|name| against.contains(name));
            let name = name_of(may_grant(&view, &request));
            assert_eq!(name, deciding.unwrap_or("Granted"));
            *decided.entry(name).or_insert(0u32) += 1;
        }
    }
    let all: Vec<_> = GRANT_ROWS.iter().map(|row| row.name).chain(["Granted"]).collect();
    assert!(all.iter().all(|name| decided.contains_key(name)), "every row decides something: {decided:?}");
    assert_eq!(decided.len(), all.len());
}
