//! How a resync or a catch-up comes along: how much is done and left, how fast it goes now, and when it will be over.
//!
//! The rate is that of the last few seconds, not of the whole: what an hour ago was fast or slow says nothing of when
//! this ends.

use std::collections::VecDeque;

use serde::Serialize;

use crate::units::{Span, Tick, bytes_usize};

/// Time between two marks.
pub const MARK_EVERY: Span = Span::from_millis(500);
/// Time over which the rate is taken.
const RECENT: Span = Span::from_millis(3000);
/// The longer time that DRBD's keys tell of.
const EARLIER: Span = Span::from_millis(20_000);
/// Marks that are kept: as many as there are in the longer time, and one before them.
const MARKS_MAX: u64 = EARLIER.0 / MARK_EVERY.0 + 1;
/// Bytes of DRBD's sectors.
const SECTOR_BYTES: u64 = 512;

/// How far it has come, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncCounts {
    /// What the target has got, or turned out to have.
    pub done: u64,
    /// What it lacks.
    pub left: u64,
    /// Of what is done: what it turned out to have.
    pub same: u64,
}

/// What is told of a resync under DRBD's names. Sectors have 512 bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SyncDetails {
    /// Sectors done and left.
    pub rs_total: u64,
    /// Milliseconds since it began.
    pub rs_dt_start_ms: u64,
    /// Milliseconds of these in which it was paused.
    pub rs_paused_ms: u64,
    /// Milliseconds of the longer time for a rate, at most 20 s.
    pub rs_dt0_ms: u64,
    /// Sectors done in it.
    pub rs_db0_sectors: u64,
    /// Milliseconds of the shorter time for a rate, some 3 s.
    pub rs_dt1_ms: u64,
    /// Sectors done in it.
    pub rs_db1_sectors: u64,
    /// Always 0: a block that cannot be read or written ends the resync.
    pub rs_failed: u64,
    /// Sectors that the target turned out to have.
    pub rs_same_csum: u64,
    /// The limit that clients' latency sets now, MiB a second; 0 if there is none, or the peer is the source.
    pub want: f64,
    /// The rate over the longer time.
    #[serde(rename = "db0/dt0 [MiB/s]")]
    pub earlier_rate: f64,
    /// The rate over the shorter time.
    #[serde(rename = "db1/dt1 [MiB/s]")]
    pub recent_rate: f64,
    /// Seconds until it is over, if what is left went on shrinking as in the shorter time; null if it does not shrink.
    pub estimated_seconds_to_finish: Option<u64>,
    /// The rate since it began, without pauses.
    #[serde(rename = "db/dt [MiB/s]")]
    pub whole_rate: f64,
    /// How much of what is done and left is done, percent.
    pub percent_resync_done: f64,
}

/// Counts at a moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Tick,
    counts: SyncCounts,
}

/// The counts of the last seconds.
#[derive(Clone, Debug)]
pub struct Pace {
    began: Mark,
    marks: VecDeque<Mark>,
    paused_since: Option<Tick>,
    paused: Span,
}

impl Pace {
    /// It begins.
    #[must_use]
    pub fn new(counts: SyncCounts, now: Tick) -> Self {
        let began = Mark { at: now, counts };
        Self { began, marks: VecDeque::from([began]), paused_since: None, paused: Span::default() }
    }

    /// It has come so far.
    pub fn note(&mut self, counts: SyncCounts, is_paused: bool, now: Tick) {
        match (self.paused_since, is_paused) {
            (None, true) => self.paused_since = Some(now),
            (Some(since), false) => {
                self.paused = self.paused.plus(now.since(since));
                self.paused_since = None;
            }
            (None, false) | (Some(_), true) => {}
        }
        let newest = self.marks.back().expect("there is always one");
        if now >= newest.at.plus(MARK_EVERY) {
            self.marks.push_back(Mark { at: now, counts });
        }
        while self.marks.len() > bytes_usize(MARKS_MAX) {
            self.marks.pop_front();
        }
    }

    /// What there is to tell while it has come so far. `want` is the limit, bytes a second.
    #[must_use]
    pub fn details(&self, counts: SyncCounts, want: Option<u64>, now: Tick) -> SyncDetails {
        let recent = self.mark_before(RECENT, now);
        let earlier = self.mark_before(EARLIER, now);
        let done_since = |mark: &Mark| counts.done.saturating_sub(mark.counts.done);
        let whole = now.since(self.began.at);
        let paused = self.paused.plus(self.paused_since.map_or(Span::default(), |since| now.since(since)));
        let shrunk = recent.counts.left.saturating_sub(counts.left);
        let took = now.since(recent.at);
        let total = counts.done + counts.left;
        SyncDetails {
            rs_total: total / SECTOR_BYTES,
            rs_dt_start_ms: whole.as_millis(),
            rs_paused_ms: paused.as_millis(),
            rs_dt0_ms: now.since(earlier.at).as_millis(),
            rs_db0_sectors: done_since(earlier) / SECTOR_BYTES,
            rs_dt1_ms: took.as_millis(),
            rs_db1_sectors: done_since(recent) / SECTOR_BYTES,
            rs_failed: 0,
            rs_same_csum: counts.same / SECTOR_BYTES,
            want: want.map_or(0.0, mebibytes),
            earlier_rate: rate(done_since(earlier), now.since(earlier.at)),
            recent_rate: rate(done_since(recent), took),
            estimated_seconds_to_finish: seconds_left(counts.left, shrunk, took)
                .filter(|_| self.paused_since.is_none()),
            whole_rate: rate(done_since(&self.began), Span(whole.0.saturating_sub(paused.0))),
            percent_resync_done: if total == 0 { 100.0 } else { 100.0 * as_f64(counts.done) / as_f64(total) },
        }
    }

    /// The newest mark that is as old as this, or else the oldest.
    fn mark_before(&self, age: Span, now: Tick) -> &Mark {
        let is_old = |mark: &&Mark| now.since(mark.at) >= age;
        self.marks.iter().rev().find(is_old).unwrap_or(self.marks.front().expect("there is always one"))
    }
}

/// How long `left` takes if `shrunk` took that long.
fn seconds_left(left: u64, shrunk: u64, took: Span) -> Option<u64> {
    let seconds = (u128::from(left) * u128::from(took.0)).checked_div(u128::from(shrunk) * 1_000_000)?;
    u64::try_from(seconds).ok()
}

/// MiB a second.
fn rate(bytes: u64, span: Span) -> f64 {
    if span.0 == 0 { 0.0 } else { mebibytes(bytes) * 1e6 / as_f64(span.0) }
}

fn mebibytes(bytes: u64) -> f64 {
    as_f64(bytes) / as_f64(1 << 20)
}

/// For rates and percentages only.
#[expect(clippy::cast_precision_loss, reason = "rates and percentages need no more")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn seconds(count: u64) -> Tick {
        Tick(count * 1_000_000)
    }

    /// 1000 MiB, of which `done` are.
    fn counts(done: u64) -> SyncCounts {
        SyncCounts { done: done * MIB, left: (1000 - done) * MIB, same: 0 }
    }

    /// Ten a second for a minute, then forty for five seconds.
    fn faster_in_the_end() -> Pace {
        let mut pace = Pace::new(counts(0), seconds(0));
        (1..=60).for_each(|second| pace.note(counts(second * 10), false, seconds(second)));
        (1..=5).for_each(|second| pace.note(counts(600 + second * 40), false, seconds(60 + second)));
        pace
    }

    #[test]
    fn the_rate_and_the_estimate_are_those_of_the_last_seconds_and_not_of_the_whole() {
        let details = faster_in_the_end().details(counts(800), Some(50 * MIB), seconds(65));
        assert_eq!((details.rs_dt1_ms, details.rs_db1_sectors), (3000, 120 * MIB / 512));
        assert!((details.recent_rate - 40.0).abs() < 0.01, "{details:?}");
        assert!((details.earlier_rate - 17.5).abs() < 0.01, "{details:?}");
        assert!((details.whole_rate - 800.0 / 65.0).abs() < 0.01, "{details:?}");
        assert_eq!(details.estimated_seconds_to_finish, Some(5), "200 MiB at 40 a second");
        assert!((details.percent_resync_done - 80.0).abs() < 0.01 && (details.want - 50.0).abs() < 0.01);
    }

    #[test]
    fn while_it_is_paused_there_is_no_estimate_and_the_pause_does_not_count() {
        let mut pace = faster_in_the_end();
        pace.note(counts(800), true, seconds(65));
        let details = pace.details(counts(800), None, seconds(75));
        assert_eq!((details.estimated_seconds_to_finish, details.rs_paused_ms), (None, 10_000));
        assert!((details.recent_rate).abs() < 0.01 && (details.whole_rate - 800.0 / 65.0).abs() < 0.01);
        pace.note(counts(800), false, seconds(75));
        assert_eq!(pace.details(counts(800), None, seconds(75)).rs_paused_ms, 10_000);
    }

    #[test]
    fn a_catch_up_that_loses_against_clients_has_no_end_in_sight() {
        let mut pace = Pace::new(SyncCounts { done: 0, left: 100 * MIB, same: 0 }, seconds(0));
        let later = SyncCounts { done: 300 * MIB, left: 150 * MIB, same: 0 };
        pace.note(later, false, seconds(3));
        let details = pace.details(later, None, seconds(3));
        assert_eq!(details.estimated_seconds_to_finish, None);
        assert!((details.recent_rate - 100.0).abs() < 0.01, "it is shipped all the same");
    }

    #[test]
    fn marks_are_bounded_however_often_they_are_offered() {
        let mut pace = Pace::new(counts(0), Tick(0));
        (0..100_000).for_each(|at| pace.note(counts(at / 1000), false, Tick(at * 1000)));
        assert_eq!(pace.marks.len(), bytes_usize(MARKS_MAX));
    }
}
