//! Takes NBD clients in: accepts, negotiates, and hands the socket to the data plane.
//!
//! Rule: a client can cost one seat for a limited time, gives it up to a newcomer when every seat is taken
//! (`seats`), and an error ends that client's connection only.
//! What is negotiated depends on what the data plane said last about the export; a client that slips through during a
//! change of role is turned away by the data plane.
//! Sockets are tokio's (epoll): a negotiation has a time limit, and a read on the ring that is dropped at the limit
//! would live on and hold the descriptor. Requests are none of its business.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use nbd_server::{
    Access, Availability, CloseReason, Export, Exports, Handshake, Listing, Negotiated, Policy, Progress,
    Service,
};
use replicator::effect::ExportState;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::limit::{ClientCount, LogLimit};
use super::listen::{Connection, Listener, accept_next};
use super::plane_link::{PlaneError, PlaneLink};
use super::seats::{self, Seats};
use crate::border::ToDataPlane;

/// Time for a whole negotiation.
pub const NEGOTIATION_LIMIT: Duration = Duration::from_secs(10);
/// Negotiations at a time on one listener; of more, the oldest gives way.
pub const NEGOTIATIONS_MAX: usize = 64;
/// Connected clients.
pub const CLIENTS_MAX: usize = 256;
/// What people read of the own side of a split brain.
const AS_WAS: &str = "one side of a split brain as it was left, read-only; not the volume";
/// Bytes taken from a client at a time, so that what is answered to them is sent before more is read.
const READ_BYTES: usize = 4096;

/// What one listener allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time for a whole negotiation.
    pub negotiation: Duration,
    /// Negotiations at a time.
    pub negotiations_max: usize,
    /// Time in which a negotiation does not give way to a newcomer.
    pub grace: Duration,
    /// Connected clients, counted over all listeners.
    pub clients_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            negotiation: NEGOTIATION_LIMIT,
            negotiations_max: NEGOTIATIONS_MAX,
            grace: seats::GRACE,
            clients_max: CLIENTS_MAX,
        }
    }
}

/// The volume as clients are told of it: always there by name, served when the data plane says so.
#[derive(Debug)]
pub struct Volume {
    name: String,
    size_bytes: u64,
    state: RefCell<State>,
}

#[derive(Debug)]
enum State {
    Open(ExportState),
    ShuttingDown,
}

impl Volume {
    /// A volume that nobody has said to serve yet.
    #[must_use]
    pub fn new(name: String, size_bytes: u64) -> Self {
        let text = format!("{name} is starting");
        Self { name, size_bytes, state: RefCell::new(State::Open(ExportState::Refused { text })) }
    }

    /// The data plane says whether clients are served.
    pub fn on_export(&self, export: ExportState) {
        let mut state = self.state.borrow_mut();
        if let State::Open(current) = &mut *state {
            *current = export;
        }
    }

    /// The daemon stops; that is final.
    pub fn shut_down(&self) {
        *self.state.borrow_mut() = State::ShuttingDown;
    }
}

impl Exports for Volume {
    fn service(&self) -> Service {
        match &*self.state.borrow() {
            State::Open(_) => Service::Open,
            State::ShuttingDown => Service::ShuttingDown,
        }
    }

    fn find(&self, name: &str) -> Availability {
        let state = self.state.borrow();
        if let State::Open(ExportState::AsWas { name: as_was, .. }) = &*state
            && name == as_was
        {
            return Availability::Serving(Export {
                name: as_was.clone(),
                description: AS_WAS.to_owned(),
                size_bytes: self.size_bytes,
                access: Access::ReadOnly,
            });
        }
        // The empty name asks for the default export, and there is only one: never one side of a split brain.
        if !name.is_empty() && name != self.name {
            return Availability::Unknown;
        }
        match &*state {
            State::Open(ExportState::Serving) => Availability::Serving(Export {
                name: self.name.clone(),
                description: String::new(),
                size_bytes: self.size_bytes,
                access: Access::ReadWrite,
            }),
            State::Open(ExportState::Refused { text } | ExportState::AsWas { text, .. }) => {
                Availability::Refused { text: text.clone() }
            }
            State::ShuttingDown => Availability::Refused { text: format!("{} is shutting down", self.name) },
        }
    }

    fn list(&self) -> Vec<Listing> {
        match &*self.state.borrow() {
            State::Open(ExportState::Serving) => {
                vec![Listing { name: self.name.clone(), description: String::new() }]
            }
            State::Open(ExportState::AsWas { name, .. }) => {
                vec![Listing { name: name.clone(), description: AS_WAS.to_owned() }]
            }
            State::Open(ExportState::Refused { .. }) | State::ShuttingDown => Vec::new(),
        }
    }
}

/// What all listeners of the resource share.
#[derive(Clone, Debug)]
pub struct Reception {
    /// What is offered.
    pub volume: Rc<Volume>,
    /// Where clients go.
    pub plane: PlaneLink,
    /// How many are there.
    pub clients: Rc<ClientCount>,
    /// What a client may cost.
    pub limits: Limits,
}

/// Why a client did not get in.
#[derive(Debug, Error)]
enum Rejection {
    #[error("{0}")]
    Closed(CloseReason),
    #[error("the client hung up during negotiation")]
    HungUp,
    #[error("the negotiation took longer than {} ms", .0.as_millis())]
    TooSlow(Duration),
    #[error("{0} clients are connected, which is the limit")]
    Full(usize),
    #[error(transparent)]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Plane(#[from] PlaneError),
}

/// Takes clients in for ever. May be dropped: that closes the listener and every negotiation under way.
pub async fn serve<L: Listener>(listener: L, reception: Reception) {
    let Limits { negotiations_max, grace, .. } = reception.limits;
    let mut seats = Seats::new(negotiations_max, grace);
    let (shortage, crowd) = (LogLimit::default(), LogLimit::default());
    let rejected = Rc::new(LogLimit::default());
    let name: Rc<str> = listener.name().into();
    loop {
        let connection = accept_next(&listener, &shortage).await;
        if seats.vacate().await
            && let Some(suppressed) = crowd.permits()
        {
            let limit = negotiations_max;
            tracing::warn!(listener = %name, limit, suppressed, "too many clients negotiate at once; the oldest was closed");
        }
        let (reception, rejected, name) = (reception.clone(), Rc::clone(&rejected), Rc::clone(&name));
        seats.take(async move {
            if let Err(reason) = receive(connection, &reception).await
                && let Some(suppressed) = rejected.permits()
            {
                tracing::info!(listener = %name, %reason, suppressed, "a client did not get in");
            }
        });
    }
}

/// Negotiates with one client and hands it over.
async fn receive<C: Connection>(mut connection: C, reception: &Reception) -> Result<(), Rejection> {
    let Limits { negotiation, clients_max, .. } = reception.limits;
    let is_full = || reception.clients.at_most() >= clients_max;
    if is_full() {
        return Err(Rejection::Full(clients_max));
    }
    let negotiated = tokio::time::timeout(negotiation, negotiate(&mut connection, &reception.volume)).await;
    let negotiated = negotiated.map_err(|_| Rejection::TooSlow(negotiation))??;
    // Again, because others may have come in meanwhile: half-open clients do not count, and keep nobody out.
    if is_full() {
        return Err(Rejection::Full(clients_max));
    }
    let socket: OwnedFd = connection.into_descriptor()?;
    reception.clients.on_handed_over();
    reception.plane.tell(ToDataPlane::NbdClient { socket, negotiated })?;
    Ok(())
}

/// Talks until the transmission phase begins.
async fn negotiate<C: Connection>(connection: &mut C, volume: &Volume) -> Result<Negotiated, Rejection> {
    connection.write_all(&Handshake::greeting()).await?;
    let mut handshake = Handshake::new(Policy::default());
    let mut input = vec![0; READ_BYTES];
    let mut output = BytesMut::new();
    loop {
        let length = connection.read(&mut input).await?;
        if length == 0 {
            return Err(Rejection::HungUp);
        }
        let progress = handshake.on_bytes(&input[..length], volume, &mut output);
        connection.write_all(&output).await?;
        output.clear();
        match progress {
            Progress::More => {}
            Progress::Established(negotiated) => return Ok(negotiated),
            Progress::Closed(reason) => {
                connection.shutdown().await?;
                return Err(Rejection::Closed(reason));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpStream, UnixStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::control_plane::listen;

    type Told = mpsc::UnboundedReceiver<ToDataPlane>;

    /// A reception that serves the volume `mail` of one MiB, and what it tells the data plane.
    fn reception(limits: Limits) -> (Reception, Told) {
        let (tell, told) = mpsc::unbounded_channel();
        let volume = Rc::new(Volume::new("mail".into(), 1 << 20));
        volume.on_export(ExportState::Serving);
        let plane = PlaneLink::new(move |what| tell.send(what).is_ok());
        (Reception { volume, plane, clients: Rc::default(), limits }, told)
    }

    /// Serves on loopback and returns the address.
    fn start(reception: &Reception) -> std::net::SocketAddr {
        let listener = listen::on_address("127.0.0.1:0".parse().expect("an address")).expect("listens");
        let address = listener.address();
        tokio_uring::spawn(serve(listener, reception.clone()));
        address
    }

    /// NBD_OPT_GO for `name`, without information requests.
    fn go(name: &str) -> Vec<u8> {
        let length = u32::try_from(name.len()).expect("short");
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(7u32.to_be_bytes());
        bytes.extend((length + 6).to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(0u16.to_be_bytes());
        bytes
    }

    /// Reads the greeting, answers it, and asks for `name`; returns the type of the last reply.
    async fn ask<C: Connection>(connection: &mut C, name: &str) -> io::Result<u32> {
        let mut greeting = [0; 18];
        connection.read_exact(&mut greeting).await?;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        connection.write_all(&3u32.to_be_bytes()).await?;
        connection.write_all(&go(name)).await?;
        loop {
            let mut header = [0; 20];
            connection.read_exact(&mut header).await?;
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
            let mut data = vec![0; usize::try_from(word(16)).expect("small")];
            connection.read_exact(&mut data).await?;
            // NBD_REP_INFO goes before the last reply.
            if word(12) != 3 {
                return Ok(word(12));
            }
        }
    }

    #[test]
    fn the_own_side_of_a_split_brain_is_found_under_its_own_name_only_and_read_only() {
        let volume = Volume::new("mail".into(), 1 << 20);
        let text = "mail is Secondary on beta".to_owned();
        volume.on_export(ExportState::AsWas { name: "mail-as-was".into(), text });
        for name in ["", "mail"] {
            assert!(matches!(volume.find(name), Availability::Refused { .. }), "{name}");
        }
        let Availability::Serving(export) = volume.find("mail-as-was") else { panic!("it is served") };
        assert_eq!(export.access, Access::ReadOnly);
        assert_eq!(volume.list()[0].name, "mail-as-was");
        volume.on_export(ExportState::Serving);
        assert_eq!(volume.find("mail-as-was"), Availability::Unknown);
    }

    const ACK: u32 = 1;
    const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    const ERR_SHUTDOWN: u32 = (1 << 31) + 7;

    #[test]
    fn a_client_is_handed_over_with_the_bytes_that_it_sent_too_early() {
        tokio_uring::start(async {
            let (reception, mut told) = reception(Limits::default());
            let mut client = TcpStream::connect(start(&reception)).await.expect("connects");
            let early = [&3u32.to_be_bytes()[..], &go("mail"), b"early"].concat();
            client.write_all(&early).await.expect("sends");
            let Some(ToDataPlane::NbdClient { socket, negotiated }) = told.recv().await else {
                panic!("no client was handed over")
            };
            assert_eq!(&negotiated.leftover[..], b"early");
            assert_eq!(negotiated.export.size_bytes, 1 << 20);
            // The descriptor is the connection itself: what is written to it reaches the client.
            let mut handed_over = std::net::TcpStream::from(socket);
            assert!(handed_over.nodelay().expect("an option"));
            std::io::Write::write_all(&mut handed_over, b"reply").expect("sends");
            drop(handed_over);
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.expect("reads");
            assert!(received.ends_with(b"reply"));
        });
    }

    #[test]
    fn a_half_open_client_costs_one_seat_until_the_limit_and_delays_nobody_else() {
        tokio_uring::start(async {
            let limits =
                Limits { negotiation: Duration::from_millis(300), negotiations_max: 2, ..Limits::default() };
            let (reception, mut told) = reception(limits);
            let address = start(&reception);
            let mut silent = TcpStream::connect(address).await.expect("connects");
            let mut greeting = [0; 18];
            silent.read_exact(&mut greeting).await.expect("the greeting");

            let mut client = TcpStream::connect(address).await.expect("connects");
            assert_eq!(ask(&mut client, "mail").await.expect("an answer"), ACK);
            assert!(told.recv().await.is_some());
            // The silent one is closed at the limit, not before and not by the other.
            let begun = std::time::Instant::now();
            assert_eq!(silent.read(&mut greeting).await.expect("the end"), 0);
            assert!(begun.elapsed() < Duration::from_secs(5));
        });
    }

    #[test]
    fn when_every_seat_is_taken_by_silence_the_next_client_gets_in_at_once() {
        tokio_uring::start(async {
            // So long that whoever waits for it has failed.
            let limits = Limits { negotiation: Duration::from_secs(3600), ..Limits::default() };
            let (reception, _told) = reception(limits);
            let address = start(&reception);
            let mut silent = Vec::new();
            for _ in 0..NEGOTIATIONS_MAX {
                silent.push(TcpStream::connect(address).await.expect("connects"));
            }
            let mut client = TcpStream::connect(address).await.expect("connects");
            let answer = tokio::time::timeout(Duration::from_secs(60), ask(&mut client, "mail")).await;
            assert_eq!(answer.expect("it is not kept waiting").expect("an answer"), ACK);
            // The oldest gave way; the next oldest stayed.
            let mut greeting = [0; 18];
            silent[0].read_exact(&mut greeting).await.expect("the greeting");
            assert_eq!(silent[0].read(&mut greeting).await.unwrap_or(0), 0);
            assert_eq!(ask(&mut silent[1], "mail").await.expect("an answer"), ACK);
        });
    }

    #[test]
    fn two_hundred_clients_that_connect_at_once_all_get_in() {
        tokio_uring::start(async {
            // They speak one after the other here, so the last ones may be slow.
            let limits = Limits { grace: Duration::from_secs(3600), ..Limits::default() };
            let (reception, mut told) = reception(limits);
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("mail.nbd");
            let listener = listen::on_path(&path, 0o600).expect("listens");
            // Every connect comes before the first accept, so that the queue of the kernel must hold them all.
            let clients: Vec<_> =
                (0..200).map(|_| std::os::unix::net::UnixStream::connect(&path).expect("connects")).collect();
            tokio_uring::spawn(serve(listener, reception));
            for client in clients {
                client.set_nonblocking(true).expect("an option");
                let mut client = UnixStream::from_std(client).expect("a stream");
                assert_eq!(ask(&mut client, "mail").await.expect("an answer"), ACK);
                assert!(told.recv().await.is_some());
            }
        });
    }

    #[test]
    fn a_malformed_client_ends_alone() {
        tokio_uring::start(async {
            let (reception, mut told) = reception(Limits::default());
            let address = start(&reception);
            let mut garbler = TcpStream::connect(address).await.expect("connects");
            garbler.write_all(&[0xff; 64]).await.expect("sends");
            let mut received = Vec::new();
            // The end may be orderly or a reset, for there are bytes that nobody has read.
            let _ = garbler.read_to_end(&mut received).await;
            let mut client = TcpStream::connect(address).await.expect("connects");
            assert_eq!(ask(&mut client, "").await.expect("an answer"), ACK, "the empty name is the default");
            assert!(told.recv().await.is_some());
        });
    }

    #[test]
    fn a_volume_that_is_not_served_is_refused_until_it_is() {
        tokio_uring::start(async {
            let (reception, _told) = reception(Limits::default());
            let address = start(&reception);
            let mut client = TcpStream::connect(address).await.expect("connects");
            reception.volume.on_export(ExportState::Refused { text: "mail is Secondary on alpha".into() });
            assert!(reception.volume.list().is_empty());
            assert_eq!(ask(&mut client, "mail").await.expect("an answer"), ERR_UNKNOWN);
            let mut client = TcpStream::connect(address).await.expect("connects");
            reception.volume.shut_down();
            reception.volume.on_export(ExportState::Serving);
            assert_eq!(ask(&mut client, "mail").await.expect("an answer"), ERR_SHUTDOWN);
        });
    }

    #[test]
    fn one_client_more_than_the_limit_is_turned_away_until_another_has_left() {
        tokio_uring::start(async {
            let (reception, mut told) = reception(Limits { clients_max: 1, ..Limits::default() });
            let address = start(&reception);
            let mut first = TcpStream::connect(address).await.expect("connects");
            assert_eq!(ask(&mut first, "mail").await.expect("an answer"), ACK);
            assert!(told.recv().await.is_some());
            let mut second = TcpStream::connect(address).await.expect("connects");
            assert!(ask(&mut second, "mail").await.is_err());
            reception.clients.on_asked();
            reception.clients.on_answered(0);
            let mut third = TcpStream::connect(address).await.expect("connects");
            assert_eq!(ask(&mut third, "mail").await.expect("an answer"), ACK);
        });
    }
}
