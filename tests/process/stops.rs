//! Beginnings and orderly ends.

use std::os::unix::net::UnixDatagram;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter};
use crate::volume::Volume;

#[test]
fn sigterm_ends_every_process_cleanly_and_a_restart_needs_no_catch_up() {
    let mut cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    let mut volume = Volume::connect(&cluster.nbd_socket(Voter::A), RESOURCE).expect("the Primary serves");
    volume.write_and_flush(1000, b"before the end").expect("written");
    drop(volume);
    for voter in Voter::ALL {
        let status = cluster.stop(voter);
        assert!(status.success(), "{} ended with {status}", voter.name());
    }
    for voter in Voter::ALL {
        cluster.start_process(voter);
    }
    cluster.wait_until_linked();
    cluster.promote(Voter::B);
    let in_sync = cluster.value(Voter::B, "/in-sync").expect("a status");
    assert_eq!(in_sync.as_array().map(Vec::len), Some(2), "a has everything from the start: {in_sync:#}");
    let mut volume = Volume::connect(&cluster.nbd_socket(Voter::B), RESOURCE).expect("the Primary serves");
    assert_eq!(volume.read(1000, 14).expect("readable"), b"before the end");
    cluster.wait_until_synced(Voter::B);
    let caught_up = cluster.value(Voter::B, "/connections/0/peer_devices/0/caught-up");
    assert_eq!(caught_up, Some(0.into()), "a lacked nothing");
}

#[test]
fn a_primary_that_stops_in_order_hands_over_without_waiting_for_its_lease() {
    let settings = Settings { heartbeat: "1s", peer_timeout: "10s", ..Settings::default() };
    let mut cluster = Cluster::start(&settings);
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    assert!(cluster.stop(Voter::A).success());
    let begun = std::time::Instant::now();
    cluster.promote(Voter::B);
    let took = begun.elapsed();
    assert!(
        took.as_secs() < 10,
        "the promotion took {took:?}: it waited for a lease that had been given back"
    );
}

#[test]
fn the_service_manager_hears_when_a_daemon_is_ready_and_when_it_stops() {
    let cluster = Cluster::make(&Settings::default());
    for (voter, verb) in [(Voter::A, "run"), (Voter::Tiebreaker, "tiebreaker")] {
        let socket = cluster.scratch().join(format!("{}.notify", voter.name()));
        let manager = UnixDatagram::bind(&socket).expect("bound");
        manager.set_read_timeout(Some(SOON)).expect("set");
        let hear = |wanted: &str| {
            let mut message = [0; 4096];
            loop {
                let bytes = manager.recv(&mut message).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
                if String::from_utf8_lossy(&message[..bytes]).lines().any(|line| line == wanted) {
                    return;
                }
            }
        };
        let own = std::process::id().to_string();
        let mut command = cluster.command(voter, &["end-with", &own, "--", verb, RESOURCE]);
        let mut daemon = command.env("NOTIFY_SOCKET", &socket).spawn().expect("room for a process");
        hear("READY=1");
        kill_process(Pid::from_child(&daemon), Signal::TERM).expect("it runs");
        hear("STOPPING=1");
        assert!(daemon.wait().expect("it has ended").success());
    }
}
