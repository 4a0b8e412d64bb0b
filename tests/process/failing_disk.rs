//! A Primary whose disk fails under its clients' writes: the block device behind its data area can store less than it
//! says, so that the write which is one too many fails for good.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::disks::LoopDevice;
use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter, skips};
use crate::volume::Volume;

const MEGABYTE: usize = 1 << 20;
const VOLUME: usize = 64 * MEGABYTE;
/// What the disk can really store.
const ROOM: &str = "size=6m";

/// A file system in memory that has little room.
struct SmallFolder {
    path: PathBuf,
}

impl SmallFolder {
    /// None where nobody may mount one. Says so, and fails where skipping is not allowed.
    fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir(path).expect("a folder");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", ROOM, "tmpfs"]).arg(path).output();
        if output.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self { path: path.to_owned() });
        }
        skips::skip(&format!("mount (Debian package mount) mounts nothing: {output:?}"));
        None
    }
}

impl Drop for SmallFolder {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is left behind", self.path.display());
        }
    }
}

/// A is Primary, in sync, and has a disk that will fail. Its parts are given up from the first to the last.
struct Failing {
    cluster: Cluster,
    /// What clients have written.
    content: Vec<u8>,
    _disk: LoopDevice,
    _room: SmallFolder,
    _scratch: tempfile::TempDir,
}

impl Failing {
    /// `more` is put at the top of every configuration.
    fn start(more: &str) -> Option<Self> {
        let scratch = tempfile::tempdir().expect("a folder");
        let room = SmallFolder::mount(&scratch.path().join("room"))?;
        let bytes = u64::try_from(VOLUME).expect("small");
        let disk = LoopDevice::make(&room.path.join("data"), bytes)?;
        let mut cluster = Cluster::make_with(&Settings::default(), |cluster| {
            std::os::unix::fs::symlink(&disk.path, cluster.data(Voter::A)).expect("a name for it");
            for voter in Voter::ALL {
                let file = cluster.run_dir(voter).join(format!("{RESOURCE}.toml"));
                let text = std::fs::read_to_string(&file).expect("it was just written");
                std::fs::write(file, format!("{more}\n{text}")).expect("written");
            }
        });
        for voter in Voter::ALL {
            cluster.start_process(voter);
        }
        cluster.wait_until_linked();
        cluster.promote(Voter::A);
        cluster.wait_until_synced(Voter::A);
        let content = vec![0; VOLUME];
        Some(Self { cluster, content, _disk: disk, _room: room, _scratch: scratch })
    }

    fn served_by(&self, replica: Voter) -> Volume {
        Volume::connect(&self.cluster.nbd_socket(replica), RESOURCE).expect("the Primary serves")
    }

    /// Writes a little more than a mebibyte in each of so many, at ragged offsets, and reads some of it back at once.
    fn write_on(&mut self, volume: &mut Volume, megabytes: std::ops::Range<usize>, byte: u8) {
        for megabyte in megabytes {
            let at = megabyte * MEGABYTE + 512 * usize::from(byte);
            self.content[at..at + MEGABYTE + 1024].fill(byte);
            let bytes = &self.content[at..at + MEGABYTE + 1024];
            volume.write_and_flush(offset(at), bytes).expect("no client hears of it");
            let found = volume.read(offset(at) - 512, 8192).expect("no client hears of it");
            assert!(found == self.content[at - 512..at - 512 + 8192], "at {at}");
        }
    }

    fn expect_content(&self, volume: &mut Volume) {
        for (at, expected) in self.content.chunks(MEGABYTE).enumerate() {
            let found = volume.read(offset(at * MEGABYTE), 1 << 20).expect("readable");
            let wrong = found.iter().zip(expected).position(|(found, expected)| found != expected);
            assert_eq!(wrong, None, "the first wrong byte of mebibyte {at}");
        }
    }

    /// Clients write more than the disk can store, and go on when it has failed.
    fn lose_the_disk(&mut self) -> Volume {
        let mut volume = self.served_by(Voter::A);
        self.write_on(&mut volume, 0..24, 3);
        self.cluster.wait_until("the disk fails, and the peer is served through", SOON, |cluster| {
            cluster.value(Voter::A, "/devices/0/disk-state").is_some_and(|state| state == "Diskless")
        });
        self.write_on(&mut volume, 16..40, 5);
        volume
    }

    /// B, the only copy, is gone.
    fn lose_the_peer(&mut self) {
        self.cluster.kill(Voter::B);
        self.cluster.wait_until("there is no copy left", SOON, |cluster| {
            let advice = cluster.value(Voter::A, "/advice");
            let mut names = advice.iter().flat_map(|advice| advice.as_array().into_iter().flatten());
            names.any(|advice| advice["state"] == "suspended-no-data")
        });
    }
}

fn offset(at: usize) -> u64 {
    u64::try_from(at).expect("small")
}

#[test]
fn clients_of_a_primary_whose_disk_fails_notice_nothing_and_a_new_disk_is_brought_up_to_date() {
    let Some(mut failing) = Failing::start("") else { return };
    let mut volume = failing.lose_the_disk();
    failing.expect_content(&mut volume);
    // Without any copy they wait, and go on as soon as there is one again.
    failing.lose_the_peer();
    let writer = std::thread::spawn(move || {
        let written = volume.write_and_flush(7, &[7; 5000]);
        (volume, written)
    });
    failing.cluster.start_process(Voter::B);
    let (mut volume, written) = writer.join().expect("it ends");
    written.expect("it has only waited");
    failing.content[7..5007].fill(7);
    failing.expect_content(&mut volume);
    drop(volume);
    // As the page on failed disks says.
    let cluster = &mut failing.cluster;
    cluster.wait_until_unused(Voter::A);
    cluster.expect(Voter::A, &["demote", RESOURCE]);
    cluster.promote(Voter::B);
    assert!(cluster.stop(Voter::A).success());
    for file in [cluster.data(Voter::A), cluster.metadata(Voter::A)] {
        std::fs::remove_file(file).expect("taken out");
    }
    cluster.expect(Voter::A, &["create-metadata", RESOURCE]);
    cluster.start_process(Voter::A);
    let mut volume = failing.served_by(Voter::B);
    failing.write_on(&mut volume, 30..50, 9);
    failing.cluster.wait_until_synced(Voter::B);
    failing.expect_content(&mut volume);
    drop(volume);
    let Failing { mut cluster, content, .. } = failing;
    cluster.wait_until_unused(Voter::B);
    cluster.wait_until_written_back(Voter::B);
    assert!(std::fs::read(cluster.data(Voter::B)).expect("a data file") == content);
    cluster.stop_and_compare(Voter::B);
}

#[test]
fn without_any_copy_clients_get_errors_if_the_configuration_says_so() {
    let Some(mut failing) = Failing::start("on-no-data = \"fail\"") else { return };
    let mut volume = failing.lose_the_disk();
    failing.lose_the_peer();
    assert!(volume.write_and_flush(0, &[7; 4096]).is_err());
    assert!(failing.served_by(Voter::A).read(8 << 20, 4096).is_err());
    failing.cluster.start_process(Voter::B);
    failing.cluster.wait_until("the peer is served through again", SOON, |cluster| {
        let is = |pointer: &str, expected: Value| cluster.value(Voter::A, pointer) == Some(expected);
        is("/suspended", json!(false))
            && is("/connections/0/peer_devices/0/replication-state", json!("Established"))
    });
    // What failed may have been written all the same.
    let mut volume = failing.served_by(Voter::A);
    volume.write_and_flush(0, &[8; 4096]).expect("there is a copy");
    failing.content[..4096].fill(8);
    failing.expect_content(&mut volume);
}
