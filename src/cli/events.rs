//! `twinblk events`: what happens to resources, one line each, in the words of `drbdsetup events2`.
//!
//! Rule: `exists` lines give the state at the beginning and end with `exists -`; afterwards a line appears for
//! each object that changed, with all of its keys. Watches the resources that run when it starts.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::mpsc;

use serde_json::{Value, json};

use super::args::{EventsArgs, Places};
use super::client::{ANSWER_TIMEOUT, Client, no_daemon_at_all, resources_with_socket};
use super::report::Report;
use crate::control_protocol::{Command, EventLine, ReplyBody};

/// Lines of all watched daemons that wait to be printed.
const LINES_MAX: usize = 64;

/// What a watcher thread passes on.
enum Watched {
    Event(EventLine),
    Ended(anyhow::Result<()>),
}

/// `twinblk events`
pub fn run(places: &Places, args: &EventsArgs) -> anyhow::Result<()> {
    let resources =
        args.resource.clone().map_or_else(|| resources_with_socket(&places.run_dir), |one| vec![one]);
    if resources.is_empty() {
        return Err(no_daemon_at_all(places));
    }
    let (sender, receiver) = mpsc::sync_channel(LINES_MAX);
    for resource in &resources {
        let mut client = Client::connect(places, resource)?;
        match client.ask(Command::Events { now: args.now }, Some(ANSWER_TIMEOUT))? {
            ReplyBody::Streaming => {}
            other => anyhow::bail!("{resource}: the daemon answered a question for events with {other:?}"),
        }
        let (sender, resource) = (sender.clone(), resource.clone());
        std::thread::spawn(move || watch(client, &resource, &sender));
    }
    drop(sender);
    print_all(&receiver, args.json, resources.len())
}

fn watch(mut client: Client, resource: &str, sender: &mpsc::SyncSender<(String, Watched)>) {
    loop {
        let (watched, is_last) = match client.next_event() {
            Ok(Some(event)) => (Watched::Event(event), false),
            Ok(None) => (Watched::Ended(Ok(())), true),
            Err(error) => (Watched::Ended(Err(error)), true),
        };
        // Nobody listens any more only when the command is over.
        if sender.send((resource.to_owned(), watched)).is_err() || is_last {
            return;
        }
    }
}

fn print_all(receiver: &mpsc::Receiver<(String, Watched)>, json: bool, watched: usize) -> anyhow::Result<()> {
    let mut objects: BTreeMap<String, Objects> = BTreeMap::new();
    let mut snapshots = 0;
    let mut failure = Ok(());
    for (resource, watched_event) in receiver {
        let event = match watched_event {
            Watched::Event(event) => event,
            Watched::Ended(Ok(())) => continue,
            Watched::Ended(Err(error)) => {
                failure = Err(error);
                continue;
            }
        };
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", with_name(&resource, &event)?)?;
        } else {
            let known = objects.entry(resource.clone()).or_default();
            for line in lines(&resource, known, event, watched, &mut snapshots)? {
                writeln!(out, "{line}")?;
            }
        }
        out.flush()?;
    }
    failure
}

/// An event as JSON, with the name of its resource.
fn with_name(resource: &str, event: &EventLine) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(event)?;
    value["name"] = json!(resource);
    Ok(value)
}

/// Each object of a resource in the order of printing: its kind and name, and its keys.
type Objects = Vec<(String, String)>;

/// What to print for an event. `known` is what was printed last of each object; `exists -` comes once,
/// after the snapshots of all `watched` resources.
fn lines(
    resource: &str,
    known: &mut Objects,
    event: EventLine,
    watched: usize,
    snapshots: &mut usize,
) -> anyhow::Result<Vec<String>> {
    Ok(match event {
        EventLine::Exists { report } => {
            *known = objects_of(&super::status::parse(report)?);
            known.iter().map(|(object, keys)| format!("exists {object} {keys}")).collect()
        }
        EventLine::ExistsEnd => {
            *snapshots += 1;
            if *snapshots == watched { vec!["exists -".to_owned()] } else { Vec::new() }
        }
        EventLine::Change { report } => {
            let now = objects_of(&super::status::parse(report)?);
            let changed = now.iter().filter(|object| !known.contains(object));
            let lines = changed.map(|(object, keys)| format!("change {object} {keys}")).collect();
            *known = now;
            lines
        }
        EventLine::Notice { severity, name, text } => {
            vec![format!("notice resource name:{resource} severity:{severity} event:{name} text:{text}")]
        }
        EventLine::Lagged { lines } => vec![format!("lagged resource name:{resource} lines:{lines}")],
        EventLine::Destroy { text } => vec![format!("destroy resource name:{resource} text:{text}")],
    })
}

fn objects_of(report: &Report) -> Objects {
    let name = &report.name;
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let mut objects = Objects::new();
    objects.push((
        format!("resource name:{name}"),
        format!(
            "role:{} suspended:{} may_promote:{}",
            report.role,
            yes_no(report.suspended),
            yes_no(report.can_promote.yes)
        ),
    ));
    for device in &report.devices {
        let keys = format!(
            "disk:{} open:{} quorum:{}",
            device.disk_state,
            yes_no(device.clients > 0),
            yes_no(device.quorum)
        );
        objects.push((format!("device name:{name} volume:0"), keys));
    }
    for connection in &report.connections {
        let peer =
            format!("name:{name} peer-node-id:{} conn-name:{}", connection.peer_node_id, connection.name);
        let keys = format!("connection:{} role:{}", connection.connection_state, connection.peer_role);
        objects.push((format!("connection {peer}"), keys));
        for device in &connection.peer_devices {
            let mut keys = format!(
                "replication:{} peer-disk:{} resync-suspended:{}",
                device.replication_state, device.peer_disk_state, device.resync_suspended
            );
            if let Some(done) = device.percent_resync_done {
                keys.push_str(&format!(" done:{done:.2}"));
            }
            objects.push((format!("peer-device {peer} volume:0"), keys));
        }
    }
    if let Some(tiebreaker) = &report.tiebreaker {
        objects
            .push((format!("tiebreaker name:{name}"), format!("connection:{}", tiebreaker.connection_state)));
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(role: &str, peer_disk: &str) -> Value {
        json!({
            "name": "mail", "node-name": "alpha", "role": role, "suspended": false, "serves-as-was": false,
            "devices": [{"disk-state": "UpToDate", "clients": 0, "quorum": true, "size": 4}],
            "connections": [{"peer-node-id": 1, "name": "beta", "connection-state": "Connected", "congested": false,
                "peer-role": "Secondary", "protocol": "C", "reason": null, "peer_devices": [
                    {"replication-state": "Established", "peer-disk-state": peer_disk, "out-of-sync": 0, "percent-in-sync": 100.0, "resync-suspended": "no"}]}],
            "tiebreaker": null, "in-sync": [], "frozen": null, "can-promote": {"yes": true, "because": ""}, "advice": [],
        })
    }

    fn printed(events: Vec<EventLine>) -> Vec<String> {
        let (mut known, mut snapshots) = (Objects::new(), 0);
        let print = |event| lines("mail", &mut known, event, 1, &mut snapshots).expect("a report");
        events.into_iter().flat_map(print).collect()
    }

    #[test]
    fn the_snapshot_ends_with_exists_and_a_dash() {
        let exists = EventLine::Exists { report: report("Secondary", "UpToDate") };
        assert_eq!(
            printed(vec![exists, EventLine::ExistsEnd]),
            [
                "exists resource name:mail role:Secondary suspended:no may_promote:yes",
                "exists device name:mail volume:0 disk:UpToDate open:no quorum:yes",
                "exists connection name:mail peer-node-id:1 conn-name:beta connection:Connected role:Secondary",
                "exists peer-device name:mail peer-node-id:1 conn-name:beta volume:0 replication:Established peer-disk:UpToDate resync-suspended:no",
                "exists -",
            ]
        );
    }

    #[test]
    fn a_change_prints_only_what_differs() {
        let before = EventLine::Exists { report: report("Secondary", "UpToDate") };
        let after = EventLine::Change { report: report("Primary", "UpToDate") };
        let again = EventLine::Change { report: report("Primary", "UpToDate") };
        let printed = printed(vec![before, after, again]);
        assert_eq!(printed[4..], ["change resource name:mail role:Primary suspended:no may_promote:yes"]);
    }

    #[test]
    fn a_resync_that_goes_on_says_how_much_of_it_is_done() {
        let mut syncing = report("Primary", "Inconsistent");
        syncing["connections"][0]["peer_devices"][0]["percent-resync-done"] = json!(37.456);
        syncing["connections"][0]["peer_devices"][0]["resync-suspended"] = json!("peer");
        let before = EventLine::Exists { report: report("Primary", "Inconsistent") };
        let printed = printed(vec![before, EventLine::Change { report: syncing }]);
        let keys = "replication:Established peer-disk:Inconsistent resync-suspended:peer done:37.46";
        assert!(printed[4].ends_with(keys), "{printed:?}");
    }

    #[test]
    fn json_lines_carry_the_name_of_their_resource() {
        let line = with_name("mail", &EventLine::Lagged { lines: 2 }).expect("an object");
        assert_eq!(line, json!({"event": "lagged", "lines": 2, "name": "mail"}));
    }
}
