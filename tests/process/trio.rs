//! Three replicas and no tiebreaker: two of them are a majority.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{RESOURCE, SECRET, SOON, TWINBLK, files};
use crate::volume::Volume;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Three daemons on loopback.
struct Trio {
    folder: TempDir,
    processes: [Option<Child>; 3],
}

impl Trio {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("twinblk-test-").tempdir().expect("a temporary folder");
        let mut trio = Self { folder, processes: [const { None }; 3] };
        files::write_for_owner(&trio.path("secret"), SECRET);
        let mut text = format!(
            "resource = \"{RESOURCE}\"\nsize = \"64MiB\"\non-peer-lost = \"quorum\"\nsecret-file = {}\n\
             heartbeat = \"100ms\"\npeer-timeout = \"500ms\"\n",
            files::quoted(&trio.path("secret"))
        );
        for (name, port) in NAMES.into_iter().zip(files::free_ports::<3>()) {
            std::fs::create_dir(trio.path(name)).expect("a folder for each node");
            let path = |file: &str| files::quoted(&trio.path(name).join(file));
            text.push_str(&format!(
                "\n[[node]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\nmax-peers = 2\ndata = {}\nmetadata = {}\nnbd = {{ unix = {} }}\n",
                path("data"),
                path("metadata"),
                path("demo.nbd")
            ));
        }
        std::fs::write(trio.path("demo.toml"), text).expect("written");
        for node in 0..3 {
            trio.expect(node, &["create-metadata", RESOURCE, "--uptodate-zeroed"]);
        }
        for node in 0..3 {
            trio.start_process(node);
        }
        trio
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, node: usize, args: &[&str]) -> Command {
        let mut command = Command::new(TWINBLK);
        command.args(args).args(["--node", NAMES[node]]);
        command.arg("--config-dir").arg(self.folder.path());
        command.arg("--run-dir").arg(self.path(NAMES[node])).stdin(Stdio::null());
        command
    }

    fn start_process(&mut self, node: usize) {
        let log = File::options().create(true).append(true).open(self.path(NAMES[node]).join("log"));
        let log = log.expect("a log");
        let parent = std::process::id().to_string();
        // The kernel ends the process when this one ends, however that happens.
        let mut command = self.command(node, &["end-with", &parent, "--", "run", RESOURCE]);
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.processes[node] = Some(command.spawn().expect("room for a process"));
    }

    fn kill(&mut self, node: usize) {
        let mut child = self.processes[node].take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it has ended");
    }

    fn run(&self, node: usize, args: &[&str]) -> Output {
        self.command(node, args).output().expect("the executable")
    }

    fn expect(&self, node: usize, args: &[&str]) {
        let output = self.run(node, args);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?} on {}: {complained}\n{}", NAMES[node], self.logs());
    }

    fn status(&self, node: usize) -> Option<Value> {
        let output = self.run(node, &["status", RESOURCE, "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    fn wait_until(&self, what: &str, is_met: impl Fn(&Self) -> Option<bool>) {
        let deadline = Instant::now() + 2 * SOON;
        loop {
            // Whatever stops the whole machine for a while stops this look too: only one that began late counts.
            let began = Instant::now();
            if is_met(self) == Some(true) {
                return;
            }
            assert!(began < deadline, "not in time: {what}\n{}", self.logs());
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    }

    /// Waits until `primary` sees so many peers in sync.
    fn wait_until_in_sync(&self, primary: usize, peers: usize) {
        self.wait_until("the peers are in sync", |trio| {
            let status = trio.status(primary)?;
            let connections = status.pointer("/connections")?.as_array()?;
            let in_sync = |connection: &&Value| {
                let is = |pointer: &str, wanted: &str| {
                    connection.pointer(pointer).is_some_and(|found| found == wanted)
                };
                is("/peer_devices/0/peer-disk-state", "UpToDate")
                    && is("/peer_devices/0/replication-state", "Established")
            };
            Some(connections.iter().filter(in_sync).count() == peers)
        });
    }

    fn connect(&self, node: usize) -> Volume {
        Volume::connect(&self.path(NAMES[node]).join("demo.nbd"), RESOURCE).expect("the Primary serves")
    }

    fn logs(&self) -> String {
        let log = |name| std::fs::read_to_string(self.path(name).join("log")).unwrap_or_default();
        NAMES.map(|name| format!("--- {name}\n{}", log(name))).concat()
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        for child in self.processes.iter_mut().flatten() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Every block that was written, with what it must hold.
fn write(volume: &mut Volume, blocks: std::ops::Range<u64>, fill: u8) {
    for block in blocks {
        volume.write_and_flush(block * 4096, &[fill; 4096]).expect("acknowledged");
    }
}

#[test]
fn three_replicas_survive_the_death_of_the_primary_and_end_equal() {
    let mut trio = Trio::start();
    trio.wait_until("all three run", |trio| Some((0..3).all(|node| trio.status(node).is_some())));
    for node in 0..3 {
        trio.expect(node, &["wait-connect", RESOURCE, "--timeout", "1min"]);
    }
    trio.expect(0, &["promote", RESOURCE, "--wait", "60s"]);
    trio.wait_until_in_sync(0, 2);
    let mut volume = trio.connect(0);
    write(&mut volume, 0..200, 1);
    drop(volume);

    trio.kill(0);
    trio.wait_until("b misses a", |trio| {
        Some(trio.status(1)?.pointer("/connections/0/connection-state")? != "Connected")
    });
    trio.expect(1, &["promote", RESOURCE, "--wait", "60s"]);
    let mut volume = trio.connect(1);
    for block in 0..200 {
        assert_eq!(volume.read(block * 4096, 4096).expect("readable"), vec![1; 4096], "block {block}");
    }
    trio.wait_until_in_sync(1, 1);
    write(&mut volume, 100..300, 2);

    trio.start_process(0);
    trio.wait_until_in_sync(1, 2);
    write(&mut volume, 300..310, 3);
    drop(volume);
    trio.wait_until("everything is written back everywhere", |trio| {
        let assigned = trio.status(1)?.pointer("/lsn/assigned")?.clone();
        let all = (0..3).map(|node| Some(*trio.status(node)?.pointer("/lsn/written-back")? == assigned));
        all.collect::<Option<Vec<bool>>>().map(|all| all.into_iter().all(|is| is))
    });
    let disks = NAMES.map(|name| std::fs::read(trio.path(name).join("data")).expect("a data file"));
    assert!(disks[0] == disks[1] && disks[1] == disks[2], "the three disks differ");
    assert_eq!([disks[0][99 * 4096], disks[0][100 * 4096], disks[0][309 * 4096]], [1, 2, 3]);
}
