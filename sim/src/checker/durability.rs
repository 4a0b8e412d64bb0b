//! Law: a completed write survives, a flushed one survives a power cut of every node, and a read returns a
//! write that was not overwritten before the read began. What a lost client wrote may be there or not, but once
//! a later client has seen that it is not, it never returns. This is about one history; `branches` says which one.

use std::collections::BTreeMap;

use replicator::units::{ByteRange, NodeId};

use super::branches::NodeSet;
use crate::workload::{Ask, UNIT_BYTES, writer_of};

/// A write as its client knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    asked: u64,
    /// When it was certain.
    certain: Option<u64>,
    /// When its client was gone.
    lost: Option<u64>,
    is_flushed: bool,
    /// Who has it for certain, whatever else fails.
    holders: NodeSet,
    /// Who has it on stable storage.
    flushed_on: NodeSet,
}

impl Known {
    /// When it had happened, if it ever did.
    fn latest(&self) -> u64 {
        self.certain.or(self.lost).unwrap_or(u64::MAX)
    }
}

/// A write to one unit.
#[derive(Clone, Copy, Debug)]
struct Entry {
    operation: u64,
    is_zero: bool,
    /// When a later client had seen that it did not happen.
    dead: Option<u64>,
}

/// What every unit may hold.
#[derive(Clone, Debug)]
pub struct Durability {
    known: BTreeMap<u64, Known>,
    units: BTreeMap<u64, Vec<Entry>>,
    /// When an operator was told last that whatever others hold beyond this history is lost, and forced it.
    forced: Option<u64>,
}

/// The volume as it was made.
const ORIGIN: u64 = 0;

impl Default for Durability {
    fn default() -> Self {
        let all = NodeSet::ALL;
        let origin =
            Known { asked: 0, certain: Some(0), lost: None, is_flushed: true, holders: all, flushed_on: all };
        Self { known: BTreeMap::from([(ORIGIN, origin)]), units: BTreeMap::new(), forced: None }
    }
}

fn units_of(range: ByteRange) -> std::ops::Range<u64> {
    range.offset / UNIT_BYTES..range.end() / UNIT_BYTES
}

impl Durability {
    /// A write was asked for.
    pub fn asked(&mut self, operation: u64, ask: Ask, now: u64) {
        let Some(range) = ask.changes() else { return };
        let is_zero = !matches!(ask, Ask::Write(..));
        let none = NodeSet::default();
        let known = Known {
            asked: now,
            certain: None,
            lost: None,
            is_flushed: false,
            holders: none,
            flushed_on: none,
        };
        self.known.insert(operation, known);
        let origin = Entry { operation: ORIGIN, is_zero: true, dead: None };
        for unit in units_of(range) {
            let entries = self.units.entry(unit).or_insert_with(|| vec![origin]);
            entries.push(Entry { operation, is_zero, dead: None });
        }
    }

    /// A write was answered, while these held everything.
    pub fn completed(&mut self, operation: u64, now: u64, is_flushed: bool, members: NodeSet) {
        if let Some(known) = self.known.get_mut(&operation) {
            known.certain = Some(now);
            known.is_flushed = is_flushed;
            known.holders = members;
            known.flushed_on = if is_flushed { members } else { NodeSet::default() };
        }
    }

    /// The client of a write gets no answer any more, or nobody can take it over any more.
    pub fn lost(&mut self, operation: u64, now: u64) {
        if let Some(known) = self.known.get_mut(&operation)
            && known.certain.is_none()
        {
            known.lost = Some(known.lost.map_or(now, |lost| lost.min(now)));
        }
    }

    /// A flush that was asked for at `asked` was answered, while these held everything.
    pub fn flushed(&mut self, asked: u64, members: NodeSet) {
        for known in self.known.values_mut() {
            if known.certain.is_some_and(|certain| certain < asked) {
                known.is_flushed = true;
                known.flushed_on = known.flushed_on.and(members.common(known.holders));
            }
        }
    }

    /// Every copy of what was not flushed may be gone: more failed than the protocol covers.
    pub fn forget_unflushed(&mut self) {
        for known in self.known.values_mut().filter(|known| !known.is_flushed) {
            known.lost = known.lost.or(known.certain);
            known.certain = None;
        }
    }

    /// What this node has not flushed is gone, or may be.
    pub fn loses_unflushed(&mut self, node: NodeId) {
        for known in self.known.values_mut().filter(|known| !known.flushed_on.has(node)) {
            known.holders = known.holders.without(node);
        }
    }

    /// From here on these have, flushed, whatever `source` has; whether that has flushed it too is another matter.
    pub fn copied(&mut self, source: NodeId, members: NodeSet) {
        for known in self.known.values_mut() {
            if known.certain.is_some() && known.holders.has(source) {
                known.holders = known.holders.and(members);
                known.flushed_on = known.flushed_on.and(members.without(source));
            }
        }
    }

    /// This node has flushed whatever it holds.
    pub fn has_flushed(&mut self, node: NodeId) {
        let is_held = |known: &&mut Known| known.certain.is_some() && known.holders.has(node);
        for known in self.known.values_mut().filter(is_held) {
            known.flushed_on = known.flushed_on.and(NodeSet::of(node));
        }
    }

    /// This node has everything, or the law is broken.
    pub fn inherited(&mut self, node: NodeId) {
        for known in self.known.values_mut().filter(|known| known.certain.is_some()) {
            known.holders = known.holders.and(NodeSet::of(node));
            known.flushed_on = known.flushed_on.and(NodeSet::of(node));
        }
    }

    /// The history of a node that goes on without asking those who may know more. What it has for certain stays so;
    /// anything else has happened before, or never does.
    #[must_use]
    pub fn parted(&self, node: NodeId, now: u64) -> Self {
        let mut own = self.clone();
        for known in own.known.values_mut() {
            if known.certain.is_none() || !known.holders.has(node) {
                known.lost = Some(known.lost.or(known.certain).map_or(now, |lost| lost.min(now)));
                known.certain = None;
            }
        }
        own
    }

    /// The history of a node that was about to give up its own and take over another one: nobody can say how far it got.
    #[must_use]
    pub fn mixed(&self, other: &Self, now: u64) -> Self {
        let mut mixed = self.clone();
        for (operation, known) in &other.known {
            let lost = Some(known.lost.or(known.certain).map_or(now, |lost| lost.min(now)));
            mixed.known.entry(*operation).or_insert(Known { certain: None, lost, ..*known });
        }
        for (unit, entries) in &other.units {
            let own = mixed.units.entry(*unit).or_default();
            for entry in entries {
                match own.iter_mut().find(|known| known.operation == entry.operation) {
                    Some(known) => known.dead = known.dead.and(entry.dead),
                    None => own.push(*entry),
                }
            }
        }
        mixed
    }

    /// This history begins with a promotion by force, which has said what it loses: what others hold by now. What they
    /// complete from here on it has not.
    pub fn is_forced(&mut self, now: u64) {
        self.forced = Some(now);
    }

    /// A write that `node` has for certain by this history, and that the other one knows nothing certain of, and nobody has
    /// said that it would be lost.
    #[must_use]
    pub fn lost_to(&self, other: &Self, node: NodeId) -> Option<u64> {
        let is_certain = |known: &Known| known.certain > other.forced && known.holders.has(node);
        let is_there = |operation: &u64| other.known.get(operation).is_some_and(|it| it.certain.is_some());
        let mut own = self.known.iter().filter(|(_, known)| is_certain(known));
        own.find(|(operation, _)| !is_there(operation)).map(|(operation, _)| *operation)
    }

    /// A write that `node` has for certain, and `other` may not have.
    #[must_use]
    pub fn only_on(&self, node: NodeId, other: NodeId) -> Option<u64> {
        let is_only_there =
            |known: &Known| known.certain.is_some() && known.holders.has(node) && !known.holders.has(other);
        self.known.iter().find(|(_, known)| is_only_there(known)).map(|(operation, _)| *operation)
    }

    /// Holds the bytes that a read returned against what they may be; `members` hold everything.
    ///
    /// # Panics
    /// They are something else.
    pub fn read(&mut self, range: ByteRange, bytes: &[u8], asked: u64, now: u64, members: NodeSet) {
        for (unit, content) in units_of(range).zip(bytes.chunks(WHOLE_UNIT)) {
            let writer = writer_of(content, unit);
            let Some(entries) = self.units.get_mut(&unit) else {
                assert!(writer.is_none(), "violation: unit {unit} was never written and holds {writer:?}");
                continue;
            };
            let seen = Seen { unit, writer, asked, now, members };
            check_unit(&seen, entries, &mut self.known);
        }
    }
}

const WHOLE_UNIT: usize = 512;

/// What a read has shown of a unit.
struct Seen {
    unit: u64,
    writer: Option<u64>,
    asked: u64,
    now: u64,
    members: NodeSet,
}

fn check_unit(seen: &Seen, entries: &mut Vec<Entry>, known: &mut BTreeMap<u64, Known>) {
    let Seen { unit, writer, asked, now, members } = *seen;
    let is_overwritten = |entry: &Entry, known: &BTreeMap<u64, Known>| {
        let latest = known[&entry.operation].latest();
        entries.iter().any(|other| {
            let other = &known[&other.operation];
            other.asked > latest && other.certain.is_some_and(|certain| certain < asked)
        })
    };
    let matches = |entry: &&Entry| match writer {
        None => entry.is_zero,
        Some(writer) => entry.operation == writer,
    };
    let may_be: Vec<u64> = entries
        .iter()
        .filter(matches)
        .filter(|entry| entry.dead.is_none_or(|dead| asked <= dead) && !is_overwritten(entry, known))
        .map(|entry| entry.operation)
        .collect();
    if may_be.is_empty() {
        let told: Vec<_> = entries.iter().map(|entry| (entry, &known[&entry.operation])).collect();
        for line in &told {
            eprintln!("  {line:?}");
        }
        panic!("violation: unit {unit} (block {}) reads as {writer:?} at {asked}..{now}", unit / 8);
    }
    if let [operation] = may_be[..] {
        let it = known.get_mut(&operation).expect("every entry is known");
        if it.certain.is_none() && it.lost.is_none() {
            // Seen is as good as answered, as far as later reads go; safe from a power cut it is not.
            it.certain = Some(now);
            it.holders = members;
        }
        let seen_asked = it.asked;
        for entry in entries.iter_mut().filter(|entry| entry.operation != operation) {
            let other = &known[&entry.operation];
            // What was asked for later may lie on top of it; what was asked for before it would lie below.
            let is_denied = other.lost.is_some_and(|lost| lost < asked && seen_asked <= lost);
            if other.certain.is_none() && is_denied {
                entry.dead.get_or_insert(now);
            }
        }
    }
    if entries.len() > 16 {
        prune(entries, known, asked);
    }
}

/// Drops what no read can return any more, so that long runs stay cheap. Reads take less than ten seconds,
/// or nothing is dropped for them.
fn prune(entries: &mut Vec<Entry>, known: &BTreeMap<u64, Known>, asked: u64) {
    let horizon = asked.saturating_sub(60_000_000);
    let newest = entries
        .iter()
        .map(|entry| &known[&entry.operation])
        .filter(|known| known.is_flushed && known.certain.is_some_and(|certain| certain < horizon))
        .map(|known| known.asked)
        .max();
    if let Some(newest) = newest {
        entries.retain(|entry| known[&entry.operation].latest() >= newest);
    }
}
