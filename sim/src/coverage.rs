//! What a run got to, by name, so that nobody trusts a simulator that never reached the interesting states. Knows what
//! the nodes said and what was done to them; decides nothing.

use std::collections::BTreeMap;

use replicator::notice::Notice;

/// How often each thing happened in one run.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

/// Everything that is counted; what no run reaches is printed too, with zeroes.
pub const NAMES: [&str; 75] = [
    "promotions",
    "promotions of a third node",
    "promotions refused",
    "steps down",
    "lease waits",
    "freezes",
    "thaws",
    "sets recorded",
    "generations",
    "catch-ups",
    "bitmap resyncs",
    "full resyncs",
    "full resyncs of a disk that went back",
    "resyncs ended",
    "cuts",
    "split brains",
    "split brains given way in",
    "histories of a world that parted",
    "fence runs",
    "fence commands that free",
    "fence commands that prove nothing",
    "fence commands that hang",
    "fence commands that lie",
    "shot by a fence command",
    "asked by a fence command to be outdated",
    "forced promotions",
    "forced at last",
    "refused by name",
    "tails moved",
    "peers left behind by the tail",
    "verdict SameGeneration",
    "verdict PeerMovedOn",
    "verdict WeMovedOn",
    "verdict Superseded",
    "verdict Damaged",
    "verdict NewSelf",
    "verdict NewPeer",
    "verdict BothNew",
    "disks failed",
    "diskless service",
    "journals found corrupt",
    "standstills",
    "frames of a dead link",
    "writes completed",
    "writes in doubt",
    "reads checked",
    "flushes completed",
    "kill",
    "power cut",
    "power cut of all",
    "start",
    "link cut",
    "link reset",
    "links healed",
    "tiebreaker killed",
    "disk replaced",
    "tiebreaker reinstalled",
    "voters changed",
    "promote",
    "promote as fenced",
    "promote by force",
    "outdate",
    "resolve-split-brain",
    "demote",
    "demote by force",
    "disconnect",
    "connect",
    "pause-resync",
    "stop",
    "disk hangs",
    "data area hangs",
    "write fails",
    "flush fails",
    "rot",
    "process stands still",
];

impl Coverage {
    /// It happened once more.
    pub fn count(&mut self, name: &'static str) {
        debug_assert!(NAMES.contains(&name), "{name} is not in the list");
        *self.counts.entry(name).or_default() += 1;
    }

    /// Counts what a node says.
    pub fn notice(&mut self, notice: &Notice) {
        let text = notice.text.as_str();
        let name = match notice.name {
            "role-changed" if text.contains("-> Primary") => "promotions",
            "promotion-refused" => "promotions refused",
            "stepped-down" => "steps down",
            "frozen" => "freezes",
            "thawed" => "thaws",
            "in-sync-set" => "sets recorded",
            "voters-changed" => "voters changed",
            "generation" => "generations",
            "journal-cut" => "cuts",
            "stand-alone" if text.contains("SplitBrain") || text.contains("BothPrimary") => "split brains",
            "stand-alone" => "refused by name",
            "journal-full" => "peers left behind by the tail",
            "split-brain-resolved" => "split brains given way in",
            "promoted-by-force" => "forced promotions",
            "fenced" => "fence commands that free",
            "fence-failed" => "fence commands that prove nothing",
            "promotion-waits" if text.contains("lease") => "lease waits",
            "disk-failed" => "disks failed",
            "diskless" => "diskless service",
            "stood-still" => "standstills",
            "resync-ended" => "resyncs ended",
            "verdict" => {
                self.verdict(text);
                return;
            }
            _ => return,
        };
        self.count(name);
    }

    fn verdict(&mut self, text: &str) {
        if text.contains("it brings this node") {
            // Longest names first: one is the beginning of another.
            let methods = [
                ("FullResyncWentBack", "full resyncs of a disk that went back"),
                ("FullResync", "full resyncs"),
                ("BitmapResync", "bitmap resyncs"),
                ("CatchUp", "catch-ups"),
            ];
            if let Some((_, name)) = methods.iter().find(|(method, _)| text.contains(method)) {
                self.count(name);
            }
        }
        let rule = NAMES.iter().find(|name| {
            name.strip_prefix("verdict ").is_some_and(|rule| text.contains(&format!("rule {rule},")))
        });
        if let Some(rule) = rule {
            self.count(rule);
        }
    }

    /// One line: `name=count` each, by tabs.
    #[must_use]
    pub fn line(&self) -> String {
        let parts: Vec<String> = self.counts.iter().map(|(name, count)| format!("{name}={count}")).collect();
        parts.join("\t")
    }
}

/// What many runs got to: in how many of them, and how often in all.
#[derive(Debug)]
pub struct Distribution {
    counts: BTreeMap<String, (u64, u64)>,
}

impl Default for Distribution {
    fn default() -> Self {
        Self { counts: NAMES.iter().map(|name| ((*name).to_owned(), (0, 0))).collect() }
    }
}

impl Distribution {
    /// Adds a run, as [`Coverage::line`] tells it.
    pub fn add(&mut self, line: &str) {
        for part in line.split('\t') {
            let Some((name, count)) = part.split_once('=') else { continue };
            let entry = self.counts.entry(name.to_owned()).or_default();
            entry.0 += 1;
            entry.1 += count.parse::<u64>().unwrap_or_default();
        }
    }

    /// One line for each name, in the order of [`NAMES`].
    #[must_use]
    pub fn table(&self) -> String {
        let line = |name: &&str| {
            let (seeds, total) = self.counts.get(*name).copied().unwrap_or_default();
            format!("{name:38} in {seeds:7} seeds {total:10} times\n")
        };
        NAMES.iter().map(line).collect()
    }
}
