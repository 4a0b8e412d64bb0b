//! Law: the marks of a node stand in their order, and what is durable or in the data area never goes back
//! within a run but by a cut, which takes back nothing that is stable.

use replicator::status_report::LsnReport;

/// The marks of one run of one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    newest: Option<LsnReport>,
}

impl Marks {
    /// The node starts anew, or its disk counts for nothing until it has been resynced.
    pub fn restart(&mut self) {
        self.newest = None;
    }

    /// The node shows its marks.
    ///
    /// # Panics
    /// They are out of order.
    pub fn observe(&mut self, marks: LsnReport) {
        let LsnReport { assigned, journaled, durable, stable, written_back, oldest_kept, .. } = marks;
        assert!(written_back <= durable, "violation of I3: {marks:?}");
        assert!(durable <= journaled && journaled <= assigned, "violation: {marks:?}");
        assert!(oldest_kept.previous() <= written_back, "violation of I7: {marks:?}");
        if let Some(before) = self.newest {
            assert!(stable >= before.stable, "violation: stable went back: {before:?} {marks:?}");
            assert!(written_back >= before.written_back, "violation: {before:?} {marks:?}");
            assert!(oldest_kept >= before.oldest_kept, "violation: {before:?} {marks:?}");
            assert!(durable >= before.stable.min(before.durable), "violation of I3: {before:?} {marks:?}");
        }
        self.newest = Some(marks);
    }
}
