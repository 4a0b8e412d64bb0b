//! The whole plane on its own thread, with real sockets and disks, and a volume without peers in the replica's place.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use bytes::Bytes;
use nbd_server::{Access, Export, HeaderStyle};
use replicator::effect::{Completion, Effect, ExportState};
use replicator::event::{IoId, Request, Warrant};
use replicator::notice::Notice;
use replicator::peer::frame::{FrameHeader, FrameStamp, OutboundFrame};
use replicator::peer::message_type::MessageType;
use replicator::replica::ContinuityMark;
use replicator::status_report::StatusReport;
use replicator::units::{BlockRange, Incarnation, Lsn, RequestId, Term};

use super::*;
use crate::control_plane::fake_plane;
use crate::data_plane::backing_device::device::Device;
use crate::data_plane::backing_device::start::{DiskPaths, MetadataPlace, OpenDisks};
use crate::data_plane::rescue_writer::RescueSettings;

const VOLUME_BYTES: u64 = 4 << 20;
const WRITE: u16 = 1;
const READ: u16 = 0;
const FLUSH: u16 = 3;

/// A volume that writes through: each write goes to the journal, then to the data area, then it is answered.
/// What a peer sends comes back to it. Every round is counted.
#[derive(Default)]
struct WriteThrough {
    requests: BTreeMap<IoId, (RequestId, Option<(BlockRange, Bytes)>)>,
    next_io: u64,
    journaled: u64,
    clients: usize,
    rounds: Arc<std::sync::atomic::AtomicU64>,
}

impl WriteThrough {
    fn on_request(&mut self, id: RequestId, request: Request, effects: &mut Effects) {
        self.next_io += 1;
        let io = IoId(self.next_io);
        let (waiting, effect) = match request {
            Request::Write { offset, payload, .. } => {
                let count = payload.len() / 4096;
                let range = BlockRange::new(offset / 4096, u64::try_from(count).unwrap());
                let payloads = vec![payload.clone()];
                let effect = Effect::WriteJournal { io, offset: 0, descriptor: vec![1; 4096], payloads };
                (Some((range, payload)), effect)
            }
            Request::Read { range } => {
                (None, Effect::ReadData { io, range: range.covering_blocks().unwrap() })
            }
            Request::Flush => (None, Effect::FlushData { io }),
            other => panic!("{other:?}"),
        };
        self.requests.insert(io, (id, waiting));
        effects.push(effect);
    }

    fn on_done(&mut self, io: IoId, outcome: Completion, effects: &mut Effects) {
        let (id, waiting) = self.requests.remove(&io).unwrap();
        match waiting {
            None => effects.push(Effect::CompleteRequest { id, outcome }),
            Some((range, payload)) => {
                self.journaled += 1;
                self.requests.insert(io, (id, None));
                effects.push(Effect::WriteData { io, range, pieces: vec![payload] });
            }
        }
    }
}

impl Core for WriteThrough {
    fn handle(&mut self, _now: Tick, event: Event, effects: &mut Effects) {
        match event {
            Event::TimePassed => {
                self.rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            Event::RequestReceived { id, request } => self.on_request(id, request, effects),
            Event::IoCompleted { io } => self.on_done(io, Completion::Done, effects),
            Event::BytesRead { io, bytes } => self.on_done(io, Completion::Bytes(vec![bytes]), effects),
            Event::OperatorAsked { order, what } => {
                match what {
                    Order::Promote { .. } => effects.push(Effect::SetExport { export: ExportState::Serving }),
                    Order::Demote { .. } => effects.push(Effect::DropClients),
                    _ => {}
                }
                effects.push(Effect::Notify(Notice::info("asked", format!("{what:?}"))));
                effects.push(Effect::AnswerOperator { order, answer: Answer::Done { text: "done".into() } });
            }
            Event::FrameReceived { peer, link, frame } => {
                let head = [
                    &FrameHeader::of(frame.stamp, frame.message_type, &frame.body, frame.payload.len())
                        .encode()[..],
                    &frame.body,
                ]
                .concat();
                let frame = OutboundFrame { head, payloads: vec![frame.payload] };
                effects.push(Effect::SendToPeer { peer, link, frame });
            }
            Event::ClientsCounted { clients } => self.clients = clients,
            Event::PeerConnected { .. } | Event::PeerLost { .. } | Event::FramesSent { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn next_wakeup(&self) -> Option<Tick> {
        None
    }

    fn continuity_mark(&self) -> ContinuityMark {
        ContinuityMark { incarnation: Incarnation(1), continues: None, acknowledged: Lsn(self.journaled) }
    }

    fn status(&self, _now: Tick) -> StatusReport {
        StatusReport { name: format!("{} clients", self.clients), ..fake_plane::report() }
    }
}

/// A running plane.
struct Plane {
    commands: Sender<ToDataPlane>,
    counter: Arc<OwnedFd>,
    heard: mpsc::UnboundedReceiver<FromDataPlane>,
    thread: JoinHandle<Result<(), LoopError>>,
    rounds: Arc<std::sync::atomic::AtomicU64>,
    folder: tempfile::TempDir,
}

impl Plane {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (data, metadata) = (folder.path().join("data"), folder.path().join("metadata"));
        for path in [&data, &metadata] {
            std::fs::write(path, vec![0; usize::try_from(VOLUME_BYTES).unwrap()]).unwrap();
            assert_eq!(Device::open(path).unwrap().bytes, VOLUME_BYTES);
        }
        let paths = DiskPaths { data, metadata: MetadataPlace::Own(metadata) };
        let counter = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let counter = Arc::new(counter);
        let (commands, from_control) = std::sync::mpsc::channel();
        let (to_control, heard) = mpsc::unbounded_channel();
        let core = WriteThrough::default();
        let rounds = core.rounds.clone();
        let rescue =
            RescueSettings { folder: folder.path().to_owned(), stem: "mail-a".into(), bytes_max: None };
        let parts = Parts {
            resource: "mail".into(),
            busy_poll: Span(100),
            core,
            disks: OpenDisks::open(&paths).unwrap().into_backing_device(),
            continuity: Continuity::open(&folder.path().join("page")).unwrap().0,
            from_control,
            counter: counter.clone(),
            rescue: RescueWriter::new(rescue, counter.clone()),
            to_control,
        };
        let thread = std::thread::spawn(move || EventLoop::new(parts)?.run());
        Self { commands, counter, heard, thread, rounds, folder }
    }

    fn tell(&self, what: ToDataPlane) {
        self.commands.send(what).unwrap();
        rustix::io::write(&*self.counter, &1_u64.to_ne_bytes()).unwrap();
    }

    fn order(&self, what: Order) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.tell(ToDataPlane::Order { what, answer });
        answered.blocking_recv().unwrap()
    }

    fn client(&self) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        self.tell(handed_over(server));
        client
    }

    fn serving() -> Self {
        let plane = Self::start();
        plane.order(Order::Promote { wait: Span(0), warrant: Warrant::Known });
        plane
    }

    fn stop(self) -> tempfile::TempDir {
        self.order(Order::Stop);
        self.thread.join().unwrap().unwrap();
        self.folder
    }
}

/// A client that has negotiated.
fn handed_over(server: UnixStream) -> ToDataPlane {
    let export = Export {
        name: "mail".into(),
        description: String::new(),
        size_bytes: VOLUME_BYTES,
        access: Access::ReadWrite,
    };
    let (headers, leftover) = (HeaderStyle::Simple, Bytes::new());
    let negotiated = Negotiated { export, headers, allocation_context: None, leftover };
    ToDataPlane::NbdClient { socket: server.into(), negotiated }
}

fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend(0_u16.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// Error and cookie of the next reply.
fn reply(client: &mut UnixStream) -> (u32, u64) {
    let mut reply = [0; 16];
    client.read_exact(&mut reply).unwrap();
    (u32::from_be_bytes(reply[4..8].try_into().unwrap()), u64::from_be_bytes(reply[8..].try_into().unwrap()))
}

#[test]
fn what_a_client_writes_is_on_the_disk_and_is_read_back() {
    let plane = Plane::serving();
    let mut client = plane.client();
    client.write_all(&request(WRITE, 1, 8192, 65_536)).unwrap();
    client.write_all(&[7; 65_536]).unwrap();
    assert_eq!(reply(&mut client), (0, 1));
    client.write_all(&request(READ, 2, 4096, 8192)).unwrap();
    assert_eq!(reply(&mut client), (0, 2));
    let mut content = [1; 8192];
    client.read_exact(&mut content).unwrap();
    assert!(content[..4096].iter().all(|byte| *byte == 0) && content[4096..].iter().all(|byte| *byte == 7));
    client.write_all(&request(FLUSH, 3, 0, 0)).unwrap();
    assert_eq!(reply(&mut client), (0, 3));
    let folder = plane.stop();
    assert_eq!(std::fs::read(folder.path().join("data")).unwrap()[8192 + 65_535], 7);
    assert_eq!(
        std::fs::read(folder.path().join("metadata")).unwrap()[..4097],
        [&[1; 4096][..], &[7]].concat()
    );
    let mark = Continuity::open(&folder.path().join("page")).unwrap().1;
    let published = ContinuityMark { incarnation: Incarnation(1), continues: None, acknowledged: Lsn(1) };
    assert_eq!(mark, Some(published));
}

#[test]
fn an_idle_plane_does_nothing_and_a_client_of_a_plane_that_does_not_serve_is_told() {
    let plane = Plane::start();
    let mut client = plane.client();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    plane.order(Order::Connect { peer: None });
    let before = plane.rounds.load(std::sync::atomic::Ordering::Relaxed);
    // That nothing happens has no event to wait for: it is watched for a while. A busy machine cannot make it fail.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(plane.rounds.load(std::sync::atomic::Ordering::Relaxed), before);
    plane.stop();
}

#[test]
fn the_status_speaks_of_everything_that_the_plane_was_told_before() {
    let plane = Plane::serving();
    let (_client, server) = UnixStream::pair().unwrap();
    plane.commands.send(handed_over(server)).unwrap();
    let (answer, answered) = oneshot::channel();
    plane.tell(ToDataPlane::Status { answer });
    assert_eq!(answered.blocking_recv().unwrap().name, "1 clients");
    plane.stop();
}

#[test]
fn dropped_clients_see_the_end_and_the_control_plane_hears_what_happened() {
    let mut plane = Plane::serving();
    let mut client = plane.client();
    client.write_all(&request(READ, 2, 0, 4096)).unwrap();
    assert_eq!(reply(&mut client), (0, 2));
    client.read_exact(&mut [0; 4096]).unwrap();
    let clients = replicator::event::ConnectedClients::Disconnect;
    plane.order(Order::Demote { clients });
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(matches!(plane.heard.try_recv(), Ok(FromDataPlane::Export(ExportState::Serving))));
    assert!(matches!(plane.heard.try_recv(), Ok(FromDataPlane::Notice(Notice { name: "asked", .. }))));
    plane.stop();
}

#[test]
fn a_frame_goes_in_and_out_and_a_new_link_replaces_the_old_one_silently() {
    let mut plane = Plane::start();
    let link = |plane: &Plane| {
        let (peer, ours) = UnixStream::pair().unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        plane.tell(ToDataPlane::PeerLink { peer: NodeId(1), socket: ours.into(), voter: VoterId(5) });
        peer
    };
    let mut old = link(&plane);
    let mut new = link(&plane);
    assert_eq!(old.read(&mut [0]).unwrap(), 0);
    let stamp = FrameStamp { term: Term::ZERO, clock: Tick(1), echo: Tick(0) };
    let header = FrameHeader::of(stamp, MessageType::Heartbeat, b"body", 4096);
    let sent = [&header.encode()[..], b"body", &[9; 4096]].concat();
    new.write_all(&sent).unwrap();
    let mut echo = vec![0; sent.len()];
    new.read_exact(&mut echo).unwrap();
    assert!(echo == sent);
    assert!(plane.heard.try_recv().is_err(), "the old link was not lost, it was replaced");
    drop(new);
    assert!(matches!(plane.heard.blocking_recv(), Some(FromDataPlane::PeerLost { peer: NodeId(1) })));
    plane.stop();
}

#[test]
fn a_plane_whose_control_plane_vanished_ends() {
    let Plane { commands, counter, thread, .. } = Plane::start();
    drop(commands);
    rustix::io::write(&*counter, &1_u64.to_ne_bytes()).unwrap();
    assert!(matches!(thread.join().unwrap(), Err(LoopError::ControlPlaneGone)));
}
