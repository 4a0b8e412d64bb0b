//! The command line from outside: transcripts that are manual and test at once, and the published shape of
//! `status --json`. The transcripts (`tests/cli/*.md`) are run as they stand; after a wanted change
//! `TRYCMD=overwrite cargo test --test cli` writes them anew.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use replicator::config::{Address, ReplicationProtocol};
use replicator::generation::lineage::Generation;
use replicator::promotion::membership::Member;
use replicator::resync::pace::{Pace, SyncCounts, SyncDetails};
use replicator::state::{ConnectionState, DiskState, ReplicationState, Role};
use replicator::status_report::{
    Advice, CanPromote, ConnectionReport, DeviceReport, FrozenReport, InSyncReport, JournalReport, LsnReport,
    PathReport, PeerDeviceReport, SplitBrainReport, StatusReport, TiebreakerReport,
};
use replicator::units::{GenerationId, Incarnation, Lsn, NodeId, Term, Tick};
use serde_json::Value;

const SCHEMA: &str = include_str!("../docs/status.schema.json");

/// The keys of DRBD's `status --json`, outermost level, that programs rely on.
const DRBD_KEYS: [&str; 12] = [
    "name",
    "node-id",
    "role",
    "suspended",
    "suspended-user",
    "suspended-no-data",
    "suspended-fencing",
    "suspended-quorum",
    "force-io-failures",
    "write-ordering",
    "devices",
    "connections",
];

/// The same of the volume. DRBD's `minor` is absent on purpose: docs/operating/monitor.md.
const DRBD_DEVICE_KEYS: [&str; 12] = [
    "volume",
    "disk-state",
    "client",
    "open",
    "quorum",
    "size",
    "read",
    "written",
    "al-writes",
    "bm-writes",
    "upper-pending",
    "lower-pending",
];

/// The same of a connection, and of the volume on the peer.
const DRBD_CONNECTION_KEYS: [&str; 10] = [
    "peer-node-id",
    "name",
    "connection-state",
    "congested",
    "peer-role",
    "tls",
    "ap-in-flight",
    "rs-in-flight",
    "paths",
    "peer_devices",
];
const DRBD_PEER_DEVICE_KEYS: [&str; 13] = [
    "volume",
    "replication-state",
    "peer-disk-state",
    "peer-client",
    "resync-suspended",
    "received",
    "sent",
    "out-of-sync",
    "pending",
    "unacked",
    "has-sync-details",
    "has-online-verify-details",
    "percent-in-sync",
];

/// What DRBD tells of a resync that goes on.
const DRBD_SYNC_KEYS: [&str; 15] = [
    "rs-total",
    "rs-dt-start-ms",
    "rs-paused-ms",
    "rs-dt0-ms",
    "rs-db0-sectors",
    "rs-dt1-ms",
    "rs-db1-sectors",
    "rs-failed",
    "rs-same-csum",
    "want",
    "db0/dt0 [MiB/s]",
    "db1/dt1 [MiB/s]",
    "estimated-seconds-to-finish",
    "db/dt [MiB/s]",
    "percent-resync-done",
];

/// The keys that twinblk adds.
const OWN_KEYS: [&str; 8] =
    ["schema", "term", "lineage", "lsn", "in-sync", "frozen", "can-promote", "journal"];

/// A report in which everything that may be absent is there.
fn populated() -> StatusReport {
    let term = Term { number: 3, taker: u64::MAX };
    StatusReport {
        schema: 1,
        name: "mail".to_owned(),
        node_id: NodeId(0),
        node_name: "alpha".to_owned(),
        role: Role::Primary,
        suspended: true,
        suspended_user: false,
        suspended_no_data: false,
        suspended_fencing: false,
        suspended_quorum: true,
        serves_as_was: true,
        force_io_failures: false,
        write_ordering: "flush",
        devices: vec![device()],
        connections: vec![connection()],
        tiebreaker: Some(TiebreakerReport {
            connection_state: ConnectionState::Connecting,
            reason: Some("connection refused".to_owned()),
        }),
        term,
        record_version: 7,
        record_primary: Some("alpha".to_owned()),
        in_sync: vec![InSyncReport {
            name: "alpha".to_owned(),
            member: Member { node: NodeId(0), incarnation: Incarnation(5) },
        }],
        lineage: vec![Generation { id: GenerationId::ZEROED, term, granted: true, first_lsn: Lsn(1) }],
        lsn: LsnReport {
            assigned: Lsn(9),
            journaled: Lsn(9),
            durable: Lsn(8),
            complete: Lsn(8),
            stable: Lsn(7),
            written_back: Lsn(6),
            oldest_kept: Lsn(1),
        },
        frozen: Some(FrozenReport {
            reason: "beta does not answer".to_owned(),
            since_ms: 120,
            ends_by: "a majority answers".to_owned(),
        }),
        can_promote: CanPromote { yes: false, because: "this node is Primary".to_owned() },
        journal: JournalReport { size: 1 << 30, used: 4096 },
        advice: vec![Advice {
            state: "frozen",
            status: "All I/O waits.".to_owned(),
            action: "Bring up beta or the tiebreaker.".to_owned(),
            see: "docs/operating/failover.md",
        }],
    }
}

fn device() -> DeviceReport {
    DeviceReport {
        volume: 0,
        disk_state: DiskState::UpToDate,
        client: false,
        open: true,
        clients: 1,
        quorum: false,
        size: 1 << 20,
        read: 1,
        written: 2,
        al_writes: 3,
        bm_writes: 4,
        upper_pending: 5,
        lower_pending: 6,
    }
}

fn connection() -> ConnectionReport {
    ConnectionReport {
        peer_node_id: NodeId(1),
        name: "beta".to_owned(),
        connection_state: ConnectionState::StandAlone,
        congested: false,
        peer_role: Role::Unknown,
        tls: false,
        ap_in_flight: 0,
        rs_in_flight: 0,
        protocol: ReplicationProtocol::C,
        reason: Some("no common generation".to_owned()),
        paths: vec![PathReport {
            this_host: Address { host: "192.0.2.1".to_owned(), port: 7788 },
            remote_host: Address { host: "fd00::2".to_owned(), port: 7788 },
            established: false,
        }],
        rule: Some("Unrelated".to_owned()),
        split_brain: Some(SplitBrainReport {
            fork: Lsn(5),
            own_writes: 3,
            peer_writes: 4,
            discarding: Some("saving"),
            saved: 4,
            to_save: 12,
            policy_failed: Some("no space left on device".to_owned()),
        }),
        refused_frames: 0,
        peer_devices: vec![PeerDeviceReport {
            volume: 0,
            replication_state: ReplicationState::Off,
            peer_disk_state: DiskState::DUnknown,
            peer_client: false,
            resync_suspended: "no",
            received: 1,
            sent: 2,
            out_of_sync: 3,
            caught_up: 2,
            pending: 4,
            unacked: 5,
            has_sync_details: true,
            details: Some(details()),
            has_online_verify_details: false,
            percent_in_sync: 99.5,
            acknowledged: Lsn(8),
            flushed: Lsn(7),
            has_dirty_bits: true,
        }],
    }
}

fn details() -> SyncDetails {
    let counts = SyncCounts { done: 3 << 20, left: 1 << 20, same: 4096 };
    Pace::new(SyncCounts::default(), Tick(0)).details(counts, Some(10 << 20), Tick(2_000_000))
}

/// What the schema has against a report.
fn complaints(report: &Value) -> Vec<String> {
    let schema = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let validator = jsonschema::draft202012::new(&schema).expect("the schema is one");
    validator.iter_errors(report).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn value(report: &StatusReport) -> Value {
    serde_json::to_value(report).expect("a report has only string keys")
}

/// Every object schema within `schema`.
fn objects(schema: &Value) -> Vec<&Value> {
    let inner = match schema {
        Value::Object(map) => map.values().flat_map(objects).collect(),
        Value::Array(list) => list.iter().flat_map(objects).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    let own = schema.get("type").is_some_and(|kind| kind == "object").then_some(schema);
    own.into_iter().chain(inner).collect()
}

#[test]
fn a_full_report_and_a_sparse_one_keep_to_the_schema() {
    let full = populated();
    assert_eq!(complaints(&value(&full)), [""; 0]);
    let sparse = StatusReport {
        tiebreaker: None,
        frozen: None,
        record_primary: None,
        connections: Vec::new(),
        in_sync: Vec::new(),
        lineage: Vec::new(),
        advice: Vec::new(),
        ..full
    };
    assert_eq!(complaints(&value(&sparse)), [""; 0]);
}

#[test]
fn a_key_that_the_schema_does_not_know_is_a_complaint() {
    let mut report = value(&populated());
    report["devices"][0]["colour"] = Value::from("red");
    assert!(!complaints(&report).is_empty());
    report = value(&populated());
    report.as_object_mut().expect("an object").remove("role");
    assert!(!complaints(&report).is_empty());
}

#[test]
fn every_object_of_the_schema_is_closed_and_demands_all_of_its_keys() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let objects = objects(&schema);
    assert!(objects.len() > 10, "only {} objects found", objects.len());
    for object in objects {
        assert_eq!(object["additionalProperties"], false, "{object:#}");
        // Some keys come together, or not at all.
        let together = object["then"]["required"].as_array().map_or(0, Vec::len);
        let required = object["required"].as_array().expect("a list").len() + together;
        let known = object["properties"].as_object().expect("a table").len();
        assert_eq!(required, known, "{object:#}");
    }
}

#[test]
fn the_keys_that_programs_rely_on_are_there() {
    let report = value(&populated());
    for key in DRBD_KEYS.iter().chain(&OWN_KEYS) {
        assert!(report.get(key).is_some(), "{key}");
    }
    let device = &report["devices"][0];
    for key in DRBD_DEVICE_KEYS {
        assert!(device.get(key).is_some(), "{key}");
    }
    assert!(device.get("minor").is_none(), "no kernel device, no number of one");
    let connection = &report["connections"][0];
    for key in DRBD_CONNECTION_KEYS {
        assert!(connection.get(key).is_some(), "{key}");
    }
    for key in DRBD_PEER_DEVICE_KEYS.iter().chain(&DRBD_SYNC_KEYS) {
        assert!(connection["peer_devices"][0].get(key).is_some(), "{key}");
    }
}

#[test]
fn details_of_a_resync_come_together_or_not_at_all() {
    let mut report = value(&populated());
    let device = &mut report["connections"][0]["peer_devices"][0];
    assert_eq!(device["estimated-seconds-to-finish"], Value::Null, "nothing was left of nothing");
    device.as_object_mut().expect("an object").remove("rs-total");
    assert!(!complaints(&report).is_empty());
    let mut idle = populated();
    let device = &mut idle.connections[0].peer_devices[0];
    (device.has_sync_details, device.details) = (false, None);
    assert_eq!(complaints(&value(&idle)), [""; 0]);
    assert!(value(&idle)["connections"][0]["peer_devices"][0].get("rs-total").is_none());
}

#[test]
fn identities_of_64_bits_are_text_because_readers_round_numbers() {
    let report = value(&populated());
    assert_eq!(report["term"]["taker"], "ffffffffffffffff");
    assert_eq!(report["lineage"][0]["term"], report["term"]);
    assert_eq!(report["lineage"][0]["first-lsn"], 1);
    assert_eq!(report["in-sync"][0]["incarnation"], "0000000000000005");
}

#[test]
fn every_command_has_a_man_page_and_every_shell_completions_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man/man1");
    let twinblk = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_twinblk")).args(args).output();
        let output = output.expect("the program runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    twinblk(&["man", pages.to_str().expect("UTF-8")]);
    let overview = std::fs::read_to_string(pages.join("twinblk.1")).expect("the page of the whole");
    let help = twinblk(&["--help"]);
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands
        .filter(|line| !line.starts_with("    "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 12, "{commands:?}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let completions = twinblk(&["completions", shell]);
        let missing = commands.iter().find(|command| !completions.contains(**command));
        assert_eq!(missing, None, "{shell}");
    }
    for command in commands {
        let page =
            std::fs::read_to_string(pages.join(format!("twinblk-{command}.1"))).expect("a page of its own");
        assert!(page.contains(".SH SYNOPSIS"), "{command}");
        assert!(overview.contains(&command.replace('-', "\\-")), "{command}");
    }
}

/// Every command line of twinblk that a page for operators shows, in a block of its own or between back quotes.
fn shown_commands() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = std::fs::read_dir(root.join("docs/operating")).expect("a folder");
    let pages = pages.map(|entry| entry.expect("listed").path()).chain([root.join("README.md")]);
    let mut found = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("a page");
        let blocks = text.lines().filter_map(|line| line.strip_prefix("    "));
        // Lines may end between back quotes, but not in a block.
        let prose: Vec<&str> = text.lines().filter(|line| !line.starts_with("    ")).collect();
        let prose = prose.join(" ");
        let commands = blocks.chain(prose.split('`').skip(1).step_by(2));
        for line in commands.filter(|command| command.starts_with("twinblk ")) {
            let line = line.split(" # ").next().unwrap_or(line);
            found.extend(
                line.split(';').map(|command| (page.display().to_string(), command.trim().to_owned())),
            );
        }
    }
    found
}

#[test]
fn every_command_that_a_page_shows_exists() {
    let commands = shown_commands();
    assert!(commands.len() > 20, "only {commands:?}");
    for (page, command) in commands {
        let words = command.split_whitespace().skip(1);
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_twinblk")).args(words).arg("--help").output();
        let output = output.expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{page}: {command}: {said}");
    }
}

#[test]
fn the_transcripts_are_true() {
    trycmd::TestCases::new().env("NO_COLOR", "1").env("COLUMNS", "100").case("tests/cli/*.md").run();
}

#[test]
fn the_transcripts_with_disks_are_true() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a path in UTF-8");
    for resource in ["mail", "new"] {
        let text = format!(
            "resource = \"{resource}\"\nsize = \"8MiB\"\non-peer-lost = \"quorum\"\nsecret-file = \"{path}/secret\"\n\
             [[node]]\nname = \"alpha\"\naddress = \"127.0.0.1:7789\"\ndata = \"{path}/{resource}.data\"\n\
             metadata = \"{path}/{resource}.meta\"\n"
        );
        std::fs::write(folder.path().join(format!("{resource}.toml")), text).expect("written");
    }
    make_pair(folder.path());
    let transcripts = trycmd::TestCases::new();
    transcripts
        .env("TWINBLK_CONFIG_DIR", path)
        .env("TWINBLK_RUN_DIR", path)
        .env("TWINBLK_NODE", "alpha")
        .insert_var("[DIR]", path.to_owned())
        .expect("a legal name");
    transcripts.case("tests/cli/disks/*.md").run();
}

/// Two nodes with a tiebreaker and a secret, so that the tiebreaker can be made.
fn make_pair(folder: &Path) {
    let path = folder.display();
    let mut text = format!(
        "resource = \"pair\"\nsize = \"8MiB\"\non-peer-lost = \"quorum\"\nsecret-file = \"{path}/secret\"\n\
         [tiebreaker]\naddress = \"127.0.0.1:7793\"\nstate = \"{path}/pair.vote\"\n"
    );
    for (name, port) in [("alpha", 7791), ("beta", 7792)] {
        text += &format!(
            "[[node]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\ndata = \"{path}/{name}.data\"\n\
             metadata = \"internal\"\nnbd = {{ unix = \"{path}/{name}.nbd\" }}\n"
        );
    }
    std::fs::write(folder.join("pair.toml"), text).expect("written");
    let secret = folder.join("secret");
    std::fs::write(&secret, "sixteen bytes or more\n").expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("changed");
}
