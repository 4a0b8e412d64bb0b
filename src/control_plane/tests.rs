//! The control plane as a whole, with a stand-in for the data plane.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use replicator::effect::ExportState;
use replicator::promotion::refusal::{RefusalCode, Refused};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::border::ToDataPlane;
use crate::control_protocol::{Command, Request, encode_line};

/// What the stand-in does when it is told to stop.
#[derive(Clone, Copy)]
enum OnStop {
    Stops,
    Refuses,
}

struct Daemon {
    folder: tempfile::TempDir,
    say: mpsc::UnboundedSender<FromDataPlane>,
    stop: oneshot::Sender<()>,
    outcome: tokio::task::JoinHandle<Result<(), RunError>>,
}

/// An address of loopback that no other test uses, in this process or in another.
fn own_address() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id();
    let last = COUNT.fetch_add(1, Ordering::Relaxed);
    assert!(last < 255, "a test more than there are addresses");
    format!("127.{}.{}.{last}:7789", process / 256 % 254 + 1, process % 256)
}

/// A configuration of two nodes in `folder`, with addresses of its own.
pub(super) fn configuration(folder: &Path) -> ResourceConfig {
    use std::os::unix::fs::PermissionsExt;
    let secret = folder.join("mail.secret");
    std::fs::write(&secret, "a secret of enough bytes").expect("written");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("set");
    let folder = folder.display();
    let text = format!(
        r#"
        resource = "mail"
        size = "64MiB"
        on-peer-lost = "quorum"
        secret-file = "{folder}/mail.secret"
        nbd = {{ unix = "{folder}/mail.nbd" }}
        [[node]]
        name = "alpha"
        address = "{}"
        data = "{folder}/alpha.data"
        metadata = "internal"
        [[node]]
        name = "beta"
        address = "{}"
        data = "{folder}/beta.data"
        nbd = {{ unix = "{folder}/beta.nbd" }}
        metadata = "internal"
        [tiebreaker]
        address = "{}"
        state = "{folder}/mail.tiebreaker"
        "#,
        own_address(),
        own_address(),
        own_address()
    );
    ResourceConfig::parse(Path::new("mail.toml"), &text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A link to a stand-in that answers questions, and ends or not when it is told to stop.
fn stand_in(on_stop: OnStop, say: mpsc::UnboundedSender<FromDataPlane>) -> PlaneLink {
    let kept = RefCell::new(Vec::new());
    PlaneLink::new(move |what| {
        match (what, on_stop) {
            (ToDataPlane::Status { answer }, _) => drop(answer.send(Box::new(fake_plane::report()))),
            (ToDataPlane::Order { what: Order::Stop, answer }, OnStop::Stops) => {
                drop(answer.send(Answer::Done { text: "clean".into() }));
                drop(say.send(FromDataPlane::Ended { error: None }));
            }
            (ToDataPlane::Order { what: Order::Stop, answer }, OnStop::Refuses) => {
                let (reason, cure) = ("a client is connected".to_owned(), "disconnect it".to_owned());
                let refused = Refused { code: RefusalCode::StateChange, name: "in-use", reason, cure };
                drop(answer.send(Answer::Refused(refused)));
            }
            (other, _) => kept.borrow_mut().push(other),
        }
        true
    })
}

fn start(on_stop: OnStop) -> Daemon {
    let folder = tempfile::tempdir().expect("a folder");
    let config = configuration(folder.path());
    let (say, heard) = mpsc::unbounded_channel();
    let (stop, asked) = oneshot::channel::<()>();
    let plane = DataPlane { link: stand_in(on_stop, say.clone()), heard, voter: VoterId(1) };
    let run_dir: PathBuf = folder.path().to_owned();
    let asked = async { asked.await.unwrap_or(()) };
    let outcome =
        tokio_uring::spawn(async move { serve(&config, NodeId(0), &run_dir, || Ok(plane), asked).await });
    Daemon { folder, say, stop, outcome }
}

impl Daemon {
    /// Connects to a socket in the daemon's folder as soon as it is there.
    async fn connect(&self, name: &str) -> BufReader<UnixStream> {
        let path = self.folder.path().join(name);
        let connected = async {
            loop {
                match UnixStream::connect(&path).await {
                    Ok(stream) => return BufReader::new(stream),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), connected).await.expect("it listens in time")
    }
}

#[test]
fn a_stop_ends_the_daemon_and_leaves_no_socket_behind() {
    tokio_uring::start(async {
        let daemon = start(OnStop::Stops);
        let mut watcher = daemon.connect("mail.sock").await;
        let request = encode_line(&Request::new(Command::Events { now: false }));
        watcher.write_all(&request).await.expect("sends");
        let mut line = String::new();
        watcher.read_line(&mut line).await.expect("reads");
        daemon.stop.send(()).expect("it listens");
        daemon.outcome.await.expect("no panic").expect("a clean end");
        let mut rest = String::new();
        watcher.read_to_string(&mut rest).await.expect("reads");
        assert!(rest.ends_with("{\"event\":\"destroy\",\"text\":\"stopped by order\"}\n"));
        assert!(!daemon.folder.path().join("mail.sock").exists());
        assert!(!daemon.folder.path().join("mail.nbd").exists());
    });
}

#[test]
fn a_refused_stop_is_an_end_with_the_reason() {
    tokio_uring::start(async {
        let daemon = start(OnStop::Refuses);
        daemon.connect("mail.sock").await;
        daemon.stop.send(()).expect("it listens");
        let error = daemon.outcome.await.expect("no panic").expect_err("not a clean end");
        let text = "ended without an orderly stop: a client is connected; disconnect it";
        assert_eq!(error.to_string(), text);
    });
}

#[test]
fn a_data_plane_that_fails_ends_the_daemon_with_its_reason() {
    tokio_uring::start(async {
        let daemon = start(OnStop::Stops);
        daemon.connect("mail.sock").await;
        let error = Some("the disk is gone".to_owned());
        daemon.say.send(FromDataPlane::Ended { error }).expect("it listens");
        let error = daemon.outcome.await.expect("no panic").expect_err("not a clean end");
        assert_eq!(error.to_string(), "the disk is gone");
    });
}

#[test]
fn clients_are_served_as_the_data_plane_says_last() {
    tokio_uring::start(async {
        let daemon = start(OnStop::Stops);
        for (export, expected) in [
            (ExportState::Refused { text: "mail is Secondary on alpha".into() }, (1 << 31) + 6),
            (ExportState::Serving, 3),
        ] {
            daemon.say.send(FromDataPlane::Export(export)).expect("it listens");
            let mut client = daemon.connect("mail.nbd").await;
            // The client's flags, and NBD_OPT_GO for the default export without information requests.
            let go =
                [&3u32.to_be_bytes()[..], b"IHAVEOPT", &7u32.to_be_bytes(), &6u32.to_be_bytes(), &[0; 6]];
            client.write_all(&go.concat()).await.expect("sends");
            let mut reply = [0; 18 + 20];
            client.read_exact(&mut reply).await.expect("reads");
            assert_eq!(u32::from_be_bytes(reply[30..34].try_into().expect("four bytes")), expected);
        }
    });
}

#[test]
fn a_second_daemon_of_the_same_resource_is_refused_by_name() {
    tokio_uring::start(async {
        let daemon = start(OnStop::Stops);
        daemon.connect("mail.sock").await;
        let config = configuration(daemon.folder.path());
        let start = || panic!("no data plane is started");
        let second = serve(&config, NodeId(0), daemon.folder.path(), start, std::future::pending()).await;
        assert!(matches!(second, Err(RunError::Listen(ListenError::InUse { .. }))));
    });
}
