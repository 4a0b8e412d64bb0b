//! The decision of a round without a majority, row by row, with two replicas.

use super::*;
use crate::config::{Address, OnNoData, RESYNC_DEFAULT, ReplicaConfig, ReplicationProtocol};
use crate::generation::lineage::Position;
use crate::peer::message::{Basis, VoteStage};
use crate::promotion::membership::{InSyncSet, VoterList};
use crate::units::{GenerationId, Incarnation, Lsn, Span, Term};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);

fn config(on_peer_lost: OnPeerLost) -> Config {
    let replica = |name: &str| ReplicaConfig {
        name: name.to_owned(),
        protocol: ReplicationProtocol::C,
        address: Address::default(),
    };
    Config {
        resource: "mail".to_owned(),
        volume_bytes: 1 << 20,
        local: A,
        replicas: vec![replica("alpha"), replica("beta")],
        has_tiebreaker: false,
        on_peer_lost,
        on_no_data: OnNoData::Freeze,
        heartbeat: Span::from_millis(1000),
        peer_timeout: Span::from_millis(3000),
        digest: 0,
        disk_timeout: Span::from_millis(30_000),
        split_brain: Default::default(),
        resync: RESYNC_DEFAULT,
    }
}

fn position(lsn: u64) -> Position {
    let term = Term { number: 1, taker: 1 };
    Position { term, first_lsn: Lsn(1), lsn: Lsn(lsn), generation: GenerationId(1) }
}

fn request() -> VoteRequest {
    VoteRequest {
        round: 1,
        stage: VoteStage::Ask,
        candidate: A,
        incarnation: Incarnation(1),
        basis: Basis::Agreement,
        position: position(10),
        record: MembershipRecord {
            term: Term { number: 2, taker: 7 },
            version: 1,
            primary: Some(A),
            in_sync: InSyncSet::of(A, Incarnation(1)),
            voters: VoterList::default(),
        },
        peer_is_fenced: false,
    }
}

fn reply(vote: Result<(), Denial>, lsn: u64) -> VoteReply {
    VoteReply {
        round: 1,
        stage: VoteStage::Ask,
        vote,
        record: MembershipRecord::default(),
        position: position(lsn),
        incarnation: Incarnation(2),
        continues: None,
    }
}

/// beta is linked and answers this, if anything.
fn linked(on_peer_lost: OnPeerLost, answer: Option<VoteReply>, usable: &[NodeId]) -> Agreed {
    let (config, request) = (config(on_peer_lost), request());
    let replies: BTreeMap<NodeId, VoteReply> = answer.into_iter().map(|reply| (B, reply)).collect();
    decide(&Agreement {
        config: &config,
        request: &request,
        asked: &[B],
        replies: &replies,
        usable,
        unreachable: &[],
        replaced: &[],
        newest: Err("beta may hold more".to_owned()),
    })
}

/// beta cannot be asked.
fn alone(on_peer_lost: OnPeerLost, standing: Standing, newest: Result<(), String>) -> Agreed {
    let (config, request) = (config(on_peer_lost), request());
    decide(&Agreement {
        config: &config,
        request: &request,
        asked: &[],
        replies: &BTreeMap::new(),
        usable: &[],
        unreachable: &[(B, standing)],
        replaced: &[],
        newest,
    })
}

fn refusal(agreed: Agreed) -> &'static str {
    match agreed {
        Agreed::Refuse(refused) => refused.name,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_linked_peer_that_agrees_is_enough_and_is_counted_on_if_it_holds_the_same() {
    for mode in [OnPeerLost::Fence, OnPeerLost::Continue] {
        let Agreed::Take(record) = linked(mode, Some(reply(Ok(()), 10)), &[B]) else { panic!("it agreed") };
        assert_eq!(record.in_sync.incarnation_of(B), Some(Incarnation(2)));
        for (lsn, usable) in [(9, &[B][..]), (10, &[][..])] {
            let Agreed::Take(record) = linked(mode, Some(reply(Ok(()), lsn)), usable) else {
                panic!("agreed")
            };
            assert!(!record.in_sync.has_node(B), "behind, or in the middle of a resync");
        }
    }
}

#[test]
fn a_linked_peer_that_is_ahead_or_silent_or_primary_stands_against_it() {
    for mode in [OnPeerLost::Fence, OnPeerLost::Continue] {
        assert_eq!(
            refusal(linked(mode, Some(reply(Err(Denial::Behind { lsn: Lsn(11) }), 11)), &[B])),
            "not-in-sync"
        );
        assert!(matches!(linked(mode, None, &[B]), Agreed::Wait(_)));
        let lives = Err(Denial::PrimaryLives { primary: B });
        assert!(
            matches!(linked(mode, Some(reply(lives, 10)), &[B]), Agreed::Wait(refused) if refused.name == "peer-is-primary")
        );
    }
}

#[test]
fn under_continue_only_who_knows_that_it_is_newest_goes_without_the_peer() {
    assert!(matches!(alone(OnPeerLost::Continue, Standing::NotFenced, Ok(())), Agreed::Take(_)));
    let unknown = Err("beta may hold more".to_owned());
    assert_eq!(refusal(alone(OnPeerLost::Continue, Standing::NotFenced, unknown)), "disk-consistent");
}

#[test]
fn under_fence_the_peer_is_fenced_first_and_what_that_proves_has_to_be_enough() {
    let alone = |standing, knows: bool| {
        alone(OnPeerLost::Fence, standing, if knows { Ok(()) } else { Err("unknown".to_owned()) })
    };
    let fenced = |fenced| Standing::Fenced(fenced, "why".to_owned());
    assert_eq!(alone(Standing::NotFenced, true), Agreed::Fence(vec![B]));
    assert!(matches!(alone(Standing::BeingFenced, true), Agreed::Wait(_)));
    for enough in [Fenced::Inconsistent, Fenced::Outdated] {
        assert!(matches!(alone(fenced(enough), false), Agreed::Take(_)), "{enough:?}");
    }
    for silent in [Fenced::Down, Fenced::Shot] {
        assert!(matches!(alone(fenced(silent), true), Agreed::Take(_)), "{silent:?}");
        assert_eq!(refusal(alone(fenced(silent), false)), "disk-consistent", "{silent:?}");
    }
    for knows in [true, false] {
        assert_eq!(refusal(alone(fenced(Fenced::Primary), knows)), "peer-is-primary");
        assert_eq!(refusal(alone(fenced(Fenced::Unknown), knows)), "fence-failed");
    }
}

#[test]
fn the_agreement_of_a_new_disk_does_not_make_an_old_copy_the_newest() {
    for mode in [OnPeerLost::Fence, OnPeerLost::Continue] {
        let (config, request) = (config(mode), request());
        let replies = BTreeMap::from([(B, reply(Ok(()), 10))]);
        let round = |newest| Agreement {
            config: &config,
            request: &request,
            asked: &[B],
            replies: &replies,
            usable: &[B],
            unreachable: &[],
            replaced: &[B],
            newest,
        };
        assert_eq!(refusal(decide(&round(Err("beta may have held more".to_owned())))), "disk-consistent");
        assert!(matches!(decide(&round(Ok(()))), Agreed::Take(_)), "it was in sync to the end itself");
    }
}
