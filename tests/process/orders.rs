//! The operator's commands on a running pair: what they say, how long they wait, and how they end.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use serde_json::Value;

use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter};

/// A wait that did not come true in the time given.
const TIMED_OUT: Option<i32> = Some(5);
/// More lines than a test causes.
const LINES_MAX: usize = 1000;

/// A command that goes on, and what it says.
struct Watcher {
    child: Child,
    lines: Receiver<String>,
}

impl Watcher {
    fn start(cluster: &Cluster, args: &[&str]) -> Self {
        let mut child =
            cluster.command(Voter::A, args).stdout(Stdio::piped()).spawn().expect("room for a process");
        let output = BufReader::new(child.stdout.take().expect("asked for"));
        let (sender, lines) = sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in output.lines() {
                // Nobody listens any more only when the test is over.
                let _ = sender.send(line.expect("text"));
            }
        });
        Self { child, lines }
    }

    /// Everything up to the first line that is wanted.
    fn until(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(SOON) {
                Ok(line) => said.push(line),
                Err(error) => panic!("{error}; so far: {said:#?}"),
            }
            if said.last().is_some_and(|line| is_wanted(line)) {
                return said;
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn role_says_one_word_and_it_is_that_of_the_node_that_was_asked() {
    let cluster = Cluster::start(&Settings::default());
    let roles = || Voter::REPLICAS.map(|replica| cluster.expect(replica, &["role", RESOURCE]));
    assert_eq!(roles(), ["Secondary\n", "Secondary\n"]);
    cluster.promote(Voter::A);
    assert_eq!(roles(), ["Primary\n", "Secondary\n"]);
    cluster.expect(Voter::A, &["demote", RESOURCE]);
    assert_eq!(roles(), ["Secondary\n", "Secondary\n"]);
}

#[test]
fn a_wait_ends_with_0_when_it_comes_true_and_with_5_when_its_time_runs_out() {
    let mut cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    cluster.expect(Voter::A, &["wait-connect", RESOURCE]);
    cluster.expect(Voter::A, &["wait-sync", RESOURCE, "--timeout", "60s"]);
    assert_eq!(
        cluster.value(Voter::A, "/connections/0/peer_devices/0/peer-disk-state"),
        Some("UpToDate".into())
    );
    cluster.kill(Voter::B);
    cluster.wait_until("the loss of b is noticed", SOON, |cluster| {
        cluster.value(Voter::A, "/connections/0/connection-state").is_some_and(|state| state != "Connected")
    });
    for wait in ["wait-connect", "wait-sync"] {
        let output = cluster.run(Voter::A, &[wait, RESOURCE, "--timeout", "300ms"]);
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), TIMED_OUT, "{wait}: {complained}");
        assert!(complained.starts_with("twinblk: ") && output.stdout.is_empty(), "{wait}: {complained}");
    }
    // They are asked while it is not true, and it becomes true meanwhile.
    let waits = [["wait-connect", RESOURCE, "--timeout", "60s"], ["wait-sync", RESOURCE, "--timeout", "60s"]];
    let mut waiting = waits.map(|wait| Watcher::start(&cluster, &wait));
    cluster.start_process(Voter::B);
    for (wait, name) in waiting.iter_mut().zip(["wait-connect", "wait-sync"]) {
        assert!(wait.child.wait().expect("it ends").success(), "{name}");
    }
    cluster.wait_until_synced(Voter::A);
}

#[test]
fn events_begin_with_what_is_there_and_go_on_with_what_changes() {
    let mut cluster = Cluster::start(&Settings::default());
    let text = Watcher::start(&cluster, &["events", RESOURCE]);
    let json = Watcher::start(&cluster, &["events", RESOURCE, "--json"]);
    let event = |line: &str| serde_json::from_str::<Value>(line).expect("a JSON object for each line");

    let there = text.until(|line| line == "exists -");
    assert!(there[0].starts_with("exists resource name:demo role:Secondary "), "{there:#?}");
    assert!(there.iter().all(|line| line.starts_with("exists ")), "{there:#?}");
    let there = json.until(|line| event(line)["event"] == "exists-end");
    let exists = event(&there[0]);
    assert_eq!((&exists["event"], &exists["report"]["role"]), (&"exists".into(), &"Secondary".into()));

    cluster.promote(Voter::A);
    text.until(|line| line.starts_with("change resource name:demo role:Primary "));
    json.until(|line| {
        let event = event(line);
        event["event"] == "change" && event["name"] == RESOURCE && event["report"]["role"] == "Primary"
    });

    assert!(cluster.stop(Voter::A).success());
    text.until(|line| line.starts_with("destroy resource name:demo "));
    json.until(|line| event(line)["event"] == "destroy");
}

#[test]
fn events_now_end_after_what_is_there() {
    let cluster = Cluster::start(&Settings::default());
    let said = cluster.expect(Voter::A, &["events", RESOURCE, "--now"]);
    assert!(said.starts_with("exists resource ") && said.ends_with("\nexists -\n"), "{said}");
}

#[test]
fn a_log_in_json_is_one_object_a_line_from_the_first_to_the_last() {
    let mut cluster = Cluster::make(&Settings::default());
    for voter in Voter::ALL {
        cluster.start_process_with(voter, &["--log-format", "json"]);
    }
    cluster.wait_until_linked();
    cluster.promote(Voter::A);
    for voter in Voter::ALL {
        assert!(cluster.stop(voter).success());
        let log = cluster.logged(voter);
        assert!(log.lines().count() > 1 && log.ends_with('\n'), "{}: {log}", voter.name());
        for line in log.lines() {
            let object: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{}: {error}: {line}", voter.name()));
            for key in ["timestamp", "level", "message"] {
                assert!(object[key].is_string(), "{}: no {key}: {line}", voter.name());
            }
        }
    }
}
