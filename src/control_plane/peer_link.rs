//! Links to the other voters: dials those that come earlier in the configuration and the tiebreaker, accepts those
//! that come later, and hands every authenticated socket to the data plane.
//!
//! Rule: one direction for each pair, so that two nodes never make two links at once. The data plane reports
//! `PeerLost` once for every link it was given, and only then the dialer dials again; a newer link from the same
//! peer replaces the older one there. A peer to which no link is wanted is neither dialed nor admitted.
//! Sockets are tokio's (epoll): attempts have limits, are dropped when they are not wanted any more, and leave
//! the runtime as descriptors. Frames are none of its business.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use replicator::event::NoLink;
use replicator::peer::handshake::{KnownPeer, PeerIdentity};
use replicator::units::NodeId;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::limit::LogLimit;
use super::link_handshake::{LinkError, LinkSettings, NotAdmitted};
use super::listen::{Connection, TcpSocket, accept_next};
use super::plane_link::{PlaneError, PlaneLink};
use super::seats::{self, Seats};
use crate::border::ToDataPlane;

/// Connections at a time that have not proved anything; of more, the oldest gives way.
pub const UNAUTHENTICATED_MAX: usize = 32;

/// Another voter as the configuration names it.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// Who it is.
    pub known: KnownPeer,
    /// Where it listens, `HOST:PORT`.
    pub address: String,
    /// Who connects to whom.
    pub direction: Direction,
}

/// Who connects to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This node dials.
    Dial,
    /// This node is dialed.
    Accept,
}

impl Direction {
    /// The later replica in the configuration dials the earlier; the tiebreaker never dials.
    #[must_use]
    pub fn between(local: NodeId, peer: NodeId, tiebreaker: Option<NodeId>) -> Self {
        assert_ne!(local, peer, "a node has no link to itself");
        if Some(local) == tiebreaker {
            Self::Accept
        } else if Some(peer) == tiebreaker || peer < local {
            Self::Dial
        } else {
            Self::Accept
        }
    }
}

/// One other voter and what is known of its link.
#[derive(Debug)]
struct Peer {
    settings: PeerSettings,
    wanted: Cell<bool>,
    /// Links handed to the data plane, and how many of them it has reported lost.
    handed_over: Cell<u64>,
    lost: Cell<u64>,
    /// Why there is no link, as it was reported last.
    reason: RefCell<Option<String>>,
    /// Something above has changed.
    changed: Notify,
}

/// Why a socket was not handed over.
#[derive(Debug, Error)]
enum AttemptError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    #[error(transparent)]
    Plane(#[from] PlaneError),
    #[error("no link to {0} is wanted any more")]
    NotWanted(String),
    #[error("the runtime did not let go of the socket: {0}")]
    Descriptor(std::io::Error),
}

impl AttemptError {
    fn action(&self) -> Option<String> {
        let action = match self {
            Self::Link(error) | Self::NotAdmitted(NotAdmitted { error, .. }) => error.action(),
            Self::Plane(_) | Self::NotWanted(_) | Self::Descriptor(_) => None,
        };
        action.map(str::to_owned)
    }
}

/// All links of a node.
#[derive(Debug)]
pub struct PeerLinks {
    settings: LinkSettings,
    plane: PlaneLink,
    peers: BTreeMap<NodeId, Peer>,
    /// Why a connection from outside was refused, as it was logged last.
    refused: RefCell<String>,
    refusals: LogLimit,
}

impl PeerLinks {
    /// Links to `peers`, wanted from the start.
    #[must_use]
    pub fn new(settings: LinkSettings, peers: Vec<PeerSettings>, plane: PlaneLink) -> Self {
        let peer = |settings: PeerSettings| Peer {
            settings,
            wanted: Cell::new(true),
            handed_over: Cell::default(),
            lost: Cell::default(),
            reason: RefCell::default(),
            changed: Notify::new(),
        };
        let peers = peers.into_iter().map(|settings| (settings.known.node, peer(settings))).collect();
        Self { settings, plane, peers, refused: RefCell::default(), refusals: LogLimit::default() }
    }

    /// The data plane wants links to `node`, or does not.
    pub fn on_dialing(&self, node: NodeId, wanted: bool) {
        if let Some(peer) = self.peers.get(&node) {
            peer.wanted.set(wanted);
            // What stands in the way from here on is news, also if it is what stood in the way before.
            *peer.reason.borrow_mut() = None;
            peer.changed.notify_one();
        }
    }

    /// The data plane has lost a link to `node`.
    pub fn on_lost(&self, node: NodeId) {
        if let Some(peer) = self.peers.get(&node) {
            peer.lost.set(peer.lost.get() + 1);
            peer.changed.notify_one();
        }
    }

    /// Keeps links to every peer that is to be dialed, for ever. May be dropped.
    pub async fn dial_all(self: Rc<Self>) {
        let mut dialers = JoinSet::new();
        for (node, peer) in &self.peers {
            if peer.settings.direction == Direction::Dial {
                let (links, node) = (Rc::clone(&self), *node);
                dialers.spawn_local(async move { links.dial_for_ever(&links.peers[&node]).await });
            }
        }
        dialers.join_all().await;
        // A node that dials nobody still has this as one of its parts.
        std::future::pending().await
    }

    async fn dial_for_ever(&self, peer: &Peer) {
        let mut backoff = Backoff::default();
        loop {
            peer.until(|peer| peer.wanted.get()).await;
            let attempt = async {
                let (known, address) = (peer.settings.known.clone(), &peer.settings.address);
                self.settings.dial(known, address).await.map_err(AttemptError::from)
            };
            let outcome = tokio::select! {
                outcome = attempt => outcome.and_then(|(stream, identity)| self.hand_over(peer, stream, &identity)),
                () = peer.until(|peer| !peer.wanted.get()) => {
                    backoff = Backoff::default();
                    continue;
                }
            };
            let delay = match outcome {
                Ok(()) => {
                    let since = Instant::now();
                    peer.until(|peer| peer.lost.get() >= peer.handed_over.get()).await;
                    backoff.on_lost(since.elapsed(), chance())
                }
                Err(error) => {
                    self.report(peer, &error);
                    backoff.on_failure(chance())
                }
            };
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                // A later order to connect is not to wait for a delay that an earlier failure has earned.
                () = peer.until(|peer| !peer.wanted.get()) => backoff = Backoff::default(),
            }
        }
    }

    fn hand_over(&self, peer: &Peer, stream: TcpStream, identity: &PeerIdentity) -> Result<(), AttemptError> {
        let name = &peer.settings.known.name;
        if !peer.wanted.get() {
            return Err(AttemptError::NotWanted(name.clone()));
        }
        let socket = stream.into_descriptor().map_err(AttemptError::Descriptor)?;
        peer.handed_over.set(peer.handed_over.get() + 1);
        *peer.reason.borrow_mut() = None;
        tracing::info!(peer = %name, voter = %identity.voter, version = identity.version, "linked");
        self.plane.tell(ToDataPlane::PeerLink { peer: identity.node, socket, voter: identity.voter })?;
        Ok(())
    }

    /// Logs and reports why there is no link, once for each reason.
    fn report(&self, peer: &Peer, error: &AttemptError) {
        let reason = error.to_string();
        if peer.reason.borrow().as_ref() == Some(&reason) {
            return;
        }
        let name = &peer.settings.known.name;
        tracing::warn!(peer = %name, %reason, "no link");
        *peer.reason.borrow_mut() = Some(reason.clone());
        self.tell(peer, NoLink { reason, action: error.action() });
    }

    fn tell(&self, peer: &Peer, reason: NoLink) {
        // It fails only when the daemon ends.
        let _ = self.plane.tell(ToDataPlane::PeerUnreachable { peer: peer.settings.known.node, reason });
    }

    /// Admits every peer that dials this node, for ever. May be dropped.
    pub async fn accept_all(self: Rc<Self>, listener: TcpSocket) {
        let mut seats = Seats::new(UNAUTHENTICATED_MAX, seats::GRACE);
        let shortage = LogLimit::default();
        loop {
            let stream = accept_next(&listener, &shortage).await;
            seats.vacate().await;
            let links = Rc::clone(&self);
            seats.take(async move {
                let from =
                    stream.peer_addr().map_or_else(|_| "nowhere".to_owned(), |from| from.ip().to_string());
                if let Err(error) = links.admit(stream).await {
                    links.log_refusal(&error);
                    links.report_claimed(&from, &error);
                }
            });
        }
    }

    async fn admit(&self, stream: TcpStream) -> Result<(), AttemptError> {
        let accepted = || self.peers.values().filter(|peer| peer.settings.direction == Direction::Accept);
        let known = accepted().map(|peer| peer.settings.known.clone()).collect();
        let unwanted = accepted().filter(|peer| !peer.wanted.get()).map(|peer| peer.settings.known.node);
        let (stream, identity) = self.settings.admit(stream, known, unwanted.collect()).await?;
        let peer = self.peers.get(&identity.node).expect("the handshake admits known peers only");
        self.hand_over(peer, stream, &identity)
    }

    /// Somebody who says that he is a peer was refused: whoever looks for that peer wants to know. It may be a lie, so
    /// the words say who says so, and from where.
    fn report_claimed(&self, from: &str, error: &AttemptError) {
        let AttemptError::NotAdmitted(NotAdmitted { claimed: Some(claimed), .. }) = error else { return };
        let Some(peer) = self.peers.get(claimed) else { return };
        if peer.settings.direction == Direction::Accept {
            let reason = format!("refused a connection from {from} that says it is the peer: {error}");
            self.tell(peer, NoLink { reason, action: error.action() });
        }
    }

    /// Anybody may connect, as often as he likes: a line for each new reason, but not too many.
    fn log_refusal(&self, error: &AttemptError) {
        let reason = error.to_string();
        if *self.refused.borrow() == reason {
            return;
        }
        if let Some(suppressed) = self.refusals.permits() {
            tracing::warn!(%reason, suppressed, "refused a connection to the address for peers");
            *self.refused.borrow_mut() = reason;
        }
    }
}

impl Peer {
    /// Waits until `holds`. Each peer has one task that waits, so one wake-up is enough.
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.changed.notified().await;
        }
    }
}

/// A number that nobody else draws.
pub fn chance() -> u64 {
    getrandom::u64().expect("the kernel gives random bytes once it has booted")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use replicator::peer::handshake::{LocalIdentity, PROTOCOL_VERSIONS, Secret, VoterKind};
    use replicator::units::VoterId;
    use tokio::io::AsyncReadExt;
    use tokio::sync::mpsc;

    use super::*;
    use crate::control_plane::listen;

    const ALPHA: NodeId = NodeId(0);
    const BETA: NodeId = NodeId(1);

    struct Node {
        links: Rc<PeerLinks>,
        told: mpsc::UnboundedReceiver<ToDataPlane>,
    }

    fn known(node: NodeId) -> KnownPeer {
        let name = if node == ALPHA { "alpha" } else { "beta" };
        KnownPeer { node, name: name.into(), kind: VoterKind::Replica }
    }

    fn node(local: NodeId, secret: &str, address: SocketAddr) -> Node {
        let other = if local == ALPHA { BETA } else { ALPHA };
        let identity = LocalIdentity {
            resource: "mail".into(),
            node: local,
            name: known(local).name,
            voter: VoterId(100 + u64::from(local.0)),
            kind: VoterKind::Replica,
            volume_bytes: 1 << 20,
            configuration_digest: 1,
            versions: PROTOCOL_VERSIONS,
        };
        let settings = LinkSettings {
            identity,
            secret: Secret::new(secret.into()).expect("long enough"),
            peer_timeout: Duration::from_secs(3),
            handshake_limit: Duration::from_millis(500),
        };
        let direction = Direction::between(local, other, None);
        let peer = PeerSettings { known: known(other), address: address.to_string(), direction };
        let (tell, told) = mpsc::unbounded_channel();
        let plane = PlaneLink::new(move |what| tell.send(what).is_ok());
        Node { links: Rc::new(PeerLinks::new(settings, vec![peer], plane)), told }
    }

    /// Alpha listens; beta is ready to dial it.
    fn pair(secret: &str, secret_of_beta: &str) -> (Node, Node, SocketAddr) {
        let listener = listen::on_address("127.0.0.1:0".parse().expect("an address")).expect("listens");
        let address = listener.address();
        let (alpha, beta) = (node(ALPHA, secret, address), node(BETA, secret_of_beta, address));
        tokio_uring::spawn(Rc::clone(&alpha.links).accept_all(listener));
        (alpha, beta, address)
    }

    impl Node {
        fn dial(&self) {
            tokio_uring::spawn(Rc::clone(&self.links).dial_all());
        }

        async fn next(&mut self) -> ToDataPlane {
            let next = tokio::time::timeout(Duration::from_secs(20), self.told.recv()).await;
            next.expect("it tells something in time").expect("it lives")
        }

        async fn link(&mut self) -> (VoterId, std::net::TcpStream) {
            match self.next().await {
                ToDataPlane::PeerLink { socket, voter, .. } => (voter, blocking(socket)),
                other => panic!("{other:?} instead of a link"),
            }
        }

        async fn unreachable(&mut self) -> String {
            match self.next().await {
                ToDataPlane::PeerUnreachable { reason, .. } => reason.reason,
                other => panic!("{other:?} instead of a failure"),
            }
        }
    }

    fn blocking(socket: OwnedFd) -> std::net::TcpStream {
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(false).expect("an option");
        stream
    }

    const SECRET: &str = "sixteen bytes at least";

    #[test]
    fn both_ends_get_a_link_whose_first_byte_belongs_to_a_frame() {
        tokio_uring::start(async {
            let (mut alpha, mut beta, _) = pair(SECRET, SECRET);
            beta.dial();
            let (voter_of_alpha, mut at_beta) = beta.link().await;
            let (voter_of_beta, mut at_alpha) = alpha.link().await;
            assert_eq!((voter_of_alpha, voter_of_beta), (VoterId(100), VoterId(101)));
            at_beta.write_all(b"frame").expect("sends");
            let mut frame = [0; 5];
            at_alpha.read_exact(&mut frame).expect("reads");
            assert_eq!(&frame, b"frame");
            assert!(at_alpha.nodelay().expect("an option") && at_beta.nodelay().expect("an option"));
        });
    }

    #[test]
    fn without_the_secret_neither_end_gets_a_link() {
        tokio_uring::start(async {
            let (mut alpha, mut beta, _) = pair(SECRET, "another secret of some length");
            beta.dial();
            let reason = beta.unreachable().await;
            assert_eq!(reason, "refused by the other side: authentication failed");
            let reason = alpha.unreachable().await;
            let refused = "the peer could not prove that it knows the shared secret";
            assert_eq!(
                reason,
                format!("refused a connection from 127.0.0.1 that says it is the peer: {refused}")
            );
            assert_eq!(*alpha.links.refused.borrow(), refused);
        });
    }

    #[test]
    fn a_reason_that_stays_the_same_is_reported_once() {
        tokio_uring::start(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
            let mut beta = node(BETA, SECRET, listener.local_addr().expect("an address"));
            beta.dial();
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                // Its hello is read first, so that the end is an end and no reset.
                stream.read_exact(&mut [0; 1]).await.expect("a hello");
                while stream.try_read(&mut [0; 1024]).is_ok() {}
            }
            // Two attempts have failed before the third began.
            assert_eq!(beta.unreachable().await, "the other side hung up during the handshake");
            assert!(beta.told.try_recv().is_err());
        });
    }

    #[test]
    fn a_lost_link_is_replaced_and_the_listener_gets_the_newer_one_too() {
        tokio_uring::start(async {
            let (mut alpha, mut beta, _) = pair(SECRET, SECRET);
            beta.dial();
            let (first_at_alpha, _first_at_beta) = (alpha.link().await, beta.link().await);
            beta.links.on_lost(ALPHA);
            let (second_at_alpha, _second_at_beta) = (alpha.link().await, beta.link().await);
            assert_eq!(first_at_alpha.0, second_at_alpha.0);
            assert!(beta.told.try_recv().is_err(), "one link for each loss");
        });
    }

    #[test]
    fn a_peer_to_which_no_link_is_wanted_is_refused_until_one_is() {
        tokio_uring::start(async {
            let (mut alpha, mut beta, _) = pair(SECRET, SECRET);
            alpha.links.on_dialing(BETA, false);
            beta.dial();
            let reason = "refused by the other side: an operator has disconnected it from this node";
            assert_eq!(beta.unreachable().await, reason);
            assert!(alpha.unreachable().await.contains("an operator has disconnected node 1 here"));
            alpha.links.on_dialing(BETA, true);
            beta.link().await;
            alpha.link().await;
        });
    }

    #[test]
    fn a_dialer_that_is_told_to_stop_dials_only_when_it_is_told_to() {
        tokio_uring::start(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
            let address = listener.local_addr().expect("an address");
            let beta = node(BETA, SECRET, address);
            beta.links.on_dialing(ALPHA, false);
            beta.dial();
            // Time for every task to run as far as it can; a connection on loopback is made at once.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            let ours = TcpStream::connect(address).await.expect("connects");
            let (_, first) = listener.accept().await.expect("accepts");
            assert_eq!(first, ours.local_addr().expect("an address"), "nobody was before us");
            beta.links.on_dialing(ALPHA, true);
            listener.accept().await.expect("it dials");
        });
    }

    #[test]
    fn silent_connections_are_closed_at_the_limit_and_keep_no_peer_out() {
        tokio_uring::start(async {
            let (mut alpha, beta, address) = pair(SECRET, SECRET);
            let mut silent = Vec::new();
            for _ in 0..UNAUTHENTICATED_MAX {
                silent.push(TcpStream::connect(address).await.expect("connects"));
            }
            beta.dial();
            alpha.link().await;
            for stream in &mut silent {
                assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
            }
        });
    }

    #[test]
    fn a_peer_that_is_not_there_is_reported_by_name_of_the_reason() {
        tokio_uring::start(async {
            let nobody = "127.0.0.1:1".parse().expect("an address");
            let mut beta = node(BETA, SECRET, nobody);
            beta.dial();
            let refused = "cannot connect to 127.0.0.1:1: Connection refused";
            assert!(beta.unreachable().await.starts_with(refused));
            // Meanwhile an operator had his own reason for there being no link.
            beta.links.on_dialing(ALPHA, false);
            beta.links.on_dialing(ALPHA, true);
            assert!(beta.unreachable().await.starts_with(refused), "again");
        });
    }

    #[test]
    fn of_every_two_voters_exactly_one_dials() {
        let tiebreaker = Some(NodeId(2));
        assert_eq!(Direction::between(ALPHA, BETA, tiebreaker), Direction::Accept);
        assert_eq!(Direction::between(BETA, ALPHA, tiebreaker), Direction::Dial);
        assert_eq!(Direction::between(ALPHA, NodeId(2), tiebreaker), Direction::Dial);
        assert_eq!(Direction::between(NodeId(2), ALPHA, tiebreaker), Direction::Accept);
        assert_eq!(Direction::between(ALPHA, NodeId(2), None), Direction::Accept);
    }
}
