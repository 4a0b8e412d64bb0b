//! Voters that remember nothing: a new disk, a tiebreaker whose file was made anew, and an old disk that comes back.

use std::path::PathBuf;

use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter};
use crate::volume::Volume;

const MEGABYTE: u64 = 1 << 20;

fn served_by(cluster: &Cluster, replica: Voter) -> Volume {
    Volume::connect(&cluster.nbd_socket(replica), RESOURCE).expect("the Primary serves")
}

/// A pair in sync with A as Primary, and some content.
fn written() -> Cluster {
    let mut cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    let mut volume = served_by(&cluster, Voter::A);
    for megabyte in 0..4 {
        volume.write_and_flush(megabyte * MEGABYTE, &vec![5; 1 << 20]).expect("mirrored");
    }
    cluster
}

fn files_of(cluster: &Cluster, replica: Voter) -> [PathBuf; 2] {
    [cluster.data(replica), cluster.metadata(replica)]
}

/// Waits until a name is, or is not, among the advice of a node.
fn wait_for_advice(cluster: &mut Cluster, replica: Voter, name: &str, is_there: bool) {
    cluster.wait_until(&format!("advice {name}: {is_there}"), SOON, |cluster| {
        let advice = cluster.value(replica, "/advice");
        let names = advice.iter().flat_map(|advice| advice.as_array().into_iter().flatten());
        names.filter(|advice| advice["state"] == name).count() == usize::from(is_there)
    });
}

#[test]
fn a_new_disk_needs_metadata_and_a_start_and_then_takes_over() {
    let mut cluster = written();
    assert!(cluster.stop(Voter::B).success());
    for file in files_of(&cluster, Voter::B) {
        std::fs::rename(&file, file.with_extension("old")).expect("taken out");
    }
    let mut volume = served_by(&cluster, Voter::A);
    volume.write_and_flush(MEGABYTE, &[7; 4096]).expect("the Primary goes on alone");
    cluster.expect(Voter::B, &["create-metadata", RESOURCE]);
    cluster.start_process(Voter::B);
    volume.write_and_flush(2 * MEGABYTE, &[8; 4096]).expect("nobody waits for the new disk");
    cluster.wait_until_synced(Voter::A);
    wait_for_advice(&mut cluster, Voter::A, "new-voter", false);
    drop(volume);
    cluster.kill(Voter::A);
    cluster.take_over(Voter::B);
    let mut volume = served_by(&cluster, Voter::B);
    for (megabyte, byte) in [(0, 5), (1, 7), (2, 8), (3, 5)] {
        assert_eq!(volume.read(megabyte * MEGABYTE, 4096).expect("readable"), vec![byte; 4096]);
    }
    drop(volume);
    cluster.start_process(Voter::A);
    cluster.wait_until_synced(Voter::B);
    cluster.wait_until_unused(Voter::B);
    cluster.expect(Voter::B, &["demote", RESOURCE]);
    cluster.promote(Voter::A);
    // The old disk comes back by mistake.
    assert!(cluster.stop(Voter::B).success());
    for file in files_of(&cluster, Voter::B) {
        std::fs::rename(file.with_extension("old"), &file).expect("put back");
    }
    cluster.start_process(Voter::B);
    for (replica, words) in
        [(Voter::A, "has its place"), (Voter::B, "another voter has the place of this node")]
    {
        cluster.wait_until(words, SOON, |cluster| {
            let reason = cluster.value(replica, "/connections/0/reason");
            reason.is_some_and(|reason| reason.as_str().is_some_and(|said| said.contains(words)))
        });
    }
}

#[test]
fn a_tiebreaker_whose_file_was_made_anew_votes_again_while_clients_write() {
    let mut cluster = written();
    let voter = |cluster: &Cluster| cluster.expect(Voter::Tiebreaker, &["tiebreaker", RESOURCE, "--init"]);
    cluster.kill(Voter::Tiebreaker);
    let file = cluster.run_dir(Voter::Tiebreaker).read_dir().expect("its folder").find_map(|entry| {
        let path = entry.expect("listed").path();
        path.metadata().is_ok_and(|found| found.len() == 8192).then_some(path)
    });
    std::fs::remove_file(file.expect("its file has two copies of 4096 bytes")).expect("lost");
    voter(&cluster);
    let refused = cluster.run(Voter::A, &["accept-new-voter", RESOURCE, "00000000000000ff"]);
    assert_eq!(refused.status.code(), Some(11), "nobody is linked as this");
    cluster.start_process(Voter::Tiebreaker);
    let mut volume = served_by(&cluster, Voter::A);
    cluster.wait_until("the new tiebreaker is taken in", SOON, |cluster| {
        cluster.logged(Voter::A).contains("tiebreaker votes as")
    });
    // Without its vote nobody could go on alone.
    cluster.kill(Voter::B);
    volume.write_and_flush(0, &[9; 4096]).expect("the tiebreaker has recorded the set without B");
    drop(volume);
    cluster.start_process(Voter::B);
    cluster.wait_until_synced(Voter::A);
    cluster.kill(Voter::A);
    cluster.take_over(Voter::B);
    assert_eq!(served_by(&cluster, Voter::B).read(0, 4096).expect("readable"), vec![9; 4096]);
}
