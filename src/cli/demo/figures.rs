//! What a demo has found out, for people and as JSON.

use std::time::Duration;

use replicator::units::BLOCK_BYTES;
use serde::Serialize;

use super::site::Side;

/// A takeover.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Takeover {
    /// Who was killed.
    pub killed: &'static str,
    /// Who went on.
    pub promoted: &'static str,
    /// Seconds from the kill to the end of the promotion.
    pub promotion_seconds: f64,
    /// Seconds for which the promotion waited for the lease of the dead Primary to end, by its own word.
    pub lease_seconds: f64,
    /// Seconds from the return of the dead node until both disks were UpToDate.
    pub return_seconds: f64,
    /// What the dead node lacked when it returned, and got.
    pub caught_up_bytes: u64,
}

/// Everything that was counted and measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Figures {
    /// Version of this format.
    pub schema: u32,
    /// Repeats the moments and messages.
    pub seed: u64,
    /// Bytes of the volume.
    pub size_bytes: u64,
    /// Seconds for which messages were written.
    pub seconds: f64,
    /// Messages acknowledged: written, and flushed on every in-sync replica.
    pub acknowledged_messages: u64,
    /// Their bytes.
    pub acknowledged_bytes: u64,
    /// Acknowledged messages that were read back: before a newer one went over them, or at the end.
    pub checked_messages: u64,
    /// Acknowledged messages that were not what they should be.
    pub lost_messages: u64,
    /// Messages that were under way when a Primary died.
    pub in_flight_messages: u64,
    /// How many of those were there afterwards.
    pub arrived_messages: u64,
    /// Longest time in which nothing was acknowledged, up to the end of the writing.
    pub longest_pause_seconds: f64,
    /// How much of it was waiting for the lease of a dead Primary.
    pub longest_pause_lease_seconds: f64,
    /// What returning nodes lacked, and got.
    pub caught_up_bytes: u64,
    /// Each takeover.
    pub takeovers: Vec<Takeover>,
    /// Blocks that were compared between the two data files.
    pub compared_blocks: u64,
    /// How many of them differ.
    pub different_blocks: u64,
}

impl Takeover {
    /// A takeover of which only the names are known.
    pub fn of(killed: Side) -> Self {
        Self {
            killed: killed.name(),
            promoted: killed.other().name(),
            promotion_seconds: 0.0,
            lease_seconds: 0.0,
            return_seconds: 0.0,
            caught_up_bytes: 0,
        }
    }
}

impl Figures {
    /// Whether it is proved that nothing was lost and that the replicas are equal.
    pub fn is_good(&self) -> bool {
        self.has_proved_all() && self.lost_messages == 0 && self.different_blocks == 0
    }

    /// Whether everything was looked at that there is to look at, and there was something.
    fn has_proved_all(&self) -> bool {
        self.checked_messages > 0
            && self.checked_messages == self.acknowledged_messages
            && self.compared_blocks == self.size_bytes / BLOCK_BYTES
    }

    fn verdict(&self) -> &'static str {
        match (self.is_good(), self.has_proved_all()) {
            (true, _) => "Nothing was lost.",
            (false, true) => "DATA WAS LOST.",
            (false, false) => "NOTHING IS PROVED.",
        }
    }

    /// The end of the story, for people. `again` is the command that repeats it.
    pub fn render(&self, again: &str) -> String {
        let mut text = format!("\n{}\n", self.verdict());
        for (name, value) in self.lines(again) {
            text.push_str(&format!("  {name:<16}{value}\n"));
        }
        text
    }

    /// Name and value of each line; what did not happen has none.
    fn lines(&self, again: &str) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            (
                "acknowledged",
                format!(
                    "{} messages, {} ({} messages, {} each second)",
                    thousands(self.acknowledged_messages),
                    size(self.acknowledged_bytes),
                    thousands(per_second(self.acknowledged_messages, self.seconds)),
                    size(per_second(self.acknowledged_bytes, self.seconds)),
                ),
            ),
            ("lost", thousands(self.lost_messages)),
            (
                "read back",
                format!(
                    "{} messages, before a newer one went over them or at the end",
                    thousands(self.checked_messages)
                ),
            ),
        ];
        let pause = format!("{:.1} s", self.longest_pause_seconds);
        if self.takeovers.is_empty() {
            lines.push(("longest pause", pause));
        } else {
            lines.push((
                "in flight",
                format!(
                    "{} messages when a Primary died; {} had arrived, none was acknowledged",
                    self.in_flight_messages, self.arrived_messages
                ),
            ));
            let lease = self.longest_pause_lease_seconds;
            let pause = format!("{pause}, of which {lease:.1} s waiting for the lease of the dead Primary");
            lines.push(("longest pause", pause));
            lines.push(("caught up", size(self.caught_up_bytes)));
        }
        let compared = thousands(self.compared_blocks);
        lines.push((
            "replicas",
            match self.different_blocks {
                0 => format!("equal ({compared} blocks compared)"),
                different => format!("{} of {compared} blocks differ", thousands(different)),
            },
        ));
        lines.push(("again", again.to_owned()));
        lines
    }
}

/// Seconds, for figures.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]
fn per_second(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds.max(0.001)) as u64
}

/// A number as people write it: `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size for people, rounded: `318 MiB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..10_485_760 => format!("{} KiB", thousands(bytes >> 10)),
        _ => format!("{} MiB", thousands(bytes >> 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            schema: 1,
            seed: 1,
            size_bytes: 4 * BLOCK_BYTES,
            seconds: 1.0,
            acknowledged_messages: 7,
            acknowledged_bytes: 7000,
            checked_messages: 7,
            lost_messages: 0,
            in_flight_messages: 0,
            arrived_messages: 0,
            longest_pause_seconds: 0.0,
            longest_pause_lease_seconds: 0.0,
            caught_up_bytes: 0,
            takeovers: Vec::new(),
            compared_blocks: 4,
            different_blocks: 0,
        }
    }

    #[test]
    fn only_what_was_looked_at_whole_and_found_whole_is_good() {
        assert_eq!(figures().verdict(), "Nothing was lost.");
        for (change, verdict) in [
            ((|figures| figures.lost_messages = 1) as fn(&mut Figures), "DATA WAS LOST."),
            (|figures| figures.different_blocks = 1, "DATA WAS LOST."),
            (|figures| figures.checked_messages = 6, "NOTHING IS PROVED."),
            (|figures| figures.compared_blocks = 3, "NOTHING IS PROVED."),
            (
                |figures| (figures.acknowledged_messages, figures.checked_messages) = (0, 0),
                "NOTHING IS PROVED.",
            ),
        ] {
            let mut figures = figures();
            change(&mut figures);
            assert!(!figures.is_good() && figures.verdict() == verdict, "{figures:?}");
            assert!(figures.render("").contains(verdict));
        }
    }

    #[test]
    fn numbers_are_shown_as_people_write_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([100, 1 << 20, 3 << 30].map(size), ["100 bytes", "1,024 KiB", "3,072 MiB"]);
    }

    #[test]
    fn what_did_not_happen_is_not_told() {
        let quiet = Figures {
            seconds: 2.0,
            acknowledged_messages: 3000,
            acknowledged_bytes: 30 << 20,
            checked_messages: 3000,
            in_flight_messages: 4,
            longest_pause_seconds: 6.04,
            longest_pause_lease_seconds: 6.0,
            caught_up_bytes: 20 << 20,
            ..figures()
        };
        let full = Figures { takeovers: vec![Takeover::of(Side::A)], ..quiet.clone() };
        let quiet = quiet.render("twinblk demo --seed 7");
        let wanted = "
Nothing was lost.
  acknowledged    3,000 messages, 30 MiB (1,500 messages, 15 MiB each second)
  lost            0
  read back       3,000 messages, before a newer one went over them or at the end
  longest pause   6.0 s
  replicas        equal (4 blocks compared)
  again           twinblk demo --seed 7
";
        assert_eq!(quiet, wanted);
        let full = full.render("");
        for line in ["in flight       4 messages", "of which 6.0 s waiting", "caught up       20 MiB"] {
            assert!(full.contains(line), "{full}");
        }
    }
}
