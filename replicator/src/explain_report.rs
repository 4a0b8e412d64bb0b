//! What `twinblk explain` prints: why two nodes are to each other what they are, what each of them has changed alone, what
//! leads out and what that would lose, whether a promotion would work, and who voted what. Words and numbers only, so
//! that the command line reads back what the daemon writes.

use serde::{Deserialize, Serialize};

/// Ranges that are told of one side; the rest is counted.
pub const RANGES_MAX: usize = 64;

/// The whole explanation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainReport {
    /// Version of this format.
    pub schema: u32,
    /// Name of the resource.
    pub name: String,
    /// True: a daemon says this.
    pub running: bool,
    /// Name of this node.
    pub node_name: String,
    /// Role of this node.
    pub role: String,
    /// State of its disk.
    pub disk_state: String,
    /// For each other replica.
    pub peers: Vec<PeerExplanation>,
    /// Whether this node could be promoted now.
    pub promotion: PromotionExplanation,
    /// Every voter, this node first.
    pub voters: Vec<VoterExplanation>,
}

/// What this node and another replica are to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerExplanation {
    /// Name of the peer.
    pub name: String,
    /// State of the link, in `status`' words.
    pub connection_state: String,
    /// What goes on, in `status`' words.
    pub replication_state: String,
    /// Why there is no link or no replication.
    pub reason: Option<String>,
    /// This node's side, now.
    pub ours: SideReport,
    /// The peer's side as it said it last; none if it has not been met in this run of the daemon.
    pub theirs: Option<SideReport>,
    /// How long ago the peer said so, milliseconds.
    pub told_ms_ago: Option<u64>,
    /// The newest generation that both have.
    pub common: Option<String>,
    /// The last write before the first generation after it, on either side.
    pub fork: Option<u64>,
    /// Up to here both have the same writes, as far as their states tell.
    pub common_point: u64,
    /// The verdict, and by which rule. None if the two have never met in this run.
    pub verdict: Option<VerdictReport>,
    /// What leads on from here, and what each way loses.
    pub ways: Vec<WayReport>,
}

/// One of the two sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SideReport {
    /// Name of the node.
    pub node: String,
    /// Its role.
    pub role: String,
    /// State of its disk.
    pub disk_state: String,
    /// Newest write in its journal.
    pub end: u64,
    /// Oldest write that its journal still holds.
    pub oldest_kept: u64,
    /// Up to where it knows the other to have flushed.
    pub base: u64,
    /// Generations of its data, oldest first.
    pub lineage: Vec<GenerationReport>,
    /// What it has that the other lacks, by the two states.
    pub alone: AloneReport,
}

/// A generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GenerationReport {
    /// Its identity.
    pub id: String,
    /// The reign that made it.
    pub term: u64,
    /// Whether a majority granted that reign.
    pub granted: bool,
    /// The first write that belongs to it.
    pub first_lsn: u64,
    /// Whether the other side has it too.
    pub is_shared: bool,
}

/// What a side has changed that the other lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AloneReport {
    /// Writes after the common point.
    pub writes: u64,
    /// Bytes of the blocks that may differ; none if this node cannot know.
    pub bytes: Option<u64>,
    /// Those blocks, as byte ranges in order; at most [`RANGES_MAX`].
    pub ranges: Vec<RangeReport>,
    /// How many ranges more there are.
    pub ranges_more: u64,
    /// Bytes in those.
    pub bytes_more: u64,
    /// Whether bytes and ranges are exactly what these writes touched; else no more than that may differ.
    pub is_exact: bool,
    /// Where the figures come from, and what they leave out.
    pub note: String,
}

/// A range of bytes of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RangeReport {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// A verdict and its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VerdictReport {
    /// The row that decided, and `WentBack` behind it if one disk did.
    pub rule: String,
    /// When that row holds.
    pub condition: String,
    /// The rows before it, and what keeps each from holding.
    pub not: Vec<RefutedReport>,
    /// What follows, in a sentence.
    pub text: String,
    /// Why it is done in this way and no cheaper one; none if nothing is brought up to date.
    pub because: Option<String>,
    /// `reached`: on the states exchanged last. `expected`: if the peer came back as it was.
    pub kind: String,
}

/// A row that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RefutedReport {
    /// Its name.
    pub rule: String,
    /// What keeps it from holding.
    pub why: String,
}

/// Something that an operator can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WayReport {
    /// What to do, a sentence.
    pub action: String,
    /// What that loses, and on which node.
    pub loses: String,
}

/// Whether this node could be promoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PromotionExplanation {
    /// Whether `promote` would be tried.
    pub yes: bool,
    /// Name of the rule that forbids it, or none.
    pub rule: Option<String>,
    /// Why, or why not.
    pub because: String,
    /// What to do first, if it would be refused.
    pub cure: Option<String>,
    /// What a promotion against the rules would lose, as far as this node can know.
    pub force_loses: String,
}

/// A voter as seen from this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VoterExplanation {
    /// Its name.
    pub name: String,
    /// `this node`, `linked`, `linked, new, without a vote yet` or `not linked`.
    pub link: String,
    /// How long ago its newest frame came, milliseconds.
    pub heard_ms_ago: Option<u64>,
    /// The voters' record that it has stored, as it showed it on the present link.
    pub record: Option<RecordReport>,
    /// What it answered when this node asked for its vote last.
    pub voted: Option<VoteReport>,
    /// What this node answered when that one asked for its vote last.
    pub was_voted: Option<VoteReport>,
}

/// A voters' record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RecordReport {
    /// Number of its term; 0 if it is empty.
    pub term: u64,
    /// Version within the term.
    pub version: u64,
    /// Name of its Primary.
    pub primary: Option<String>,
    /// Names of the members of its in-sync set.
    pub in_sync: Vec<String>,
    /// Whether nobody has shown a newer one.
    pub is_newest: bool,
}

/// A vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VoteReport {
    /// How long ago, milliseconds.
    pub ms_ago: u64,
    /// `asked`: an opinion, nothing was stored. `vote`: the vote itself.
    pub stage: String,
    /// Whether the answer was yes.
    pub granted: bool,
    /// Why not.
    pub reason: Option<String>,
}
