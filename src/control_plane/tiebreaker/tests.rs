//! The tiebreaker's process as replicas see it, over real sockets and a real file.

use std::path::PathBuf;

use replicator::peer::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStamp, ReceivedFrame};
use replicator::peer::handshake::{KnownPeer, VoterKind};
use replicator::peer::message::{Basis, Message, VoteRequest, VoteStage};
use replicator::promotion::membership::{InSyncSet, MembershipRecord, VoterList};
use replicator::promotion::tiebreaker_file::choose_newest;
use replicator::units::{Incarnation, Term, Tick};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::clock;
use crate::control_plane::link_handshake::LinkError;
use crate::control_plane::tests::configuration;

const ALPHA: NodeId = NodeId(0);
const TIEBREAKER: NodeId = NodeId(2);
const LIMIT: Duration = Duration::from_secs(20);

/// A configuration and an initialised file.
struct Site {
    _folder: tempfile::TempDir,
    config: ResourceConfig,
    path: PathBuf,
    voter: VoterId,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = configuration(folder.path());
        let path = config.tiebreaker.as_ref().expect("it is configured").state.clone();
        let voter = init(&config, &path).expect("made");
        Self { _folder: folder, config, path, voter }
    }

    fn start(&self) -> Process {
        let (stop, asked) = oneshot::channel::<()>();
        let (config, path) = (self.config.clone(), self.path.clone());
        let outcome =
            tokio_uring::spawn(
                async move { serve(&config, &path, async { asked.await.unwrap_or(()) }).await },
            );
        Process { stop, outcome }
    }

    /// Dials as alpha until the tiebreaker listens.
    async fn dial(&self) -> TcpStream {
        let settings =
            link_settings(&self.config, ALPHA, VoterId(100), load_secret(&self.config).expect("a secret"));
        let name = "tiebreaker".to_owned();
        let peer = KnownPeer { node: TIEBREAKER, name, kind: VoterKind::Tiebreaker };
        let address = self.config.address_of(TIEBREAKER).expect("an address").to_string();
        let dialed = async {
            loop {
                match settings.dial(peer.clone(), &address).await {
                    Ok((stream, identity)) => {
                        assert_eq!(identity.voter, self.voter);
                        return stream;
                    }
                    Err(LinkError::Connect { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        tokio::time::timeout(LIMIT, dialed).await.expect("it listens in time")
    }

    fn stored(&self) -> TiebreakerState {
        let bytes = std::fs::read(&self.path).expect("the file");
        assert_eq!(bytes[..BLOCK_SIZE], bytes[BLOCK_SIZE..], "both copies say the same");
        choose_newest(&bytes[..BLOCK_SIZE], &bytes[BLOCK_SIZE..]).expect("usable")
    }

    /// The record of a first promotion of alpha.
    fn first_record(&self) -> MembershipRecord {
        let mut voters = VoterList::default();
        voters.ids[..3].copy_from_slice(&[VoterId(100), VoterId(101), self.voter]);
        MembershipRecord {
            term: Term { number: 1, taker: 7 },
            version: 1,
            primary: Some(ALPHA),
            in_sync: InSyncSet::of(ALPHA, Incarnation(5)),
            voters,
        }
    }
}

struct Process {
    stop: oneshot::Sender<()>,
    outcome: tokio::task::JoinHandle<Result<(), TiebreakerError>>,
}

impl Process {
    async fn stop(self) {
        self.stop.send(()).expect("it waits for it");
        self.outcome.await.expect("no panic").expect("a clean end");
    }
}

async fn send(stream: &mut TcpStream, message: Message) {
    let stamp = FrameStamp { term: Term::ZERO, clock: clock::now(), echo: Tick(0) };
    stream.write_all(&message.encode(stamp).head).await.expect("sends");
}

/// The next message for which `pick` gives something.
async fn receive<T>(stream: &mut TcpStream, pick: impl Fn(Message) -> Option<T>) -> T {
    let received = async {
        loop {
            let mut header = [0; FRAME_HEADER_BYTES];
            stream.read_exact(&mut header).await.expect("a header");
            let header = FrameHeader::parse(&header).expect("a frame");
            let mut body = vec![0; header.body_bytes()];
            stream.read_exact(&mut body).await.expect("a body");
            let frame = ReceivedFrame::assemble(header, body.into(), bytes::Bytes::new()).expect("whole");
            if let Some(picked) = pick(Message::parse(&frame).expect("a message")) {
                return picked;
            }
        }
    };
    tokio::time::timeout(LIMIT, received).await.expect("an answer in time")
}

fn vote_of(message: Message) -> Option<Box<replicator::peer::message::VoteReply>> {
    if let Message::VoteReply(reply) = message { Some(reply) } else { None }
}

fn record_of(message: Message) -> Option<MembershipRecord> {
    if let Message::RecordStored(record) = message { Some(*record) } else { None }
}

#[test]
fn a_vote_is_in_both_copies_when_its_answer_arrives_and_a_restart_remembers_it() {
    tokio_uring::start(async {
        let site = Site::new();
        let process = site.start();
        let mut alpha = site.dial().await;
        let request = VoteRequest {
            round: 3,
            stage: VoteStage::Take,
            candidate: ALPHA,
            incarnation: Incarnation(5),
            basis: Basis::First,
            position: Default::default(),
            record: site.first_record(),
            peer_is_fenced: false,
        };
        send(&mut alpha, Message::VoteRequest(Box::new(request))).await;
        let reply = receive(&mut alpha, vote_of).await;
        assert_eq!((reply.vote, reply.record), (Ok(()), site.first_record()));
        assert_eq!(site.stored().record, site.first_record());
        process.stop().await;

        let process = site.start();
        let mut alpha = site.dial().await;
        assert_eq!(receive(&mut alpha, record_of).await, site.first_record());
        process.stop().await;
    });
}

#[test]
fn a_newer_link_of_a_replica_ends_the_older_one() {
    tokio_uring::start(async {
        let site = Site::new();
        let process = site.start();
        let mut older = site.dial().await;
        let mut newer = site.dial().await;
        assert!(receive(&mut newer, record_of).await.is_empty());
        let ended = async { while older.read(&mut [0; 1024]).await.is_ok_and(|length| length > 0) {} };
        tokio::time::timeout(LIMIT, ended).await.expect("the older link ends");
        process.stop().await;
    });
}

#[test]
fn a_replica_that_sends_nonsense_loses_its_link_and_nothing_else_happens() {
    tokio_uring::start(async {
        let site = Site::new();
        let process = site.start();
        let mut alpha = site.dial().await;
        alpha.write_all(&[0xff; FRAME_HEADER_BYTES]).await.expect("sends");
        let ended = async { while alpha.read(&mut [0; 1024]).await.is_ok_and(|length| length > 0) {} };
        tokio::time::timeout(LIMIT, ended).await.expect("the link ends");
        let mut alpha = site.dial().await;
        assert!(receive(&mut alpha, record_of).await.is_empty());
        process.stop().await;
    });
}

#[test]
fn a_second_process_on_the_same_file_is_refused_and_so_is_a_second_init() {
    tokio_uring::start(async {
        let site = Site::new();
        assert!(matches!(
            init(&site.config, &site.path),
            Err(TiebreakerError::State(StateError::Exists { .. }))
        ));
        let process = site.start();
        site.dial().await;
        let second = serve(&site.config, &site.path, std::future::pending()).await;
        assert!(matches!(second, Err(TiebreakerError::State(StateError::Locked { .. }))));
        process.stop().await;
    });
}
