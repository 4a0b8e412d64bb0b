//! What the journal cannot bring up to date: a replica that was away for long, and one that has nothing yet.

use std::path::Path;

use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter};
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

/// Whether a replica tells how far a resync has come, and who keeps it from going on.
fn tells_of_the_pause(cluster: &Cluster, replica: Voter, paused_by: &str) -> bool {
    let Some(device) = cluster.value(replica, "/connections/0/peer_devices/0") else { return false };
    device["has-sync-details"] == true
        && device["resync-suspended"] == paused_by
        && device["percent-resync-done"].is_number()
        && device["out-of-sync"].as_u64().is_some_and(|left| left > 0)
}

#[test]
fn both_ends_tell_how_far_a_resync_has_come_while_it_is_paused_and_clients_go_on_writing() {
    let mut cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    cluster.kill(Voter::B);
    let mut volume = served_by(&cluster, Voter::A);
    for megabyte in 0..48 {
        volume.write_and_flush(megabyte * MEGABYTE, &vec![7; 1 << 20]).expect("the Primary goes on alone");
    }
    cluster.expect(Voter::A, &["pause-resync", RESOURCE]);
    cluster.start_process(Voter::B);
    cluster.wait_until("both ends tell of the pause", SOON, |cluster| {
        tells_of_the_pause(cluster, Voter::A, "user") && tells_of_the_pause(cluster, Voter::B, "peer")
    });
    volume.write_and_flush(63 * MEGABYTE, &[8; 4096]).expect("a resync stops nobody");
    cluster.expect(Voter::A, &["resume-resync", RESOURCE]);
    cluster.wait_until_synced(Voter::A);
    for replica in Voter::REPLICAS {
        cluster.wait_until("it is over on both ends", SOON, |cluster| {
            let device = cluster.value(replica, "/connections/0/peer_devices/0");
            device.is_some_and(|device| device["has-sync-details"] == false && device["out-of-sync"] == 0)
        });
    }
    assert_eq!(volume.read(63 * MEGABYTE, 4096).expect("readable"), vec![8; 4096]);
    drop(volume);
    cluster.wait_until_unused(Voter::A);
    cluster.stop_and_compare(Voter::A);
}

/// A file system of 2 MiB in a volume of 128 MiB, which replica A brings along.
fn file_system() -> Vec<u8> {
    let mut content = vec![0; 128 << 20];
    // Not one block is like another.
    for (at, block) in (0_u64..).zip(content[3 << 20..5 << 20].chunks_mut(4096)) {
        block.fill(5);
        block[..8].copy_from_slice(&at.to_le_bytes());
    }
    content[40 << 20..(40 << 20) + 4096].fill(6);
    content
}

/// Starts a pair in which A adopts `content`, and B is made with `options` over what it holds; both are in sync.
fn adopted(content: &[u8], held_by_b: &dyn Fn(&Path), options: &[&str]) -> Cluster {
    let settings = Settings { size: "128MiB", journal_size: "32MiB", ..Settings::default() };
    let mut cluster = Cluster::make(&settings);
    write_sparse(&cluster.data(Voter::A), content);
    cluster.expect(Voter::A, &["create-metadata", RESOURCE, "--uptodate", "--force"]);
    held_by_b(&cluster.data(Voter::B));
    cluster.expect(Voter::B, &[&["create-metadata", RESOURCE, "--force"], options].concat());
    for voter in Voter::ALL {
        cluster.start_process(voter);
    }
    cluster.wait_until_linked();
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    cluster.wait_until_written_back(Voter::A);
    let copied = std::fs::read(cluster.data(Voter::B)).expect("readable");
    assert!(copied == content, "the copy is the file system that was adopted");
    cluster
}

/// KiB that A has sent to B.
fn sent_kib(cluster: &Cluster) -> u64 {
    let sent = cluster.value(Voter::A, "/connections/0/peer_devices/0/sent").expect("it says so");
    sent.as_u64().expect("a number")
}

/// Bytes that a process has read from disks.
fn read_bytes(cluster: &Cluster, voter: Voter) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/io", cluster.process_id(voter))).expect("readable");
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: ")).expect("it is counted");
    line.parse().expect("a number")
}

fn used_bytes(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).expect("there")) * 512
}

#[test]
fn holes_are_neither_read_nor_sent_and_what_was_there_is_given_back() {
    let something_else = |path: &Path| std::fs::write(path, vec![0xff; 128 << 20]).expect("written");
    let cluster = adopted(&file_system(), &something_else, &[]);
    let (sent, read) = (sent_kib(&cluster), read_bytes(&cluster, Voter::A));
    assert!((2048..4096).contains(&sent), "{sent} KiB were sent for 2 MiB of content");
    // The journal of 32 MiB is read at the start.
    assert!(read < 64 << 20, "{read} bytes were read for 2 MiB of content in 128 MiB");
    let used = used_bytes(&cluster.data(Voter::B));
    assert!(used < 4 << 20, "{used} bytes are in use for 2 MiB of content");
    cluster.stop_and_compare(Voter::A);
}

#[test]
fn a_copy_that_was_brought_by_other_means_is_compared_and_only_what_differs_is_sent() {
    let mut content = file_system();
    let mut nearly = content.clone();
    nearly[4 << 20..(4 << 20) + 65_536].fill(9);
    // And something where there is a hole on the other side.
    nearly[90 << 20..91 << 20].fill(9);
    let cluster = adopted(&content, &|path| write_sparse(path, &nearly), &[]);
    let sent = sent_kib(&cluster);
    assert!((64..512).contains(&sent), "{sent} KiB were sent for 64 KiB that differ");
    cluster.stop_and_compare(Voter::A);

    // Nearly nothing is equal: that is found out soon.
    content[60 << 20..100 << 20].fill(4);
    let cluster = adopted(&content, &|path| write_sparse(path, &nearly), &[]);
    cluster.stop_and_compare(Voter::A);
}

#[test]
fn a_replica_that_was_made_of_zeroes_is_sent_no_zeroes() {
    let zeroes = |path: &Path| write_sparse(path, &vec![0; 128 << 20]);
    let cluster = adopted(&file_system(), &zeroes, &["--uptodate-zeroed"]);
    let (sent, used) = (sent_kib(&cluster), used_bytes(&cluster.data(Voter::B)));
    assert!((2048..4096).contains(&sent), "{sent} KiB were sent for 2 MiB of content");
    assert!(used < 4 << 20, "{used} bytes are in use for 2 MiB of content");
    cluster.stop_and_compare(Voter::A);
}

/// Holes where there are zeroes.
fn write_sparse(path: &Path, content: &[u8]) {
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
