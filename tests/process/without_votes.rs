//! `on-peer-lost` fence and continue, with real daemons and a real fence command.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::thread::JoinHandle;

use crate::harness::{Cluster, OnPeerLost, RESOURCE, SOON, Settings, Voter};
use crate::volume::Volume;

/// Writes `byte` over the first block and flushes, beside the test.
fn write(cluster: &Cluster, replica: Voter, byte: u8) -> JoinHandle<()> {
    let mut volume = Volume::connect(&cluster.nbd_socket(replica), RESOURCE).expect("the Primary serves");
    std::thread::spawn(move || volume.write_and_flush(0, &[byte; 4096]).expect("nothing fails"))
}

/// The same, to its end.
fn write_now(cluster: &Cluster, replica: Voter, byte: u8) {
    write(cluster, replica, byte).join().expect("it is answered");
}

/// Whether the first block holds `byte`.
fn holds(cluster: &Cluster, replica: Voter, byte: u8) -> bool {
    let mut volume = Volume::connect(&cluster.nbd_socket(replica), RESOURCE).expect("the Primary serves");
    volume.read(0, 4096).expect("readable") == vec![byte; 4096]
}

/// The fence command of a replica from now on.
fn fence_by(cluster: &Cluster, replica: Voter, script: &str) {
    let path = cluster.fence_command(replica);
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o755)
        .open(&fresh)
        .expect("made");
    write!(file, "#!/bin/sh\n{script}\n").expect("written");
    drop(file);
    std::fs::rename(&fresh, &path).expect("in its place");
}

fn start(on_peer_lost: OnPeerLost) -> Cluster {
    let settings = Settings { on_peer_lost, ..Settings::default() };
    let mut cluster = Cluster::start(&settings);
    for replica in Voter::REPLICAS {
        fence_by(&cluster, replica, "exit 1");
    }
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    cluster
}

#[test]
fn a_primary_is_frozen_until_its_fence_command_proves_something_or_the_peer_returns() {
    let mut cluster = start(OnPeerLost::Fence);
    write_now(&cluster, Voter::A, 1);
    cluster.kill(Voter::B);
    let second = write(&cluster, Voter::A, 2);
    cluster.wait_until("the failed command is shown", SOON, |cluster| {
        let reason = cluster.value(Voter::A, "/frozen/reason");
        reason.is_some_and(|reason| reason.as_str().is_some_and(|reason| reason.contains("exit status 1")))
    });
    assert_eq!(cluster.value(Voter::A, "/suspended-fencing"), Some(true.into()));
    assert!(!second.is_finished(), "a write was answered without the peer");
    cluster.start_process(Voter::B);
    second.join().expect("it is answered");
    cluster.wait_until_synced(Voter::A);

    // Now it succeeds, and hears whom it is run against.
    let seen = cluster.scratch().join("seen");
    let script = format!("echo \"$TWINBLK_PEER $DRBD_RESOURCE $TWINBLK_ROLE\" >>{}; exit 7", seen.display());
    fence_by(&cluster, Voter::A, &script);
    cluster.kill(Voter::B);
    write_now(&cluster, Voter::A, 3);
    assert_eq!(std::fs::read_to_string(&seen).expect("it ran"), format!("b {RESOURCE} Primary\n"));
    cluster.start_process(Voter::B);
    cluster.wait_until_synced(Voter::A);
    cluster.wait_until_unused(Voter::A);
    cluster.stop_and_compare(Voter::A);
}

#[test]
fn a_secondary_takes_over_when_the_primary_is_shot_and_not_before() {
    let mut cluster = start(OnPeerLost::Fence);
    write_now(&cluster, Voter::A, 1);
    cluster.kill(Voter::A);
    cluster.wait_until("the loss of a is noticed", SOON, |cluster| {
        cluster.value(Voter::B, "/connections/0/connection-state").is_some_and(|state| state != "Connected")
    });
    let output = cluster.run(Voter::B, &["promote", RESOURCE, "--wait", "5s"]);
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("exit status 1"), "{output:?}");
    fence_by(&cluster, Voter::B, "exit 7");
    cluster.promote(Voter::B);
    assert!(holds(&cluster, Voter::B, 1));
    cluster.start_process(Voter::A);
    cluster.wait_until_synced(Voter::B);
    cluster.wait_until_unused(Voter::B);
    cluster.stop_and_compare(Voter::B);
}

#[test]
fn a_node_that_was_outdated_is_promoted_only_by_force_which_says_what_it_costs() {
    let mut cluster = start(OnPeerLost::Continue);
    write_now(&cluster, Voter::A, 1);
    assert!(cluster.stop(Voter::B).success());
    write_now(&cluster, Voter::A, 2);
    cluster.kill(Voter::A);
    cluster.start_process(Voter::B);
    cluster.wait_until("b answers", SOON, |cluster| cluster.status(Voter::B).is_some());
    assert_eq!(cluster.value(Voter::B, "/devices/0/disk-state"), Some("Outdated".into()));
    let output = cluster.run(Voter::B, &["promote", RESOURCE, "--wait", "1s"]);
    assert_eq!(output.status.code(), Some(17), "{output:?}");
    let cost = cluster.expect(Voter::B, &["promote", RESOURCE, "--force", "--dry-run"]);
    assert!(cost.contains("was not heard since this daemon started"), "{cost}");
    assert_eq!(cluster.value(Voter::B, "/role"), Some("Secondary".into()), "a dry run changes nothing");
    let output = cluster.run(Voter::B, &["promote", RESOURCE, "--force"]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("promoting by force"), "{output:?}");
    assert!(holds(&cluster, Voter::B, 1), "it serves what it has");
    // The other returns with writes that were acknowledged: nothing is merged or overwritten.
    cluster.start_process(Voter::A);
    cluster.wait_until("the split is found out", SOON, |cluster| {
        Voter::REPLICAS.into_iter().all(|replica| {
            cluster.value(replica, "/connections/0/connection-state") == Some("StandAlone".into())
        })
    });
    assert_eq!(cluster.value(Voter::A, "/connections/0/rule"), Some("SplitBrain".into()));
}

#[test]
fn outdate_ends_with_the_statuses_that_fence_scripts_know() {
    let mut cluster = start(OnPeerLost::Fence);
    let status_of = |cluster: &Cluster, replica| cluster.run(replica, &["outdate", RESOURCE]).status.code();
    assert_eq!(status_of(&cluster, Voter::A), Some(17), "it is Primary");
    assert_eq!(status_of(&cluster, Voter::B), Some(11), "it is connected to a Primary");
    cluster.kill(Voter::A);
    cluster.wait_until("the loss of a is noticed", SOON, |cluster| {
        cluster.value(Voter::B, "/connections/0/connection-state").is_some_and(|state| state != "Connected")
    });
    assert_eq!(status_of(&cluster, Voter::B), Some(0));
    assert_eq!(status_of(&cluster, Voter::B), Some(0), "it is so already");
    assert_eq!(cluster.value(Voter::B, "/devices/0/disk-state"), Some("Outdated".into()));
}
