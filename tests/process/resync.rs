//! What the journal cannot bring up to date: a replica that was away for long, and one that has nothing yet.

use crate::harness::{Cluster, RESOURCE, Settings, Voter};
use crate::volume::Volume;

const MEGABYTE: u64 = 1 << 20;

fn served_by(cluster: &Cluster, replica: Voter) -> Volume {
    Volume::connect(&cluster.nbd_socket(replica), RESOURCE).expect("the Primary serves")
}

#[test]
fn a_replica_that_missed_more_than_the_journal_holds_gets_the_blocks_that_differ_while_clients_write() {
    let mut cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    let mut volume = served_by(&cluster, Voter::A);
    for megabyte in 0..8 {
        volume.write_and_flush(megabyte * MEGABYTE, &vec![1; 1 << 20]).expect("mirrored");
    }
    cluster.kill(Voter::B);
    // The journal of a volume this small holds 16 MiB.
    for megabyte in 0..48 {
        volume.write_and_flush(megabyte * MEGABYTE, &vec![7; 1 << 20]).expect("the Primary goes on alone");
    }
    cluster.start_process(Voter::B);
    for block in 0..200 {
        volume.write_and_flush(block * 65_536, &[9; 4096]).expect("a resync stops nobody");
    }
    cluster.wait_until_synced(Voter::A);
    drop(volume);
    cluster.kill(Voter::A);
    cluster.take_over(Voter::B);
    let mut volume = served_by(&cluster, Voter::B);
    for block in 0..200 {
        assert_eq!(volume.read(block * 65_536, 4096).expect("readable"), vec![9; 4096]);
        assert_eq!(volume.read(block * 65_536 + 4096, 4096).expect("readable"), vec![7; 4096]);
    }
    drop(volume);
    cluster.start_process(Voter::A);
    cluster.wait_until_synced(Voter::B);
    cluster.wait_until_unused(Voter::B);
    cluster.stop_and_compare(Voter::B);
}

#[test]
fn a_file_system_that_is_adopted_on_one_node_is_copied_to_the_other_and_stays_sparse_there() {
    let mut cluster = Cluster::make(&Settings::default());
    let mut content = vec![0; 64 << 20];
    content[3 << 20..5 << 20].fill(5);
    content[40 << 20..(40 << 20) + 4096].fill(6);
    write_sparse(&cluster.data(Voter::A), &content);
    cluster.expect(Voter::A, &["create-metadata", RESOURCE, "--uptodate", "--force"]);
    std::fs::write(cluster.data(Voter::B), vec![0xff; 64 << 20]).expect("something else was there");
    cluster.expect(Voter::B, &["create-metadata", RESOURCE, "--force"]);
    for voter in Voter::ALL {
        cluster.start_process(voter);
    }
    cluster.wait_until_linked();
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    cluster.wait_until_written_back(Voter::A);
    let copied = std::fs::read(cluster.data(Voter::B)).expect("readable");
    assert!(copied == content, "the copy is the file system that was adopted");
    let metadata = std::fs::metadata(cluster.data(Voter::B)).expect("there");
    let used = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    assert!(used < 8 << 20, "{used} bytes are in use for 2 MiB of content");
    cluster.stop_and_compare(Voter::A);
}

/// Holes where there are zeroes.
fn write_sparse(path: &std::path::Path, content: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file =
        std::fs::OpenOptions::new().write(true).truncate(true).create(true).open(path).expect("opened");
    file.set_len(u64::try_from(content.len()).expect("64 bits")).expect("sized");
    for (at, block) in (0_u64..).step_by(4096).zip(content.chunks(4096)) {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at).expect("written");
        }
    }
}
