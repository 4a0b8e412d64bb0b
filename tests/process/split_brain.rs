//! The story of a split brain, with real daemons: a partition, two Primaries, a lost mail that is read and saved, and one
//! side that gives way.

use std::io::Read;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::harness::{Cluster, OnPeerLost, RESOURCE, SOON, Settings, Voter, files};
use crate::volume::Volume;

/// Passes connections on to a port until it is cut.
struct Proxy {
    port: u16,
    is_cut: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (is_cut, streams) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let proxy = Self { port, is_cut, streams };
        let (is_cut, streams) = (proxy.is_cut.clone(), proxy.streams.clone());
        // It ends with the process.
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                // Whoever is not there is not passed on to.
                let Ok(callee) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
                for (from, to) in [(&caller, &callee), (&callee, &caller)] {
                    let (from, to) = (from.try_clone().expect("a copy"), to.try_clone().expect("a copy"));
                    std::thread::spawn(move || pass_on(from, to));
                }
                let mut streams = streams.lock().expect("nobody panics with it");
                streams.push(caller);
                if is_cut.load(Ordering::SeqCst) {
                    end_all(&mut streams);
                }
            }
        });
        proxy
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        end_all(&mut self.streams.lock().expect("nobody panics with it"));
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    // Either end may go away at any time.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn end_all(streams: &mut Vec<TcpStream>) {
    for stream in streams.drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Two replicas that go on without each other, and the way between them.
struct Parted {
    cluster: Cluster,
    ways: [Proxy; 2],
}

impl Parted {
    /// Both hold the same; a is Primary. `more` goes into the configuration.
    fn start(more: &str) -> Self {
        let settings = Settings { on_peer_lost: OnPeerLost::Continue, ..Settings::default() };
        let mut cluster = Cluster::make(&settings);
        let ways = Voter::REPLICAS.map(|replica| Proxy::to(cluster.port(replica)));
        for replica in Voter::REPLICAS {
            let path = cluster.run_dir(replica).join(format!("{RESOURCE}.toml"));
            let text = std::fs::read_to_string(&path).expect("it was written");
            let other = replica.other();
            let direct = format!("127.0.0.1:{}", cluster.port(other));
            let text = text.replace(&direct, &format!("127.0.0.1:{}", ways[other.index()].port));
            let folder = files::quoted(&cluster.run_dir(replica).join("rescued"));
            let head = format!("rescue = {{ folder = {folder} }}\n{more}\nheartbeat = ");
            std::fs::write(&path, text.replacen("heartbeat = ", &head, 1)).expect("written");
        }
        for replica in Voter::REPLICAS {
            cluster.start_process(replica);
        }
        cluster.wait_until_linked();
        cluster.promote(Voter::A);
        cluster.wait_until_synced(Voter::A);
        Self { cluster, ways }
    }

    fn part(&mut self) {
        self.ways.iter().for_each(Proxy::cut);
        self.cluster.wait_until("both miss each other", SOON, |cluster| {
            Voter::REPLICAS.into_iter().all(|replica| {
                cluster
                    .value(replica, "/connections/0/connection-state")
                    .is_some_and(|state| state == "Connecting")
            })
        });
        self.cluster.promote(Voter::B);
    }

    fn meet(&mut self) {
        self.ways.iter().for_each(Proxy::mend);
    }

    fn wait_until_stand_alone(&mut self) {
        self.cluster.wait_until("the split brain is detected", SOON, |cluster| {
            Voter::REPLICAS.into_iter().all(|replica| {
                cluster
                    .value(replica, "/connections/0/connection-state")
                    .is_some_and(|state| state == "StandAlone")
            })
        });
    }

    fn write(&self, replica: Voter, block: u64, content: &[u8]) {
        let mut volume = self.connect(replica, RESOURCE).expect("it serves");
        let mut bytes = vec![0; 4096];
        bytes[..content.len()].copy_from_slice(content);
        volume.write_and_flush(block * 4096, &bytes).expect("acknowledged");
    }

    fn connect(&self, replica: Voter, export: &str) -> std::io::Result<Volume> {
        Volume::connect(&self.cluster.nbd_socket(replica), export)
    }
}

const LOST_MAIL: &[u8] = b"Subject: delivered on the wrong side";

fn starts_with(bytes: &[u8], content: &[u8]) -> bool {
    bytes.get(..content.len()) == Some(content)
}

/// The file that an answer says something was saved in.
fn saved_in(answer: &str) -> PathBuf {
    let (_, rest) = answer.split_once("saved in ").expect("it says where");
    PathBuf::from(rest.split([';', '\n']).next().expect("a path"))
}

#[test]
fn after_a_partition_the_lost_side_is_read_saved_and_given_up_and_the_pair_is_one_again() {
    let mut parted = Parted::start("");
    parted.write(Voter::A, 3, b"in common");
    parted.part();
    parted.write(Voter::A, 10, b"kept");
    parted.write(Voter::B, 10, b"overwritten");
    parted.write(Voter::B, 20, LOST_MAIL);
    parted.meet();
    parted.wait_until_stand_alone();
    assert_eq!(parted.cluster.value(Voter::B, "/connections/0/rule"), Some("BothPrimary".into()));
    assert_eq!(parted.cluster.value(Voter::A, "/role"), Some("Primary".into()), "each keeps serving");
    assert!(parted.cluster.logged(Voter::A).contains("split brain with b detected"));

    // Nothing is given up by a Primary, and a Primary serves no side of its own.
    let discard = ["resolve-split-brain", RESOURCE, "--discard-mine"];
    let serve = ["serve", RESOURCE, "--read-only", "--as-was"];
    for args in [&discard[..], &serve[..]] {
        assert_eq!(parted.cluster.run(Voter::B, args).status.code(), Some(11), "{args:?}");
    }
    parted.cluster.wait_until_unused(Voter::B);
    parted.cluster.expect(Voter::B, &["demote", RESOURCE]);
    parted.wait_until_stand_alone();

    // The lost mail can be read, and nothing else can be done there.
    assert!(parted.connect(Voter::B, RESOURCE).is_err(), "the volume is not served here");
    parted.cluster.expect(Voter::B, &serve);
    let export = format!("{RESOURCE}-as-was");
    let mut side = parted.connect(Voter::B, &export).expect("it is served");
    assert!(starts_with(&side.read(20 * 4096, 4096).expect("readable"), LOST_MAIL));
    assert!(starts_with(&side.read(3 * 4096, 4096).expect("readable"), b"in common"));
    assert!(side.write_and_flush(0, &[1; 4096]).is_err(), "it is read-only");
    let mut side = parted.connect(Voter::B, &export).expect("it is served still");
    assert!(parted.cluster.expect(Voter::B, &["status", RESOURCE]).contains("serves its own side read-only"));

    // First what would be lost, then the loss.
    let rehearsed = parted.cluster.expect(Voter::B, &[&discard[..], &["--dry-run"]].concat());
    assert!(rehearsed.contains("would discard 2 writes of b after write 1"), "{rehearsed}");
    assert!(rehearsed.contains("2 blocks (8 KiB): 10, 20"), "{rehearsed}");
    assert!(!saved_in(&rehearsed).exists());
    assert!(side.read(0, 4096).is_ok(), "nothing has changed");
    let answer = parted.cluster.expect(Voter::B, &discard);
    let file = saved_in(&answer);
    assert!(side.read(20 * 4096, 4096).is_err(), "that side is gone");
    parted.cluster.wait_until_synced(Voter::A);

    // What was given up is in the image, and comes back out by its index.
    let shown = parted.cluster.expect(Voter::B, &["inspect", file.to_str().expect("text"), "--json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let ranges = shown.pointer("/rescue/ranges").and_then(Value::as_array).expect("ranges");
    let offsets: Vec<_> = ranges.iter().map(|range| range["offset"].as_u64().expect("a number")).collect();
    assert_eq!(offsets, [10 * 4096, 20 * 4096]);
    assert_eq!(shown.pointer("/rescue/node-name"), Some(&"b".into()));
    let skip = format!("skip={}", offsets[1] / 4096);
    let from = format!("if={}", file.display());
    let copied = Command::new("dd").args([&from, "bs=4096", &skip, "count=1", "status=none"]).output();
    assert!(starts_with(&copied.expect("dd").stdout, LOST_MAIL));

    parted.write(Voter::A, 30, b"after all");
    parted.cluster.wait_until_unused(Voter::A);
    let data = parted.cluster.data(Voter::B);
    parted.cluster.wait_until_written_back(Voter::A);
    let mut bytes = Vec::new();
    std::fs::File::open(data).expect("open").read_to_end(&mut bytes).expect("read");
    assert!(
        starts_with(&bytes[10 * 4096..], b"kept")
            && bytes[20 * 4096..21 * 4096].iter().all(|byte| *byte == 0)
    );
    parted.cluster.stop_and_compare(Voter::A);
}

#[test]
fn of_two_primaries_the_one_with_fewer_writes_gives_way_by_itself_if_that_is_configured() {
    let mut parted = Parted::start("split-brain = { two-primaries = \"discard-least-changes\" }");
    parted.write(Voter::A, 3, b"in common");
    parted.part();
    parted.write(Voter::B, 10, b"one");
    parted.write(Voter::B, 11, b"two");
    parted.write(Voter::A, 20, LOST_MAIL);
    parted.meet();
    parted.cluster.wait_until_synced(Voter::B);
    assert_eq!(parted.cluster.value(Voter::A, "/role"), Some("Secondary".into()));
    let rescued = std::fs::read_dir(parted.cluster.run_dir(Voter::A).join("rescued")).expect("made");
    let rescued: Vec<_> = rescued.map(|entry| entry.expect("readable").path()).collect();
    let [file] = &rescued[..] else { panic!("{rescued:?}") };
    let shown = parted.cluster.expect(Voter::A, &["inspect", file.to_str().expect("text")]);
    assert!(shown.contains("discarded on a (node 0) in favour of b (node 1)"), "{shown}");
    assert!(starts_with(&std::fs::read(file).expect("readable")[20 * 4096..], LOST_MAIL));
    parted.cluster.wait_until_unused(Voter::B);
    parted.cluster.stop_and_compare(Voter::B);
}

#[test]
fn what_cannot_be_saved_is_not_given_up_unless_that_is_said() {
    let mut parted = Parted::start("");
    parted.part();
    parted.write(Voter::A, 10, b"kept");
    parted.write(Voter::B, 20, LOST_MAIL);
    parted.cluster.wait_until_unused(Voter::B);
    parted.cluster.expect(Voter::B, &["demote", RESOURCE]);
    parted.meet();
    parted.wait_until_stand_alone();
    let file = parted.cluster.scratch().join("taken");
    std::fs::write(&file, "something else").expect("written");
    let path = file.to_str().expect("text");
    let discard = ["resolve-split-brain", RESOURCE, "--discard-mine"];
    for more in [&["--save", path][..], &["--save", path, "--dry-run"], &["--save", "/proc/nowhere/file"]] {
        let output = parted.cluster.run(Voter::B, &[&discard[..], more].concat());
        assert_eq!(output.status.code(), Some(11), "{more:?} {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be saved"), "{output:?}");
    }
    assert_eq!(std::fs::read(&file).expect("readable"), b"something else");
    assert_eq!(parted.cluster.value(Voter::B, "/connections/0/connection-state"), Some("StandAlone".into()));
    parted.cluster.expect(Voter::B, &[&discard[..], &["--no-save"]].concat());
    parted.cluster.wait_until_synced(Voter::A);
    parted.cluster.wait_until_unused(Voter::A);
    parted.cluster.stop_and_compare(Voter::A);
}
