//! Links of the world: dialing, arrival, loss.

use replicator::event::{Event, LinkId, LinkLoss};
use replicator::promotion::tiebreaker::TiebreakerEvent;
use replicator::units::{NodeId, VoterId};

use super::{Happening, MS, World};
use crate::sim_network::Item;

impl World {
    fn voter_of(&self, node: NodeId) -> VoterId {
        self.nodes.get(node.index()).map_or(self.tiebreaker.voter, |node| node.voter)
    }

    fn wants(&self, node: NodeId, peer: NodeId) -> bool {
        self.nodes.get(node.index()).is_none_or(|node| !node.unwanted.contains(&peer))
    }

    /// Sets up links that one of two nodes misses, where both can hear each other.
    pub(super) fn dial(&mut self) {
        for nodes in [[NodeId(0), NodeId(1)], [NodeId(0), NodeId(2)], [NodeId(1), NodeId(2)]] {
            let [low, high] = nodes;
            let is_missing =
                self.network.open_link(low, high).is_none() || self.network.open_link(high, low).is_none();
            let can_talk =
                !self.network.cuts.contains(&(low, high)) && !self.network.cuts.contains(&(high, low));
            let both = |of: fn(&Self, NodeId) -> bool| of(self, low) && of(self, high);
            let is_wanted = self.wants(low, high) && self.wants(high, low);
            if is_missing && can_talk && both(Self::is_up) && is_wanted && self.random.chance(70) {
                let learned = [0, 1].map(|_| self.now + self.random.below(20 * MS));
                let link = self.network.connect(nodes, learned);
                for (node, at) in nodes.into_iter().zip(learned) {
                    self.at(at, Happening::Arrives { node, link });
                }
            }
        }
        self.network.sweep();
        let next = self.now + self.random.between(20 * MS, 200 * MS);
        self.at(next, Happening::Dial);
    }

    /// Takes in what has arrived at one end of a link.
    pub(super) fn arrive(&mut self, node: NodeId, link: LinkId) {
        let Some(item) = self.network.receive(link, node, self.now) else { return };
        let Some(held) = self.network.links.get_mut(&link) else { return };
        let end = held.end_of(node);
        let peer = held.nodes[1 - end];
        if !held.ends[end].is_open {
            let is_late = matches!(item, Item::Frame(_)) && self.late_frames > 0 && self.is_up(node);
            if !is_late || !self.random.chance(self.late_frames) {
                return;
            }
            // Of a link that is gone: nobody may make anything of it.
            self.coverage.count("frames of a dead link");
        }
        let Some(held) = self.network.links.get_mut(&link) else { return };
        match item {
            Item::Up => {
                let voter = self.voter_of(peer);
                if self.is_tiebreaker(node) {
                    self.tell_tiebreaker(TiebreakerEvent::LinkUp { peer, link, voter });
                } else {
                    self.tell(node, Event::PeerConnected { peer, link, voter });
                }
            }
            Item::Frame(frame) => {
                if self.is_tiebreaker(node) {
                    self.tell_tiebreaker(TiebreakerEvent::FrameReceived { peer, link, frame });
                } else {
                    self.tell(node, Event::FrameReceived { peer, link, frame });
                }
            }
            Item::Closed => {
                held.ends[end].is_open = false;
                let reason = LinkLoss::Closed;
                if self.is_tiebreaker(node) {
                    self.tell_tiebreaker(TiebreakerEvent::LinkLost { peer, link });
                } else {
                    self.tell(node, Event::PeerLost { peer, link, reason });
                }
            }
        }
    }

    /// Sends something to the other end.
    pub(super) fn send_item(&mut self, node: NodeId, link: LinkId, item: Item) {
        let arrives = self.now + self.delay(self.delays.frame);
        let takes = self.delays.link_bytes_per_second.map_or(0, |rate| item.wire_bytes() * 1_000_000 / rate);
        let Some(arrives) = self.network.send(link, node, arrives, takes, item) else { return };
        let held = &self.network.links[&link];
        let peer = held.nodes[1 - held.end_of(node)];
        self.at(arrives, Happening::Arrives { node: peer, link });
    }

    /// One end is not used any more; the other learns it if it can be reached.
    pub(super) fn close(&mut self, node: NodeId, link: LinkId) {
        let Some(held) = self.network.links.get_mut(&link) else { return };
        let end = held.end_of(node);
        if std::mem::take(&mut held.ends[end].is_open) {
            self.send_item(node, link, Item::Closed);
        }
    }

    /// All links of a node whose daemon is gone. After a power cut nobody is told.
    pub(super) fn forget_links(&mut self, node: NodeId, tells_peers: bool) {
        let links: Vec<LinkId> = self
            .network
            .links
            .iter()
            .filter(|(_, link)| link.nodes.contains(&node) && link.ends[link.end_of(node)].is_open)
            .map(|(id, _)| *id)
            .collect();
        for link in links {
            if tells_peers {
                self.close(node, link);
            } else if let Some(held) = self.network.links.get_mut(&link) {
                let end = held.end_of(node);
                held.ends[end].is_open = false;
            }
        }
    }

    /// Breaks the link between two nodes: some of what is on its way is lost, both learn of it.
    pub fn reset(&mut self, nodes: [NodeId; 2]) {
        let Some(link) = self.network.open_link(nodes[0], nodes[1]) else { return };
        self.say(|| format!("-- link {} of {} and {} is reset", link.0, nodes[0], nodes[1]));
        for node in nodes {
            let end = self.network.links[&link].end_of(node);
            let length = self.network.links[&link].ends[end].inbox.len();
            let keeps = self.random.index(length + 1);
            if let Some(held) = self.network.links.get_mut(&link) {
                held.ends[end].inbox.truncate(keeps);
            }
        }
        for node in nodes {
            self.send_item(node, link, Item::Closed);
        }
    }

    /// Cuts or heals one direction. What was sent meanwhile arrives when it heals.
    pub fn set_cut(&mut self, from: NodeId, to: NodeId, is_cut: bool) {
        self.say(|| format!("-- {from} to {to}: {}", if is_cut { "cut" } else { "healed" }));
        if is_cut {
            self.network.cuts.insert((from, to));
            return;
        }
        self.network.cuts.remove(&(from, to));
        let late: Vec<(LinkId, usize)> = self
            .network
            .links
            .iter()
            .filter(|(_, link)| link.nodes.contains(&from) && link.nodes.contains(&to))
            .map(|(id, link)| (*id, link.ends[link.end_of(to)].inbox.len()))
            .collect();
        for (link, count) in late {
            for _ in 0..count {
                self.at(self.now, Happening::Arrives { node: to, link });
            }
        }
    }

    /// Cuts or heals both directions.
    pub fn set_cut_both(&mut self, nodes: [NodeId; 2], is_cut: bool) {
        self.set_cut(nodes[0], nodes[1], is_cut);
        self.set_cut(nodes[1], nodes[0], is_cut);
    }
}
