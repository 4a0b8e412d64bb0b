//! Two nodes that wrote on their own: nothing is resolved without an order, and the one that gives way ends equal to the
//! other, with what it gave up in a file.

use std::collections::BTreeMap;

use bytes::Bytes;
use replicator::config::OnPeerLost;
use replicator::effect::Answer;
use replicator::event::{Order, OrderId};
use replicator::generation::lineage::Lineage;
use replicator::generation::split_brain::{Discards, Policies, Policy};
use replicator::promotion::membership::MembershipRecord;
use replicator::rescue::{Giving, Save};
use replicator::state::{ConnectionState, DiskState, Role};
use replicator::units::{BLOCK_BYTES, NodeId, Span};
use sim::node::{NodeOptions, SimNode, VOLUME_BYTES};
use sim::world::{ALPHA, BETA, Delays, World, WorldOptions};

use crate::{pass, promoted_with};

/// Says that a node's newest generation was granted by nobody, and gives it a voters' record.
fn rewrite(machine: &mut SimNode, record: Option<MembershipRecord>) {
    let mut superblock = machine.superblock();
    let mut generations = superblock.lineage.generations().to_vec();
    if let Some(newest) = generations.last_mut() {
        newest.granted = false;
    }
    superblock.lineage = Lineage::parse(generations).expect("it was one");
    superblock.membership = record.unwrap_or(superblock.membership);
    superblock.sequence += 1;
    let offset = superblock.zones.superblocks()[superblock.copy_index()].offset;
    machine.metadata.write_through(offset, &superblock.encode()[..]);
}

fn common_past(seed: u64, options: &WorldOptions) -> World {
    let mut world = promoted_with(seed, options.clone());
    for block in 0..40 {
        world.write_now(ALPHA, block * 3 * BLOCK_BYTES, BLOCK_BYTES);
    }
    assert!(world.run_until(Span::from_millis(10_000), World::is_idle), "{}", world.summaries());
    world
}

/// Alpha and beta after a common past, each with writes of its own. Neither daemon runs.
pub(super) fn parted_with(
    seed: u64,
    options: &WorldOptions,
    at_alpha: impl Fn(&mut World),
    at_beta: impl Fn(&mut World),
) -> World {
    let mut elsewhere = common_past(seed, options);
    elsewhere.kill(ALPHA);
    elsewhere.promote(BETA, 20_000).expect("it was in sync");
    at_beta(&mut elsewhere);
    elsewhere.kill(BETA);
    let mut world = common_past(seed, options);
    world.kill(BETA);
    pass(&mut world, 5000);
    at_alpha(&mut world);
    world.kill(ALPHA);
    std::mem::swap(&mut world.nodes[1].metadata, &mut elsewhere.nodes[1].metadata);
    std::mem::swap(&mut world.nodes[1].data, &mut elsewhere.nodes[1].data);
    world.nodes[1].mark = None;
    rewrite(&mut world.nodes[0], None);
    let record = world.nodes[0].superblock().membership;
    rewrite(&mut world.nodes[1], Some(record));
    world
}

pub(super) fn writes(node: NodeId, first: u64, count: u64) -> impl Fn(&mut World) {
    move |world| {
        for block in first..first + count {
            world.write_now(node, block * BLOCK_BYTES, BLOCK_BYTES);
        }
        pass(world, 500);
    }
}

/// Alpha wrote blocks 50 to 69 alone, beta blocks 60 to 89; both run and know of it.
fn split(seed: u64) -> World {
    split_with(seed, &WorldOptions::default())
}

fn split_with(seed: u64, options: &WorldOptions) -> World {
    let mut world = parted_with(seed, options, writes(ALPHA, 50, 20), writes(BETA, 60, 30));
    meet(&mut world);
    world
}

pub(super) fn meet(world: &mut World) {
    world.start(ALPHA);
    world.start(BETA);
    let have_met = |world: &World| [ALPHA, BETA].into_iter().all(|node| rule(world, node).is_some());
    assert!(world.run_until(Span::from_millis(20_000), have_met), "{}", world.summaries());
}

fn rule(world: &World, node: NodeId) -> Option<String> {
    world.status(node).connections[0].rule.clone()
}

fn is_stand_alone(world: &World, node: NodeId) -> bool {
    world.status(node).connections[0].connection_state == ConnectionState::StandAlone
}

fn giving(what: Discards, save: Save, is_rehearsal: bool) -> Order {
    Order::ResolveSplitBrain { peer: None, giving: Giving { what, save, is_rehearsal } }
}

pub(super) fn discard_mine() -> Order {
    giving(Discards::Changes, Save::ByDefault, false)
}

/// Both become equal to what alpha has, which then serves.
fn end_equal(world: &mut World) {
    assert!(world.run_until(Span::from_millis(60_000), World::is_in_sync), "{}", world.summaries());
    if world.role(ALPHA) != Role::Primary {
        world.promote(ALPHA, 20_000).expect("both hold the same");
    }
    world.assert_converges();
    world.read_everything(ALPHA);
}

/// The volume as a node's clients saw it last: by recovery, then by what is written back.
fn content(machine: &SimNode) -> BTreeMap<u64, Bytes> {
    let blocks = 0..VOLUME_BYTES / BLOCK_BYTES;
    blocks.map(|block| (block, machine.data.read(block * BLOCK_BYTES, BLOCK_BYTES))).collect()
}

#[test]
fn a_split_brain_is_told_to_both_sides_and_nothing_is_resolved_without_an_order() {
    for seed in 0..10 {
        let mut world = split(seed);
        let before = [0, 1].map(|node: usize| content(&world.nodes[node]));
        pass(&mut world, 20_000);
        for node in [ALPHA, BETA] {
            assert!(is_stand_alone(&world, node), "{}", world.summaries());
            assert_eq!(rule(&world, node).as_deref(), Some("SplitBrain"));
            assert!(world.has_noticed(node, "split-brain"));
        }
        let advice = world.status(BETA).advice;
        let advice = advice.iter().find(|advice| advice.state == "stand-alone").expect("an advice");
        assert!(advice.status.contains("30 writes here and 20 there"), "{advice:?}");
        assert!(advice.action.contains("resolve-split-brain sim --discard-mine"), "{advice:?}");
        assert!(before == [0, 1].map(|node: usize| content(&world.nodes[node])), "nothing has changed");
    }
}

#[test]
fn the_node_that_gives_way_ends_equal_and_what_it_gave_up_is_in_a_file_as_its_clients_last_saw_it() {
    for seed in 0..20 {
        let mut world = split(seed);
        world.promote(ALPHA, 20_000).expect("it is the newest that the voters know");
        let order = giving(Discards::Changes, Save::ByDefault, true);
        let text = world.ask_operator(BETA, order).expect("there is something to resolve");
        assert!(text.contains("would discard 30 writes of beta"), "{text}");
        assert!(text.contains("60-89"), "{text}");
        assert!(text.contains("rescue-0"), "{text}");
        assert!(
            is_stand_alone(&world, BETA) && world.nodes[1].rescues.files.is_empty(),
            "nothing has changed"
        );

        let text = world.ask_operator(BETA, discard_mine()).expect("there is something to resolve");
        assert!(text.contains("discarded 30 writes of beta") && text.contains("rescue-0"), "{text}");
        world.write_now(ALPHA, 0, 4096);
        end_equal(&mut world);
        let file = &world.nodes[1].rescues.files[0];
        assert_eq!((file.head.node.1.as_str(), file.head.peer.1.as_str()), ("beta", "alpha"));
        for block in 60..90 {
            // What `writes` has a client write there: the operation's number stands first.
            let operation = u64::from_le_bytes(file.blocks[&block][..8].try_into().expect("eight bytes"));
            assert_eq!(operation, 41 + block - 60, "block {block}");
            let range = file.ranges.iter().find(|range| range.blocks.first == block).expect("in the index");
            assert_eq!(range.lsn.map(|lsn| lsn.0), Some(file.head.fork.0 + 1 + block - 60));
        }
    }
}

#[test]
fn two_secondaries_resolve_a_split_brain_too() {
    for seed in 0..10 {
        let mut world = split(seed);
        world.ask_operator(BETA, discard_mine()).expect("there is something to resolve");
        end_equal(&mut world);
    }
}

#[test]
fn a_loser_whose_journal_has_wrapped_gives_way_by_bitmap_and_saves_what_only_the_bitmap_remembers() {
    for seed in 0..6 {
        let at_beta = |world: &mut World| {
            world.write_now(BETA, 500 * BLOCK_BYTES, BLOCK_BYTES);
            for round in 0..200 {
                world.write_now(BETA, (round * 7) % 8 * 131_072, 131_072);
            }
            assert!(world.has_noticed(BETA, "journal-full"));
        };
        let mut world = parted_with(seed, &WorldOptions::default(), writes(ALPHA, 50, 20), at_beta);
        meet(&mut world);
        world.promote(ALPHA, 20_000).expect("it is the newest that the voters know");
        world.ask_operator(BETA, discard_mine()).expect("every block is known");
        end_equal(&mut world);
        let ranges = &world.nodes[1].rescues.files[0].ranges;
        assert!(ranges.iter().any(|range| range.lsn.is_some()), "{ranges:?}");
        let blocks: u64 = ranges.iter().map(|range| range.blocks.count).sum();
        assert_eq!(blocks, 257, "8 pieces of 32 blocks, and block 500");
        let last = ranges.last().expect("there are some");
        assert_eq!((last.blocks.first, last.lsn), (500, None), "the journal has left it behind");
    }
}

/// Asks beta to give way and carries on until that many microseconds later; the order.
fn ask_and_wait(world: &mut World, microseconds: u64) -> OrderId {
    let order = world.order(BETA, discard_mine());
    world.run_for(Span(microseconds));
    order
}

/// Whether beta's old branch is whole, or else gone for good with a resync that goes on.
fn branch_is_whole(world: &World) -> bool {
    let superblock = world.nodes[1].superblock();
    match superblock.resync {
        None => superblock.lineage.newest().is_some_and(|newest| !newest.granted),
        Some(_) => false,
    }
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_old_branch_whole_or_a_resync_that_goes_on() {
    let (mut whole, mut resumed) = (0, 0);
    for seed in 0..60 {
        let mut world = split(seed % 6);
        world.promote(ALPHA, 20_000).expect("it is the newest that the voters know");
        let order = ask_and_wait(&mut world, seed * 170);
        let is_answered = matches!(world.answers.get(&order), Some(Answer::Done { .. }));
        world.cut_power(BETA);
        let is_whole = branch_is_whole(&world);
        assert!(!(is_answered && is_whole), "what was said to be discarded is");
        world.start(BETA);
        let have_met = |world: &World| rule(world, BETA).is_some();
        assert!(world.run_until(Span::from_millis(20_000), have_met), "{}", world.summaries());
        if is_whole {
            whole += 1;
            pass(&mut world, 5000);
            assert!(is_stand_alone(&world, BETA), "{}", world.summaries());
            world.ask_operator(BETA, discard_mine()).expect("there is something to resolve still");
            let file = world.nodes[1].rescues.files.last().expect("saved");
            assert!((60..90).all(|block| file.blocks.contains_key(&block)), "the branch was whole");
        } else {
            resumed += 1;
            assert!(!world.nodes[1].rescues.files.is_empty(), "it was saved before");
        }
        end_equal(&mut world);
    }
    assert!(whole > 5 && resumed > 5, "{whole} {resumed}");
}

#[test]
fn a_restart_of_the_winner_in_mid_way_ends_the_order_or_the_resync_goes_on() {
    let mut interrupted = 0;
    for seed in 0..40 {
        let mut world = split(seed % 5);
        world.promote(ALPHA, 20_000).expect("it is the newest that the voters know");
        let order = ask_and_wait(&mut world, seed * 80);
        world.cut_power(ALPHA);
        pass(&mut world, 1000);
        world.start(ALPHA);
        pass(&mut world, 1000);
        world.promote(ALPHA, 30_000).expect("it is the set");
        let answer = world.answers.get(&order).expect("it was answered");
        if let Answer::Refused(refused) = answer {
            interrupted += 1;
            assert_eq!(refused.name, "interrupted");
            pass(&mut world, 3000);
            world.ask_operator(BETA, discard_mine()).expect("there is something to resolve still");
        }
        end_equal(&mut world);
    }
    assert!((5..40).contains(&interrupted), "{interrupted}");
}

#[test]
fn too_little_space_refuses_the_order_and_nothing_is_discarded() {
    let mut world = split(3);
    world.nodes[1].rescues.room = Some(7);
    let refused = world.ask_operator(BETA, discard_mine()).expect_err("there is no room");
    assert_eq!(refused.name, "cannot-save");
    assert!(refused.reason.contains("no space left on device"), "{}", refused.reason);
    pass(&mut world, 2000);
    assert!(is_stand_alone(&world, BETA) && branch_is_whole(&world));
    assert!(world.nodes[1].rescues.files.is_empty());
    world.ask_operator(BETA, giving(Discards::Changes, Save::No, false)).expect("it is to be lost");
    end_equal(&mut world);
}

#[test]
fn a_primary_cannot_give_way_and_without_a_split_brain_there_is_nothing_to_resolve() {
    let mut world = split(1);
    world.promote(ALPHA, 20_000).expect("it is the newest that the voters know");
    assert_eq!(world.ask_operator(ALPHA, discard_mine()).expect_err("it serves").name, "is-primary");
    world.ask_operator(BETA, discard_mine()).expect("there is something to resolve");
    end_equal(&mut world);
    let refused = world.ask_operator(BETA, discard_mine()).expect_err("they are equal");
    assert_eq!(refused.name, "nothing-to-resolve");
}

#[test]
fn two_nodes_that_both_give_way_leave_both_branches_whole() {
    for seed in 0..20 {
        let mut world = split(seed);
        let orders = [ALPHA, BETA].map(|node| world.order(node, discard_mine()));
        let are_answered = |world: &World| orders.iter().all(|order| world.answers.contains_key(order));
        assert!(world.run_until(Span::from_millis(30_000), are_answered), "{}", world.summaries());
        let done = |order| matches!(world.answers[&order], Answer::Done { .. });
        let done = orders.map(done);
        assert!(done != [true, true], "one of the two branches lives");
        if done == [true, false] {
            assert!(world.run_until(Span::from_millis(60_000), World::is_in_sync), "{}", world.summaries());
            continue;
        }
        if done == [false, false] {
            pass(&mut world, 5000);
            assert!(is_stand_alone(&world, ALPHA) && is_stand_alone(&world, BETA));
            world.ask_operator(BETA, discard_mine()).expect("there is something to resolve still");
        }
        end_equal(&mut world);
    }
}

#[test]
fn a_promotion_is_refused_while_a_node_discards() {
    let mut world = split(2);
    let order = world.order(BETA, discard_mine());
    world.run_for(Span(300));
    assert!(!world.answers.contains_key(&order), "it takes a while");
    assert_eq!(world.promote(BETA, 0).expect_err("what it would serve is on its way out").name, "discarding");
    end_equal(&mut world);
}

pub(super) fn with_policies(policy: Policy) -> WorldOptions {
    let split_brain = Policies { no_primary: policy, one_primary: policy, two_primaries: policy };
    WorldOptions { node: NodeOptions { split_brain, ..NodeOptions::default() }, ..WorldOptions::default() }
}

#[test]
fn by_least_changes_the_node_with_fewer_writes_gives_way_by_itself_and_saves_them() {
    for seed in 0..10 {
        let options = with_policies(Policy::DiscardLeastChanges);
        let mut world = parted_with(seed, &options, writes(ALPHA, 50, 20), writes(BETA, 60, 8));
        world.start(ALPHA);
        world.start(BETA);
        end_equal(&mut world);
        assert!(world.has_noticed(BETA, "split-brain-resolved"));
        assert!(!world.has_noticed(ALPHA, "split-brain-resolved"));
        let file = &world.nodes[1].rescues.files[0];
        assert!((60..68).all(|block| file.blocks.contains_key(&block)));
        world.promote(ALPHA, 20_000).expect("both hold the same");
        world.read_everything(ALPHA);
    }
}

#[test]
fn equal_changes_are_left_to_the_operator_by_every_policy_that_counts_them() {
    for policy in [Policy::DiscardLeastChanges, Policy::DiscardZeroChanges, Policy::Disconnect] {
        let mut world = parted_with(4, &with_policies(policy), writes(ALPHA, 50, 9), writes(BETA, 60, 9));
        meet(&mut world);
        pass(&mut world, 10_000);
        assert!(is_stand_alone(&world, ALPHA) && is_stand_alone(&world, BETA), "{policy:?}");
    }
}

#[test]
fn by_zero_changes_only_a_node_that_wrote_nothing_gives_way() {
    let options = with_policies(Policy::DiscardZeroChanges);
    let mut world = parted_with(5, &options, writes(ALPHA, 50, 9), |world| pass(world, 500));
    world.start(ALPHA);
    world.start(BETA);
    end_equal(&mut world);
    assert!(world.has_noticed(BETA, "split-brain-resolved"));
    assert!(world.nodes[1].rescues.files.is_empty(), "there was nothing to save");
    let mut world = parted_with(5, &options, writes(ALPHA, 50, 9), writes(BETA, 60, 1));
    meet(&mut world);
    pass(&mut world, 10_000);
    assert!(is_stand_alone(&world, BETA), "it wrote something");
}

#[test]
fn a_policy_that_cannot_save_resolves_nothing_until_an_operator_asks_for_a_new_verdict() {
    let options = with_policies(Policy::DiscardLeastChanges);
    let mut world = parted_with(6, &options, writes(ALPHA, 50, 20), writes(BETA, 60, 8));
    world.nodes[1].rescues.room = Some(1);
    meet(&mut world);
    pass(&mut world, 30_000);
    assert!(is_stand_alone(&world, BETA) && branch_is_whole(&world), "{}", world.summaries());
    let tries = world.notices.iter().filter(|(node, name, _)| *node == BETA && *name == "split-brain-policy");
    assert_eq!(tries.count(), 1, "it is not tried again and again");
    world.nodes[1].rescues.room = None;
    world.ask_operator(BETA, Order::Connect { peer: None }).expect("any time");
    end_equal(&mut world);
    assert_eq!(world.nodes[1].rescues.files.len(), 1);
}

#[test]
fn the_secondary_gives_way_to_the_primary_if_that_is_the_policy_for_one() {
    let policies = Policies { one_primary: Policy::DiscardSecondary, ..Policies::default() };
    let node = NodeOptions { split_brain: policies, ..NodeOptions::default() };
    let options = WorldOptions { node, ..WorldOptions::default() };
    let mut world = parted_with(7, &options, writes(ALPHA, 50, 5), writes(BETA, 60, 30));
    meet(&mut world);
    pass(&mut world, 5000);
    assert!(is_stand_alone(&world, BETA), "neither is Primary");
    world.promote(ALPHA, 20_000).expect("it is the newest that the voters know");
    end_equal(&mut world);
    assert_eq!((world.role(ALPHA), world.disk(BETA)), (Role::Primary, DiskState::UpToDate));
    assert_eq!(world.nodes[1].rescues.files.len(), 1);
    world.read_everything(ALPHA);
}

/// A world that goes on without a lost peer; alpha is Primary, both are in sync.
fn continuing(seed: u64, split_brain: Policies) -> World {
    let node = NodeOptions { on_peer_lost: OnPeerLost::Continue, split_brain, ..NodeOptions::default() };
    promoted_with(seed, WorldOptions { node, ..WorldOptions::default() })
}

/// Two Primaries after a partition, which meet again: alpha has written so often, beta so often.
pub(super) fn two_primaries(seed: u64, policies: Policies, at_alpha: u64, at_beta: u64) -> World {
    let mut world = continuing(seed, policies);
    for block in 0..10 {
        world.write_now(ALPHA, block * BLOCK_BYTES, BLOCK_BYTES);
    }
    pass(&mut world, 1000);
    world.set_cut_both([ALPHA, BETA], true);
    pass(&mut world, 4000);
    world.promote(BETA, 1000).expect("it was in sync to the end");
    for block in 0..at_alpha {
        world.write_now(ALPHA, (50 + block) * BLOCK_BYTES, BLOCK_BYTES);
    }
    for block in 0..at_beta {
        world.write_now(BETA, (60 + block) * BLOCK_BYTES, BLOCK_BYTES);
    }
    world.set_cut_both([ALPHA, BETA], false);
    world
}

/// Waits until both are UpToDate and idle, and holds them against each other.
pub(super) fn converge(world: &mut World) {
    assert!(world.run_until(Span::from_millis(60_000), World::is_in_sync), "{}", world.summaries());
    world.assert_converges();
}

#[test]
fn of_two_primaries_either_may_be_demoted_and_give_way_whichever_term_is_the_later() {
    for seed in 0..10 {
        for (winner, loser) in [(ALPHA, BETA), (BETA, ALPHA)] {
            let mut world = two_primaries(seed, Policies::default(), 7, 9);
            pass(&mut world, 5000);
            assert_eq!([ALPHA, BETA].map(|node| world.role(node)), [Role::Primary; 2]);
            world.demote(loser).expect("no clients");
            pass(&mut world, 2000);
            world.ask_operator(loser, discard_mine()).expect("there is something to resolve");
            world.write(winner, 0, BLOCK_BYTES);
            converge(&mut world);
            assert_eq!(world.role(winner), Role::Primary, "{}", world.summaries());
            let file = &world.nodes[loser.index()].rescues.files[0];
            let (first, count) = if loser == ALPHA { (50, 7) } else { (60, 9) };
            assert!((first..first + count).all(|block| file.blocks.contains_key(&block)));
            // And the pair is a pair again: the one that gave way can take over.
            world.write_now(winner, 5 * BLOCK_BYTES, BLOCK_BYTES);
            world.demote(winner).expect("no clients");
            pass(&mut world, 2000);
            world.promote(loser, 5000).expect("it is in sync");
            world.write_now(loser, 6 * BLOCK_BYTES, BLOCK_BYTES);
            converge(&mut world);
        }
    }
}

#[test]
fn of_two_primaries_the_one_with_fewer_writes_steps_down_by_itself_and_gives_way() {
    let policies = Policies { two_primaries: Policy::DiscardLeastChanges, ..Policies::default() };
    for seed in 0..10 {
        for (at_alpha, at_beta, winner, loser) in [(3, 9, BETA, ALPHA), (9, 3, ALPHA, BETA)] {
            let mut world = two_primaries(seed, policies, at_alpha, at_beta);
            converge(&mut world);
            assert_eq!((world.role(winner), world.role(loser)), (Role::Primary, Role::Secondary));
            assert!(world.has_noticed(loser, "split-brain-policy"));
            assert_eq!(world.nodes[loser.index()].rescues.files.len(), 1);
            world.write_now(winner, 0, BLOCK_BYTES);
        }
    }
}

#[test]
fn two_primaries_that_wrote_as_much_both_go_on_until_an_operator_decides() {
    let policies = Policies { two_primaries: Policy::DiscardLeastChanges, ..Policies::default() };
    let mut world = two_primaries(3, policies, 5, 5);
    pass(&mut world, 10_000);
    assert_eq!([ALPHA, BETA].map(|node| world.role(node)), [Role::Primary; 2]);
    assert!(is_stand_alone(&world, ALPHA) && is_stand_alone(&world, BETA));
}

#[test]
fn what_was_marked_for_the_winner_while_the_loser_wrote_alone_says_nothing_of_what_is_written_afterwards() {
    let at_beta = |world: &mut World| {
        for round in 0..200 {
            world.write_now(BETA, (round * 7) % 8 * 131_072, 131_072);
        }
        assert!(world.has_noticed(BETA, "journal-full"));
    };
    for seed in 0..3 {
        let mut world = parted_with(seed, &WorldOptions::default(), writes(ALPHA, 50, 20), at_beta);
        meet(&mut world);
        world.promote(ALPHA, 20_000).expect("it is the newest that the voters know");
        world.ask_operator(BETA, discard_mine()).expect("every block is known");
        end_equal(&mut world);
        world.demote(ALPHA).expect("no clients");
        world.promote(BETA, 20_000).expect("it is in sync");
        world.kill(ALPHA);
        // Few of these are overwritten later, and the journal leaves them behind first.
        for block in 0..30 {
            world.write_now(BETA, (700 + block * 3) * BLOCK_BYTES, BLOCK_BYTES);
        }
        for round in 0..150 {
            world.write_now(BETA, (round * 7) % 8 * 131_072, 131_072);
        }
        world.start(ALPHA);
        world.assert_converges();
        world.read_everything(BETA);
    }
}

#[test]
fn an_answer_that_nothing_was_discarded_is_true_whenever_the_link_is_lost() {
    let options =
        WorldOptions { delays: Delays { io: 4000, ..Delays::default() }, ..WorldOptions::default() };
    let (mut whole, mut gone) = (0, 0);
    for seed in 0..30 {
        let mut world = split_with(seed % 6, &options);
        let order = ask_and_wait(&mut world, 1_000 + seed * 600);
        world.reset([ALPHA, BETA]);
        let is_answered = |world: &World| world.answers.contains_key(&order);
        assert!(world.run_until(Span::from_millis(20_000), is_answered), "{}", world.summaries());
        match &world.answers[&order] {
            Answer::Refused(refused) => {
                whole += 1;
                assert_eq!(refused.name, "interrupted");
                pass(&mut world, 3000);
                assert!(branch_is_whole(&world) && is_stand_alone(&world, BETA), "{}", world.summaries());
            }
            answer => {
                gone += 1;
                assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
                end_equal(&mut world);
            }
        }
    }
    assert!(whole > 5 && gone > 5, "{whole} {gone}");
}
