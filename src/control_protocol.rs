//! What travels over the control socket of a daemon (`RUN_DIR/RES.sock`, mode 0600): one JSON line asks,
//! one JSON line answers, and `events` is followed by a stream of lines.
//!
//! Rule: both ends use these types and nothing else, and every line but the events' carries the version.
//! Knows neither sockets nor the configuration: the daemon's half is the control plane's, the client's
//! half is `cli::client`.

use std::path::{Path, PathBuf};

use replicator::effect::Answer;
use replicator::event::{ConnectedClients, Order, Warrant};
use replicator::generation::split_brain::Discards;
use replicator::notice::Notice;
use replicator::rescue::{Giving, Save};
use replicator::status_report::StatusReport;
use replicator::units::{NodeId, Span, VoterId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of this protocol. A daemon answers another version with [`ReplyBody::Error`], by name.
pub const VERSION: u32 = 1;
/// Longest request line, bytes, its newline included.
pub const REQUEST_BYTES_MAX: usize = 4096;
/// Longest reply or event line, bytes, its newline included.
pub const REPLY_BYTES_MAX: usize = 1 << 20;
/// Most event lines that wait for a slow watcher; what does not fit is counted in [`EventLine::Lagged`].
pub const EVENT_LINES_MAX: usize = 256;

/// Where the daemon of `resource` listens.
#[must_use]
pub fn socket_path(run_dir: &Path, resource: &str) -> PathBuf {
    run_dir.join(format!("{resource}.sock"))
}

/// One line that asks, for example `{"version":1,"command":"promote","wait-ms":30000}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`] of the asking side.
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub command: Command,
}

/// What can be asked of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Command {
    /// A snapshot. Answer: [`ReplyBody::Status`].
    Status,
    /// Why everything is as it is. Answer: [`ReplyBody::Explained`].
    Explain,
    /// Become Primary.
    Promote {
        /// How long to wait for what a promotion may wait for.
        wait_ms: u64,
        /// Whether somebody vouches that whoever cannot be reached is silent.
        #[serde(default, skip_serializing_if = "is_false")]
        peer_is_fenced: bool,
        /// Whether the loss of what this node lacks is accepted.
        #[serde(default, skip_serializing_if = "is_false")]
        force: bool,
    },
    /// Say what a promotion by force would cost.
    WeighForce,
    /// Let a new voter take the place of one that was replaced, though too few others remember what that one did.
    AcceptNewVoter {
        /// Its identity, 16 hexadecimal digits.
        voter: String,
        /// Whether only to say what may be lost.
        dry_run: bool,
    },
    /// Call this copy older than others.
    Outdate,
    /// Become Secondary.
    Demote {
        /// Whether connected clients are disconnected instead of standing in the way.
        force: bool,
    },
    /// Link to a peer, or to all.
    Connect {
        /// Its name.
        peer: Option<String>,
        /// Whether only the verdict is asked for.
        #[serde(default)]
        dry_run: bool,
    },
    /// Unlink from a peer, or from all, until told otherwise.
    Disconnect {
        /// Its name.
        peer: Option<String>,
    },
    /// Copy no blocks to peers until told otherwise.
    PauseResync,
    /// Go on copying.
    ResumeResync,
    /// Give way after a split brain.
    ResolveSplitBrain {
        /// Name of the peer in whose favour; may be left out if there is only one split.
        peer: Option<String>,
        /// Whether every block is to be copied, also where what was changed is not known.
        full_resync: bool,
        /// Whether only to say what would be lost.
        dry_run: bool,
        /// The file to save it in, an absolute path; nothing: one in the configured folder.
        save: Option<PathBuf>,
        /// Whether it is to be lost.
        no_save: bool,
    },
    /// Serve this node's own side read-only, or end that.
    ServeAsWas {
        /// Whether to end it.
        stop: bool,
    },
    /// Answer when every peer is connected.
    WaitConnect {
        /// How long at most; nothing: no limit.
        wait_ms: Option<u64>,
    },
    /// Answer when every replica is UpToDate.
    WaitSync {
        /// How long at most; nothing: no limit.
        wait_ms: Option<u64>,
    },
    /// Follow what happens. Answer: [`ReplyBody::Streaming`], then [`EventLine`]s.
    Events {
        /// Whether the stream ends after the snapshot.
        now: bool,
    },
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A command as the control plane carries it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Answer with a snapshot.
    Status,
    /// Stream events; only the snapshot if `now`.
    Events {
        /// Whether the stream ends after the snapshot.
        now: bool,
    },
    /// Hand this to the replica and answer with what it says.
    Order(Order),
}

/// Why a request is answered with [`ReplyBody::Error`].
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The line is no request.
    #[error("this is not a request of the control protocol: {0}")]
    Malformed(serde_json::Error),
    /// The two ends are of different releases.
    #[error("the daemon speaks version {VERSION} of the control protocol, the request is of version {0}")]
    UnknownVersion(u64),
    /// There is no such command, or its fields are wrong.
    #[error("the daemon does not know this command: {0}")]
    UnknownCommand(serde_json::Error),
    /// There is no peer of that name.
    #[error("no peer is called `{0}`")]
    UnknownPeer(String),
    /// That is no identity of a voter.
    #[error("`{0}` is no identity of a voter: it has 16 hexadecimal digits")]
    NoVoterId(String),
    /// The line is longer than [`REQUEST_BYTES_MAX`].
    #[error("a request has at most {REQUEST_BYTES_MAX} bytes")]
    TooLong,
}

impl Request {
    /// A request of this version.
    #[must_use]
    pub fn new(command: Command) -> Self {
        Self { version: VERSION, command }
    }

    /// A line from the socket, with or without its newline.
    ///
    /// # Errors
    /// The line is no JSON object, of another version, or no known command.
    pub fn parse(line: &[u8]) -> Result<Self, RequestError> {
        if line.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLong);
        }
        let value: Value = serde_json::from_slice(line).map_err(RequestError::Malformed)?;
        let version = value.get("version").and_then(Value::as_u64).unwrap_or(0);
        if version != u64::from(VERSION) {
            return Err(RequestError::UnknownVersion(version));
        }
        serde_json::from_value(value).map_err(RequestError::UnknownCommand)
    }
}

impl Command {
    /// The command in the words of the replica. `number_of` finds a peer by name.
    ///
    /// # Errors
    /// `number_of` knows no such peer.
    pub fn asked(self, number_of: impl Fn(&str) -> Option<NodeId>) -> Result<Asked, RequestError> {
        let resolve = |peer: Option<String>| match peer {
            None => Ok(None),
            Some(name) => number_of(&name).map(Some).ok_or(RequestError::UnknownPeer(name)),
        };
        let at_most = |wait_ms: Option<u64>| {
            wait_ms.map_or(Span(u64::MAX), |milliseconds| Span(milliseconds.saturating_mul(1000)))
        };
        Ok(match self {
            Self::Status => Asked::Status,
            Self::Events { now } => Asked::Events { now },
            Self::Explain => Asked::Order(Order::Explain),
            Self::Promote { wait_ms, peer_is_fenced, force } => {
                let warrant = match (force, peer_is_fenced) {
                    (true, _) => Warrant::Force,
                    (false, true) => Warrant::PeerIsFenced,
                    (false, false) => Warrant::Known,
                };
                Asked::Order(Order::Promote { wait: at_most(Some(wait_ms)), warrant })
            }
            Self::WeighForce => Asked::Order(Order::WeighForce),
            Self::AcceptNewVoter { voter, dry_run } => match u64::from_str_radix(&voter, 16) {
                Ok(id) => {
                    let (voter, is_rehearsal) = (VoterId(id), dry_run);
                    Asked::Order(Order::AcceptNewVoter { voter, is_rehearsal })
                }
                Err(_) => return Err(RequestError::NoVoterId(voter)),
            },
            Self::Outdate => Asked::Order(Order::Outdate),
            Self::Demote { force: true } => {
                Asked::Order(Order::Demote { clients: ConnectedClients::Disconnect })
            }
            Self::Demote { force: false } => {
                Asked::Order(Order::Demote { clients: ConnectedClients::Refuse })
            }
            Self::Connect { peer, dry_run: false } => Asked::Order(Order::Connect { peer: resolve(peer)? }),
            Self::Connect { peer, dry_run: true } => Asked::Order(Order::Foresee { peer: resolve(peer)? }),
            Self::Disconnect { peer } => Asked::Order(Order::Disconnect { peer: resolve(peer)? }),
            Self::WaitConnect { wait_ms } => Asked::Order(Order::WaitConnect { wait: at_most(wait_ms) }),
            Self::PauseResync => Asked::Order(Order::PauseResync { is_paused: true }),
            Self::ResumeResync => Asked::Order(Order::PauseResync { is_paused: false }),
            Self::ResolveSplitBrain { peer, full_resync, dry_run, save, no_save } => {
                let save = match (no_save, save) {
                    (true, _) => Save::No,
                    (false, Some(file)) => Save::To(file),
                    (false, None) => Save::ByDefault,
                };
                let what = if full_resync { Discards::Everything } else { Discards::Changes };
                let giving = Giving { what, save, is_rehearsal: dry_run };
                Asked::Order(Order::ResolveSplitBrain { peer: resolve(peer)?, giving })
            }
            Self::ServeAsWas { stop } => Asked::Order(Order::ServeAsWas { is_wanted: !stop }),
            Self::WaitSync { wait_ms } => Asked::Order(Order::WaitSync { wait: at_most(wait_ms) }),
        })
    }
}

/// One line that answers, for example `{"version":1,"reply":"done","text":"mail is Primary"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// [`VERSION`] of the daemon.
    pub version: u32,
    /// The answer.
    #[serde(flatten)]
    pub body: ReplyBody,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum ReplyBody {
    /// Done, or already so.
    Done {
        /// What was done.
        text: String,
    },
    /// The state forbids it.
    Refused {
        /// Exit status of the command.
        exit_status: u8,
        /// Stable name of the refusal.
        name: String,
        /// Why.
        reason: String,
        /// What to do about it.
        cure: String,
    },
    /// A snapshot.
    Status {
        /// A [`StatusReport`] as JSON.
        report: Value,
    },
    /// Why everything is as it is.
    Explained {
        /// Read back by the command line of the same release, passed on as JSON by any.
        report: Value,
    },
    /// Event lines follow until one end closes.
    Streaming,
    /// The request was not understood, or the daemon is about to end.
    Error {
        /// Why.
        text: String,
    },
}

impl Reply {
    /// A reply of this version.
    #[must_use]
    pub fn new(body: ReplyBody) -> Self {
        Self { version: VERSION, body }
    }

    /// A snapshot as a reply.
    #[must_use]
    pub fn status(report: &StatusReport) -> Self {
        Self::new(ReplyBody::Status { report: report_value(report) })
    }

    /// A failure as a reply.
    #[must_use]
    pub fn error(text: impl std::fmt::Display) -> Self {
        Self::new(ReplyBody::Error { text: text.to_string() })
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self::new(match answer {
            Answer::Done { text } => ReplyBody::Done { text },
            Answer::Explained(report) => ReplyBody::Explained {
                report: serde_json::to_value(*report).expect("a report has only string keys"),
            },
            Answer::Refused(refused) => ReplyBody::Refused {
                exit_status: refused.code.exit_status(),
                name: refused.name.to_owned(),
                reason: refused.reason,
                cure: refused.cure,
            },
        })
    }
}

/// One line of the event stream. A watcher first gets [`EventLine::Exists`] and [`EventLine::ExistsEnd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum EventLine {
    /// The state at the beginning of the stream.
    Exists {
        /// A [`StatusReport`] as JSON.
        report: Value,
    },
    /// The snapshot is complete; what follows has happened since.
    ExistsEnd,
    /// The state after a change. Sent after the notices that led to it; several changes may share one.
    Change {
        /// A [`StatusReport`] as JSON.
        report: Value,
    },
    /// A sentence about something that happened.
    Notice {
        /// `info`, `warning` or `error`.
        severity: String,
        /// Stable name, for example `role-changed`.
        name: String,
        /// For people, with values.
        text: String,
    },
    /// The watcher was too slow: lines are missing here. A [`EventLine::Change`] follows.
    Lagged {
        /// How many.
        lines: u64,
    },
    /// The daemon ends; the last line.
    Destroy {
        /// Why.
        text: String,
    },
}

impl EventLine {
    /// The state at the beginning of the stream.
    #[must_use]
    pub fn exists(report: &StatusReport) -> Self {
        Self::Exists { report: report_value(report) }
    }

    /// The state after a change.
    #[must_use]
    pub fn change(report: &StatusReport) -> Self {
        Self::Change { report: report_value(report) }
    }
}

impl From<&Notice> for EventLine {
    fn from(notice: &Notice) -> Self {
        let severity = match notice.severity {
            replicator::notice::Severity::Info => "info",
            replicator::notice::Severity::Warning => "warning",
            replicator::notice::Severity::Error => "error",
        };
        Self::Notice {
            severity: severity.to_owned(),
            name: notice.name.to_owned(),
            text: notice.text.clone(),
        }
    }
}

/// A request, reply or event as a line, its newline included.
#[must_use]
pub fn encode_line<T: Serialize>(line: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("the types of this protocol have only string keys");
    bytes.push(b'\n');
    bytes
}

fn report_value(report: &StatusReport) -> Value {
    serde_json::to_value(report).expect("a report has only string keys")
}

#[cfg(test)]
mod tests {
    use replicator::promotion::refusal::{RefusalCode, Refused};

    use super::*;

    fn every_command() -> Vec<Command> {
        vec![
            Command::Status,
            Command::Explain,
            Command::Promote { wait_ms: 30_000, peer_is_fenced: false, force: true },
            Command::WeighForce,
            Command::AcceptNewVoter { voter: "00000000000000ff".to_owned(), dry_run: true },
            Command::Outdate,
            Command::Demote { force: true },
            Command::Connect { peer: Some("b".to_owned()), dry_run: true },
            Command::Disconnect { peer: None },
            Command::PauseResync,
            Command::ResumeResync,
            Command::ResolveSplitBrain {
                peer: Some("b".to_owned()),
                full_resync: true,
                dry_run: true,
                save: Some("/x".into()),
                no_save: false,
            },
            Command::ServeAsWas { stop: false },
            Command::WaitConnect { wait_ms: None },
            Command::WaitSync { wait_ms: Some(1) },
            Command::Events { now: true },
        ]
    }

    #[test]
    fn every_request_reads_back_as_it_was_written() {
        for command in every_command() {
            let request = Request::new(command);
            let line = encode_line(&request);
            assert_eq!(Request::parse(&line).expect("own request"), request);
        }
    }

    #[test]
    fn requests_look_like_the_documentation_says() {
        let promote = Request::new(Command::Promote { wait_ms: 30_000, peer_is_fenced: false, force: false });
        assert_eq!(encode_line(&promote), b"{\"version\":1,\"command\":\"promote\",\"wait-ms\":30000}\n");
    }

    #[test]
    fn what_is_no_request_of_this_version_is_refused_by_name() {
        assert!(matches!(Request::parse(b"hello"), Err(RequestError::Malformed(_))));
        assert!(matches!(Request::parse(b"{\"command\":\"status\"}"), Err(RequestError::UnknownVersion(0))));
        let newer = b"{\"version\":2,\"command\":\"status\"}";
        assert!(matches!(Request::parse(newer), Err(RequestError::UnknownVersion(2))));
        let unknown = b"{\"version\":1,\"command\":\"explode\"}";
        assert!(matches!(Request::parse(unknown), Err(RequestError::UnknownCommand(_))));
        assert!(matches!(Request::parse(&vec![b' '; REQUEST_BYTES_MAX + 1]), Err(RequestError::TooLong)));
    }

    #[test]
    fn a_peer_is_found_by_name_or_refused() {
        let number_of = |name: &str| (name == "b").then_some(NodeId(1));
        let connect = |peer: &str| Command::Connect { peer: Some(peer.to_owned()), dry_run: false };
        let asked = connect("b").asked(number_of).expect("known");
        assert_eq!(asked, Asked::Order(Order::Connect { peer: Some(NodeId(1)) }));
        assert!(matches!(connect("c").asked(number_of), Err(RequestError::UnknownPeer(_))));
    }

    #[test]
    fn a_refusal_keeps_its_exit_status_on_the_way() {
        let refused = Refused {
            code: RefusalCode::NoUpToDateData,
            name: "no-data",
            reason: "why".to_owned(),
            cure: "what".to_owned(),
        };
        let line = encode_line(&Reply::from(Answer::Refused(refused)));
        let reply: Reply = serde_json::from_slice(&line).expect("own reply");
        assert!(matches!(reply.body, ReplyBody::Refused { exit_status: 17, .. }));
    }

    #[test]
    fn every_event_line_reads_back_as_it_was_written() {
        let report = serde_json::json!({"name": "mail"});
        let lines = [
            EventLine::Exists { report: report.clone() },
            EventLine::ExistsEnd,
            EventLine::Change { report },
            EventLine::from(&Notice::warning("slow", "it is slow".to_owned())),
            EventLine::Lagged { lines: 3 },
            EventLine::Destroy { text: "stopped".to_owned() },
        ];
        for line in lines {
            let read: EventLine = serde_json::from_slice(&encode_line(&line)).expect("own line");
            assert_eq!(read, line);
        }
    }
}
