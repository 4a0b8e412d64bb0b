//! Two daemons whose second one has nothing yet: what a resync is measured on.
//!
//! Rule: only processes that were started here are ended, by their handle.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

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
    folder: PathBuf,
    running: [Option<Child>; 2],
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
    /// Writes the configuration; `data(0)` and `data(1)` are the caller's to make.
    ///
    /// # Errors
    /// The folder takes no files.
    pub fn new(binary: &Path, folder: &Path, size_bytes: u64) -> anyhow::Result<Self> {
        let duo = Self { binary: binary.to_owned(), folder: folder.to_owned(), running: [const { None }; 2] };
        let held = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let mut text = format!(
            "resource = \"{RESOURCE}\"\nsize = \"{size_bytes}\"\non-peer-lost = \"continue\"\nsecret-file = {:?}\n",
            folder.join("secret")
        );
        for (node, listener) in held.into_iter().enumerate() {
            let port = listener?.local_addr()?.port();
            text.push_str(&format!(
                "\n[[node]]\nname = \"{}\"\naddress = \"127.0.0.1:{port}\"\njournal-size = \"256MiB\"\ndata = {:?}\nmetadata = {:?}\nnbd = {{ unix = {:?} }}\n",
                NAMES[node],
                duo.data(node),
                duo.run_dir(node).join("metadata"),
                duo.run_dir(node).join("nbd.sock"),
            ));
        }
        text.push_str("\n[[link]]\nnodes = [\"a\", \"b\"]\nprotocol = \"C\"\n");
        let mut secret = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(folder.join("secret"))?;
        secret.write_all(b"a secret that both of them know")?;
        for node in 0..2 {
            std::fs::create_dir_all(duo.run_dir(node))?;
            std::fs::write(duo.run_dir(node).join(format!("{RESOURCE}.toml")), &text)?;
        }
        Ok(duo)
    }

    /// The data area of a node.
    #[must_use]
    pub fn data(&self, node: usize) -> PathBuf {
        self.folder.join(format!("data-{}", NAMES[node]))
    }

    fn run_dir(&self, node: usize) -> PathBuf {
        self.folder.join(NAMES[node])
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
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        self.running[node] = Some(child.context("cannot start a daemon")?);
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
        self.expect(0, &["create-metadata", RESOURCE, "--uptodate", "--force"])?;
        self.expect(1, &["create-metadata", RESOURCE, "--force"])?;
        self.start(0)?;
        let mut watcher = self.command(0, &["events", RESOURCE, "--json"]).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(watcher.stdout.take().context("the output was asked for")?);
        self.start(1)?;
        // Whatever becomes of it, the watcher ends with the daemon that it watches.
        let outcome = self.follow(lines, deadline);
        self.stop()?;
        watcher.wait()?;
        outcome
    }

    fn follow(&self, lines: BufReader<ChildStdout>, deadline: Duration) -> anyhow::Result<Resynced> {
        let begun = Instant::now();
        let mut first = None;
        for line in lines.lines() {
            anyhow::ensure!(begun.elapsed() < deadline, "the resync does not end");
            let event: Value = serde_json::from_str(&line?)?;
            if event["event"] != "notice" {
                continue;
            }
            match event["text"].as_str() {
                Some(text) if text.starts_with("resync of b:") => {
                    first = Some((Instant::now(), self.cpu_time_us(0)?, self.cpu_time_us(1)?));
                }
                Some("resync of b is over") => {
                    let (at, source, target) = first.context("a resync ends that has not begun")?;
                    return Ok(Resynced {
                        took: at.elapsed(),
                        source_cpu_us: self.cpu_time_us(0)? - source,
                        target_cpu_us: self.cpu_time_us(1)? - target,
                    });
                }
                Some(_) | None => {}
            }
        }
        anyhow::bail!("the source ended before the resync")
    }

    fn cpu_time_us(&self, node: usize) -> anyhow::Result<f64> {
        let child = self.running[node].as_ref().context("it was started")?;
        crate::playground::cpu_time_us(u64::from(child.id()))
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        for mut child in self.running.iter_mut().filter_map(Option::take) {
            kill_process(Pid::from_child(&child), Signal::TERM)?;
            let status = child.wait()?;
            anyhow::ensure!(status.success(), "a daemon did not end in order: {status}");
        }
        Ok(())
    }
}

impl Drop for Duo {
    fn drop(&mut self) {
        for mut child in self.running.iter_mut().filter_map(Option::take) {
            // Has no effect on one that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
