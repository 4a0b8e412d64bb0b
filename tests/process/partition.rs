//! Partitions between real daemons that ask a majority: whoever is cut off waits, the others go on, and what was not
//! acknowledged is not there afterwards.

use std::thread::JoinHandle;

use crate::harness::proxy::Proxy;
use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter};
use crate::volume::Volume;

/// A resource whose voters reach each other only by ways that can be cut.
struct Net {
    cluster: Cluster,
    ways: Vec<(Voter, Voter, Proxy)>,
}

impl Net {
    /// a is Primary, both are in sync.
    fn start() -> Self {
        let mut cluster = Cluster::make(&Settings::default());
        let mut ways = Vec::new();
        for from in Voter::ALL {
            let path = cluster.run_dir(from).join(format!("{RESOURCE}.toml"));
            let mut text = std::fs::read_to_string(&path).expect("it was written");
            for to in Voter::ALL.into_iter().filter(|to| *to != from) {
                let way = Proxy::to(cluster.port(to));
                let direct = format!("127.0.0.1:{}", cluster.port(to));
                text = text.replace(&direct, &format!("127.0.0.1:{}", way.port()));
                ways.push((from, to, way));
            }
            std::fs::write(&path, text).expect("written");
        }
        for voter in Voter::ALL {
            cluster.start_process(voter);
        }
        cluster.wait_until_linked();
        cluster.promote(Voter::A);
        cluster.wait_until_synced(Voter::A);
        Self { cluster, ways }
    }

    fn between(&self, one: Voter, other: Voter) -> impl Iterator<Item = &Proxy> {
        let is_between = move |(from, to, _): &&(Voter, Voter, Proxy)| {
            (*from, *to) == (one, other) || (*from, *to) == (other, one)
        };
        self.ways.iter().filter(is_between).map(|(.., way)| way)
    }

    fn cut(&self, one: Voter, other: Voter) {
        self.between(one, other).for_each(Proxy::cut);
    }

    /// Cuts a Primary off from everybody. The tiebreaker first: between two cuts it could still store that the
    /// other replica is out of the in-sync set, and that one could not be promoted then, rightly.
    fn cut_off(&self, primary: Voter) {
        self.cut(primary, Voter::Tiebreaker);
        for replica in [Voter::A, Voter::B].into_iter().filter(|replica| *replica != primary) {
            self.cut(primary, replica);
        }
    }

    fn mend(&self) {
        self.ways.iter().for_each(|(.., way)| way.mend());
    }

    fn connect(&self, replica: Voter) -> Volume {
        Volume::connect(&self.cluster.nbd_socket(replica), RESOURCE).expect("the Primary serves")
    }

    /// Writes a block beside the test; says whether that was acknowledged.
    fn write(&self, replica: Voter, block: u64, byte: u8) -> JoinHandle<bool> {
        let mut volume = self.connect(replica);
        std::thread::spawn(move || volume.write_and_flush(block * 4096, &[byte; 4096]).is_ok())
    }

    fn write_now(&self, replica: Voter, block: u64, byte: u8) {
        assert!(self.write(replica, block, byte).join().expect("it ends"), "not acknowledged");
    }

    fn wait_until_frozen(&mut self, replica: Voter) {
        self.cluster.wait_until("all I/O waits", SOON, |cluster| {
            cluster.value(replica, "/frozen").is_some_and(|frozen| !frozen.is_null())
        });
    }
}

#[test]
fn a_primary_that_is_cut_off_waits_and_the_majority_goes_on_without_what_it_never_acknowledged() {
    let mut net = Net::start();
    net.write_now(Voter::A, 0, 1);
    net.cut_off(Voter::A);
    let lost = net.write(Voter::A, 1, 2);
    net.wait_until_frozen(Voter::A);
    net.cluster.promote(Voter::B);
    assert!(!lost.is_finished(), "a write was answered by a Primary that another one had replaced");
    net.write_now(Voter::B, 2, 3);
    net.mend();
    assert!(!lost.join().expect("it ends"), "the deposed Primary says that it shuts down");
    net.cluster.wait_until_synced(Voter::B);
    let mut volume = net.connect(Voter::B);
    for (block, byte) in [(0, 1), (1, 0), (2, 3)] {
        assert_eq!(volume.read(block * 4096, 4096).expect("readable"), vec![byte; 4096], "block {block}");
    }
    drop(volume);
    net.cluster.wait_until_unused(Voter::B);
    net.cluster.stop_and_compare(Voter::B);
}

#[test]
fn without_a_majority_all_io_waits_and_goes_on_as_if_nothing_had_been_when_the_peer_is_back() {
    let mut net = Net::start();
    net.write_now(Voter::A, 0, 1);
    net.cut_off(Voter::A);
    net.cut(Voter::B, Voter::Tiebreaker);
    let write = net.write(Voter::A, 1, 2);
    net.wait_until_frozen(Voter::A);
    assert_eq!(net.cluster.value(Voter::A, "/suspended-quorum"), Some(true.into()));
    let refused = net.cluster.run(Voter::B, &["promote", RESOURCE, "--wait", "2s"]);
    assert_eq!(refused.status.code(), Some(11), "nobody has a majority: {refused:?}");
    assert!(!write.is_finished());
    net.between(Voter::A, Voter::B).for_each(Proxy::mend);
    assert!(write.join().expect("it ends"), "a frozen write is sent again, not failed");
    net.mend();
    net.cluster.wait_until_synced(Voter::A);
    net.cluster.wait_until_unused(Voter::A);
    net.cluster.stop_and_compare(Voter::A);
}
