//! `twinblk explain` and `twinblk connect --dry-run` between real daemons.

use crate::harness::{Cluster, OnPeerLost, RESOURCE, SOON, Settings, Voter};
use crate::volume::Volume;

fn write(cluster: &Cluster, replica: Voter, offset: u64, byte: u8) {
    let mut volume = Volume::connect(&cluster.nbd_socket(replica), RESOURCE).expect("the Primary serves");
    volume.write_and_flush(offset, &[byte; 8192]).expect("nothing fails");
}

fn start(on_peer_lost: OnPeerLost) -> Cluster {
    let settings = Settings { on_peer_lost, ..Settings::default() };
    let mut cluster = Cluster::start(&settings);
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    write(&cluster, Voter::A, 0, 1);
    cluster
}

/// All bytes of both disks.
fn disks(cluster: &Cluster) -> Vec<Vec<u8>> {
    let paths =
        Voter::REPLICAS.into_iter().flat_map(|replica| [cluster.data(replica), cluster.metadata(replica)]);
    paths.map(|path| std::fs::read(path).expect("readable")).collect()
}

/// Waits until nothing is on its way to the disks.
fn come_to_rest(cluster: &mut Cluster) {
    cluster.wait_until_unused(Voter::A);
    let mut before = disks(cluster);
    let mut rounds = 0;
    cluster.wait_until("the disks are at rest", SOON, |cluster| {
        let now = disks(cluster);
        rounds = if now == before { rounds + 1 } else { 0 };
        before = now;
        rounds >= 5
    });
}

#[test]
fn a_dry_run_tells_the_verdict_and_leaves_every_byte_of_both_disks_alone() {
    let mut cluster = start(OnPeerLost::Quorum);
    cluster.expect(Voter::B, &["disconnect", RESOURCE]);
    write(&cluster, Voter::A, 1 << 20, 2);
    come_to_rest(&mut cluster);
    let before = disks(&cluster);
    for (asks, rule) in [(Voter::B, "rule PeerMovedOn"), (Voter::B, "rule PeerMovedOn")] {
        let text = cluster.expect(asks, &["connect", RESOURCE, "--dry-run"]);
        assert!(text.contains(rule), "{text}");
    }
    let state = |cluster: &Cluster| cluster.value(Voter::B, "/connections/0/connection-state");
    assert_eq!(state(&cluster), Some("StandAlone".into()));
    let explained = cluster.expect(Voter::A, &["explain", RESOURCE]);
    assert!(explained.contains("rule          WeMovedOn"), "{explained}");
    assert!(explained.contains("1048576..1056768 (8KiB)"), "{explained}");
    assert!(disks(&cluster) == before, "a disk was written");
    cluster.expect(Voter::B, &["connect", RESOURCE]);
    cluster.wait_until_synced(Voter::A);
    cluster.stop_and_compare(Voter::A);
}

#[test]
fn a_split_brain_is_foreseen_and_explained_with_what_each_way_loses() {
    let mut cluster = start(OnPeerLost::Continue);
    cluster.kill(Voter::B);
    write(&cluster, Voter::A, 1 << 20, 2);
    cluster.kill(Voter::A);
    cluster.start_process(Voter::B);
    cluster.wait_until("b answers", SOON, |cluster| cluster.status(Voter::B).is_some());
    cluster.expect(Voter::B, &["disconnect", RESOURCE]);
    cluster.expect(Voter::B, &["promote", RESOURCE, "--force"]);
    write(&cluster, Voter::B, 2 << 20, 3);
    cluster.start_process(Voter::A);
    cluster.wait_until("a answers", SOON, |cluster| cluster.status(Voter::A).is_some());
    let output = cluster.run(Voter::B, &["connect", RESOURCE, "--dry-run"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(11), "{output:?}");
    assert!(text.contains("rule SplitBrain") && text.contains("twinblk explain"), "{text}");
    cluster.expect(Voter::B, &["connect", RESOURCE]);
    cluster.wait_until("the split is found out", SOON, |cluster| {
        cluster.value(Voter::A, "/connections/0/rule") == Some("SplitBrain".into())
    });
    for (replica, ranges) in [(Voter::A, "1048576..1056768"), (Voter::B, "2097152..2105344")] {
        let text = cluster.expect(replica, &["explain", RESOURCE]);
        assert!(text.contains(ranges) && text.contains("the two parted after write"), "{text}");
        let (name, other) = (replica.name(), replica.other().name());
        for way in [
            format!("Believe {other}. On {name} `twinblk resolve-split-brain {RESOURCE} --discard-mine`"),
            format!("Believe {name}. On {other} `twinblk resolve-split-brain {RESOURCE} --discard-mine`"),
        ] {
            let words: Vec<&str> = text.split_whitespace().collect();
            assert!(words.join(" ").contains(&way), "{way} is not in\n{text}");
        }
        if let Some(folder) = std::env::var_os("TWINBLK_TRANSCRIPTS") {
            std::fs::write(std::path::Path::new(&folder).join(name), text).expect("written");
        }
    }
}
