//! What daemons refuse, and in which words.

use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter, files};

/// A pair of which the second node has another configuration or secret. The second one dials; gives why it says that
/// it is not linked, and what the first one has logged.
fn reasons_when(spoil: impl Fn(&Cluster)) -> String {
    let mut cluster = Cluster::make(&Settings::default());
    spoil(&cluster);
    for voter in Voter::ALL {
        cluster.start_process(voter);
    }
    let mut reason = String::new();
    cluster.wait_until("b says why it is not linked to a", SOON, |cluster| {
        let found = cluster.value(Voter::B, "/connections/0/reason");
        reason = found.and_then(|reason| reason.as_str().map(str::to_owned)).unwrap_or_default();
        // Until both have started, the reason is that nobody listens.
        !reason.is_empty() && !reason.contains("os error")
    });
    let state = cluster.value(Voter::B, "/connections/0/connection-state").expect("a status");
    assert_ne!(state, "Connected");
    format!("{reason}\n{}", cluster.logged(Voter::A))
}

#[test]
fn a_peer_with_another_secret_is_refused_by_name() {
    let reason = reasons_when(|cluster| {
        files::write_for_owner(&cluster.secret(Voter::B), "another secret, just as long");
    });
    assert!(reason.contains("authentication failed"), "{reason}");
    assert!(reason.contains("could not prove that it knows the shared secret"), "{reason}");
}

#[test]
fn a_peer_with_another_configuration_is_refused_by_name() {
    let other = Settings { peer_timeout: "700ms", ..Settings::default() };
    let reason = reasons_when(|cluster| cluster.configure(Voter::B, &other));
    assert!(reason.contains("configur"), "{reason}");
}

#[test]
fn a_peer_with_a_volume_of_another_size_is_refused_by_name() {
    let reason = reasons_when(|cluster| {
        cluster.configure(Voter::B, &Settings { size: "32MiB", ..Settings::default() });
        cluster.expect(Voter::B, &["create-metadata", RESOURCE, "--uptodate-zeroed", "--force"]);
    });
    assert!(reason.contains("the volume has 67108864 bytes here and 33554432 on the peer"), "{reason}");
}

#[test]
fn a_daemon_whose_volume_is_not_the_configured_size_does_not_start() {
    let mut cluster = Cluster::make(&Settings::default());
    cluster.configure(Voter::A, &Settings { size: "32MiB", ..Settings::default() });
    cluster.start_process(Voter::A);
    let status = cluster.wait_for_end(Voter::A);
    assert!(!status.success());
    let said = cluster.logged(Voter::A);
    for size in [["67108864", "64MiB"], ["33554432", "32MiB"]] {
        assert!(size.iter().any(|size| said.contains(size)), "{size:?}: {said}");
    }
}

/// Starts another daemon for the disks of A; gives how it ended and what it said.
pub fn second_daemon(cluster: &Cluster) -> (std::process::ExitStatus, String) {
    // The same disks and addresses, but a folder of its own, so that not the control socket stands in the way.
    let elsewhere = cluster.scratch().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("made");
    let config = std::fs::read_to_string(cluster.run_dir(Voter::A).join("demo.toml")).expect("there");
    let port = cluster.port(Voter::A).to_string();
    let other_port = files::free_ports()[0].to_string();
    let config = config.replace(&port, &other_port).replace("a/demo.nbd", "elsewhere/demo.nbd");
    std::fs::write(elsewhere.join("demo.toml"), config).expect("written");
    let folder = elsewhere.to_str().expect("plain");
    let output = std::process::Command::new(crate::harness::TWINBLK)
        .args(["run", RESOURCE, "--node", "a", "--config-dir", folder, "--run-dir", folder])
        .output()
        .expect("the executable");
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_second_daemon_on_the_same_disk_is_refused() {
    let mut cluster = Cluster::start(&Settings::default());
    let (status, said) = second_daemon(&cluster);
    assert!(!status.success() && said.contains("in use"), "{status}: {said}");
    // The first one goes on.
    cluster.promote(Voter::A);
    assert!(cluster.stop(Voter::B).success());
}

#[test]
fn metadata_that_exists_is_not_replaced_without_force() {
    let cluster = Cluster::make(&Settings::default());
    let output = cluster.run(Voter::A, &["create-metadata", RESOURCE, "--uptodate-zeroed"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert!(said.contains("--force"), "{said}");
}

#[test]
fn a_peer_that_missed_more_than_the_journal_holds_is_refused_by_name() {
    let mut cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    cluster.kill(Voter::B);
    // The journal of a volume this small holds 16 MiB.
    let mut volume =
        crate::volume::Volume::connect(&cluster.nbd_socket(Voter::A), RESOURCE).expect("the Primary serves");
    let bytes = vec![7; 1 << 20];
    for megabyte in 0..48 {
        volume.write_and_flush(megabyte << 20, &bytes).expect("the Primary goes on alone");
    }
    cluster.start_process(Voter::B);
    let mut reason = String::new();
    cluster.wait_until("a says why it does not replicate to b", SOON, |cluster| {
        let found = cluster.value(Voter::A, "/connections/0/reason");
        reason = found.and_then(|reason| reason.as_str().map(str::to_owned)).unwrap_or_default();
        reason.contains("resync") || reason.contains("bitmap")
    });
    let state = cluster.value(Voter::A, "/connections/0/connection-state").expect("a status");
    assert_eq!(state, "StandAlone", "{reason}");
    // Clients notice nothing.
    assert_eq!(volume.read(47 << 20, 4096).expect("readable"), vec![7; 4096]);
}
