//! Protocols A and B: writes are acknowledged early, and the peer gets them all the same.

use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter};
use crate::volume::Volume;

/// Waits until the peer has every write that a has made.
fn wait_until_mirrored(cluster: &mut Cluster) {
    cluster.wait_until("b has every write", SOON, |cluster| {
        let Some(status) = cluster.status(Voter::A) else { return false };
        let value = |pointer: &str| status.pointer(pointer).cloned();
        value("/connections/0/peer_devices/0/replication-state").is_some_and(|state| state == "Established")
            && value("/connections/0/peer_devices/0/flushed") == value("/lsn/assigned")
    });
}

/// Writes in three places: mirrored, while the peer is disconnected on purpose, and after it is back.
fn a_pair_with(protocol: &'static str) {
    let mut cluster = Cluster::start(&Settings { protocol, ..Settings::default() });
    cluster.promote(Voter::A);
    let shown = cluster.value(Voter::A, "/connections/0/protocol");
    assert_eq!(shown.expect("a status"), protocol);
    let mut volume = Volume::connect(&cluster.nbd_socket(Voter::A), RESOURCE).expect("the Primary serves");
    let mut write = |first: u64, fill: u8| {
        for block in first..first + 200 {
            volume.write_and_flush(block * 5000, &[fill; 5000]).expect("acknowledged");
        }
    };
    write(0, 1);
    wait_until_mirrored(&mut cluster);
    cluster.expect(Voter::A, &["disconnect", RESOURCE, "--peer", "b"]);
    write(100, 2);
    let behind = cluster.value(Voter::A, "/connections/0/peer_devices/0/out-of-sync");
    assert_ne!(behind.expect("a status"), 0, "b is behind");
    cluster.expect(Voter::A, &["connect", RESOURCE]);
    write(250, 3);
    wait_until_mirrored(&mut cluster);
    let in_sync = cluster.value(Voter::A, "/in-sync").expect("a status");
    assert_eq!(
        in_sync.as_array().map(Vec::len),
        Some(1),
        "a peer on {protocol} is never a member: {in_sync}"
    );
    assert_eq!(volume.read(250 * 5000, 5000).expect("readable"), vec![3; 5000]);
    drop(volume);
    cluster.wait_until_unused(Voter::A);
    cluster.stop_and_compare(Voter::A);
}

#[test]
fn a_pair_on_protocol_a_ends_equal_after_an_absence() {
    a_pair_with("A");
}

#[test]
fn a_pair_on_protocol_b_ends_equal_after_an_absence() {
    a_pair_with("B");
}
