//! Where everything of a demo is: a folder with one configuration, a secret, and a folder for each node, as if each
//! were a host.

use std::ffi::OsString;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::process::words;
use crate::cli::args::Places;

/// Name of the resource and of its export.
pub const RESOURCE: &str = "demo";

/// One of the two replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first in the configuration.
    A,
    /// The second.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// Name of the node.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The files of a demo.
#[derive(Clone, Debug)]
pub struct Site {
    folder: PathBuf,
    size_bytes: u64,
    /// Where a serves clients, if not in its folder.
    socket: Option<PathBuf>,
}

impl Site {
    /// Makes the configuration, the secret and the folders in `folder`.
    ///
    /// # Errors
    /// They cannot be written, or there are no free ports.
    pub fn make(folder: &Path, size_bytes: u64, socket: Option<PathBuf>) -> anyhow::Result<Self> {
        let site = Self { folder: folder.to_owned(), size_bytes, socket };
        for side in Side::BOTH {
            std::fs::create_dir_all(site.run_dir(side))?;
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).context("the kernel gives no random numbers")?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        site.write_for_owner(&site.secret_file(), &secret)?;
        site.write_for_owner(&folder.join(format!("{RESOURCE}.toml")), &site.configuration()?)?;
        Ok(site)
    }

    fn write_for_owner(&self, file: &Path, text: &str) -> anyhow::Result<()> {
        let opened = std::fs::File::options().write(true).create_new(true).mode(0o600).open(file);
        let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
        written.with_context(|| format!("cannot write {} in {}", file.display(), self.folder.display()))
    }

    fn configuration(&self) -> anyhow::Result<String> {
        let [port_a, port_b, port_tiebreaker] = free_ports()?;
        let mut text = format!(
            "resource = \"{RESOURCE}\"\nsize = \"{}\"\non-peer-lost = \"quorum\"\nsecret-file = {}\n",
            self.size_bytes,
            quoted(&self.secret_file())?
        );
        for (side, port) in Side::BOTH.into_iter().zip([port_a, port_b]) {
            let node = format!(
                "\n[[node]]\nname = \"{}\"\naddress = \"127.0.0.1:{port}\"\njournal-size = \"{}\"\ndata = {}\nmetadata = {}\nnbd = {{ unix = {} }}\n",
                side.name(),
                self.journal_bytes(),
                quoted(&self.data(side))?,
                quoted(&self.metadata(side))?,
                quoted(&self.nbd_socket(side))?,
            );
            text.push_str(&node);
        }
        let state = quoted(&self.folder.join("tiebreaker.vote"))?;
        text.push_str(&format!(
            "\n[tiebreaker]\naddress = \"127.0.0.1:{port_tiebreaker}\"\nstate = {state}\n"
        ));
        Ok(text)
    }

    /// Bytes of each journal.
    pub fn journal_bytes(&self) -> u64 {
        journal_bytes(self.size_bytes)
    }

    /// The folder with the configuration.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of the volume.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The folder with a node's control socket, disks and log.
    pub fn run_dir(&self, side: Side) -> PathBuf {
        self.folder.join(side.name())
    }

    /// Where a node's commands look.
    pub fn places(&self, side: Side) -> Places {
        let node = Some(side.name().to_owned());
        Places { config_dir: self.folder.clone(), run_dir: self.run_dir(side), node }
    }

    /// A node's data area: exactly the volume.
    pub fn data(&self, side: Side) -> PathBuf {
        self.run_dir(side).join("data")
    }

    fn metadata(&self, side: Side) -> PathBuf {
        self.run_dir(side).join("metadata")
    }

    /// Where a node serves clients.
    pub fn nbd_socket(&self, side: Side) -> PathBuf {
        let own = self.run_dir(side).join(format!("{RESOURCE}.nbd"));
        self.socket.clone().filter(|_| side == Side::A).unwrap_or(own)
    }

    /// Where a node serves clients, as tools take it.
    pub fn uri(&self, side: Side) -> String {
        let path = self.nbd_socket(side);
        let mut escaped = String::new();
        for byte in path.as_os_str().as_encoded_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                    escaped.push(char::from(*byte))
                }
                other => escaped.push_str(&format!("%{other:02X}")),
            }
        }
        format!("nbd+unix:///{RESOURCE}?socket={escaped}")
    }

    fn secret_file(&self) -> PathBuf {
        self.folder.join(format!("{RESOURCE}.secret"))
    }

    /// The log of a node.
    pub fn log(&self, side: Side) -> PathBuf {
        self.run_dir(side).join("log")
    }

    /// The log of the tiebreaker.
    pub fn tiebreaker_log(&self) -> PathBuf {
        self.folder.join("tiebreaker.log")
    }

    /// A command for a node, as it would be typed behind `twinblk`.
    pub fn command(&self, side: Side, command: &[&str]) -> Vec<OsString> {
        let mut all: Vec<OsString> = command.iter().map(OsString::from).collect();
        all.extend(words(&[
            &"--node",
            &side.name(),
            &"--config-dir",
            &self.folder,
            &"--run-dir",
            &self.run_dir(side),
        ]));
        all
    }

    /// A command for the tiebreaker, as it would be typed behind `twinblk`.
    pub fn tiebreaker_command(&self, more: &[&str]) -> Vec<OsString> {
        let mut all = words(&[&"tiebreaker", &RESOURCE]);
        all.extend(more.iter().map(OsString::from));
        all.extend(words(&[&"--config-dir", &self.folder, &"--run-dir", &self.folder]));
        all
    }
}

/// Bytes of each journal for a volume of this size: as large as the volume within bounds, because what a node misses
/// while it is dead must fit in.
pub fn journal_bytes(size_bytes: u64) -> u64 {
    size_bytes.next_multiple_of(1 << 20).clamp(512 << 20, 1 << 30)
}

/// A path as a string in a configuration file.
fn quoted(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().with_context(|| format!("{} is no Unicode text", path.display()))?;
    Ok(toml::Value::String(text.to_owned()).to_string())
}

/// Three ports on loopback that nobody uses at the moment.
fn free_ports() -> anyhow::Result<[u16; 3]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = [listen()?, listen()?, listen()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config_file::ResourceConfig;

    #[test]
    fn the_configuration_is_one_that_a_daemon_accepts() {
        let folder = tempfile::tempdir().expect("a folder");
        let site = Site::make(folder.path(), 64 << 20, None).expect("made");
        let config = ResourceConfig::load_for_tiebreaker(folder.path(), RESOURCE);
        let (config, _) = config.expect("good, and its secret for its owner only");
        assert_eq!(config.size_bytes, 64 << 20);
        assert_eq!(config.nodes[1].nbd.unix, Some(site.nbd_socket(Side::B)));
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn a_uri_holds_any_path() {
        let site = Site { folder: "/x".into(), size_bytes: 0, socket: Some(PathBuf::from("/a b/ü&")) };
        assert_eq!(site.uri(Side::A), "nbd+unix:///demo?socket=/a%20b/%C3%BC%26");
        assert_eq!(site.uri(Side::B), "nbd+unix:///demo?socket=/x/b/demo.nbd");
    }
}
