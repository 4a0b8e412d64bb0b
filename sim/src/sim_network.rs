//! Links between voters: one ordered stream each way, with delay. A stream can stall (a cut: what is on its
//! way arrives when the cut heals, if the receiver still listens) and a link can be reset. Frames travel as
//! bytes, so that the code of the wire is used.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use replicator::event::LinkId;
use replicator::peer::frame::{FRAME_HEADER_BYTES, FrameHeader, OutboundFrame, ReceivedFrame};
use replicator::units::{NodeId, bytes_u64};

/// What travels on a stream.
#[derive(Debug)]
pub enum Item {
    /// The link is up, as its receiver learns it.
    Up,
    /// A frame.
    Frame(ReceivedFrame),
    /// The sender has closed it, or the system has.
    Closed,
}

impl Item {
    /// Bytes on the line.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        match self {
            Self::Up | Self::Closed => 0,
            Self::Frame(frame) => bytes_u64(FRAME_HEADER_BYTES + frame.body.len() + frame.payload.len()),
        }
    }
}

/// One end of a link.
#[derive(Debug, Default)]
pub struct End {
    /// Whether its node still uses it.
    pub is_open: bool,
    /// Frames that its node has sent.
    pub frames_sent: u64,
    /// What is on its way to it, with the time of arrival.
    pub inbox: VecDeque<(u64, Item)>,
}

/// A link between two voters.
#[derive(Debug)]
pub struct SimLink {
    /// The two ends; the lower node first.
    pub nodes: [NodeId; 2],
    /// Their states.
    pub ends: [End; 2],
}

impl SimLink {
    /// Which end is `node`'s.
    #[must_use]
    pub fn end_of(&self, node: NodeId) -> usize {
        usize::from(self.nodes[0] != node)
    }
}

/// All links.
#[derive(Debug, Default)]
pub struct SimNetwork {
    /// By number.
    pub links: BTreeMap<LinkId, SimLink>,
    /// Directions that are cut: from, to.
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    next: u64,
}

impl SimNetwork {
    /// The open link that `node` has to `peer`.
    #[must_use]
    pub fn open_link(&self, node: NodeId, peer: NodeId) -> Option<LinkId> {
        let open = |link: &SimLink| {
            link.nodes.contains(&node) && link.nodes.contains(&peer) && link.ends[link.end_of(node)].is_open
        };
        self.links.iter().rev().find(|(_, link)| open(link)).map(|(id, _)| *id)
    }

    /// Begins a link; both ends learn of it at the times given.
    pub fn connect(&mut self, nodes: [NodeId; 2], learned: [u64; 2]) -> LinkId {
        self.next += 1;
        let id = LinkId(self.next);
        let end = |at| End { is_open: true, frames_sent: 0, inbox: VecDeque::from([(at, Item::Up)]) };
        self.links.insert(id, SimLink { nodes, ends: learned.map(end) });
        id
    }

    /// Puts something on its way to the other end of `node`, which the line takes so long to carry. Returns when it
    /// arrives: never before what was sent earlier.
    pub fn send(&mut self, id: LinkId, node: NodeId, arrives: u64, takes: u64, item: Item) -> Option<u64> {
        let link = self.links.get_mut(&id)?;
        let inbox = &mut link.ends[1 - link.end_of(node)].inbox;
        let arrives = inbox.back().map_or(arrives, |(last, _)| arrives.max(*last)) + takes;
        inbox.push_back((arrives, item));
        Some(arrives)
    }

    /// The next item for `node`, if it has arrived and nothing holds it up.
    pub fn receive(&mut self, id: LinkId, node: NodeId, now: u64) -> Option<Item> {
        let cuts = &self.cuts;
        let link = self.links.get_mut(&id)?;
        let end = link.end_of(node);
        if cuts.contains(&(link.nodes[1 - end], node)) {
            return None;
        }
        let end = &mut link.ends[end];
        end.inbox.pop_front_if(|(at, _)| *at <= now).map(|(_, item)| item)
    }

    /// Forgets links that nobody uses any more.
    pub fn sweep(&mut self) {
        self.links.retain(|_, link| link.ends.iter().any(|end| end.is_open));
    }
}

/// A frame as the other end takes it off the wire.
#[must_use]
pub fn over_the_wire(frame: &OutboundFrame) -> ReceivedFrame {
    let head = Bytes::copy_from_slice(&frame.head);
    let payload = match &frame.payloads[..] {
        [only] => only.clone(),
        several => several.concat().into(),
    };
    let first: &[u8; FRAME_HEADER_BYTES] = head[..FRAME_HEADER_BYTES].try_into().expect("64 bytes");
    let header = FrameHeader::parse(first).expect("what a replica sends is a frame");
    assert_eq!(head.len(), FRAME_HEADER_BYTES + header.body_bytes(), "the payload is apart");
    ReceivedFrame::assemble(header, head.slice(FRAME_HEADER_BYTES..), payload).expect("nothing was damaged")
}
