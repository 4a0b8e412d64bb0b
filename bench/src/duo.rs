//! Two daemons whose second one has nothing yet: what a resync is measured on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::Running;

const RESOURCE: &str = "bench";
/// The two, in configuration order: the source and the target.
const NAMES: [&str; 2] = ["a", "b"];
/// How long a daemon may take to answer.
const SOON: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where everything of the two is.
#[derive(Debug)]
pub struct Duo {
    binary: PathBuf,
    /// Of the source and of the target.
    folders: [PathBuf; 2],
    running: [Option<Running>; 2],
    /// Go last.
    _held: [Option<TempDir>; 2],
}

/// Asks the source for its state.
#[derive(Debug)]
pub struct Looker(Command);

impl Looker {
    /// What it says.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&mut self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.0.output()?.stdout).context("the source does not answer")
    }
}

/// What a resync took.
#[derive(Clone, Copy, Debug)]
pub struct Resynced {
    /// From the first block to the last flush.
    pub took: Duration,
    /// CPU time of the source, microseconds.
    pub source_cpu_us: f64,
    /// CPU time of the target, microseconds.
    pub target_cpu_us: f64,
}

impl Duo {
    /// Two whose disks are in these folders, both in the first one if there is no second one, and hold different bytes.
    ///
    /// # Errors
    /// A folder takes no files.
    pub fn new(
        binary: &Path,
        source: TempDir,
        target: Option<TempDir>,
        size_bytes: u64,
    ) -> anyhow::Result<Self> {
        let folders = [source.path(), target.as_ref().unwrap_or(&source).path()].map(Path::to_owned);
        let running = [const { None }; 2];
        let duo = Self { binary: binary.to_owned(), folders, running, _held: [Some(source), target] };
        duo.configure(size_bytes)?;
        for node in 0..2 {
            fill(&duo.data(node), size_bytes)?;
        }
        Ok(duo)
    }

    fn configure(&self, size_bytes: u64) -> anyhow::Result<()> {
        let held = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let mut text = format!(
            "resource = \"{RESOURCE}\"\nsize = \"{size_bytes}\"\non-peer-lost = \"continue\"\nsecret-file = {:?}\n",
            self.folders[0].join("secret")
        );
        for (node, listener) in held.into_iter().enumerate() {
            let port = listener?.local_addr()?.port();
            text.push_str(&format!(
                "\n[[node]]\nname = \"{}\"\naddress = \"127.0.0.1:{port}\"\njournal-size = \"256MiB\"\ndata = {:?}\nmetadata = {:?}\nnbd = {{ unix = {:?} }}\n",
                NAMES[node],
                self.data(node),
                self.run_dir(node).join("metadata"),
                self.run_dir(node).join("nbd.sock"),
            ));
        }
        text.push_str("\n[[link]]\nnodes = [\"a\", \"b\"]\nprotocol = \"C\"\n");
        let mut secret = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.folders[0].join("secret"))?;
        secret.write_all(b"a secret that both of them know")?;
        for node in 0..2 {
            std::fs::create_dir_all(self.run_dir(node))?;
            std::fs::write(self.run_dir(node).join(format!("{RESOURCE}.toml")), &text)?;
        }
        Ok(())
    }

    /// The data area of a node.
    #[must_use]
    pub fn data(&self, node: usize) -> PathBuf {
        self.folders[node].join(format!("data-{}", NAMES[node]))
    }

    fn run_dir(&self, node: usize) -> PathBuf {
        self.folders[node].join(NAMES[node])
    }

    fn command(&self, node: usize, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        let folder = self.run_dir(node);
        command.args(args).arg("--config-dir").arg(&folder).arg("--run-dir").arg(&folder);
        command.args(["--node", NAMES[node]]).stdin(Stdio::null());
        command
    }

    fn expect(&self, node: usize, args: &[&str]) -> anyhow::Result<()> {
        let output = self.command(node, args).output()?;
        let complained = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{args:?} on {}: {complained}", NAMES[node]);
        Ok(())
    }

    fn start(&mut self, node: usize) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.run_dir(node).join("log"))?;
        let mut command = self.command(node, &["run", RESOURCE]);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().context("cannot start a daemon")?;
        self.running[node] = Some(Running(child));
        let begun = Instant::now();
        while !self.command(node, &["status", RESOURCE]).output()?.status.success() {
            anyhow::ensure!(begun.elapsed() < SOON, "{} does not answer", NAMES[node]);
            // Nothing tells from outside when a daemon begins to answer: it is asked again, up to a deadline.
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Everything that the first one's data area holds is copied to the second one, which has nothing.
    ///
    /// # Errors
    /// A daemon does not do as it is told.
    pub fn resync(&mut self, deadline: Duration) -> anyhow::Result<Resynced> {
        self.start_source()?;
        let (resynced, ()) = self.resync_target(deadline, |_| Ok(()))?;
        self.stop(1)?;
        self.stop(0)?;
        Ok(resynced)
    }

    /// The source begins, with everything that its data area holds.
    ///
    /// # Errors
    /// It does not do as it is told.
    pub fn start_source(&mut self) -> anyhow::Result<()> {
        self.expect(0, &["create-metadata", RESOURCE, "--uptodate", "--force"])?;
        self.start(0)
    }

    /// The source serves clients from now on. Returns where.
    ///
    /// # Errors
    /// It does not do as it is told.
    pub fn promote_source(&self) -> anyhow::Result<String> {
        self.expect(0, &["promote", RESOURCE, "--force"])?;
        Ok(format!("nbd+unix:///{RESOURCE}?socket={}", self.run_dir(0).join("nbd.sock").display()))
    }

    /// The target begins, with nothing, and gets everything that the source has. What is to be done during that is begun
    /// by `during`, as soon as there is something to copy. Both run on.
    ///
    /// # Errors
    /// A daemon does not do as it is told.
    pub fn resync_target<T>(
        &mut self,
        deadline: Duration,
        during: impl FnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<(Resynced, T)> {
        self.expect(1, &["create-metadata", RESOURCE, "--force"])?;
        let watcher = self.command(0, &["events", RESOURCE, "--json"]).stdout(Stdio::piped()).spawn()?;
        // However this is left, it is ended.
        let mut watcher = Running(watcher);
        let lines = BufReader::new(watcher.0.stdout.take().context("the output was asked for")?);
        self.start(1)?;
        self.follow(lines, deadline, during)
    }

    /// Whoever looks at the source from another thread.
    #[must_use]
    pub fn looker(&self) -> Looker {
        Looker(self.command(0, &["status", RESOURCE, "--json"]))
    }

    fn follow<T>(
        &self,
        lines: BufReader<ChildStdout>,
        deadline: Duration,
        during: impl FnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<(Resynced, T)> {
        let begun = Instant::now();
        let (mut first, mut during) = (None, Some(during));
        for line in lines.lines() {
            anyhow::ensure!(begun.elapsed() < deadline, "the resync does not end");
            let event: Value = serde_json::from_str(&line?)?;
            if event["event"] != "notice" {
                continue;
            }
            match event["text"].as_str() {
                Some(text) if text.starts_with("resync of b:") => {
                    let times = (Instant::now(), self.cpu_time_us(0)?, self.cpu_time_us(1)?);
                    let during = during.take().context("a resync begins twice")?;
                    first = Some((times, during(self)?));
                }
                Some("resync of b is over") => {
                    let ((at, source, target), during) = first.context("a resync ends that has not begun")?;
                    let resynced = Resynced {
                        took: at.elapsed(),
                        source_cpu_us: self.cpu_time_us(0)? - source,
                        target_cpu_us: self.cpu_time_us(1)? - target,
                    };
                    return Ok((resynced, during));
                }
                Some(_) | None => {}
            }
        }
        anyhow::bail!("the source ended before the resync")
    }

    fn cpu_time_us(&self, node: usize) -> anyhow::Result<f64> {
        self.running[node].as_ref().context("it was started")?.cpu_time_us()
    }

    /// Ends one of them.
    ///
    /// # Errors
    /// It does not end in order.
    pub fn stop(&mut self, node: usize) -> anyhow::Result<()> {
        self.running[node].take().context("it was started")?.stop()
    }
}

/// A file of the kernel's random bytes.
fn fill(path: &Path, size_bytes: u64) -> anyhow::Result<()> {
    let mut random = std::fs::File::open("/dev/urandom")?.take(size_bytes);
    let mut file = std::fs::File::create_new(path)?;
    std::io::copy(&mut random, &mut file).with_context(|| format!("cannot write {}", path.display()))?;
    file.sync_all()?;
    Ok(())
}
