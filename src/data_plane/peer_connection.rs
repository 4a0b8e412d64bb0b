//! One authenticated link to a voter: frames in, frames out, each in order.
//!
//! A header is verified before its lengths are believed, a body before the frame is handed on; the payload is
//! verified by the replica, record by record. The replica keeps within the peer's window, so the queue here is
//! bounded by it. When the socket fails or a frame is not one, the link is over; a new one is the control plane's
//! business.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use replicator::event::{Event, LinkId, LinkLoss};
use replicator::peer::frame::{
    FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameError, FrameHeader, OutboundFrame, ReceivedFrame,
};
use replicator::units::{NodeId, bytes_u64};
use rustix::net::{Shutdown, sockopt};
use tracing::warn;

use crate::data_plane::inflow::Inflow;
use crate::data_plane::outflow::Outflow;
use crate::data_plane::ring::{Operation, Outcome};
use crate::data_plane::round::{Round, Tag};
use crate::data_plane::send_now::send_now;

/// Bytes of the staging buffer: the largest header and body, and as much again of what follows.
const STAGING_BYTES: usize = 2 * FRAME_BODY_BYTES_MAX;
/// Bytes of a short receive: header and body of most frames with a large payload.
const SHORT_RECEIVE_BYTES: usize = 4 << 10;
/// Bytes that may be queued: more than any peer's window, so more is a bug of the replica.
const QUEUED_BYTES_MAX: u64 = 128 << 20;

const _: () = assert!(STAGING_BYTES >= FRAME_HEADER_BYTES + FRAME_BODY_BYTES_MAX);

/// One link.
#[derive(Debug)]
pub struct PeerConnection {
    peer: NodeId,
    link: LinkId,
    socket: Arc<OwnedFd>,
    inflow: Inflow,
    outflow: Outflow,
    /// A frame whose payload is arriving.
    arriving: Option<(FrameHeader, Bytes)>,
    /// Bytes of header and body that the decoder misses.
    needed: usize,
    /// Frames handed to the kernel since the link began.
    sent_frames: u64,
    is_receiving: bool,
    is_over: bool,
    /// Why the peer takes nothing any more.
    send_failure: Option<LinkLoss>,
}

impl PeerConnection {
    /// A link over `socket`.
    #[must_use]
    pub fn new(peer: NodeId, link: LinkId, socket: OwnedFd) -> Self {
        // Small frames that wait for their answer must not be paced, as BBR would. A kernel without cubic keeps its own.
        let _ = sockopt::set_tcp_congestion(&socket, "cubic");
        Self {
            peer,
            link,
            socket: Arc::new(socket),
            inflow: Inflow::new(STAGING_BYTES, SHORT_RECEIVE_BYTES),
            outflow: Outflow::default(),
            arriving: None,
            needed: 0,
            sent_frames: 0,
            is_receiving: false,
            is_over: false,
            send_failure: None,
        }
    }

    /// Its number.
    #[must_use]
    pub fn link(&self) -> LinkId {
        self.link
    }

    /// Whether it has ended and is only to be forgotten.
    #[cfg(test)]
    fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether frames are queued that the kernel has not taken.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.is_over && !self.outflow.is_empty()
    }

    /// Queues a frame, to be sent with the next [`Self::advance`].
    pub fn push(&mut self, frame: OutboundFrame) {
        if self.is_over || self.send_failure.is_some() {
            return;
        }
        let OutboundFrame { head, payloads } = frame;
        self.outflow.push(|header| header.extend_from_slice(&head), payloads, 0);
        let queued = self.outflow.bytes();
        assert!(queued <= QUEUED_BYTES_MAX, "{queued} bytes are queued for {}, beyond any window", self.peer);
    }

    /// Begins to send and to receive whatever can be.
    pub fn advance(&mut self, round: &mut Round) {
        if self.is_over {
            return;
        }
        if let Some(pieces) = self.outflow.next_send() {
            match send_now(&self.socket, &pieces) {
                Ok(bytes) => self.note_sent(round, pieces, bytes),
                Err(errno) => self.on_send_failed(errno.raw_os_error()),
            }
        }
        if !self.is_receiving {
            self.is_receiving = true;
            let (buffer, into) = self.inflow.next_receive(self.needed);
            let operation = Operation::Receive { socket: self.socket.clone(), buffer, into };
            round.ring.submit(Tag::PeerReceive(self.peer, self.link), operation);
        }
    }

    /// Takes what a receive brought, and hands on every frame that is complete.
    pub fn on_received(&mut self, round: &mut Round, outcome: Outcome) {
        self.is_receiving = false;
        match outcome {
            Outcome::Received { bytes: 0, .. } => {
                let reason = self.send_failure.take().unwrap_or(LinkLoss::Closed);
                return self.end(round, reason);
            }
            Outcome::Received { buffer, bytes } => self.inflow.on_received(buffer, bytes),
            Outcome::Failed(errno) => return self.end(round, LinkLoss::Socket(errno.raw_os_error())),
            other => panic!("a receive ended as {other:?}"),
        }
        loop {
            match self.next_frame() {
                Ok(Some(frame)) => {
                    let (peer, link) = (self.peer, self.link);
                    round.events.push_back(Event::FrameReceived { peer, link, frame });
                }
                Ok(None) => break,
                Err(error) => {
                    warn!(peer = self.peer.0, "link refused: {error}");
                    return self.end(round, LinkLoss::BadFrame);
                }
            }
        }
        self.advance(round);
    }

    /// Takes what a send did.
    pub fn on_sent(&mut self, round: &mut Round, outcome: Outcome) {
        let (pieces, bytes) = match outcome {
            Outcome::Sent { pieces, bytes } => (pieces, bytes),
            Outcome::Failed(errno) => {
                self.on_send_failed(errno.raw_os_error());
                return self.advance(round);
            }
            other => panic!("a send ended as {other:?}"),
        };
        if self.is_over || self.send_failure.is_some() {
            return;
        }
        self.note_sent(round, pieces, bytes);
        self.advance(round);
    }

    /// Counts what the socket took; the ring sends the rest when there is room again.
    fn note_sent(&mut self, round: &mut Round, pieces: Vec<Bytes>, bytes: usize) {
        let (sent, rest) = self.outflow.on_sent(pieces, bytes);
        if let Some(pieces) = rest {
            let operation = Operation::Send { socket: self.socket.clone(), pieces };
            round.ring.submit(Tag::PeerSend(self.peer, self.link), operation);
        }
        if sent.messages > 0 {
            self.sent_frames += bytes_u64(sent.messages);
            let (peer, link, frames) = (self.peer, self.link, self.sent_frames);
            round.events.push_back(Event::FramesSent { peer, link, frames });
        }
    }

    /// The peer takes nothing any more. What it said before may have arrived already, and be the reason: the link ends
    /// when that is read.
    fn on_send_failed(&mut self, errno: i32) {
        self.send_failure.get_or_insert(LinkLoss::Socket(errno));
        self.outflow = Outflow::default();
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Both);
    }

    /// Ends the link and tells the replica, once.
    pub fn end(&mut self, round: &mut Round, reason: LinkLoss) {
        if self.is_over {
            return;
        }
        if reason == LinkLoss::Dropped {
            self.send_last_words();
        }
        self.is_over = true;
        // Ends what the ring is doing on the socket; its memory comes back with the completions.
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Both);
        round.events.push_back(Event::PeerLost { peer: self.peer, link: self.link, reason });
    }

    /// Hands the kernel what was queued just before the replica let the link go: why it did so, for example. Never
    /// waits; what the kernel has no room for is lost, as it would be on any link that breaks.
    fn send_last_words(&mut self) {
        // While the ring sends, nothing may get in between.
        if let Some(pieces) = self.outflow.next_send() {
            let _ = send_now(&self.socket, &pieces);
        }
    }

    /// The next frame that has arrived whole.
    fn next_frame(&mut self) -> Result<Option<ReceivedFrame>, FrameError> {
        if self.arriving.is_none() {
            let bytes = self.inflow.bytes();
            let Some(head) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
                self.needed = FRAME_HEADER_BYTES - bytes.len();
                return Ok(None);
            };
            let header = FrameHeader::parse(head)?;
            let length = FRAME_HEADER_BYTES + header.body_bytes();
            let Some(body) = bytes.get(FRAME_HEADER_BYTES..length) else {
                self.needed = length - bytes.len();
                return Ok(None);
            };
            self.needed = 0;
            let body = Bytes::copy_from_slice(body);
            self.inflow.consume(length);
            if header.payload_bytes() == 0 {
                return ReceivedFrame::assemble(header, body, Bytes::new()).map(Some);
            }
            self.inflow.begin_payload(header.payload_bytes());
            self.arriving = Some((header, body));
        }
        let Some(payload) = self.inflow.take_payload() else { return Ok(None) };
        let (header, body) = self.arriving.take().expect("a payload follows its header");
        ReceivedFrame::assemble(header, body, payload).map(Some)
    }
}

#[cfg(test)]
mod tests;
