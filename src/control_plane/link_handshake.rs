//! Makes a connection to another voter into a link: sets the socket up and authenticates both ends.
//!
//! Rule: within a limit of time, and not one byte more is read than the handshake wants, because the next one
//! belongs to the frames. What the two ends must prove to each other is decided by `replicator::peer::handshake`;
//! who may be linked to, and when, by `peer_link` and `tiebreaker`.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use replicator::peer::handshake::{
    HANDSHAKE_BYTES_MAX, Handshake, HandshakeError, KnownPeer, LocalIdentity, Nonce, PeerIdentity, Progress,
    Secret,
};
use replicator::units::NodeId;
use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::listen::set_keepalive;

/// Time for a handshake, and as much again for the connection before it.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no link.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The two ends do not belong together.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// Nobody accepts there.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address.
        address: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The network swallows what is sent there.
    #[error("{address} does not answer within {} ms", limit.as_millis())]
    ConnectTooSlow {
        /// The address.
        address: String,
        /// The limit.
        limit: Duration,
    },
    /// The other end says nothing, or too little.
    #[error("the other side did not finish the handshake within {} ms", .0.as_millis())]
    TooSlow(Duration),
    /// The other end has hung up.
    #[error("the other side hung up during the handshake")]
    HungUp,
    /// The socket failed.
    #[error("the connection failed during the handshake: {0}")]
    Socket(#[from] io::Error),
}

impl LinkError {
    /// What an operator does about it, if more is known than to look there.
    #[must_use]
    pub fn action(&self) -> Option<&'static str> {
        match self {
            Self::Handshake(error) => Some(error.action()),
            Self::Connect { .. }
            | Self::ConnectTooSlow { .. }
            | Self::TooSlow(_)
            | Self::HungUp
            | Self::Socket(_) => None,
        }
    }
}

/// Why an accepted connection did not become a link, and whose it claims to be.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct NotAdmitted {
    /// Who is at the other end by its own word, which may be a lie.
    pub claimed: Option<NodeId>,
    /// Why.
    pub error: LinkError,
}

/// What this node proves to others, and how long it waits for them.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// Who this node is.
    pub identity: LocalIdentity,
    /// What all voters know.
    pub secret: Secret,
    /// Silence after which a peer counts as lost; unacknowledged bytes end a connection as soon.
    pub peer_timeout: Duration,
    /// Time for a handshake.
    pub handshake_limit: Duration,
}

impl LinkSettings {
    /// Connects to `peer` at `address` and authenticates both ends.
    ///
    /// # Errors
    /// Nobody answers there in time, or the two do not belong together.
    pub async fn dial(&self, peer: KnownPeer, address: &str) -> Result<(TcpStream, PeerIdentity), LinkError> {
        let limit = self.handshake_limit;
        let stream = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(LinkError::Connect { address: address.to_owned(), source }),
            Err(_) => return Err(LinkError::ConnectTooSlow { address: address.to_owned(), limit }),
        };
        let mut handshake = Handshake::dial(self.identity.clone(), peer, self.secret.clone(), fresh_nonce());
        self.authenticate(stream, &mut handshake).await
    }

    /// Authenticates both ends of an accepted connection, which must come from one of `peers` and from none of
    /// `unwanted`.
    ///
    /// # Errors
    /// It takes too long, or the two do not belong together.
    pub async fn admit(
        &self,
        stream: TcpStream,
        peers: Vec<KnownPeer>,
        unwanted: Vec<NodeId>,
    ) -> Result<(TcpStream, PeerIdentity), NotAdmitted> {
        let handshake = Handshake::listen(self.identity.clone(), peers, self.secret.clone(), fresh_nonce());
        let mut handshake = handshake.turning_away(unwanted);
        let outcome = self.authenticate(stream, &mut handshake).await;
        outcome.map_err(|error| NotAdmitted { claimed: handshake.claimed(), error })
    }

    async fn authenticate(
        &self,
        mut stream: TcpStream,
        handshake: &mut Handshake,
    ) -> Result<(TcpStream, PeerIdentity), LinkError> {
        set_up(&stream, self.peer_timeout)?;
        let limit = self.handshake_limit;
        let outcome = tokio::time::timeout(limit, converse(&mut stream, handshake)).await;
        let peer = outcome.map_err(|_| LinkError::TooSlow(limit))??;
        Ok((stream, peer))
    }
}

/// Frames leave at once, and a peer that vanished without a word is noticed by the kernel too.
fn set_up(stream: &TcpStream, peer_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set_keepalive(stream)?;
    SockRef::from(&stream.as_fd()).set_tcp_user_timeout(Some(peer_timeout))
}

async fn converse(stream: &mut TcpStream, handshake: &mut Handshake) -> Result<PeerIdentity, LinkError> {
    if let Some(first) = handshake.first_bytes() {
        stream.write_all(&first).await?;
    }
    let mut input = vec![0; HANDSHAKE_BYTES_MAX];
    let mut output = Vec::new();
    loop {
        let wanted = handshake.bytes_wanted().min(input.len());
        let length = stream.read(&mut input[..wanted]).await?;
        if length == 0 {
            return Err(LinkError::HungUp);
        }
        let step = handshake.on_bytes(&input[..length], &mut output);
        stream.write_all(&output).await?;
        output.clear();
        match step.progress {
            Progress::More => {}
            Progress::Done(peer) => return Ok(peer),
            Progress::Refused(reason) => {
                // So that the other end reads why before it sees the end.
                stream.shutdown().await?;
                return Err(reason.into());
            }
        }
    }
}

/// Random bytes that are never used twice.
fn fresh_nonce() -> Nonce {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).expect("the kernel gives random bytes once it has booted");
    nonce
}
