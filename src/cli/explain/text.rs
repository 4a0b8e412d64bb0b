//! An explanation for people: two sides in two columns, then the rule, the verdict and the ways out, as a newcomer needs
//! them in the night. Prints nothing itself.

use std::fmt::Write;

use replicator::explain_report::{
    AloneReport, ExplainReport, GenerationReport, PeerExplanation, PromotionExplanation, RecordReport,
    SideReport, VerdictReport, VoteReport, VoterExplanation,
};

use crate::cli::render::show_milliseconds;
use crate::config_file::values::show_size;

/// Columns of a screen.
pub const WIDTH: usize = 112;
/// Where values begin.
const LABEL: usize = 16;
/// Width of a column of one side.
const SIDE: usize = 46;
/// Shared generations that are shown; older ones are counted.
const SHARED_MAX: usize = 3;
/// Ranges on a line.
const RANGES_A_LINE: usize = 3;

/// The whole explanation, ending in a newline.
pub fn explanation(report: &ExplainReport) -> String {
    let mut text = String::new();
    let ExplainReport { name, node_name, role, disk_state, .. } = report;
    push(&mut text, &format!("resource: {name}   node: {node_name}   role: {role}   disk: {disk_state}"));
    for peer in &report.peers {
        push(&mut text, "");
        peer_text(&mut text, peer);
    }
    push(&mut text, "");
    promotion(&mut text, report, &report.promotion);
    push(&mut text, "");
    voters(&mut text, &report.voters);
    text
}

fn push(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("a string takes everything");
}

/// Words in lines of at most [`WIDTH`], each behind `indent`.
pub fn paragraph(words: &str, indent: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    lines.join("\n")
}

/// A label, and words beside it that go on below one another.
fn labelled(text: &mut String, label: &str, words: &str) {
    let indent = " ".repeat(LABEL);
    let body = paragraph(words, &indent);
    let rest = body.get(LABEL.min(body.len())..).unwrap_or_default();
    push(text, &format!("{:<LABEL$}{rest}", format!("  {label}")));
}

/// One line of both columns.
fn both(text: &mut String, label: &str, ours: &str, theirs: &str) {
    push(text, &format!("{:<LABEL$}{ours:<SIDE$}{theirs}", format!("  {label}")));
}

fn peer_text(text: &mut String, peer: &PeerExplanation) {
    let reason = peer.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let head = format!("peer {}: {}, {}{reason}", peer.name, peer.connection_state, peer.replication_state);
    push(text, &paragraph(&head, ""));
    match (&peer.theirs, peer.told_ms_ago) {
        (Some(theirs), Some(ago)) => sides(text, peer, theirs, ago),
        (Some(_), None) | (None, _) => alone_here(text, peer),
    }
    if let Some(verdict) = &peer.verdict {
        verdict_text(text, verdict);
    }
    let count = peer.ways.len();
    for (number, way) in (1..).zip(&peer.ways) {
        let label = if count == 1 { "what to do".to_owned() } else { format!("way {number}") };
        labelled(text, &label, &way.action);
        labelled(text, "  loses", &way.loses);
    }
}

/// The peer has not been met: only this side is known.
fn alone_here(text: &mut String, peer: &PeerExplanation) {
    let ours = &peer.ours;
    let words = format!(
        "{} has not been met since this daemon started; nothing is known of it but that it has flushed what is here up \
         to write {}",
        peer.name, ours.base
    );
    labelled(text, "not met", &words);
    labelled(text, "newest write", &ours.end.to_string());
    for generation in ours.lineage.iter().rev().take(SHARED_MAX).rev() {
        labelled(text, "generation", &generation_text(generation));
    }
    labelled(text, "alone", &format!("after write {}: {}", peer.common_point, alone_text(&ours.alone)));
    where_text(text, ours);
}

fn sides(text: &mut String, peer: &PeerExplanation, theirs: &SideReport, ago: u64) {
    let ours = &peer.ours;
    let told = format!("{} (as heard {} ago)", theirs.node, show_milliseconds(ago));
    both(text, "", &format!("{} (this node, now)", ours.node), &told);
    both(text, "role", &ours.role, &theirs.role);
    both(text, "disk", &ours.disk_state, &theirs.disk_state);
    both(text, "newest write", &ours.end.to_string(), &theirs.end.to_string());
    let kept = |side: &SideReport| format!("from write {} on", side.oldest_kept);
    both(text, "journal", &kept(ours), &kept(theirs));
    let knows = |side: &SideReport, other: &str| format!("{other} has flushed up to write {}", side.base);
    both(text, "knows that", &knows(ours, &theirs.node), &knows(theirs, &ours.node));
    generations(text, ours, theirs);
    let common = match (&peer.common, peer.fork) {
        (None, _) => "no generation in common".to_owned(),
        (Some(common), Some(fork)) => format!("generation {common}; the two parted after write {fork}"),
        (Some(common), None) => format!("generation {common}, the newest of both"),
    };
    labelled(text, "common", &common);
    let label = format!("after {}", peer.common_point);
    both(text, &label, &alone_text(&ours.alone), &alone_text(&theirs.alone));
    where_text(text, ours);
    where_text(text, theirs);
}

/// Shared generations first, then what each side made alone.
fn generations(text: &mut String, ours: &SideReport, theirs: &SideReport) {
    let shared: Vec<&GenerationReport> = ours.lineage.iter().filter(|entry| entry.is_shared).collect();
    let older = shared.len().saturating_sub(SHARED_MAX);
    if older > 0 {
        both(text, "generations", &format!("({older} older ones)"), "the same");
    }
    let mut label = if older > 0 { "" } else { "generations" };
    for entry in shared.iter().skip(older) {
        both(text, label, &generation_text(entry), "the same");
        label = "";
    }
    for entry in ours.lineage.iter().filter(|entry| !entry.is_shared) {
        both(text, label, &generation_text(entry), "-");
        label = "";
    }
    for entry in theirs.lineage.iter().filter(|entry| !entry.is_shared) {
        both(text, label, "-", &generation_text(entry));
        label = "";
    }
    if ours.lineage.is_empty() && theirs.lineage.is_empty() {
        both(text, "generations", "none", "none");
    }
}

fn generation_text(entry: &GenerationReport) -> String {
    let granted = if entry.granted { "" } else { ", not granted" };
    format!("{} from {}, term {}{granted}", entry.id, entry.first_lsn, entry.term)
}

fn alone_text(alone: &AloneReport) -> String {
    let writes = if alone.writes == 1 { "1 write".to_owned() } else { format!("{} writes", alone.writes) };
    let Some(bytes) = alone.bytes else { return writes };
    let at_most = if alone.is_exact { "" } else { "at most " };
    format!("{writes}, {at_most}{}", show_size(bytes))
}

/// Which blocks a side has changed alone.
fn where_text(text: &mut String, side: &SideReport) {
    let alone = &side.alone;
    if alone.writes == 0 && alone.ranges.is_empty() {
        return;
    }
    labelled(text, &side.node, &alone.note);
    let ranges: Vec<String> = alone
        .ranges
        .iter()
        .map(|range| {
            format!("{}..{} ({})", range.offset, range.offset + range.length, show_size(range.length))
        })
        .collect();
    for line in ranges.chunks(RANGES_A_LINE) {
        labelled(text, "  bytes", &line.join(",  "));
    }
    if alone.ranges_more > 0 {
        let more = format!("and {} ranges more with {}", alone.ranges_more, show_size(alone.bytes_more));
        labelled(text, "", &more);
    }
}

fn verdict_text(text: &mut String, verdict: &VerdictReport) {
    labelled(text, "rule", &format!("{}: {}", verdict.rule, verdict.condition));
    for refuted in &verdict.not {
        labelled(text, "", &format!("not {}: {}", refuted.rule, refuted.why));
    }
    let when = match verdict.kind.as_str() {
        "reached" => "",
        _ => "if it came back as it was heard last: ",
    };
    labelled(text, "verdict", &format!("{when}{}", verdict.text));
    if let Some(because) = &verdict.because {
        labelled(text, "because", because);
    }
}

fn promotion(text: &mut String, report: &ExplainReport, promotion: &PromotionExplanation) {
    let command = format!("`twinblk promote {}`", report.name);
    if report.role == "Primary" {
        push(text, &format!("{command}: {} is Primary already", report.node_name));
        return;
    }
    let rule = promotion.rule.as_ref().map(|rule| format!(" (rule {rule})")).unwrap_or_default();
    let answer = if promotion.yes { "would be tried" } else { "would be refused now" };
    push(
        text,
        &paragraph(&format!("{command} on {} {answer}{rule}: {}", report.node_name, promotion.because), ""),
    );
    if let Some(cure) = promotion.cure.as_ref().filter(|_| !promotion.yes) {
        labelled(text, "what to do", cure);
    }
    labelled(text, "with --force", &promotion.force_loses);
}

fn voters(text: &mut String, voters: &[VoterExplanation]) {
    push(text, "voters, and the record that each has stored as far as it is known here");
    for voter in voters {
        let heard = voter.heard_ms_ago.map(|ago| format!(", heard {} ago", show_milliseconds(ago)));
        let record = voter.record.as_ref().map_or("not known".to_owned(), record_text);
        labelled(
            text,
            &voter.name,
            &format!("{}{}; record: {record}", voter.link, heard.unwrap_or_default()),
        );
        if let Some(voted) = &voter.voted {
            labelled(text, "", &format!("asked for its vote by this node, it {}", vote_text(voted)));
        }
        if let Some(voted) = &voter.was_voted {
            labelled(
                text,
                "",
                &format!("when it asked for this node's vote, this node {}", vote_text(voted)),
            );
        }
    }
}

fn record_text(record: &RecordReport) -> String {
    if record.term == 0 {
        return "empty when it was shown last".to_owned();
    }
    let primary = record.primary.as_deref().unwrap_or("nobody");
    let age = if record.is_newest { "" } else { " when it was shown last: older than another one" };
    format!(
        "term {} version {}, Primary {primary}, in sync {}{age}",
        record.term,
        record.version,
        record.in_sync.join(" and ")
    )
}

fn vote_text(vote: &VoteReport) -> String {
    let stage = if vote.stage == "vote" { "the vote itself" } else { "only its opinion" };
    let answer = match &vote.reason {
        _ if vote.granted => "said yes".to_owned(),
        Some(reason) => format!("said no: {reason}"),
        None => "said no".to_owned(),
    };
    format!("{answer} ({stage}, {} ago)", show_milliseconds(vote.ms_ago))
}

#[cfg(test)]
mod tests {
    use replicator::explain_report::{RangeReport, RefutedReport, WayReport};

    use super::*;

    fn side(node: &str, own: &str, end: u64, alone: AloneReport) -> SideReport {
        let entry = |id: &str, first_lsn, is_shared| GenerationReport {
            id: id.to_owned(),
            term: first_lsn,
            granted: is_shared,
            first_lsn,
            is_shared,
        };
        SideReport {
            node: node.to_owned(),
            role: "Secondary".to_owned(),
            disk_state: "Consistent".to_owned(),
            end,
            oldest_kept: 1,
            base: 4,
            lineage: vec![entry("5a45524f45440000", 1, true), entry(own, 5, false)],
            alone,
        }
    }

    fn split_brain() -> ExplainReport {
        let range = |offset| RangeReport { offset, length: 4096 };
        let ours = AloneReport {
            writes: 6,
            bytes: Some(24_576),
            ranges: vec![range(0), range(65_536)],
            ranges_more: 4,
            bytes_more: 16_384,
            is_exact: true,
            note: "every block that these writes touch, from the journal".to_owned(),
        };
        let theirs = AloneReport { writes: 1, note: "by its state".to_owned(), ..AloneReport::default() };
        let way =
            |action: &str, loses: &str| WayReport { action: action.to_owned(), loses: loses.to_owned() };
        let peer = PeerExplanation {
            name: "beta".to_owned(),
            connection_state: "StandAlone".to_owned(),
            replication_state: "Off".to_owned(),
            reason: Some("rule SplitBrain: split brain".to_owned()),
            ours: side("alpha", "00000000000000aa", 10, ours),
            theirs: Some(side("beta", "00000000000000bb", 5, theirs)),
            told_ms_ago: Some(61_000),
            common: Some("5a45524f45440000".to_owned()),
            fork: Some(4),
            common_point: 4,
            verdict: Some(VerdictReport {
                rule: "SplitBrain".to_owned(),
                condition: "anything else".to_owned(),
                not: vec![RefutedReport { rule: "BothNew".to_owned(), why: "it was written".to_owned() }],
                text: "no replication".to_owned(),
                because: None,
                kind: "reached".to_owned(),
            }),
            ways: vec![way("Believe alpha.", "1 write on beta"), way("Believe beta.", "6 writes on alpha")],
        };
        ExplainReport {
            schema: 1,
            name: "mail".to_owned(),
            running: true,
            node_name: "alpha".to_owned(),
            role: "Secondary".to_owned(),
            disk_state: "Consistent".to_owned(),
            peers: vec![peer],
            promotion: PromotionExplanation {
                yes: false,
                rule: Some("no-quorum".to_owned()),
                because: "no majority can be reached".to_owned(),
                cure: None,
                force_loses: "whatever beta has".to_owned(),
            },
            voters: vec![VoterExplanation {
                name: "beta".to_owned(),
                link: "linked".to_owned(),
                heard_ms_ago: Some(300),
                record: None,
                voted: Some(VoteReport {
                    ms_ago: 2000,
                    stage: "asked".to_owned(),
                    granted: false,
                    reason: Some("it is ahead".to_owned()),
                }),
                was_voted: None,
            }],
        }
    }

    #[test]
    fn both_sides_stand_beside_one_another_and_each_way_says_what_it_loses() {
        let wanted = "\
resource: mail   node: alpha   role: Secondary   disk: Consistent

peer beta: StandAlone, Off: rule SplitBrain: split brain
                alpha (this node, now)                        beta (as heard 1 min 1 s ago)
  role          Secondary                                     Secondary
  disk          Consistent                                    Consistent
  newest write  10                                            5
  journal       from write 1 on                               from write 1 on
  knows that    beta has flushed up to write 4                alpha has flushed up to write 4
  generations   5a45524f45440000 from 1, term 1               the same
                00000000000000aa from 5, term 5, not granted  -
                -                                             00000000000000bb from 5, term 5, not granted
  common        generation 5a45524f45440000; the two parted after write 4
  after 4       6 writes, 24KiB                               1 write
  alpha         every block that these writes touch, from the journal
    bytes       0..4096 (4KiB), 65536..69632 (4KiB)
                and 4 ranges more with 16KiB
  beta          by its state
  rule          SplitBrain: anything else
                not BothNew: it was written
  verdict       no replication
  way 1         Believe alpha.
    loses       1 write on beta
  way 2         Believe beta.
    loses       6 writes on alpha

`twinblk promote mail` on alpha would be refused now (rule no-quorum): no majority can be reached
  with --force  whatever beta has

voters, and the record that each has stored as far as it is known here
  beta          linked, heard 0.3 s ago; record: not known
                asked for its vote by this node, it said no: it is ahead (only its opinion, 2.0 s ago)
";
        assert_eq!(explanation(&split_brain()), wanted);
    }

    #[test]
    fn no_line_is_wider_than_a_screen() {
        let mut report = split_brain();
        let long = "a word and another one ".repeat(30);
        report.peers[0].reason = Some(long.clone());
        report.peers[0].ways[0].action = long.clone();
        report.promotion.because = long;
        assert!(explanation(&report).lines().all(|line| line.len() <= WIDTH));
    }
}
