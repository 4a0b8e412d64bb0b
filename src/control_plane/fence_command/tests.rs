//! Real commands: what they hear, and what becomes of those that do not end.

use std::path::Path;
use std::time::Instant;

use super::*;

const FACTS: FenceFacts =
    FenceFacts { peer: NodeId(1), disk: DiskState::UpToDate, knows_newest: true, role: Role::Primary };

fn config(script: &str, timeout: &str) -> ResourceConfig {
    let text = format!(
        r#"
        resource = "mail"
        size = "1GiB"
        on-peer-lost = "fence"
        fence = {{ command = ["/bin/sh", "-c", {script:?}], timeout = "{timeout}" }}
        secret-file = "/etc/twinblk/mail.secret"
        [[node]]
        name = "alpha"
        address = "10.0.0.1:7789"
        data = "/dev/vg/mail"
        metadata = "/dev/vg/mail-meta"
        [[node]]
        name = "beta"
        address = "10.0.0.2:7789"
        data = "/dev/vg/mail"
        metadata = "/dev/vg/mail-meta"
        "#
    );
    ResourceConfig::parse(Path::new("/etc/twinblk/mail.toml"), &text).expect("a good file")
}

fn run(script: &str, timeout: &str) -> FenceEnd {
    let command = FenceCommand::of(&config(script, timeout), NodeId(0)).expect("one is configured");
    tokio_uring::start(async move { command.run(FACTS).await })
}

#[test]
fn the_exit_status_is_the_answer() {
    for status in [0, 3, 4, 5, 6, 7, 127] {
        assert_eq!(run(&format!("echo said; exit {status}"), "10s"), FenceEnd::Exited(status));
    }
    assert_eq!(run("kill -9 $$", "10s"), FenceEnd::Signalled(9));
}

#[test]
fn the_environment_says_who_is_to_be_fenced_and_by_whom() {
    let expected = [
        "$TWINBLK_RESOURCE = mail",
        "$TWINBLK_NODE = alpha",
        "$TWINBLK_PEER = beta",
        "$TWINBLK_PEER_ADDRESS = 10.0.0.2",
        "$TWINBLK_DISK = UpToDate",
        "$TWINBLK_NEWEST = yes",
        "$TWINBLK_ROLE = Primary",
        "$DRBD_RESOURCE = mail",
        "$DRBD_PEER = beta",
        "$DRBD_PEERS = beta",
        "$DRBD_MY_NODE_ID = 0",
        "$DRBD_PEER_NODE_ID = 1",
        "$DRBD_NODE_ID_1 = beta",
        "$DRBD_PEER_ADDRESS = 10.0.0.2",
        "$UP_TO_DATE_NODES = 0x00000001",
    ];
    for line in expected {
        assert_eq!(run(&format!("test {line} && exit 7"), "10s"), FenceEnd::Exited(7), "{line}");
    }
}

#[test]
fn a_command_that_hangs_is_killed_with_everything_that_it_has_started() {
    let folder = tempfile::tempdir().expect("a folder");
    let pids = folder.path().join("pids");
    let began = Instant::now();
    let script = format!("sleep 1000 & echo $! >{0}; echo $$ >>{0}; wait", pids.display());
    assert!(matches!(run(&script, "300ms"), FenceEnd::TimedOut(_)));
    assert!(began.elapsed() < Duration::from_secs(10));
    let pids = std::fs::read_to_string(&pids).expect("it wrote them");
    for pid in pids.lines() {
        let lives = || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !state.is_empty() && !state.contains(") Z ")
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        while lives() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!lives(), "{pid} of {script} lives on");
    }
}

#[test]
fn what_a_command_leaves_running_does_not_hold_the_answer_up() {
    let began = Instant::now();
    assert_eq!(run("sleep 30 & exit 7", "60s"), FenceEnd::Exited(7));
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_command_that_is_not_there_is_named() {
    let mut config = config("true", "10s");
    config.fence = Some(FenceConfig {
        command: vec!["/no/such/program".to_owned()],
        timeout: replicator::units::Span::from_millis(1000),
    });
    let command = FenceCommand::of(&config, NodeId(0)).expect("one is configured");
    let end = tokio_uring::start(async move { command.run(FACTS).await });
    assert!(matches!(&end, FenceEnd::NotRun(why) if why.contains("/no/such/program")), "{end}");
}

#[test]
fn a_flood_of_output_is_read_and_not_kept() {
    assert_eq!(run("yes | head -c 20000000; exit 4", "60s"), FenceEnd::Exited(4));
}
