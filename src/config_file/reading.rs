//! What a configuration file says as far as it can be read, and the checks of what a command needs of it besides.
//!
//! Rule: a mistake hides no other that can be found without it. They are all reported together, at the end.

use std::path::{Path, PathBuf};

use replicator::units::NodeId;

use super::problem::{ConfigProblems, Problems};
use super::section::Field;
use super::{ResourceConfig, secret};

/// A file that was read, with mistakes or without.
#[derive(Debug)]
pub struct Reading {
    /// The whole, if every part of it could be read.
    pub config: Option<ResourceConfig>,
    /// Where the secret is, if the file says so.
    pub secret_file: Option<Field<PathBuf>>,
    /// The names of all replicas, if each can be read.
    pub node_names: Option<Vec<String>>,
    /// Whether there is a `[tiebreaker]`, right or wrong; nothing: it cannot be seen.
    pub has_tiebreaker: Option<bool>,
    /// What is wrong so far.
    pub problems: Problems,
}

impl Reading {
    /// Which node this is: the one called `asked`, or else the one with the name of this host.
    pub fn check_local(&self, asked: Option<&str>) -> Option<NodeId> {
        let names = self.node_names.as_ref()?;
        let known = names.join(", ");
        let number_of = |name: &str| (0u8..).map(NodeId).zip(names).find(|(_, known)| *known == name);
        // A service file may pass an empty name where there is nothing to say.
        let (found, who) = match asked.filter(|name| !name.is_empty()) {
            Some(name) => (number_of(name), format!("is called `{name}`")),
            None => {
                let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
                let short = host.split('.').next().unwrap_or_default();
                let found = number_of(&host).or_else(|| number_of(short));
                (found, format!("has the name of this host, `{host}`"))
            }
        };
        if found.is_none() {
            let instead = format_args!("write --node with one of {known}");
            self.problems.add_elsewhere(format_args!("no [[node]] {who}"), instead);
        }
        found.map(|(number, _)| number)
    }

    /// Whether the secret can be used.
    pub fn check_secret(&self, file: &Path) {
        let Some(secret_file) = &self.secret_file else { return };
        if let Err(error) = secret::read(file, secret_file.line, &secret_file.value) {
            self.problems.add(error.line, error.what(), &error.instead);
        }
    }

    /// Whether there is a tiebreaker to run.
    pub fn check_tiebreaker(&self) {
        if self.has_tiebreaker == Some(false) {
            self.problems
                .add_elsewhere("no [tiebreaker] is configured", "write one with its address and state");
        }
    }

    /// The configuration if nothing is wrong, else everything that is.
    pub fn finish(self, file: &Path) -> Result<ResourceConfig, ConfigProblems> {
        let (mut config, warnings) = self.problems.into_result(file, self.config)?;
        config.warnings = warnings;
        Ok(config)
    }
}
