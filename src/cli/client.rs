//! The client's half of the control socket: one request, one answer, or a stream of events. Blocking, with
//! a time limit on everything but an answer that was asked to wait.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::args::Places;
use super::exit::{Ended, Status};
use crate::config_file::file_of;
use crate::control_protocol::{
    Command, EventLine, REPLY_BYTES_MAX, Reply, ReplyBody, Request, encode_line, socket_path,
};

/// How long a daemon may take for an answer that needs no waiting.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an explanation may take: the journal is read.
pub const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(120);

/// What to do where nothing is configured.
const WRITE_ONE: &str =
    "write one (docs/operating/install.md shows how), or say where it is with --config-dir";

/// A connection to the daemon of a resource.
#[derive(Debug)]
pub struct Client {
    resource: String,
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

/// The names of all resources that have a control socket, sorted.
pub fn resources_with_socket(run_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
    let name = |path: PathBuf| {
        let is_socket = path.extension().is_some_and(|extension| extension == "sock");
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        stem.filter(|_| is_socket)
    };
    let is_name = |name: &String| crate::config_file::values::check_resource_name(name).is_ok();
    let mut names: Vec<String> = entries.filter_map(|entry| name(entry.path())).filter(is_name).collect();
    names.sort();
    names
}

impl Client {
    /// Connects to the daemon of `resource`.
    ///
    /// # Errors
    /// There is no daemon, or it may not be asked.
    pub fn connect(places: &Places, resource: &str) -> anyhow::Result<Self> {
        let socket = socket_path(&places.run_dir, resource);
        let stream = UnixStream::connect(&socket).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => no_daemon(places, resource, &socket),
            ErrorKind::PermissionDenied => Ended::with(
                Status::Configuration,
                format!(
                    "{resource}: {} is open to the daemon's user only; try again as that user or as root",
                    socket.display()
                ),
            ),
            _ => Ended::with(
                Status::Configuration,
                format!("{resource}: cannot connect to {}: {error}", socket.display()),
            ),
        })?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { resource: resource.to_owned(), socket, stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer at most this long; without a limit if there is none.
    ///
    /// # Errors
    /// No answer, or one that refuses: with the exit status that goes with it.
    pub fn ask(&mut self, command: Command, within: Option<Duration>) -> anyhow::Result<ReplyBody> {
        self.stream.get_ref().set_read_timeout(within)?;
        let request = encode_line(&Request::new(command));
        self.stream
            .get_ref()
            .write_all(&request)
            .with_context(|| self.silent("does not take the request"))?;
        let line = self.read_line()?.ok_or_else(|| no_answer(self.silent("ended without an answer")))?;
        let reply: Reply = serde_json::from_slice(&line)
            .with_context(|| self.silent("answered with something else than a reply"))?;
        match reply.body {
            ReplyBody::Refused { exit_status, name, reason, cure } => {
                Err(Ended::refused(&self.resource, exit_status, name, reason, cure))
            }
            ReplyBody::Error { text } => {
                Err(Ended::with(Status::Failed, format!("{}: {text}", self.resource)))
            }
            done @ (ReplyBody::Done { .. }
            | ReplyBody::Status { .. }
            | ReplyBody::Explained { .. }
            | ReplyBody::Streaming) => Ok(done),
        }
    }

    /// A snapshot as JSON.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn status(&mut self) -> anyhow::Result<serde_json::Value> {
        match self.ask(Command::Status, Some(ANSWER_TIMEOUT))? {
            ReplyBody::Status { report } => Ok(report),
            other => anyhow::bail!(
                "{}",
                self.silent(&format!("answered a question for its status with {other:?}"))
            ),
        }
    }

    /// The next event, after [`Command::Events`]; nothing once the stream has ended.
    ///
    /// # Errors
    /// The daemon sends something else.
    pub fn next_event(&mut self) -> anyhow::Result<Option<EventLine>> {
        self.stream.get_ref().set_read_timeout(None)?;
        let Some(line) = self.read_line()? else { return Ok(None) };
        let event = serde_json::from_slice(&line)
            .with_context(|| self.silent("sent something else than an event"))?;
        Ok(Some(event))
    }

    fn read_line(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let limit = u64::try_from(REPLY_BYTES_MAX).expect("small");
        let read = Read::by_ref(&mut self.stream).take(limit).read_until(b'\n', &mut line);
        match read {
            Ok(0) => Ok(None),
            Ok(_) if line.ends_with(b"\n") => Ok(Some(line)),
            Ok(_) => Err(no_answer(self.silent("broke off in the middle of a line"))),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Ended::with(Status::TimedOut, self.silent("did not answer in time")))
            }
            Err(error) => Err(error).with_context(|| self.silent("broke the connection")),
        }
    }

    fn silent(&self, what: &str) -> String {
        format!("{}: the daemon behind {} {what}", self.resource, self.socket.display())
    }
}

/// No control socket at all.
pub fn no_daemon_at_all(places: &Places) -> anyhow::Error {
    let Places { run_dir, config_dir, .. } = places;
    let what = format!("no daemon runs here (no socket in {})", run_dir.display());
    if has_a_configuration(config_dir) {
        return Ended::advised(Status::Configuration, what, start_it("RES"));
    }
    let what = format!("{what}, and there is no configuration in {}", config_dir.display());
    Ended::advised(Status::Configuration, what, WRITE_ONE)
}

fn no_daemon(places: &Places, resource: &str, socket: &Path) -> anyhow::Error {
    let what = format!("{resource}: no daemon runs here (nobody listens on {})", socket.display());
    let file = file_of(&places.config_dir, resource);
    if file.exists() {
        return Ended::advised(Status::Configuration, what, start_it(resource));
    }
    let what = format!("{what}, and there is no configuration {}", file.display());
    Ended::advised(Status::Configuration, what, WRITE_ONE)
}

fn start_it(resource: &str) -> String {
    format!("`systemctl start twinblk@{resource}`, or `twinblk run {resource}` in the foreground")
}

fn has_a_configuration(config_dir: &Path) -> bool {
    let mut entries = std::fs::read_dir(config_dir).into_iter().flatten().flatten();
    entries.any(|entry| entry.path().extension().is_some_and(|extension| extension == "toml"))
}

fn no_answer(text: String) -> anyhow::Error {
    Ended::with(Status::Configuration, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A daemon that answers one request with `answer`.
    fn daemon(run_dir: &Path, answer: &'static [u8]) -> std::thread::JoinHandle<Vec<u8>> {
        let listener = UnixListener::bind(socket_path(run_dir, "mail")).expect("bound");
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut stream = BufReader::new(stream);
            let mut asked = Vec::new();
            stream.read_until(b'\n', &mut asked).expect("a request");
            stream.get_ref().write_all(answer).expect("taken");
            asked
        })
    }

    fn status_of(error: &anyhow::Error) -> u8 {
        error.downcast_ref::<Ended>().expect("an end with a status").status.number()
    }

    fn places(folder: &Path) -> Places {
        Places { config_dir: folder.to_owned(), run_dir: folder.to_owned(), node: None }
    }

    #[test]
    fn without_a_daemon_the_socket_and_the_command_that_starts_one_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = Client::connect(&places(folder.path()), "mail").expect_err("nobody").to_string();
        assert!(missing.contains("there is no configuration") && missing.contains("mail.toml"), "{missing}");
        std::fs::write(folder.path().join("mail.toml"), "").expect("written");
        let error = Client::connect(&places(folder.path()), "mail").expect_err("nobody");
        assert_eq!(status_of(&error), 10);
        for word in ["mail.sock", "twinblk run mail", "systemctl start twinblk@mail"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn a_refusal_ends_with_its_own_exit_status_its_reason_and_its_cure() {
        let folder = tempfile::tempdir().expect("a folder");
        let answer = b"{\"version\":1,\"reply\":\"refused\",\"exit-status\":17,\"name\":\"n\",\"reason\":\"because\",\"cure\":\"type this\"}\n";
        let daemon = daemon(folder.path(), answer);
        let mut client = Client::connect(&places(folder.path()), "mail").expect("a daemon");
        let error = client
            .ask(Command::Promote { wait_ms: 5, peer_is_fenced: false, force: false }, Some(ANSWER_TIMEOUT))
            .expect_err("refused");
        assert_eq!(status_of(&error), 17);
        assert!(error.to_string().contains("because") && error.to_string().contains("type this"));
        let asked = daemon.join().expect("it ended");
        assert_eq!(
            Request::parse(&asked).expect("a request").command,
            Command::Promote { wait_ms: 5, peer_is_fenced: false, force: false }
        );
    }

    #[test]
    fn a_daemon_that_breaks_off_is_no_daemon() {
        let folder = tempfile::tempdir().expect("a folder");
        let daemon = daemon(folder.path(), b"{\"version\":1,");
        let mut client = Client::connect(&places(folder.path()), "mail").expect("a daemon");
        let error = client.status().expect_err("half an answer");
        assert_eq!(status_of(&error), 10);
        daemon.join().expect("it ended");
    }

    #[test]
    fn only_files_with_the_name_of_a_resource_are_sockets() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b.sock", "a.sock", "a.nbd", "B.sock", ".sock"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        assert_eq!(resources_with_socket(folder.path()), ["a", "b"]);
        assert!(resources_with_socket(Path::new("/does/not/exist")).is_empty());
    }
}
