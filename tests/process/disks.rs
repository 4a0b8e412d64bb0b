//! Disks of every kind and size: a volume of nearly 16 TiB, block devices, and space that is kept or given back.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter, skips};
use crate::refusals::second_daemon;
use crate::volume::Volume;

/// 16 TiB, less what ext4 lacks for a file of that size.
const LARGE: &str = "17592184995840";
const LARGE_BYTES: u64 = 17_592_184_995_840;
/// What a daemon may read before it serves: its journal and a little more.
const READ_BYTES_MAX: u64 = 80 << 20;
/// What it may take longer in memory with the large volume than with a small one. The bitmaps of such a volume would
/// have 512 MiB for each peer.
const MEMORY_KIB_MAX: u64 = 64 << 10;
/// Hundredths of a second of the processors' time that it may take to start.
const START_TICKS_MAX: u64 = 200;
/// Commands and a flag, by NBD's numbers.
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const NO_HOLE: u16 = 1 << 1;

/// A number from `/proc/PID/FILE`, behind `name`.
fn number_of(cluster: &Cluster, voter: Voter, file: &str, name: &str) -> u64 {
    let path = format!("/proc/{}/{file}", cluster.process_id(voter));
    let text = std::fs::read_to_string(path).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says so");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// Hundredths of a second for which the processors worked for a process.
fn processor_ticks(cluster: &Cluster, voter: Voter) -> u64 {
    let path = format!("/proc/{}/stat", cluster.process_id(voter));
    let text = std::fs::read_to_string(path).expect("the process runs");
    // The name in brackets may hold blanks; user and system time are the 14th and 15th field.
    let fields: Vec<&str> = text.rsplit(") ").next().expect("fields").split(' ').collect();
    [11, 12].map(|at: usize| fields[at].parse::<u64>().expect("a number")).iter().sum()
}

#[test]
fn a_volume_of_16_tib_opens_without_being_read_and_takes_no_more_memory_than_a_small_one() {
    let small = Cluster::start(&Settings { journal_size: "64MiB", ..Settings::default() });
    let usual = number_of(&small, Voter::A, "status", "VmRSS:");
    drop(small);
    let cluster = Cluster::start(&Settings { size: LARGE, journal_size: "64MiB", ..Settings::default() });
    let read = number_of(&cluster, Voter::A, "io", "rchar:");
    assert!(read < READ_BYTES_MAX, "{read} bytes were read");
    let ticks = processor_ticks(&cluster, Voter::A);
    assert!(ticks < START_TICKS_MAX, "{ticks} hundredths of a second");
    cluster.promote(Voter::A);
    let mut volume = Volume::connect(&cluster.nbd_socket(Voter::A), RESOURCE).expect("it serves");
    for (offset, byte) in [(0, 1), (LARGE_BYTES / 2 + 1000, 2), (LARGE_BYTES - 4096, 3)] {
        volume.write_and_flush(offset, &[byte; 4096]).expect("written");
        assert_eq!(volume.read(offset, 4096).expect("readable"), [byte; 4096]);
    }
    let memory = number_of(&cluster, Voter::A, "status", "VmRSS:");
    assert!(memory < usual + MEMORY_KIB_MAX, "{memory} KiB, and {usual} KiB with a small volume");
}

/// The flags of every descriptor of a daemon that leads to the file or device at `path`.
fn open_flags(cluster: &Cluster, voter: Voter, path: &Path) -> Vec<OFlags> {
    let path = path.canonicalize().expect("it is there");
    let process = PathBuf::from(format!("/proc/{}", cluster.process_id(voter)));
    let descriptors = std::fs::read_dir(process.join("fd")).expect("the process runs");
    let mut found = Vec::new();
    for descriptor in descriptors.map(|entry| entry.expect("listed")) {
        // Sockets come and go.
        if std::fs::read_link(descriptor.path()).is_ok_and(|target| target == path) {
            let file = process.join("fdinfo").join(descriptor.file_name());
            let text = std::fs::read_to_string(file).expect("disks stay open");
            let flags =
                text.lines().find_map(|line| line.strip_prefix("flags:")).expect("every one has them");
            let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
            found.push(OFlags::from_bits_retain(flags));
        }
    }
    found
}

/// Data, and metadata with the journal in it: both past the page cache.
fn expect_direct_io(cluster: &Cluster, replica: Voter) {
    for path in [cluster.data(replica), cluster.metadata(replica)] {
        let flags = open_flags(cluster, replica, &path);
        assert!(!flags.is_empty(), "{} is not open", path.display());
        assert!(flags.iter().all(|flags| flags.contains(OFlags::DIRECT)), "{}: {flags:?}", path.display());
    }
}

#[test]
fn a_daemon_bypasses_the_page_cache_for_data_metadata_and_journal() {
    let cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    for replica in Voter::REPLICAS {
        expect_direct_io(&cluster, replica);
    }
}

/// A block device made of a file.
pub struct LoopDevice {
    /// Its node.
    pub path: PathBuf,
}

impl LoopDevice {
    /// A device of this size; none where nobody may make one. Says so, and fails where skipping is not allowed.
    pub fn make(file: &Path, bytes: u64) -> Option<Self> {
        std::fs::File::create(file).and_then(|file| file.set_len(bytes)).expect("a sparse file");
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let made = output.as_ref().is_ok_and(|output| output.status.success());
        if made {
            let path = String::from_utf8(output.expect("it ran").stdout).expect("a path");
            return Some(Self { path: path.trim().into() });
        }
        skips::skip(&format!("losetup (Debian package mount) makes no device: {output:?}"));
        None
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.path).status();
        if !detached.is_ok_and(|status| status.success()) {
            eprintln!("{} is left behind", self.path.display());
        }
    }
}

#[test]
fn a_replica_on_block_devices_survives_its_death_and_shares_them_with_nobody() {
    let scratch = tempfile::tempdir().expect("a folder");
    let Some(data) = LoopDevice::make(&scratch.path().join("data"), 64 << 20) else { return };
    let Some(metadata) = LoopDevice::make(&scratch.path().join("metadata"), 32 << 20) else { return };
    let mut cluster = Cluster::make_with(&Settings::default(), |cluster| {
        for (device, path) in [(&data, cluster.data(Voter::A)), (&metadata, cluster.metadata(Voter::A))] {
            std::os::unix::fs::symlink(&device.path, path).expect("a name for it");
        }
    });
    for voter in Voter::ALL {
        cluster.start_process(voter);
    }
    cluster.wait_until_linked();
    cluster.promote(Voter::A);
    expect_direct_io(&cluster, Voter::A);
    // A mount would ask in the same way.
    for device in [&data, &metadata] {
        let exclusive = OFlags::RDONLY | OFlags::EXCL;
        let refused = rustix::fs::open(&device.path, exclusive, Mode::empty()).map(drop);
        assert_eq!(refused, Err(Errno::BUSY));
    }
    let (status, said) = second_daemon(&cluster);
    assert!(status == Some(11) && said.contains("in use"), "{status:?}: {said}");
    let mut volume = Volume::connect(&cluster.nbd_socket(Voter::A), RESOURCE).expect("it serves");
    for at in 0..64 {
        volume.write_and_flush((at << 20) + 777, &[7; 9000]).expect("written");
    }
    cluster.kill(Voter::A);
    cluster.take_over(Voter::B);
    cluster.start_process(Voter::A);
    cluster.wait_until_linked();
    cluster.wait_until_synced(Voter::B);
    cluster.stop_and_compare(Voter::B);
}

/// What each command makes of a range: zeroes, the ragged edges of a TRIM excepted.
fn zeroed_by((kind, _): (u16, u16), offset: usize, length: usize) -> std::ops::Range<usize> {
    let end = offset + length;
    match kind {
        TRIM => {
            let first = offset.next_multiple_of(4096);
            first..first.max(end / 4096 * 4096)
        }
        _ => offset..end,
    }
}

#[test]
fn what_is_trimmed_or_zeroed_reads_as_zero_on_both_block_devices_and_nothing_beside_it_does() {
    const REGION: usize = 4 << 20;
    let scratch = tempfile::tempdir().expect("a folder");
    let Some(a) = LoopDevice::make(&scratch.path().join("a"), 64 << 20) else { return };
    let Some(b) = LoopDevice::make(&scratch.path().join("b"), 64 << 20) else { return };
    let mut cluster = Cluster::make_with(&Settings::default(), |cluster| {
        for (device, replica) in [(&a, Voter::A), (&b, Voter::B)] {
            std::os::unix::fs::symlink(&device.path, cluster.data(replica)).expect("a name for it");
        }
    });
    for voter in Voter::ALL {
        cluster.start_process(voter);
    }
    cluster.wait_until_linked();
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    let mut volume = Volume::connect(&cluster.nbd_socket(Voter::A), RESOURCE).expect("it serves");
    let mut stream = raw_client(&cluster);
    let mut expected = vec![7; 3 * REGION];
    volume.write_and_flush(0, &expected).expect("written");
    // Only what is in the data areas already can be left standing there by what comes now.
    cluster.wait_until_written_back(Voter::A);
    // Whole blocks, ragged edges, less than a block, a block and its neighbours' edges, much.
    let ranges =
        [(0, 8192), (20_000, 30_000), (100_001, 99), (131_071, 4098), ((1 << 20) - 1, (2 << 20) + 2)];
    for (region, command) in [(TRIM, 0), (WRITE_ZEROES, 0), (WRITE_ZEROES, NO_HOLE)].into_iter().enumerate() {
        for (offset, length) in ranges {
            let offset = region * REGION + offset;
            let (at, bytes) = (u64::try_from(offset).expect("small"), u32::try_from(length).expect("small"));
            ask(&mut stream, command, at, bytes);
            expected[zeroed_by(command, offset, length)].fill(0);
        }
    }
    let bytes = u32::try_from(expected.len()).expect("small");
    assert!(volume.read(0, bytes).expect("readable") == expected, "as the client sees it");
    drop((volume, stream));
    cluster.wait_until_unused(Voter::A);
    cluster.stop_and_compare(Voter::A);
    for device in [&a, &b] {
        let found = std::fs::read(&device.path).expect("a device");
        let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!(wrong, None, "the first wrong byte of {}", device.path.display());
    }
}

#[test]
fn metadata_that_does_not_fit_its_device_is_refused_before_the_data_file_is_made() {
    let scratch = tempfile::tempdir().expect("a folder");
    let Some(metadata) = LoopDevice::make(&scratch.path().join("metadata"), 8 << 20) else { return };
    let cluster = Cluster::make(&Settings::default());
    for path in [cluster.data(Voter::A), cluster.metadata(Voter::A)] {
        std::fs::remove_file(path).expect("it was made");
    }
    std::os::unix::fs::symlink(&metadata.path, cluster.metadata(Voter::A)).expect("a name for it");
    let output = cluster.run(Voter::A, &["create-metadata", RESOURCE, "--uptodate-zeroed", "--force"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert!(said.contains("has 8MiB, the metadata ") && said.contains("nothing was changed"), "{said}");
    assert!(!cluster.data(Voter::A).exists());
}

/// A client that can ask for what the usual one cannot.
fn raw_client(cluster: &Cluster) -> UnixStream {
    let mut stream = UnixStream::connect(cluster.nbd_socket(Voter::A)).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("set");
    nbd::client::handshake(&mut stream, RESOURCE.as_bytes()).expect("it serves");
    stream
}

/// A request without data, which must succeed.
fn ask(stream: &mut UnixStream, (kind, flags): (u16, u16), offset: u64, length: u32) {
    let mut request = Vec::new();
    request.extend(0x2560_9513_u32.to_be_bytes());
    request.extend(flags.to_be_bytes());
    request.extend(kind.to_be_bytes());
    request.extend(77_u64.to_be_bytes());
    request.extend(offset.to_be_bytes());
    request.extend(length.to_be_bytes());
    stream.write_all(&request).expect("sent");
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).expect("an answer");
    assert_eq!(reply[4..8], [0; 4], "{reply:02x?}");
}

#[test]
fn zeroes_keep_their_space_on_both_replicas_if_the_client_says_so_and_give_it_back_otherwise() {
    let mut cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    let mut volume = Volume::connect(&cluster.nbd_socket(Voter::A), RESOURCE).expect("it serves");
    let mut stream = raw_client(&cluster);
    let space = |cluster: &mut Cluster| {
        cluster.wait_until_written_back(Voter::A);
        Voter::REPLICAS.map(|replica| {
            let file = std::fs::File::open(cluster.data(replica)).expect("a data file");
            // A file system may put off deciding where a file's blocks go.
            file.sync_all().expect("flushed");
            file.metadata().expect("known").blocks() * 512
        })
    };
    volume.write_and_flush(0, &vec![7; 1 << 20]).expect("written");
    let before = space(&mut cluster);
    ask(&mut stream, (WRITE_ZEROES, NO_HOLE), 0, 1 << 20);
    assert_eq!(space(&mut cluster), before);
    assert_eq!(volume.read(0, 1 << 20).expect("readable"), vec![0; 1 << 20]);
    ask(&mut stream, (WRITE_ZEROES, 0), 0, 1 << 20);
    for (after, before) in space(&mut cluster).into_iter().zip(before) {
        assert!(after + (1 << 20) <= before, "{after} of {before} bytes are left");
    }
    assert_eq!(volume.read(0, 1 << 20).expect("readable"), vec![0; 1 << 20]);
}
