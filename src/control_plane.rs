//! The control plane of a resource: listens, negotiates, authenticates, answers operators, and hands what it has
//! made of a connection to the data plane. It runs on the main thread, the data plane on its own.
//!
//! Rule: client data never comes here, and no client, peer or operator costs more than its seat. One thread, no
//! locks: every part is a task, all parts are dropped together at the end. The runtime is `tokio-uring`: sockets
//! wait by epoll, because every wait for somebody else has a limit and an operation on the ring outlives the wait
//! that was dropped; the tiebreaker's file, whose writes always run to their end, is written through the ring.
//! Decides nothing about the volume; see `replicator`.

mod backoff;
mod control_socket;
mod events;
#[cfg(test)]
pub mod fake_plane;
mod fence_command;
mod health;
mod limit;
mod link_handshake;
pub mod listen;
mod nbd_listener;
mod own_address;
mod peer_link;
pub mod plane_link;
mod seats;
mod systemd;
pub mod tiebreaker;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use replicator::effect::Answer;
use replicator::event::{FenceEnd, FenceRun, Order};
use replicator::peer::handshake::{KnownPeer, LocalIdentity, PROTOCOL_VERSIONS, Secret, VoterKind};
use replicator::units::{NodeId, Span, VoterId};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use self::control_socket::Desk;
use self::events::EventStream;
use self::fence_command::{FenceCommand, FenceFacts};
use self::limit::ClientCount;
use self::link_handshake::{HANDSHAKE_LIMIT, LinkSettings};
use self::listen::{ListenError, TcpSocket, UnixSocket};
use self::nbd_listener::{Reception, Volume};
use self::peer_link::{Direction, PeerLinks, PeerSettings};
use self::plane_link::{PlaneError, PlaneLink};
use self::systemd::ServiceManager;
use crate::border::{FromDataPlane, ToDataPlane};
use crate::config_file::{HostPort, ResourceConfig, SecretError};
use crate::control_protocol;
use crate::data_plane::spawn::SpawnError;

/// Mode of a socket that only the owner may connect to.
const OWNER_ONLY: u32 = 0o600;
/// Time for an orderly end: a flush of both disks may take as long as `disk-timeout`.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Why the daemon ends other than by order.
#[derive(Debug, Error)]
pub enum RunError {
    /// A socket cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A configured address means nothing here.
    #[error("cannot listen on {address}: {source}")]
    Address {
        /// The address.
        address: HostPort,
        /// The resolver's reason.
        source: std::io::Error,
    },
    /// The node's own name leads nowhere but to this host, and peers elsewhere dial it.
    #[error("cannot listen on {address}: `{}` stands for {found} on this host, where its peers cannot get", address.host)]
    OwnNameIsLoopback {
        /// The configured address.
        address: HostPort,
        /// What its name stands for here.
        found: std::net::IpAddr,
    },
    /// There is no usable secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The kernel refuses something that every kernel has.
    #[error("cannot wait for signals: {0}")]
    Signal(std::io::Error),
    /// The data plane cannot be started.
    #[error(transparent)]
    Start(#[from] SpawnError),
    /// The data plane gave up.
    #[error("{0}")]
    DataPlane(String),
    /// The data plane ended, and nobody had asked it to.
    #[error("the data plane ended without a reason")]
    DataPlaneVanished,
    /// The replica refused to stop; the daemon ended all the same.
    #[error("ended without an orderly stop: {reason}; {cure}")]
    StopRefused {
        /// Why.
        reason: String,
        /// What would have helped.
        cure: String,
    },
    /// The stop took too long; the daemon ended all the same.
    #[error("ended without an orderly stop: it took longer than {} s", .0.as_secs())]
    StopTooSlow(Duration),
}

/// Every socket of the daemon, listening: whoever connects waits until the data plane is up.
#[derive(Debug)]
struct Sockets {
    control: UnixSocket,
    nbd_unix: Option<UnixSocket>,
    nbd_tcp: Option<TcpSocket>,
    peers: TcpSocket,
}

impl Sockets {
    fn open(config: &ResourceConfig, local: NodeId, run_dir: &Path) -> Result<Self, RunError> {
        let node = config.node(local);
        // First, because it shows whether another daemon serves this resource already.
        let control = listen::on_path(&control_protocol::socket_path(run_dir, &config.resource), OWNER_ONLY)?;
        let nbd_unix = node.nbd.unix.as_ref().map(|path| listen::on_path(path, OWNER_ONLY)).transpose()?;
        let nbd_tcp = node.nbd.tcp.as_ref().map(listen_on).transpose()?;
        Ok(Self { control, nbd_unix, nbd_tcp, peers: own_address::listen_for_peers(config, local)? })
    }
}

/// Listens on the first address that `address` stands for.
fn listen_on(address: &HostPort) -> Result<TcpSocket, RunError> {
    let (first, _) = resolve(address)?;
    Ok(listen::on_address(first)?)
}

/// What `address` stands for here: the first answer, and all of them.
fn resolve(address: &HostPort) -> Result<(SocketAddr, Vec<SocketAddr>), RunError> {
    let failed = |source| RunError::Address { address: address.clone(), source };
    let found: Vec<SocketAddr> = address.to_socket_addrs().map_err(failed)?.collect();
    // A resolver may answer with nothing and call it a success.
    let first = found.first().ok_or_else(|| failed(std::io::ErrorKind::AddrNotAvailable.into()))?;
    Ok((*first, found))
}

/// What this node proves to others.
fn link_settings(config: &ResourceConfig, local: NodeId, voter: VoterId, secret: Secret) -> LinkSettings {
    let (name, kind) = if Some(local) == config.tiebreaker_id() {
        ("tiebreaker".to_owned(), VoterKind::Tiebreaker)
    } else {
        (config.node(local).name.clone(), VoterKind::Replica)
    };
    LinkSettings {
        identity: LocalIdentity {
            resource: config.resource.clone(),
            node: local,
            name,
            voter,
            kind,
            volume_bytes: config.size_bytes,
            configuration_digest: config.digest(),
            versions: PROTOCOL_VERSIONS,
        },
        secret,
        peer_timeout: duration(config.peer_timeout),
        handshake_limit: HANDSHAKE_LIMIT,
    }
}

fn load_secret(config: &ResourceConfig) -> Result<Secret, RunError> {
    let secret = config.load_secret()?;
    Ok(Secret::new(secret.bytes().to_vec()).expect("a secret that was loaded is long enough"))
}

/// Every other voter, as this node links to it.
fn peer_settings(config: &ResourceConfig, local: NodeId) -> Vec<PeerSettings> {
    let tiebreaker = config.tiebreaker_id();
    let replica =
        |node: NodeId| KnownPeer { node, name: config.node(node).name.clone(), kind: VoterKind::Replica };
    let voter = |node| KnownPeer { node, name: "tiebreaker".to_owned(), kind: VoterKind::Tiebreaker };
    let known = config.node_ids().map(replica).chain(tiebreaker.map(voter));
    let others = known.filter(|known| known.node != local);
    let settings = others.map(|known| PeerSettings {
        address: config.address_of(known.node).expect("every voter has an address").to_string(),
        direction: Direction::between(local, known.node, tiebreaker),
        known,
    });
    settings.collect()
}

fn duration(span: Span) -> Duration {
    Duration::from_micros(span.0)
}

/// The parts that the data plane's messages go to.
#[derive(Debug)]
struct Parts {
    plane: PlaneLink,
    volume: Rc<Volume>,
    links: Rc<PeerLinks>,
    events: Rc<EventStream>,
    clients: Rc<ClientCount>,
    manager: Rc<ServiceManager>,
    fence: Option<Rc<FenceCommand>>,
}

impl Parts {
    fn new(config: &ResourceConfig, local: NodeId, plane: PlaneLink, links: LinkSettings) -> Self {
        let links = PeerLinks::new(links, peer_settings(config, local), plane.clone());
        Self {
            plane,
            volume: Rc::new(Volume::new(config.resource.clone(), config.size_bytes)),
            links: Rc::new(links),
            events: Rc::default(),
            clients: Rc::default(),
            manager: Rc::default(),
            fence: FenceCommand::of(config, local).map(Rc::new),
        }
    }

    /// Starts everything that waits for somebody. All of it ends when the answer is dropped.
    fn start(&self, config: &ResourceConfig, local: NodeId, sockets: Sockets) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let reception = Reception {
            volume: Rc::clone(&self.volume),
            plane: self.plane.clone(),
            clients: Rc::clone(&self.clients),
            limits: nbd_listener::Limits::default(),
        };
        if let Some(listener) = sockets.nbd_unix {
            tasks.spawn_local(nbd_listener::serve(listener, reception.clone()));
        }
        if let Some(listener) = sockets.nbd_tcp {
            tasks.spawn_local(nbd_listener::serve(listener, reception));
        }
        let peers = config.node_ids().filter(|node| *node != local);
        let desk = Desk {
            plane: self.plane.clone(),
            events: Rc::clone(&self.events),
            peers: peers.map(|node| (config.node(node).name.clone(), node)).collect(),
            limits: control_socket::Limits::default(),
        };
        tasks.spawn_local(control_socket::serve(sockets.control, desk));
        tasks.spawn_local(Rc::clone(&self.links).accept_all(sockets.peers));
        tasks.spawn_local(Rc::clone(&self.links).dial_all());
        let (events, plane) = (Rc::clone(&self.events), self.plane.clone());
        tasks.spawn_local(async move { events.follow_changes(&plane).await });
        let (clients, manager) = (Rc::clone(&self.clients), Rc::clone(&self.manager));
        tasks.spawn_local(health::watch(self.plane.clone(), clients, manager));
        tasks
    }

    /// Passes on what the data plane says, until it ends or `asked` says that the daemon is to.
    async fn run(
        &self,
        heard: &mut UnboundedReceiver<FromDataPlane>,
        asked: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        tokio::select! {
            ended = self.pass_on(heard) => ended.and(Err(RunError::DataPlaneVanished)),
            () = asked => {
                let stopped = tokio::time::timeout(STOP_LIMIT, self.stop(heard)).await;
                stopped.unwrap_or(Err(RunError::StopTooSlow(STOP_LIMIT)))
            }
        }
    }

    /// Ends in order: no new clients, then whatever the replica finds necessary.
    async fn stop(&self, heard: &mut UnboundedReceiver<FromDataPlane>) -> Result<(), RunError> {
        self.manager.stopping();
        self.volume.shut_down();
        let answered = async {
            match self.plane.order(Order::Stop).await {
                Ok(Answer::Done { text }) => {
                    tracing::info!(text, "stopped");
                    Ok(())
                }
                Ok(Answer::Explained(_)) => unreachable!("an order to stop is no question"),
                Ok(Answer::Refused(refused)) => {
                    Err(RunError::StopRefused { reason: refused.reason, cure: refused.cure })
                }
                // How it ended is heard on the other channel.
                Err(PlaneError::Ended | PlaneError::Late { .. }) => Ok(()),
            }
        };
        tokio::select! {
            ended = self.pass_on(heard) => ended,
            answer = answered => {
                answer?;
                self.pass_on(heard).await
            }
        }
    }

    /// Runs the fence command beside everything else. It goes on when the daemon is asked to stop: until the replica
    /// has its answer, nothing else can decide.
    fn run_fence_command(&self, run: FenceRun, facts: FenceFacts) {
        let (plane, fence) = (self.plane.clone(), self.fence.clone());
        tokio::task::spawn_local(async move {
            let end = match fence {
                Some(command) => command.run(facts).await,
                None => FenceEnd::NotRun("none is configured".to_owned()),
            };
            // A data plane that has ended needs no answer.
            let _ = plane.tell(ToDataPlane::FenceEnded { run, end });
        });
    }

    /// Passes on what the data plane says, until it ends. May be dropped.
    async fn pass_on(&self, heard: &mut UnboundedReceiver<FromDataPlane>) -> Result<(), RunError> {
        while let Some(message) = heard.recv().await {
            match message {
                FromDataPlane::Export(export) => self.volume.on_export(export),
                FromDataPlane::Dialing { peer, wanted } => self.links.on_dialing(peer, wanted),
                FromDataPlane::PeerLost { peer } => self.links.on_lost(peer),
                FromDataPlane::Fence { run, peer, disk, knows_newest, role } => {
                    self.run_fence_command(run, FenceFacts { peer, disk, knows_newest, role });
                }
                FromDataPlane::Notice(notice) => self.events.on_notice(&notice),
                FromDataPlane::Ended { error: None } => return Ok(()),
                FromDataPlane::Ended { error: Some(error) } => return Err(RunError::DataPlane(error)),
            }
        }
        Err(RunError::DataPlaneVanished)
    }
}

/// A data plane that has just been started.
pub struct DataPlane {
    /// What it is told.
    pub link: PlaneLink,
    /// What it says; `Ended` comes last.
    pub heard: UnboundedReceiver<FromDataPlane>,
    /// The identity that its metadata gives this node.
    pub voter: VoterId,
}

/// Runs the daemon of node `local` until the process is asked to stop. `start` opens the disk and starts the data
/// plane; it is called when every socket is there.
///
/// # Errors
/// A socket or the secret cannot be had, the data plane fails, or the stop is not an orderly one.
pub fn run(
    config: &ResourceConfig,
    local: NodeId,
    run_dir: &Path,
    start: impl FnOnce() -> Result<DataPlane, RunError>,
) -> Result<(), RunError> {
    tokio_uring::start(async { serve(config, local, run_dir, start, asked_to_stop()?).await })
}

/// Runs the daemon until `asked`, or until it cannot go on.
async fn serve(
    config: &ResourceConfig,
    local: NodeId,
    run_dir: &Path,
    start: impl FnOnce() -> Result<DataPlane, RunError>,
    asked: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let secret = load_secret(config)?;
    let sockets = Sockets::open(config, local, run_dir)?;
    let DataPlane { link, mut heard, voter } = start()?;
    let parts = Parts::new(config, local, link, link_settings(config, local, voter, secret));
    let tasks = parts.start(config, local, sockets);
    let outcome = parts.run(&mut heard, asked).await;
    let why = outcome.as_ref().map_or_else(ToString::to_string, |()| "stopped by order".to_owned());
    parts.events.end(&why).await;
    drop(tasks);
    outcome
}

/// Waits until somebody ends the process, by the service manager or by hand.
fn asked_to_stop() -> Result<impl Future<Output = ()>, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("asked to stop by SIGTERM"),
            _ = interrupt.recv() => tracing::info!("asked to stop by SIGINT"),
        }
    })
}

#[cfg(test)]
mod tests;
