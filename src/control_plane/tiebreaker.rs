//! The tiebreaker's process: carries out what `replicator::promotion::tiebreaker` decides, and takes no decision.
//!
//! Rule: one task owns the state machine; links and the file have tasks of their own and talk to it by bounded
//! channels. A store that fails ends the process, because a voter that cannot remember must not vote. The owner
//! goes on with the links while a store is under way, so that a slow disk ends nobody's lease.

pub mod link;
pub mod state_file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use replicator::event::LinkId;
use replicator::layout::superblock::ResourceName;
use replicator::promotion::tiebreaker::{Tiebreaker, TiebreakerConfig, TiebreakerEffect, TiebreakerEvent};
use replicator::promotion::tiebreaker_file::TiebreakerState;
use replicator::units::{BLOCK_SIZE, NodeId, VoterId};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::link::{FromLink, Happened, Outbox};
use self::state_file::{StateError, StateFile};
use super::listen::TcpSocket;
use super::peer_link::PeerLinks;
use super::plane_link::PlaneLink;
use super::systemd::ServiceManager;
use super::{RunError, asked_to_stop, duration, link_settings, load_secret, peer_settings};
use crate::border::ToDataPlane;
use crate::clock;
use crate::config_file::ResourceConfig;

/// Events of links that wait for the owner; more wait in the links' sockets.
const EVENTS_MAX: usize = 64;
/// Longest sleep of the owner.
const IDLE: Duration = Duration::from_secs(3600);

/// Why there is no tiebreaker.
#[derive(Debug, Error)]
pub enum TiebreakerError {
    /// Nobody needs one.
    #[error("the configuration of `{resource}` has no [tiebreaker]")]
    NotConfigured {
        /// The resource.
        resource: String,
    },
    /// Its file is of no use, or failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// It cannot listen, or has no secret.
    #[error(transparent)]
    Start(#[from] RunError),
}

/// Makes the tiebreaker's file at `path`, once in the life of the resource, and returns the new voter's identity.
///
/// # Errors
/// There is a file already, the configuration names no tiebreaker, or the kernel failed.
pub fn init(config: &ResourceConfig, path: &Path) -> Result<VoterId, TiebreakerError> {
    let node = number_of(config)?;
    let voter = std::iter::repeat_with(super::peer_link::chance).find(|id| *id != 0);
    let voter = VoterId(voter.expect("an endless stream of random numbers has one that is not zero"));
    let resource = ResourceName::parse(&config.resource).expect("the configuration's name was checked");
    StateFile::create(path, &TiebreakerState::new(resource, node, voter))?;
    Ok(voter)
}

/// Runs the tiebreaker with the file at `path` until somebody ends the process.
///
/// # Errors
/// The file is missing, locked, of something else, or failed; or a socket cannot be had.
pub fn run_tiebreaker(config: &ResourceConfig, path: &Path) -> Result<(), TiebreakerError> {
    tokio_uring::start(async { serve(config, path, asked_to_stop()?).await })
}

fn number_of(config: &ResourceConfig) -> Result<NodeId, TiebreakerError> {
    let resource = config.resource.clone();
    config.tiebreaker_id().ok_or(TiebreakerError::NotConfigured { resource })
}

async fn serve(
    config: &ResourceConfig,
    path: &Path,
    asked: impl Future<Output = ()>,
) -> Result<(), TiebreakerError> {
    let node = number_of(config)?;
    let address = &config.tiebreaker.as_ref().expect("it has a number").address;
    let secret = load_secret(config)?;
    let (file, state) = StateFile::open(path, &config.resource, node)?;
    let listener = super::own_address::listen_for_peers(config, node)?;
    tracing::info!(voter = %state.voter, term = %state.record.term, %address, "the tiebreaker listens");

    let (linked, new_links) = mpsc::channel(EVENTS_MAX);
    let links = links_of_replicas(linked);
    let settings = link_settings(config, node, state.voter, secret);
    let links = Rc::new(PeerLinks::new(settings, peer_settings(config, node), links));
    let machine = TiebreakerConfig {
        replicas: config.nodes.len(),
        heartbeat: config.heartbeat,
        peer_timeout: config.peer_timeout,
    };
    let owner = Owner::new(Tiebreaker::new(machine, state), duration(config.peer_timeout));
    owner.run(file, listener, links, new_links, asked).await
}

/// A link to a replica that has just been authenticated.
#[derive(Debug)]
struct NewLink {
    peer: NodeId,
    socket: OwnedFd,
    voter: VoterId,
}

/// Takes the place of a data plane for [`PeerLinks`]: links go to the owner of the state machine.
fn links_of_replicas(linked: mpsc::Sender<NewLink>) -> PlaneLink {
    PlaneLink::new(move |what| match what {
        ToDataPlane::PeerLink { peer, socket, voter } => {
            // A full queue closes the link; the replica dials again.
            linked.try_send(NewLink { peer, socket, voter }).is_ok()
        }
        // Nobody is dialed here, and there is nothing to order or to ask.
        ToDataPlane::PeerUnreachable { .. } => true,
        ToDataPlane::NbdClient { .. }
        | ToDataPlane::FenceEnded { .. }
        | ToDataPlane::Order { .. }
        | ToDataPlane::Status { .. } => false,
    })
}

/// A page on its way to the file.
type Page = Box<[u8; BLOCK_SIZE]>;

/// Writes pages, one after the other, and reports each.
async fn store_pages(
    mut file: StateFile,
    mut pages: mpsc::Receiver<Page>,
    stored: mpsc::Sender<Result<(), StateError>>,
) {
    while let Some(page) = pages.recv().await {
        let outcome = file.store(&page).await;
        // Fails if the owner has gone: the process ends.
        let _ = stored.send(outcome).await;
    }
}

/// The owner of the state machine.
struct Owner {
    machine: Tiebreaker,
    links: BTreeMap<NodeId, (LinkId, Outbox)>,
    newest_link: LinkId,
    write_limit: Duration,
    effects: Vec<TiebreakerEffect>,
    manager: ServiceManager,
    is_ready: bool,
}

/// The owner's ends of its channels.
struct Channels {
    pages: mpsc::Sender<Page>,
    from_links: mpsc::Sender<FromLink>,
}

impl Owner {
    fn new(machine: Tiebreaker, write_limit: Duration) -> Self {
        Self {
            machine,
            links: BTreeMap::new(),
            newest_link: LinkId(0),
            write_limit,
            effects: Vec::new(),
            manager: ServiceManager::default(),
            is_ready: false,
        }
    }

    async fn run(
        mut self,
        file: StateFile,
        listener: TcpSocket,
        links: Rc<PeerLinks>,
        mut new_links: mpsc::Receiver<NewLink>,
        asked: impl Future<Output = ()>,
    ) -> Result<(), TiebreakerError> {
        // The state machine orders one store at a time.
        let (pages, ordered) = mpsc::channel(1);
        let (report, mut stored) = mpsc::channel(1);
        let (from_links, mut heard) = mpsc::channel(EVENTS_MAX);
        let channels = Channels { pages, from_links };
        let mut tasks = JoinSet::new();
        let storing = tokio_uring::spawn(store_pages(file, ordered, report));
        tasks.spawn_local(links.accept_all(listener));
        tokio::pin!(asked);
        self.handle(TiebreakerEvent::Started, &channels);
        loop {
            let sleep = tokio::time::sleep(self.until_wake_up());
            tokio::select! {
                Some(link) = new_links.recv() => self.on_new_link(link, &channels),
                Some(from) = heard.recv() => self.on_link(from, &channels),
                Some(outcome) = stored.recv() => {
                    outcome?;
                    self.handle(TiebreakerEvent::RecordDurable, &channels);
                    self.on_durable();
                }
                () = sleep => self.handle(TiebreakerEvent::TimePassed, &channels),
                () = &mut asked => break,
            }
        }
        self.manager.stopping();
        // A store under way runs to its end: without the owner's channel its task then ends too.
        drop(channels);
        drop(stored);
        storing.await.expect("the task of the file does not panic");
        Ok(())
    }

    fn until_wake_up(&self) -> Duration {
        let now = clock::now();
        self.machine.next_wake_up().map_or(IDLE, |tick| duration(tick.since(now)).min(IDLE))
    }

    fn on_durable(&mut self) {
        let record = self.machine.record();
        let status = format!("term {}, version {}, {} links", record.term, record.version, self.links.len());
        self.manager.status(&status);
        if !self.is_ready {
            self.is_ready = true;
            self.manager.ready();
        }
    }

    fn on_new_link(&mut self, new: NewLink, channels: &Channels) {
        let NewLink { peer, socket, voter } = new;
        let stream = match TcpStream::from_std(socket.into()) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%peer, %error, "a link was lost before it began");
                return;
            }
        };
        let link = LinkId(self.newest_link.0 + 1);
        self.newest_link = link;
        let outbox = link::start(stream, (peer, link), self.write_limit, channels.from_links.clone());
        // A link that this one replaces ends, because its outbox is dropped.
        self.links.insert(peer, (link, outbox));
        self.handle(TiebreakerEvent::LinkUp { peer, link, voter }, channels);
    }

    fn on_link(&mut self, from: FromLink, channels: &Channels) {
        let FromLink { peer, link, what } = from;
        match what {
            Happened::Received(frame) => {
                self.handle(TiebreakerEvent::FrameReceived { peer, link, frame }, channels);
            }
            Happened::Ended(loss) => {
                if self.take_current(peer, link).is_some() {
                    tracing::info!(%peer, %loss, "a link ended");
                    self.handle(TiebreakerEvent::LinkLost { peer, link }, channels);
                }
            }
        }
    }

    /// Takes a link out if it is the newest one of its peer.
    fn take_current(&mut self, peer: NodeId, link: LinkId) -> Option<Outbox> {
        let is_current = self.links.get(&peer).is_some_and(|(held, _)| *held == link);
        is_current.then(|| self.links.remove(&peer).expect("it was just found").1)
    }

    /// Tells the state machine a fact and carries out what it orders.
    fn handle(&mut self, event: TiebreakerEvent, channels: &Channels) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.machine.handle(clock::now(), event, &mut self.effects);
            for effect in std::mem::take(&mut self.effects) {
                events.extend(self.execute(effect, channels));
            }
        }
    }

    /// Carries an order out; the answer is a fact that came of it at once.
    fn execute(&mut self, effect: TiebreakerEffect, channels: &Channels) -> Option<TiebreakerEvent> {
        match effect {
            TiebreakerEffect::StoreRecord { page } => {
                channels.pages.try_send(page).expect("one store at a time has been ordered");
                None
            }
            TiebreakerEffect::Send { peer, link, frame } => {
                let (held, outbox) = self.links.get(&peer)?;
                if *held != link || outbox.send(frame).is_ok() {
                    return None;
                }
                tracing::warn!(%peer, "a peer takes no frames; its link is dropped");
                self.links.remove(&peer);
                Some(TiebreakerEvent::LinkLost { peer, link })
            }
            TiebreakerEffect::DropLink { peer, link, reason } => {
                tracing::warn!(%peer, %reason, "a link is dropped");
                drop(self.take_current(peer, link));
                None
            }
        }
    }
}
