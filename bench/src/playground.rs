//! The pair that is measured: `twinblk demo --serve`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::Value;

use crate::process::{Running, cpu_time_us};

/// A pair that serves.
#[derive(Debug)]
pub struct Playground {
    /// Where it serves.
    pub uri: String,
    demo: Running,
    daemons: Vec<u64>,
}

impl Playground {
    /// Starts one, and waits until it serves.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(binary: &Path, folder: &Path, size_bytes: u64) -> anyhow::Result<Self> {
        let child = Command::new(binary)
            .args(["demo", "--serve", "--json", "--size", &size_bytes.to_string(), "--dir"])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn();
        let child = child.with_context(|| format!("cannot start {}", binary.display()))?;
        // From here on it is ended however this function is left; the daemons end with it.
        let mut playground = Self { uri: String::new(), demo: Running(child), daemons: Vec::new() };
        let output = playground.demo.0.stdout.take().context("the output was asked for")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).context("the pair did not come up")?;
        playground.uri = said["uri"].as_str().context("it says where it serves")?.to_owned();
        let nodes = said["nodes"].as_array().context("it names its nodes")?;
        playground.daemons = nodes.iter().filter_map(|node| node["pid"].as_u64()).collect();
        Ok(playground)
    }

    /// CPU time that both daemons have used, microseconds.
    ///
    /// # Errors
    /// One of them is gone.
    pub fn cpu_time_us(&self) -> anyhow::Result<f64> {
        self.daemons.iter().map(|pid| cpu_time_us(*pid)).sum()
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It does not end in order.
    pub fn stop(self) -> anyhow::Result<()> {
        self.demo.stop()
    }
}
