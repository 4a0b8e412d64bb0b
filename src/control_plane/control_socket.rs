//! The control socket of the daemon: answers `twinblk status` and its siblings, and streams events.
//!
//! Rule: whoever may open the socket (mode 0600) may give every order; a bad, slow or silent client costs one seat
//! for a limited time and nobody else anything. An order goes on when its client has gone.
//! Sockets are tokio's (epoll), because every wait here has a limit and may be dropped. Decides nothing: orders go
//! to the replica, and what it answers goes back.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use replicator::units::NodeId;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;

use super::events::{EventStream, Line};
use super::limit::LogLimit;
use super::listen::{UnixSocket, accept_next};
use super::plane_link::{PlaneError, PlaneLink};
use crate::control_protocol::{
    Asked, EventLine, REQUEST_BYTES_MAX, Reply, ReplyBody, Request, RequestError, encode_line,
};

/// Clients at a time; further ones wait in the kernel's queue.
const CLIENTS_MAX: usize = 64;
/// Time between two looks whether a client that waits for its answer is still there.
const HANG_UP_INTERVAL: Duration = Duration::from_millis(500);

/// What a client may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients at a time.
    pub clients_max: usize,
    /// Time for a client to send its next request, whole.
    pub request: Duration,
    /// Time for a client to take a reply or an event.
    pub reply: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { clients_max: CLIENTS_MAX, request: Duration::from_secs(10), reply: Duration::from_secs(10) }
    }
}

/// What clients of the socket can reach.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Answers.
    pub plane: PlaneLink,
    /// What happens.
    pub events: Rc<EventStream>,
    /// The other replicas by name.
    pub peers: Rc<[(String, NodeId)]>,
    /// What a client may cost.
    pub limits: Limits,
}

/// Why a client was hung up on.
#[derive(Debug, Error)]
enum HangUp {
    #[error("it sent no request within {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("it took no reply within {} ms", .0.as_millis())]
    Stuck(Duration),
    #[error("its request is longer than {REQUEST_BYTES_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Serves clients for ever. May be dropped: that closes the socket and every connection.
pub async fn serve(listener: UnixSocket, desk: Desk) {
    let seats = Arc::new(Semaphore::new(desk.limits.clients_max));
    let (shortage, crowd) = (LogLimit::default(), LogLimit::default());
    let mut clients = JoinSet::new();
    loop {
        if seats.available_permits() == 0
            && let Some(suppressed) = crowd.permits()
        {
            let limit = desk.limits.clients_max;
            tracing::warn!(limit, suppressed, "too many clients on the control socket; others wait");
        }
        let seat = Arc::clone(&seats).acquire_owned().await.expect("nobody closes the semaphore");
        let connection = accept_next(&listener, &shortage).await;
        while clients.try_join_next().is_some() {}
        let desk = desk.clone();
        clients.spawn_local(async move {
            if let Err(reason) = attend(connection, &desk).await {
                tracing::debug!(%reason, "hung up on a client of the control socket");
            }
            drop(seat);
        });
    }
}

/// Answers one client, request by request, until it leaves.
async fn attend(stream: UnixStream, desk: &Desk) -> Result<(), HangUp> {
    let mut client = Client { stream, received: Vec::new(), limits: desk.limits };
    while let Some(line) = client.next_line().await? {
        match asked(&line, desk) {
            Ok(Asked::Status) => {
                let reply =
                    desk.plane.status().await.map_or_else(Reply::error, |report| Reply::status(&report));
                client.send(&encode_line(&reply)).await?;
            }
            Ok(Asked::Order(order)) => {
                let Some(outcome) = client.unless_gone(desk.plane.order(order)).await else {
                    return Ok(());
                };
                client.send(&encode_line(&outcome.map_or_else(Reply::error, Reply::from))).await?;
            }
            Ok(Asked::Events { now }) => return stream_events(&mut client, desk, now).await,
            Err(refusal) => client.send(&encode_line(&refusal)).await?,
        }
    }
    Ok(())
}

/// What a line asks for, or the reply that says why it asks for nothing.
fn asked(line: &[u8], desk: &Desk) -> Result<Asked, Reply> {
    let number_of = |name: &str| desk.peers.iter().find(|(peer, _)| peer == name).map(|(_, node)| *node);
    let asked = Request::parse(line).and_then(|request| request.command.asked(number_of));
    asked.map_err(|error| {
        if matches!(error, RequestError::UnknownPeer(_)) {
            let known: Vec<_> = desk.peers.iter().map(|(name, _)| format!("`{name}`")).collect();
            Reply::error(format!("{error}; the peers of this node are {}", known.join(", ")))
        } else {
            Reply::error(error)
        }
    })
}

/// Sends the state and then what happens, until one end closes.
async fn stream_events(client: &mut Client, desk: &Desk, now: bool) -> Result<(), HangUp> {
    // Before the snapshot, so that nothing falls between the two.
    let mut lines = desk.events.subscribe();
    let report = match desk.plane.status().await {
        Ok(report) => report,
        Err(error) => return client.send(&encode_line(&Reply::error(error))).await,
    };
    let mut head = encode_line(&Reply::new(ReplyBody::Streaming));
    head.extend(encode_line(&EventLine::exists(&report)));
    head.extend(encode_line(&EventLine::ExistsEnd));
    client.send(&head).await?;
    if now {
        return Ok(());
    }
    while let Some(next) = client.unless_gone(lines.recv()).await {
        match next {
            Ok(Line::Event(line)) => client.send(&line).await?,
            Ok(Line::Last(line)) => return client.send(&line).await,
            Err(broadcast::error::RecvError::Lagged(lines)) => {
                client.send(&encode_line(&EventLine::Lagged { lines })).await?;
                client.send(&state_now(&desk.plane).await).await?;
            }
            Err(broadcast::error::RecvError::Closed) => break,
        }
    }
    Ok(())
}

/// The state after lost lines; nothing if the data plane does not answer.
async fn state_now(plane: &PlaneLink) -> Vec<u8> {
    let report: Result<_, PlaneError> = plane.status().await;
    report.map_or_else(|_| Vec::new(), |report| encode_line(&EventLine::change(&report)))
}

/// One connection, and what has arrived of its next request.
struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    limits: Limits,
}

impl Client {
    /// The next line without its newline; none if the client has left.
    async fn next_line(&mut self) -> Result<Option<Vec<u8>>, HangUp> {
        let limit = self.limits.request;
        match tokio::time::timeout(limit, self.read_line()).await {
            Err(_) => Err(HangUp::Silent(limit)),
            Ok(Err(HangUp::TooLong)) => {
                self.send(&encode_line(&Reply::error(RequestError::TooLong))).await?;
                Err(HangUp::TooLong)
            }
            Ok(line) => line,
        }
    }

    async fn read_line(&mut self) -> Result<Option<Vec<u8>>, HangUp> {
        let mut piece = [0; 1024];
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<_> = self.received.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            // A newline belongs to the request, so a line that fills the limit without one is too long.
            if self.received.len() >= REQUEST_BYTES_MAX {
                return Err(HangUp::TooLong);
            }
            match self.stream.read(&mut piece).await? {
                0 => return Ok(None),
                length => self.received.extend_from_slice(&piece[..length]),
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), HangUp> {
        let limit = self.limits.reply;
        let sent = tokio::time::timeout(limit, self.stream.write_all(bytes)).await;
        Ok(sent.map_err(|_| HangUp::Stuck(limit))??)
    }

    /// What `answer` says, or nothing if the client closes its connection before. One that only says that it will
    /// send no more (as `nc` does) still waits for its answer, so the end of its stream is no sign.
    async fn unless_gone<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let gone = async {
            loop {
                tokio::time::sleep(HANG_UP_INTERVAL).await;
                match self.stream.ready(Interest::WRITABLE).await {
                    Ok(state) if !state.is_write_closed() => {}
                    Ok(_) | Err(_) => return,
                }
            }
        };
        tokio::select! {
            biased;
            outcome = answer => Some(outcome),
            () = gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use replicator::notice::Notice;
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;
    use crate::control_plane::fake_plane::{self, Behaviour};
    use crate::control_plane::listen;
    use crate::control_protocol::Command;

    struct Daemon {
        _folder: tempfile::TempDir,
        path: PathBuf,
        desk: Desk,
    }

    fn start(behaviour: Behaviour, limits: Limits) -> Daemon {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mail.sock");
        let peers = Rc::new([("beta".to_owned(), NodeId(1))]);
        let desk = Desk { plane: fake_plane::start(behaviour), events: Rc::default(), peers, limits };
        let listener = listen::on_path(&path, 0o600).expect("listens");
        tokio_uring::spawn(serve(listener, desk.clone()));
        Daemon { _folder: folder, path, desk }
    }

    async fn connect(path: &Path) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(path).await.expect("connects"))
    }

    async fn ask(client: &mut BufReader<UnixStream>, command: Command) -> serde_json::Value {
        client.write_all(&encode_line(&Request::new(command))).await.expect("sends");
        next(client).await
    }

    async fn next(client: &mut BufReader<UnixStream>) -> serde_json::Value {
        let mut line = String::new();
        client.read_line(&mut line).await.expect("reads");
        serde_json::from_str(&line).expect("a JSON line")
    }

    #[test]
    fn only_the_owner_may_open_the_socket() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::Answers, Limits::default());
            let mode = std::fs::metadata(&daemon.path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        });
    }

    #[test]
    fn one_connection_asks_for_one_thing_after_another() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::Answers, Limits::default());
            let mut client = connect(&daemon.path).await;
            assert_eq!(ask(&mut client, Command::Status).await["report"]["name"], "mail");
            assert_eq!(
                ask(&mut client, Command::Promote { wait_ms: 1, peer_is_fenced: false, force: false }).await
                    ["reply"],
                "done"
            );
            let beta = Command::Connect { peer: Some("beta".to_owned()), dry_run: false };
            assert_eq!(ask(&mut client, beta).await["reply"], "done");
        });
    }

    #[test]
    fn an_unknown_peer_is_answered_with_the_known_ones() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::Answers, Limits::default());
            let mut client = connect(&daemon.path).await;
            let reply = ask(&mut client, Command::Disconnect { peer: Some("gamma".to_owned()) }).await;
            let text = reply["text"].as_str().expect("a text");
            assert_eq!(text, "no peer is called `gamma`; the peers of this node are `beta`");
        });
    }

    #[test]
    fn an_oversize_line_is_answered_and_hung_up_on_and_others_are_served() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::Answers, Limits::default());
            let mut garbler = connect(&daemon.path).await;
            garbler.write_all(&vec![b'x'; REQUEST_BYTES_MAX]).await.expect("sends");
            assert_eq!(next(&mut garbler).await["reply"], "error");
            assert_eq!(garbler.read(&mut [0; 1]).await.unwrap_or(0), 0, "hung up on");
            let mut client = connect(&daemon.path).await;
            assert_eq!(ask(&mut client, Command::Status).await["reply"], "status");
        });
    }

    #[test]
    fn nonsense_is_answered_and_the_connection_stays() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::Answers, Limits::default());
            let mut client = connect(&daemon.path).await;
            client.write_all(b"hello\n").await.expect("sends");
            assert_eq!(next(&mut client).await["reply"], "error");
            assert_eq!(ask(&mut client, Command::Status).await["reply"], "status");
        });
    }

    #[test]
    fn a_silent_client_loses_its_seat_at_the_limit() {
        tokio_uring::start(async {
            let limits = Limits { clients_max: 1, request: Duration::from_millis(100), ..Limits::default() };
            let daemon = start(Behaviour::Answers, limits);
            let _silent = connect(&daemon.path).await;
            let mut client = connect(&daemon.path).await;
            assert_eq!(ask(&mut client, Command::Status).await["reply"], "status");
        });
    }

    #[test]
    fn a_client_that_leaves_before_its_answer_frees_its_seat() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::NeverAnswersOrders, Limits { clients_max: 1, ..Limits::default() });
            let mut waiting = connect(&daemon.path).await;
            let request = Request::new(Command::WaitSync { wait_ms: None });
            waiting.write_all(&encode_line(&request)).await.expect("sends");
            drop(waiting);
            let mut client = connect(&daemon.path).await;
            assert_eq!(ask(&mut client, Command::Status).await["reply"], "status");
        });
    }

    #[test]
    fn a_client_that_only_stops_sending_still_gets_its_answer() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::Answers, Limits::default());
            let mut client = connect(&daemon.path).await;
            client.write_all(&encode_line(&Request::new(Command::Status))).await.expect("sends");
            client.shutdown().await.expect("half closed");
            assert_eq!(next(&mut client).await["reply"], "status");
        });
    }

    #[test]
    fn a_data_plane_that_has_ended_is_an_answer() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::Ended, Limits::default());
            let mut client = connect(&daemon.path).await;
            let reply =
                ask(&mut client, Command::Promote { wait_ms: 1, peer_is_fenced: false, force: false }).await;
            assert_eq!(reply["text"], "the data plane has ended");
        });
    }

    #[test]
    fn a_watcher_gets_the_state_then_notices_then_the_state_after_them_and_the_end() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::Answers, Limits::default());
            let (events, plane) = (Rc::clone(&daemon.desk.events), daemon.desk.plane.clone());
            tokio_uring::spawn(async move { events.follow_changes(&plane).await });
            let mut watcher = connect(&daemon.path).await;
            assert_eq!(ask(&mut watcher, Command::Events { now: false }).await["reply"], "streaming");
            assert_eq!(next(&mut watcher).await["event"], "exists");
            assert_eq!(next(&mut watcher).await["event"], "exists-end");
            daemon.desk.events.on_notice(&Notice::info("role-changed", "mail is Primary".into()));
            assert_eq!(next(&mut watcher).await["name"], "role-changed");
            assert_eq!(next(&mut watcher).await["event"], "change");
            daemon.desk.events.end("stopped").await;
            assert_eq!(next(&mut watcher).await["event"], "destroy");
            assert_eq!(watcher.read(&mut [0; 1]).await.expect("the end"), 0);
        });
    }

    #[test]
    fn a_watcher_that_lags_is_told_how_many_lines_it_missed() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::Answers, Limits::default());
            let mut watcher = connect(&daemon.path).await;
            ask(&mut watcher, Command::Events { now: false }).await;
            next(&mut watcher).await;
            next(&mut watcher).await;
            // Without a pause the watcher's task cannot run, so more lines come than are kept for it.
            let lines = crate::control_protocol::EVENT_LINES_MAX + 3;
            for _ in 0..lines {
                daemon.desk.events.on_notice(&Notice::info("tick", String::new()));
            }
            let lagged = next(&mut watcher).await;
            assert_eq!((&lagged["event"], &lagged["lines"]), (&"lagged".into(), &3.into()));
            assert_eq!(next(&mut watcher).await["event"], "change");
            assert_eq!(next(&mut watcher).await["name"], "tick");
        });
    }

    #[test]
    fn events_now_ends_after_the_state() {
        tokio_uring::start(async {
            let daemon = start(Behaviour::Answers, Limits::default());
            let mut watcher = connect(&daemon.path).await;
            ask(&mut watcher, Command::Events { now: true }).await;
            let mut rest = String::new();
            watcher.read_to_string(&mut rest).await.expect("reads");
            assert!(rest.ends_with("{\"event\":\"exists-end\"}\n"));
        });
    }
}
