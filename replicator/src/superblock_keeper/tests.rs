//! A change counts as durable when a write that contains it is done, never because a later one began.

use super::*;
use crate::generation::lineage::Lineage;
use crate::layout::superblock::{DurableDisk, ResourceName, choose_newest};
use crate::layout::zones::Zones;
use crate::units::{Incarnation, NodeId, VoterId};

fn superblock() -> Superblock {
    let resource = ResourceName::parse("mail").expect("a legal name");
    let zones = Zones::for_volume(1 << 20, 64 << 20, 1).expect("legal sizes");
    let (disk, lineage) = (DurableDisk::UpToDate, Lineage::zeroed());
    let created = Superblock::created(resource, NodeId(0), VoterId(1), 1 << 20, zones, disk, lineage);
    Superblock { sequence: 4, ..created }
}

struct Bench {
    keeper: SuperblockKeeper,
    last_io: u64,
}

impl Bench {
    fn new() -> Self {
        Self { keeper: SuperblockKeeper::new(superblock()), last_io: 0 }
    }

    fn set_incarnation(&mut self, number: u64) -> Revision {
        self.keeper.change(|content| content.incarnation = Incarnation(number))
    }

    /// The write that is started, if one is: its number, where, and what.
    fn advance(&mut self) -> Option<(IoId, u64, Superblock)> {
        let mut effects = Effects::default();
        let last_io = &mut self.last_io;
        let mut next_io = || {
            *last_io += 1;
            IoId(*last_io)
        };
        self.keeper.advance(&mut next_io, &mut effects);
        let mut started = effects.drain().map(|effect| match effect {
            Effect::WriteSuperblock { io, offset, bytes } => {
                (io, offset, Superblock::parse(&bytes).expect("what is written can be read"))
            }
            other => panic!("{other:?} is no business of the superblock"),
        });
        let first = started.next();
        assert!(started.next().is_none(), "one write at a time");
        first
    }
}

#[test]
fn nothing_is_written_while_nothing_has_changed() {
    let mut bench = Bench::new();
    assert!(bench.keeper.is_clean());
    assert!(bench.advance().is_none());
}

#[test]
fn a_change_is_durable_when_its_write_is_done_and_not_before() {
    let mut bench = Bench::new();
    let revision = bench.set_incarnation(1);
    assert!(!bench.keeper.is_durable(revision) && !bench.keeper.is_clean());
    let (io, _, written) = bench.advance().expect("it has changed");
    assert_eq!(written.incarnation, Incarnation(1));
    assert!(!bench.keeper.is_durable(revision) && bench.keeper.is_busy());
    assert!(bench.keeper.on_io_completed(io));
    assert!(bench.keeper.is_durable(revision) && bench.keeper.is_clean() && !bench.keeper.is_busy());
    assert_eq!(bench.keeper.writes(), 1);
}

#[test]
fn changes_made_during_a_write_wait_and_go_together_into_the_next() {
    let mut bench = Bench::new();
    let first = bench.set_incarnation(1);
    let (io, _, _) = bench.advance().expect("it has changed");
    let second = bench.set_incarnation(2);
    let third = bench.keeper.change(|content| content.incarnation_recorded = Incarnation(3));
    assert!(bench.advance().is_none(), "the first write is still on its way");
    assert!(bench.keeper.on_io_completed(io));
    assert!(bench.keeper.is_durable(first) && !bench.keeper.is_durable(second));
    let (io, _, written) = bench.advance().expect("two changes wait");
    assert_eq!((written.incarnation, written.incarnation_recorded), (Incarnation(2), Incarnation(3)));
    assert!(bench.keeper.on_io_completed(io));
    assert!(bench.keeper.is_durable(second) && bench.keeper.is_durable(third));
    assert_eq!(bench.keeper.writes(), 2);
}

#[test]
fn a_write_never_touches_the_copy_that_counts() {
    let mut bench = Bench::new();
    let mut copies = [vec![0; 4096], superblock().encode().to_vec()];
    let places = superblock().zones.superblocks().map(|range| range.offset);
    copies.swap(superblock().copy_index(), 1);
    for number in 1..=5 {
        let newest_before = choose_newest(&copies[0], &copies[1]).expect("one copy is valid").1;
        bench.set_incarnation(number);
        let (io, offset, written) = bench.advance().expect("it has changed");
        let copy = places.iter().position(|place| *place == offset).expect("a superblock goes to its place");
        assert_ne!(copy, newest_before, "a torn write must leave the state before it");
        copies[copy] = written.encode().to_vec();
        assert!(bench.keeper.on_io_completed(io));
        let (newest, _) = choose_newest(&copies[0], &copies[1]).expect("both copies are valid");
        assert_eq!(newest.incarnation, Incarnation(number));
    }
}

#[test]
fn the_session_counts_as_durable_with_the_write_that_names_it() {
    let mut bench = Bench::new();
    let before = bench.keeper.durable_session();
    bench.keeper.change(|content| content.journal.session += 1);
    let (io, _, _) = bench.advance().expect("it has changed");
    bench.keeper.change(|content| content.journal.session += 1);
    assert_eq!(bench.keeper.durable_session(), before);
    assert!(bench.keeper.on_io_completed(io));
    assert_eq!(bench.keeper.durable_session(), before + 1, "the second one came after the write began");
}

#[test]
fn io_of_others_is_left_to_them() {
    let mut bench = Bench::new();
    assert!(!bench.keeper.on_io_completed(IoId(1)));
    let revision = bench.set_incarnation(1);
    bench.advance().expect("it has changed");
    assert!(!bench.keeper.on_io_completed(IoId(99)));
    assert!(!bench.keeper.is_durable(revision));
}
