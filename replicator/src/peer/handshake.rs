//! Mutual authentication of two voters, before a link carries frames. Without I/O: bytes in, bytes out.
//!
//! The dialer says Hello, the listener says Hello; each checks that the two belong together. Then the
//! dialer proves that it knows the shared secret, and only to a dialer that did so the listener proves the
//! same. A proof covers both Hellos whole, so nothing in them can be changed, swapped, replayed or sent
//! back to where it came from. Neither side reads a byte behind the other's last message: that byte belongs
//! to the frames. Randomness (the nonce), deadlines and the pinning of voter identities are the caller's.

mod hello;
mod secret;
#[cfg(test)]
mod tests;
mod wire;

pub use hello::{NAME_BYTES_MAX, VoterKind};
pub use secret::{SECRET_BYTES_MIN, Secret, SecretTooShort};
pub use wire::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADER_BYTES, HANDSHAKE_KINDS, HANDSHAKE_MAGIC};

use hello::Hello;
use secret::Side;
use wire::{Kind, Partial};

use crate::peer::fields::FieldError;
use crate::units::{NodeId, VoterId};

/// The protocol versions that this build speaks, lowest and highest.
pub const PROTOCOL_VERSIONS: VersionRange = VersionRange { lowest: 1, highest: 1 };

/// All that is told to somebody who does not know the secret.
const AUTHENTICATION_FAILED: &str = "authentication failed";

/// Random bytes that are never used twice.
pub type Nonce = [u8; 32];

/// Protocol versions from `lowest` to `highest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// The oldest.
    pub lowest: u16,
    /// The newest.
    pub highest: u16,
}

impl VersionRange {
    /// The newest version that both speak.
    #[must_use]
    pub fn newest_common(self, other: Self) -> Option<u16> {
        let newest = self.highest.min(other.highest);
        (newest >= self.lowest.max(other.lowest)).then_some(newest)
    }
}

impl std::fmt::Display for VersionRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.lowest, self.highest)
    }
}

/// Who this node is, as it says it to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalIdentity {
    /// Name of the resource.
    pub resource: String,
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its random identity, from its metadata.
    pub voter: VoterId,
    /// Whether it holds data.
    pub kind: VoterKind,
    /// Size of the volume.
    pub volume_bytes: u64,
    /// Digest of the parts of the configuration that must be equal on all voters.
    pub configuration_digest: u64,
    /// The versions it speaks; [`PROTOCOL_VERSIONS`] but in tests.
    pub versions: VersionRange,
}

/// Another voter, as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it holds data.
    pub kind: VoterKind,
}

/// Who the peer is. It has proved to know the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its random identity, still to be compared with the one pinned.
    pub voter: VoterId,
    /// The newest protocol version that both speak.
    pub version: u16,
    /// Digest of its configuration. A difference is no reason to refuse the link; it is one to refuse a vote.
    pub configuration_digest: u64,
}

/// Why there will be no link. The text goes to this node's log, and [`HandshakeError::told`] to the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Whatever it is, it does not speak this protocol.
    #[error("the other side does not speak twinblk's protocol: it began with {found:08x}")]
    Foreign {
        /// What it began with.
        found: u32,
    },
    /// It begins a link in a way that this build does not know.
    #[error("the peer begins links in layout {found}, this build knows layout {known}")]
    Layout {
        /// The peer's.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// Its bytes were damaged on the way.
    #[error("a message of the handshake was damaged on the way")]
    Damaged,
    /// A message with an illegal length.
    #[error("a message of the handshake has {0} bytes, at most {HANDSHAKE_BYTES_MAX} are legal")]
    TooLong(u32),
    /// A message at a time at which it makes no sense, or one that is unknown.
    #[error("message {found} of the handshake came out of turn")]
    OutOfTurn {
        /// Its number.
        found: u16,
    },
    /// A message that is not laid out as it must be.
    #[error("a message of the handshake is refused: {0}")]
    Body(FieldError),
    /// The nodes serve different volumes.
    #[error("this node serves resource {ours}, the peer {theirs}")]
    OtherResource {
        /// Here.
        ours: String,
        /// There.
        theirs: String,
    },
    /// No version in common.
    #[error("no common protocol version: this node speaks {ours}, the peer {theirs}")]
    NoCommonVersion {
        /// Here.
        ours: VersionRange,
        /// There.
        theirs: VersionRange,
    },
    /// The two ends are the same node.
    #[error("the peer is {node} too: this node has reached itself, or two have the same number")]
    Itself {
        /// The number.
        node: NodeId,
    },
    /// Two nodes with one voter identity.
    #[error("the peer has this node's voter identity {voter}: its metadata is a copy; make it anew")]
    SameVoter {
        /// The identity.
        voter: VoterId,
    },
    /// The peer takes this node for another.
    #[error("the peer wants {theirs}, this is {ours}")]
    NotMeant {
        /// This node.
        ours: NodeId,
        /// Whom the peer expects here.
        theirs: NodeId,
    },
    /// The configuration of this node does not name the peer, or another was expected at its address.
    #[error("{node} named {name} is not a peer that is expected here")]
    UnknownPeer {
        /// Its number.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// A replica where a tiebreaker is expected, or the reverse.
    #[error("{node} is a {theirs}, the configuration here says {ours}")]
    OtherKind {
        /// Its number.
        node: NodeId,
        /// By the configuration here.
        ours: VoterKind,
        /// By its own word.
        theirs: VoterKind,
    },
    /// The volumes differ in size.
    #[error("the volume has {ours} bytes here and {theirs} on the peer")]
    OtherSize {
        /// Here.
        ours: u64,
        /// There.
        theirs: u64,
    },
    /// The peer is who it says, but an operator wants no link to it.
    #[error("an operator has disconnected {node} here")]
    NotWanted {
        /// Its number.
        node: NodeId,
    },
    /// The peer does not know the secret. No more is said, to nobody.
    #[error("the peer could not prove that it knows the shared secret")]
    NotAuthentic,
    /// The peer refused this node. Anybody may have sent it: nothing is proved yet.
    #[error("refused by the other side: {reason}")]
    RefusedByPeer {
        /// Its words, made printable.
        reason: String,
    },
}

impl HandshakeError {
    /// What the peer is told; nothing if it would not understand or has refused itself. It has proved nothing yet in
    /// most cases, so it hears what differs, and never this node's own value.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        let text = match self {
            Self::Foreign { .. } | Self::RefusedByPeer { .. } => return None,
            Self::NotAuthentic => AUTHENTICATION_FAILED,
            Self::OtherResource { .. } => "it serves another resource",
            Self::OtherSize { .. } => "its volume has another size",
            Self::NotMeant { .. } => "it is another node than the one that was meant",
            Self::UnknownPeer { .. } => "it expects no peer with this number and this name",
            Self::OtherKind { .. } => "it expects another kind of voter under this number",
            Self::NotWanted { .. } => "an operator has disconnected it from this node",
            Self::Layout { .. }
            | Self::Damaged
            | Self::TooLong(_)
            | Self::OutOfTurn { .. }
            | Self::Body(_)
            | Self::NoCommonVersion { .. }
            | Self::Itself { .. }
            | Self::SameVoter { .. } => return Some(self.to_string()),
        };
        Some(text.to_owned())
    }

    /// What an operator does about it, a sentence.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => {
                "Find out which program uses the address, and give one of the two another."
            }
            Self::Damaged | Self::TooLong(_) | Self::OutOfTurn { .. } | Self::Body(_) => {
                "Look at the network between the nodes, and install the same release on both."
            }
            Self::Layout { .. } | Self::NoCommonVersion { .. } => "Upgrade the older of the two nodes.",
            Self::OtherResource { .. } => {
                "Make `resource` the same on both nodes, or give each resource an `address` of its own."
            }
            Self::Itself { .. }
            | Self::NotMeant { .. }
            | Self::UnknownPeer { .. }
            | Self::OtherKind { .. } => {
                "Make every [[node]], and their order, the same on all nodes; check which one each node is (--node)."
            }
            Self::SameVoter { .. } => {
                "Give each node metadata of its own, made there by `twinblk create-metadata`, never a copy."
            }
            Self::OtherSize { .. } => "Make `size` the same on both nodes.",
            Self::NotWanted { .. } => {
                "None; `twinblk connect` on the node that was disconnected reverses it."
            }
            Self::NotAuthentic => "Compare the secret files on both nodes: every byte must be the same.",
            Self::RefusedByPeer { reason } if reason == AUTHENTICATION_FAILED => {
                "Compare the secret files and the names of the nodes on both nodes; no more is told before."
            }
            Self::RefusedByPeer { .. } => {
                "`twinblk status` on the other node says the same from its side; make both configurations the same."
            }
        }
    }
}

/// How far the handshake has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It wants more bytes.
    More,
    /// The peer is who it says. The next byte that it sends belongs to a frame.
    Done(PeerIdentity),
    /// There will be no link: send what there is to send, then close.
    Refused(HandshakeError),
}

/// What became of the bytes that were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How many of them were used. The others belong to frames, or are of no more use.
    pub consumed: usize,
    /// How far it has come.
    pub progress: Progress,
}

/// What is awaited next.
#[derive(Debug)]
enum State {
    ExpectHello,
    ExpectProof { hello: Hello, version: u16 },
    Done(PeerIdentity),
    Refused(HandshakeError),
}

/// One side of a handshake.
#[derive(Debug)]
pub struct Handshake {
    side: Side,
    local: LocalIdentity,
    peers: Vec<KnownPeer>,
    secret: Secret,
    nonce: Nonce,
    /// Those of them to whom no link is wanted. They are told so, but only when they have proved who they are.
    unwanted: Vec<NodeId>,
    /// Who the other side says it is, proved or not.
    claimed: Option<NodeId>,
    /// This side's Hello once it is known: the listener's names the dialer.
    own_hello: Vec<u8>,
    partial: Partial,
    state: State,
}

impl Handshake {
    /// The side that has connected to `peer`.
    #[must_use]
    pub fn dial(local: LocalIdentity, peer: KnownPeer, secret: Secret, nonce: Nonce) -> Self {
        let own_hello = Hello::of(&local, peer.node, nonce).encode();
        Self::new(Side::Dialer, local, vec![peer], secret, nonce, own_hello)
    }

    /// The side that has accepted a connection from one of `peers`.
    #[must_use]
    pub fn listen(local: LocalIdentity, peers: Vec<KnownPeer>, secret: Secret, nonce: Nonce) -> Self {
        Self::new(Side::Listener, local, peers, secret, nonce, Vec::new())
    }

    /// Turns these peers away once they have proved who they are.
    #[must_use]
    pub fn turning_away(self, unwanted: Vec<NodeId>) -> Self {
        Self { unwanted, ..self }
    }

    /// Who the other side says it is, as soon as it has said so. Anybody can say that: good for a status line, and
    /// for nothing else.
    #[must_use]
    pub fn claimed(&self) -> Option<NodeId> {
        self.claimed
    }

    fn new(
        side: Side,
        local: LocalIdentity,
        peers: Vec<KnownPeer>,
        secret: Secret,
        nonce: Nonce,
        own_hello: Vec<u8>,
    ) -> Self {
        let (partial, state) = (Partial::default(), State::ExpectHello);
        let (unwanted, claimed) = (Vec::new(), None);
        Self { side, local, peers, secret, nonce, unwanted, claimed, own_hello, partial, state }
    }

    /// What is sent before anything arrives: the dialer's Hello.
    #[must_use]
    pub fn first_bytes(&self) -> Option<Vec<u8>> {
        match self.side {
            Side::Dialer => Some(wire::encode(Kind::Hello, &self.own_hello)),
            Side::Listener => None,
        }
    }

    /// How many bytes to read at most, so that none is taken that belongs to a frame; 0 at the end.
    #[must_use]
    pub fn bytes_wanted(&self) -> usize {
        match self.state {
            State::ExpectHello | State::ExpectProof { .. } => self.partial.bytes_wanted(),
            State::Done(_) | State::Refused(_) => 0,
        }
    }

    /// Takes bytes that arrived; appends to `out` what must be sent, in any outcome.
    pub fn on_bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Step {
        let mut consumed = 0;
        while consumed < bytes.len() && self.bytes_wanted() > 0 {
            let message = self.partial.take(bytes, &mut consumed);
            let outcome = message.and_then(|message| match message {
                Some((kind, body)) => self.on_message(kind, &body, out),
                None => Ok(()),
            });
            if let Err(error) = outcome {
                if let Some(reason) = error.told() {
                    out.extend(wire::encode_refusal(&reason));
                }
                self.state = State::Refused(error);
            }
        }
        Step { consumed, progress: self.progress() }
    }

    fn progress(&self) -> Progress {
        match &self.state {
            State::ExpectHello | State::ExpectProof { .. } => Progress::More,
            State::Done(peer) => Progress::Done(peer.clone()),
            State::Refused(error) => Progress::Refused(error.clone()),
        }
    }

    fn on_message(&mut self, kind: Kind, body: &[u8], out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        let next = match (kind, &self.state) {
            (Kind::Refuse, _) => Err(HandshakeError::RefusedByPeer { reason: wire::printable(body) }),
            (Kind::Hello, State::ExpectHello) => self.on_hello(body, out),
            (Kind::Proof, State::ExpectProof { hello, version }) => self.on_proof(hello, *version, body, out),
            (Kind::Hello | Kind::Proof, _) => Err(HandshakeError::OutOfTurn { found: kind.code() }),
        };
        self.state = next?;
        Ok(())
    }

    fn on_hello(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<State, HandshakeError> {
        let hello = Hello::parse(body).map_err(HandshakeError::Body)?;
        self.claimed = Some(hello.node);
        let version = hello.check(&self.local, &self.peers)?;
        match self.side {
            Side::Listener => {
                self.own_hello = Hello::of(&self.local, hello.node, self.nonce).encode();
                out.extend(wire::encode(Kind::Hello, &self.own_hello));
            }
            Side::Dialer => out.extend(wire::encode(Kind::Proof, &self.own_proof(&hello, version))),
        }
        Ok(State::ExpectProof { hello, version })
    }

    fn on_proof(
        &self,
        hello: &Hello,
        version: u16,
        proof: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<State, HandshakeError> {
        let (dialer, listener) = self.hellos(hello);
        if !self.secret.verifies(self.side.other(), version, &dialer, &listener, proof) {
            return Err(HandshakeError::NotAuthentic);
        }
        if self.unwanted.contains(&hello.node) {
            return Err(HandshakeError::NotWanted { node: hello.node });
        }
        match self.side {
            Side::Listener => out.extend(wire::encode(Kind::Proof, &self.own_proof(hello, version))),
            Side::Dialer => (),
        }
        Ok(State::Done(PeerIdentity {
            node: hello.node,
            name: hello.name.clone(),
            voter: hello.voter,
            version,
            configuration_digest: hello.configuration_digest,
        }))
    }

    fn own_proof(&self, hello: &Hello, version: u16) -> [u8; 32] {
        let (dialer, listener) = self.hellos(hello);
        self.secret.proof(self.side, version, &dialer, &listener)
    }

    /// Both Hellos as they travelled, the dialer's first. There is one encoding of each.
    fn hellos(&self, hello: &Hello) -> (Vec<u8>, Vec<u8>) {
        match self.side {
            Side::Dialer => (self.own_hello.clone(), hello.encode()),
            Side::Listener => (hello.encode(), self.own_hello.clone()),
        }
    }
}
