//! A resource of two replicas and a tiebreaker, each a process of its own on loopback, for tests that need the real
//! thing.
//!
//! Rule: every wait is a condition with a deadline; when a test fails, the logs of all processes are printed. Only
//! processes that were started here are ended, by their handle.
#![allow(dead_code, reason = "each test program uses its own part of the harness")]

#[path = "harness/files.rs"]
pub mod files;
#[path = "harness/proxy.rs"]
pub mod proxy;
#[path = "harness/skips.rs"]
pub mod skips;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Name of the resource and of its export.
pub const RESOURCE: &str = "demo";
/// What every voter knows.
pub const SECRET: &str = "a secret that every voter knows";
/// The executable under test.
pub const TWINBLK: &str = env!("CARGO_BIN_EXE_twinblk");

/// How long anything may take that takes no time on an idle machine.
pub const SOON: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Lines of each log that a failure shows.
const LOG_LINES_SHOWN: usize = 40;

/// A process of the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voter {
    /// The first replica.
    A,
    /// The second replica.
    B,
    /// The vote without data.
    Tiebreaker,
}

impl Voter {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::Tiebreaker];
    /// Those with a disk.
    pub const REPLICAS: [Self; 2] = [Self::A, Self::B];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Tiebreaker => "tiebreaker",
        }
    }

    /// The other replica.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
            Self::Tiebreaker => panic!("there is one tiebreaker"),
        }
    }

    /// Its number, by its place in the configuration.
    pub fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
            Self::Tiebreaker => 2,
        }
    }
}

/// What a test wants otherwise than usual.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Size of the volume, as in the configuration.
    pub size: &'static str,
    /// Time between two frames of an idle link.
    pub heartbeat: &'static str,
    /// Silence after which a peer counts as lost.
    pub peer_timeout: &'static str,
    /// Size of each journal.
    pub journal_size: &'static str,
    /// When a write is complete.
    pub protocol: &'static str,
    /// Where replicas listen for clients.
    pub listeners: Listeners,
    /// What a Primary does that has lost its peer.
    pub on_peer_lost: OnPeerLost,
}

/// What a Primary does that has lost its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPeerLost {
    /// It asks the tiebreaker.
    Quorum,
    /// It runs `fence-peer` in the folder of its node, a script that the test writes.
    Fence,
    /// It goes on.
    Continue,
}

/// Where a replica listens for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listeners {
    /// On a Unix socket.
    Unix,
    /// On a TCP port of loopback.
    Tcp,
    /// On both.
    Both,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            size: "64MiB",
            heartbeat: "100ms",
            peer_timeout: "500ms",
            journal_size: "16MiB",
            protocol: "C",
            listeners: Listeners::Unix,
            on_peer_lost: OnPeerLost::Quorum,
        }
    }
}

/// The resource.
pub struct Cluster {
    folder: TempDir,
    ports: [u16; 5],
    processes: [Option<Child>; 3],
    has_tiebreaker: bool,
}

impl Cluster {
    /// Writes configuration, secret, disks and vote; nothing runs yet.
    pub fn make(settings: &Settings) -> Self {
        Self::make_with(settings, |_| {})
    }

    /// The same, with something to be done before the disks are made.
    pub fn make_with(settings: &Settings, before: impl FnOnce(&Self)) -> Self {
        let folder = tempfile::Builder::new().prefix("twinblk-test-").tempdir().expect("a temporary folder");
        let cluster = Self {
            folder,
            ports: files::free_ports(),
            processes: [None, None, None],
            has_tiebreaker: settings.on_peer_lost == OnPeerLost::Quorum,
        };
        for voter in Voter::ALL {
            std::fs::create_dir(cluster.run_dir(voter)).expect("a folder for each voter");
            files::write_for_owner(&cluster.secret(voter), SECRET);
            cluster.configure(voter, settings);
        }
        before(&cluster);
        for replica in Voter::REPLICAS {
            cluster.expect(replica, &["create-metadata", RESOURCE, "--uptodate-zeroed"]);
        }
        if cluster.has_tiebreaker {
            cluster.expect(Voter::Tiebreaker, &["tiebreaker", RESOURCE, "--init"]);
        }
        cluster
    }

    /// All three run and know each other; both replicas are Secondary.
    pub fn start(settings: &Settings) -> Self {
        let mut cluster = Self::make(settings);
        for voter in cluster.voters() {
            cluster.start_process(voter);
        }
        cluster.wait_until_linked();
        cluster
    }

    /// Everybody who runs in this resource.
    pub fn voters(&self) -> Vec<Voter> {
        let all = Voter::ALL.into_iter();
        all.filter(|voter| *voter != Voter::Tiebreaker || self.has_tiebreaker).collect()
    }

    /// A replica's fence command.
    pub fn fence_command(&self, replica: Voter) -> PathBuf {
        self.run_dir(replica).join("fence-peer")
    }

    /// Writes the configuration that one voter sees. Every voter has its own copy, so that they can differ.
    pub fn configure(&self, voter: Voter, settings: &Settings) {
        let text = files::configuration(self, settings);
        std::fs::write(
            self.run_dir(voter).join(format!("{RESOURCE}.toml")),
            text.replace("SECRET", &files::quoted(&self.secret(voter)))
                .replace("FENCE", &files::quoted(&self.fence_command(voter))),
        )
        .expect("written");
    }

    /// Starts a process and does not wait.
    pub fn start_process(&mut self, voter: Voter) {
        self.start_process_with(voter, &[]);
    }

    /// The same, with more options.
    pub fn start_process_with(&mut self, voter: Voter, options: &[&str]) {
        let log = File::options().create(true).append(true).open(self.log(voter)).expect("a log");
        let mut command = Command::new(TWINBLK);
        // The kernel ends the process when this one ends, however that happens.
        command.args(["end-with", &std::process::id().to_string(), "--"]);
        match voter {
            Voter::Tiebreaker => command.args(["tiebreaker", RESOURCE]),
            Voter::A | Voter::B => command.args(["run", RESOURCE]),
        };
        command.args(options);
        self.add_places(&mut command, voter);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.processes[voter.index()] = Some(command.spawn().expect("room for a process"));
    }

    /// Ends a process in the middle of whatever it does.
    pub fn kill(&mut self, voter: Voter) {
        let mut child = self.processes[voter.index()].take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it has ended");
    }

    /// Asks a process to end in order; says how it did.
    pub fn stop(&mut self, voter: Voter) -> ExitStatus {
        let mut child = self.processes[voter.index()].take().expect("it runs");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it can be asked");
        wait_for_end(&mut child).unwrap_or_else(|| {
            self.processes[voter.index()] = Some(child);
            panic!("{} does not end after SIGTERM", voter.name())
        })
    }

    /// Waits for a process that ends by itself.
    pub fn wait_for_end(&mut self, voter: Voter) -> ExitStatus {
        let mut child = self.processes[voter.index()].take().expect("it was started");
        wait_for_end(&mut child).unwrap_or_else(|| {
            self.processes[voter.index()] = Some(child);
            panic!("{} does not end by itself", voter.name())
        })
    }

    /// Number of a process that runs.
    pub fn process_id(&self, voter: Voter) -> u32 {
        self.processes[voter.index()].as_ref().expect("it runs").id()
    }

    /// Runs a command for a voter to its end.
    pub fn run(&self, voter: Voter, args: &[&str]) -> Output {
        self.command(voter, args).output().expect("the executable")
    }

    /// A command for a voter, not run yet.
    pub fn command(&self, voter: Voter, args: &[&str]) -> Command {
        let mut command = Command::new(TWINBLK);
        command.args(args);
        self.add_places(&mut command, voter);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed; gives what it says.
    pub fn expect(&self, voter: Voter, args: &[&str]) -> String {
        let output = self.run(voter, args);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{args:?} on {}: {}\n{said}{complained}{}",
            voter.name(),
            output.status,
            self.log_ends()
        );
        said
    }

    /// What every process said last.
    fn log_ends(&self) -> String {
        let end = |voter: Voter| {
            let log = self.logged(voter);
            let lines: Vec<&str> = log.lines().collect();
            format!(
                "--- {}\n{}\n",
                voter.name(),
                lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
            )
        };
        Voter::ALL.map(end).concat()
    }

    fn add_places(&self, command: &mut Command, voter: Voter) {
        let folder = self.run_dir(voter);
        command.arg("--config-dir").arg(&folder).arg("--run-dir").arg(&folder);
        if voter != Voter::Tiebreaker {
            command.args(["--node", voter.name()]);
        }
    }

    /// Makes a replica Primary.
    pub fn promote(&self, replica: Voter) {
        self.expect(replica, &["promote", RESOURCE, "--wait", "60s"]);
    }

    /// Makes a replica Primary whose peer has just been killed, and perhaps is not missed yet.
    pub fn take_over(&mut self, replica: Voter) {
        self.wait_until("the loss of the peer is noticed", SOON, |cluster| {
            cluster
                .value(replica, "/connections/0/connection-state")
                .is_some_and(|state| state != "Connected")
        });
        self.promote(replica);
    }

    /// What a replica says of itself; nothing while it cannot be asked.
    pub fn status(&self, replica: Voter) -> Option<Value> {
        let output = self.run(replica, &["status", RESOURCE, "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// One value of a replica's status.
    pub fn value(&self, replica: Voter, pointer: &str) -> Option<Value> {
        self.status(replica)?.pointer(pointer).cloned()
    }

    /// Waits until something holds.
    pub fn wait_until(&mut self, what: &str, within: Duration, mut is_met: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + within;
        loop {
            // Whatever stops the whole machine for a while stops this look too: only one that began late counts.
            let began = Instant::now();
            if is_met(self) {
                return;
            }
            for voter in Voter::ALL {
                let ended =
                    self.processes[voter.index()].as_mut().and_then(|child| child.try_wait().expect("asked"));
                assert!(
                    ended.is_none(),
                    "while waiting for: {what}: {} ended by itself ({ended:?})",
                    voter.name()
                );
            }
            assert!(began < deadline, "not within {} s: {what}\n{}", within.as_secs(), self.statuses());
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Waits until every process that runs is linked to every other.
    pub fn wait_until_linked(&mut self) {
        let has_tiebreaker = self.has_tiebreaker;
        let linked = |status: &Value| {
            let is_linked = |pointer: &str| status.pointer(pointer).is_some_and(|state| state == "Connected");
            is_linked("/connections/0/connection-state")
                && (!has_tiebreaker || is_linked("/tiebreaker/connection-state"))
        };
        self.wait_until("all three are linked", SOON, |cluster| {
            Voter::REPLICAS
                .into_iter()
                .all(|replica| cluster.status(replica).is_some_and(|status| linked(&status)))
        });
    }

    /// Waits until both disks are UpToDate, as the Primary sees it.
    pub fn wait_until_synced(&mut self, primary: Voter) {
        self.wait_until("both disks are UpToDate", 4 * SOON, |cluster| {
            let Some(status) = cluster.status(primary) else { return false };
            let is = |pointer: &str, value: &str| status.pointer(pointer).is_some_and(|found| found == value);
            is("/devices/0/disk-state", "UpToDate")
                && is("/connections/0/peer_devices/0/peer-disk-state", "UpToDate")
                && is("/connections/0/peer_devices/0/replication-state", "Established")
        });
    }

    /// Waits until no client is connected any more.
    pub fn wait_until_unused(&mut self, replica: Voter) {
        self.wait_until("the clients are gone", SOON, |cluster| {
            cluster.value(replica, "/devices/0/clients").is_some_and(|clients| clients == 0)
        });
    }

    /// Waits until the data areas hold every write.
    pub fn wait_until_written_back(&mut self, primary: Voter) {
        self.wait_until("everything is written back", SOON, |cluster| {
            let newest = cluster.value(primary, "/lsn/assigned");
            let all = |replica| cluster.value(replica, "/lsn/written-back") == newest;
            newest.is_some() && Voter::REPLICAS.into_iter().all(all)
        });
    }

    /// Ends everything in order and compares the data areas.
    pub fn stop_and_compare(mut self, primary: Voter) {
        self.wait_until_written_back(primary);
        self.expect(primary, &["demote", RESOURCE]);
        for voter in self.voters() {
            let status = self.stop(voter);
            assert!(status.success(), "{} ended with {status}", voter.name());
        }
        let [ours, theirs] =
            Voter::REPLICAS.map(|replica| std::fs::read(self.data(replica)).expect("a data file"));
        let different =
            ours.chunks(4096).zip(theirs.chunks(4096)).filter(|(ours, theirs)| ours != theirs).count();
        let first = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
        assert!(ours == theirs, "{different} blocks differ, the first at byte {first:?}");
    }

    /// The folder of a voter: configuration, control socket, disks, log.
    pub fn run_dir(&self, voter: Voter) -> PathBuf {
        self.folder.path().join(voter.name())
    }

    /// A replica's data area.
    pub fn data(&self, replica: Voter) -> PathBuf {
        self.run_dir(replica).join("data")
    }

    /// A replica's metadata.
    pub fn metadata(&self, replica: Voter) -> PathBuf {
        self.run_dir(replica).join("metadata")
    }

    /// Where a replica serves clients.
    pub fn nbd_socket(&self, replica: Voter) -> PathBuf {
        self.run_dir(replica).join(format!("{RESOURCE}.nbd"))
    }

    /// Where a replica serves clients, as tools take it.
    pub fn uri(&self, replica: Voter) -> String {
        format!("nbd+unix:///{RESOURCE}?socket={}", self.nbd_socket(replica).display())
    }

    /// TCP port on which a replica serves clients, if it does.
    pub fn nbd_port(&self, replica: Voter) -> u16 {
        match replica {
            Voter::A => self.ports[3],
            Voter::B => self.ports[4],
            Voter::Tiebreaker => panic!("it serves no clients"),
        }
    }

    /// The same, as tools take it.
    pub fn tcp_uri(&self, replica: Voter) -> String {
        format!("nbd://127.0.0.1:{}/{RESOURCE}", self.nbd_port(replica))
    }

    /// A folder for a test's own files.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// A voter's secret.
    pub fn secret(&self, voter: Voter) -> PathBuf {
        self.run_dir(voter).join("secret")
    }

    /// A voter's log.
    pub fn log(&self, voter: Voter) -> PathBuf {
        self.run_dir(voter).join("log")
    }

    /// What a voter has logged.
    pub fn logged(&self, voter: Voter) -> String {
        std::fs::read_to_string(self.log(voter)).unwrap_or_default()
    }

    /// TCP port of a voter.
    pub fn port(&self, voter: Voter) -> u16 {
        self.ports[voter.index()]
    }

    fn statuses(&self) -> String {
        let of = |replica: Voter| {
            let said =
                self.status(replica).map_or_else(|| "no status".to_owned(), |status| format!("{status:#}"));
            format!("{}: {said}\n", replica.name())
        };
        Voter::REPLICAS.map(of).concat()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.processes.iter_mut().flatten() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        if !std::thread::panicking() {
            return;
        }
        for voter in Voter::ALL {
            let text = self.logged(voter);
            let lines: Vec<&str> = text.lines().collect();
            let first = lines.len().saturating_sub(LOG_LINES_SHOWN);
            eprintln!("--- the end of the log of {}:\n{}", voter.name(), lines[first..].join("\n"));
        }
    }
}

fn wait_for_end(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().expect("asked") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}
