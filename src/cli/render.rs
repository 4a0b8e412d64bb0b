//! A status report for people: the four axes, a line for each peer, and what to do about what is wrong.
//!
//! Rule: terse and aligned; colours say nothing that words do not. Prints nothing itself.

use std::fmt::Write;
use std::io::IsTerminal;

use super::report::{Connection, PeerDevice, Report};
use crate::config_file::values::show_size;

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// For files, pipes and those who set NO_COLOR.
    Plain,
    /// For terminals.
    Ansi,
}

impl Colour {
    /// As it suits standard output.
    pub fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !refused { Self::Ansi } else { Self::Plain }
    }

    /// The word of a state, coloured by how good it is.
    fn state(self, word: &str) -> String {
        let code = match word {
            "UpToDate" | "Connected" | "Established" => "32",
            "Primary" => "1",
            "Inconsistent" | "Failed" | "Diskless" | "StandAlone" => "31",
            "Outdated" | "Consistent" | "DUnknown" | "Connecting" | "SyncSource" | "SyncTarget"
            | "Unknown" => "33",
            _ => return word.to_owned(),
        };
        self.paint(code, word)
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Ansi => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }
}

/// The whole report, ending in a newline.
pub fn status(report: &Report, colour: Colour) -> String {
    let mut text = String::new();
    let disk = report.device().map_or("Diskless", |device| device.disk_state.as_str());
    let mut line = format!(
        "resource: {}   node: {}   role: {}   disk: {}",
        report.name,
        report.node_name,
        colour.state(&report.role),
        colour.state(disk)
    );
    if let Some(device) = report.device() {
        line.push_str(&format!("   size: {}", show_size(device.size.saturating_mul(1024))));
        if report.role == "Primary" {
            line.push_str(&format!("   clients: {}", device.clients));
        }
        if !device.quorum {
            line.push_str(&format!("   quorum: {}", colour.paint("31", "lost")));
        }
    }
    if report.serves_as_was {
        let clients = report.device().map_or(0, |device| device.clients);
        line.push_str(&format!(
            "   serves its own side read-only as {}-as-was   clients: {clients}",
            report.name
        ));
    }
    push_line(&mut text, &line);
    for line in peers(&report.connections, colour) {
        push_line(&mut text, &line);
    }
    if let Some(tiebreaker) = &report.tiebreaker {
        let reason = tiebreaker.reason.as_ref().map(|reason| format!("   ({reason})")).unwrap_or_default();
        push_line(
            &mut text,
            &format!("  tiebreaker: {}{reason}", colour.state(&tiebreaker.connection_state)),
        );
    }
    if !report.in_sync.is_empty() {
        let names: Vec<&str> = report.in_sync.iter().map(|member| member.name.as_str()).collect();
        push_line(&mut text, &format!("  in-sync: {}", names.join(", ")));
    }
    if let Some(frozen) = &report.frozen {
        let since = show_milliseconds(frozen.since_ms);
        let word = colour.paint("31", "frozen");
        push_line(
            &mut text,
            &format!("  {word}: for {since}: {}; ends by {}", frozen.reason, frozen.ends_by),
        );
    }
    if report.role != "Primary" && !report.can_promote.yes {
        push_line(&mut text, &format!("  promote: not now: {}", report.can_promote.because));
    }
    for advice in &report.advice {
        push_line(&mut text, &format!("  status: {}: {}", advice.state, advice.status));
        push_line(&mut text, &format!("  action: {}   see: {}", advice.action, advice.see));
    }
    text
}

fn push_line(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("a string takes everything");
}

/// One aligned line for each peer, and one for the reason why its link is down.
fn peers(connections: &[Connection], colour: Colour) -> Vec<String> {
    let rows: Vec<[(&str, String); 6]> = connections.iter().map(peer_columns).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].1.len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut lines = Vec::new();
    for (row, connection) in rows.iter().zip(connections) {
        let mut line = String::from(" ");
        for ((label, value), width) in row.iter().zip(&widths) {
            // Padding counts letters, not the bytes of colours.
            let padding = " ".repeat(width - value.len());
            let gap = if *label == "peer" { "" } else { "  " };
            line.push_str(&format!("{gap} {label}: {}{padding}", colour.state(value)));
        }
        line.push_str(&behind(connection));
        lines.push(line);
        if let Some(reason) = &connection.reason {
            // The rule that decided matters while it keeps the two apart.
            let is_apart = connection.connection_state == "StandAlone";
            let rule = connection.rule.as_ref().filter(|_| is_apart && !reason.starts_with("rule "));
            let rule = rule.map(|rule| format!(" (rule {rule})")).unwrap_or_default();
            lines.push(format!("    reason: {reason}{rule}"));
        }
    }
    lines
}

fn peer_columns(connection: &Connection) -> [(&'static str, String); 6] {
    let device = connection.peer_devices.first();
    let disk = device.map_or("DUnknown", |device| device.peer_disk_state.as_str());
    let replication = device.map_or("Off", |device| device.replication_state.as_str());
    [
        ("peer", connection.name.clone()),
        ("role", connection.peer_role.clone()),
        ("disk", disk.to_owned()),
        ("link", connection.connection_state.clone()),
        ("replication", replication.to_owned()),
        ("protocol", connection.protocol.clone()),
    ]
}

/// How far the peer is behind, and whether it slows us.
fn behind(connection: &Connection) -> String {
    let mut text = String::new();
    if let Some(device) = connection.peer_devices.first() {
        let is_syncing = device.replication_state.starts_with("Sync");
        if is_syncing {
            // Rounded down: 100 % is only what is complete.
            text.push_str(&format!("   {:.1} %", (device.percent_in_sync * 10.0).floor() / 10.0));
        }
        text.push_str(&progress(connection, device).unwrap_or_default());
        if device.out_of_sync > 0 && (is_syncing || connection.connection_state != "Connected") {
            text.push_str(&format!("   behind: {}", show_size(device.out_of_sync.saturating_mul(1024))));
        }
    }
    if connection.congested {
        text.push_str("   congested");
    }
    text
}

/// How fast a resync or a catch-up goes, and how long it will take; or who has paused it.
fn progress(connection: &Connection, device: &PeerDevice) -> Option<String> {
    let rate = device.recent_rate?;
    let there = format!("on {}", connection.name);
    let paused_by = match device.resync_suspended.as_str() {
        "no" => {
            let left = device.estimated_seconds_to_finish.map_or_else(
                || "no end in sight".to_owned(),
                |seconds| format!("{} left", show_milliseconds(seconds.saturating_mul(1000))),
            );
            return Some(format!("   {rate:.1} MiB/s   {left}"));
        }
        "user" => "here",
        "peer" => &there,
        _ => &format!("here and {there}"),
    };
    Some(format!("   paused by an operator {paused_by}"))
}

/// A length of time in the unit that fits.
pub fn show_milliseconds(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{seconds}.{} s", milliseconds / 100 % 10),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(change: impl FnOnce(&mut serde_json::Value)) -> Report {
        let mut value = json!({
            "name": "mail", "node-name": "alpha", "role": "Primary", "suspended": false, "serves-as-was": false,
            "devices": [{"disk-state": "UpToDate", "clients": 2, "quorum": true, "size": 104_857_600}],
            "connections": [
                {"peer-node-id": 1, "name": "beta", "connection-state": "Connected", "congested": false,
                 "peer-role": "Secondary", "protocol": "C", "reason": null, "rule": "SameGeneration", "peer_devices": [
                    {"replication-state": "Established", "peer-disk-state": "UpToDate", "out-of-sync": 0, "percent-in-sync": 100.0, "resync-suspended": "no"}]},
                {"peer-node-id": 2, "name": "gamma-dr", "connection-state": "Connecting", "congested": true,
                 "peer-role": "Unknown", "protocol": "A", "reason": "10.0.0.3:7789 does not answer", "rule": "SameGeneration", "peer_devices": [
                    {"replication-state": "Off", "peer-disk-state": "DUnknown", "out-of-sync": 2048, "percent-in-sync": 99.99, "resync-suspended": "no"}]}],
            "tiebreaker": {"connection-state": "Connected", "reason": null},
            "in-sync": [{"name": "alpha"}, {"name": "beta"}],
            "frozen": null,
            "can-promote": {"yes": false, "because": "this node is Primary already"},
            "advice": [],
        });
        change(&mut value);
        serde_json::from_value(value).expect("a report")
    }

    #[test]
    fn peers_stand_below_one_another() {
        let text = status(&report(|_| {}), Colour::Plain);
        let wanted = "\
resource: mail   node: alpha   role: Primary   disk: UpToDate   size: 100GiB   clients: 2
  peer: beta       role: Secondary   disk: UpToDate   link: Connected    replication: Established   protocol: C
  peer: gamma-dr   role: Unknown     disk: DUnknown   link: Connecting   replication: Off           protocol: A   behind: 2MiB   congested
    reason: 10.0.0.3:7789 does not answer
  tiebreaker: Connected
  in-sync: alpha, beta
";
        assert_eq!(text, wanted);
    }

    #[test]
    fn what_is_wrong_is_followed_by_what_to_do() {
        let text = status(
            &report(|value| {
                value["frozen"] = json!({"reason": "beta does not answer", "since-ms": 3210, "ends-by": "a majority answers"});
                value["devices"][0]["quorum"] = json!(false);
                value["in-sync"] = json!([]);
                value["connections"] = json!([]);
                value["tiebreaker"] = json!({"connection-state": "Connecting", "reason": "refused"});
                value["advice"] = json!([{"state": "frozen", "status": "All I/O waits.", "action": "`systemctl start x`.", "see": "docs/x.md"}]);
            }),
            Colour::Plain,
        );
        let wanted = "\
resource: mail   node: alpha   role: Primary   disk: UpToDate   size: 100GiB   clients: 2   quorum: lost
  tiebreaker: Connecting   (refused)
  frozen: for 3.2 s: beta does not answer; ends by a majority answers
  status: frozen: All I/O waits.
  action: `systemctl start x`.   see: docs/x.md
";
        assert_eq!(text, wanted);
    }

    #[test]
    fn the_rule_is_told_where_it_keeps_two_nodes_apart() {
        let text = |state: &str| {
            let apart = |value: &mut serde_json::Value| {
                value["connections"][1]["connection-state"] = json!(state);
                value["connections"][1]["reason"] = json!("it went back");
                value["connections"][1]["rule"] = json!("WentBack");
            };
            status(&report(apart), Colour::Plain)
        };
        assert!(text("StandAlone").contains("    reason: it went back (rule WentBack)\n"));
        assert!(text("Connecting").contains("    reason: it went back\n"));
    }

    #[test]
    fn a_resync_is_shown_with_its_rate_and_its_end_or_with_who_has_paused_it() {
        let text = |suspended: &str, left: serde_json::Value| {
            let syncing = |value: &mut serde_json::Value| {
                value["connections"][0]["peer_devices"][0] = json!({
                    "replication-state": "SyncSource", "peer-disk-state": "Inconsistent", "out-of-sync": 5_242_880,
                    "percent-in-sync": 95.0, "resync-suspended": suspended, "db1/dt1 [MiB/s]": 64.04,
                    "percent-resync-done": 37.5, "estimated-seconds-to-finish": left,
                });
            };
            status(&report(syncing), Colour::Plain)
        };
        let going = text("no", json!(80));
        assert!(
            going.contains("protocol: C   95.0 %   64.0 MiB/s   1 min 20 s left   behind: 5GiB\n"),
            "{going}"
        );
        assert!(text("no", json!(null)).contains("95.0 %   64.0 MiB/s   no end in sight   behind: 5GiB\n"));
        assert!(text("user", json!(null)).contains("95.0 %   paused by an operator here   behind"));
        assert!(text("peer", json!(null)).contains("   paused by an operator on beta   "));
        assert!(text("user,peer", json!(null)).contains("   paused by an operator here and on beta   "));
    }

    #[test]
    fn a_secondary_says_why_it_cannot_be_promoted() {
        let text = status(&report(|value| value["role"] = json!("Secondary")), Colour::Plain);
        assert!(text.contains("  promote: not now: this node is Primary already\n"), "{text}");
        assert!(!text.contains("clients:"), "{text}");
    }

    #[test]
    fn colours_change_no_column() {
        let plain = status(&report(|_| {}), Colour::Plain);
        let mut coloured = status(&report(|_| {}), Colour::Ansi);
        assert!(coloured.contains("\u{1b}[32mUpToDate\u{1b}[0m"));
        for code in ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m"] {
            coloured = coloured.replace(code, "");
        }
        assert_eq!(coloured, plain);
    }

    #[test]
    fn times_are_shown_in_the_unit_that_fits() {
        assert_eq!(show_milliseconds(999), "0.9 s");
        assert_eq!(show_milliseconds(61_000), "1 min 1 s");
        assert_eq!(show_milliseconds(7_260_000), "2 h 1 min");
    }
}
