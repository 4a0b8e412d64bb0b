//! How many bytes of requests and replies clients may keep in this node's memory, all together. First come, first
//! served, but every connection has a small share of its own: clients that do not take their replies slow nobody down
//! who stays within his. What a client leaves behind that goes away counts until the replica is done with it: else a
//! client that comes back again and again during a freeze would fill the memory.

use std::collections::{BTreeMap, VecDeque};

use replicator::units::{RequestId, Tick};

use crate::data_plane::round::ClientId;

/// Most bytes in flight over all connections.
pub const ALL_CLIENTS_BYTES_MAX: u64 = 128 << 20;
/// Most bytes in flight of one connection.
pub const CLIENT_BYTES_MAX: u64 = 64 << 20;
/// So much of every connection is always admitted, so that a crowd of large requests, or of replies that nobody reads,
/// never stops small ones, however many are in flight. With every connection that may be there it is bounded too.
const SHARE_BYTES: u64 = 1 << 20;

/// The budget.
#[derive(Debug, Default)]
pub struct MemoryBudget {
    used: u64,
    /// Bytes of requests that the replica works on for nobody.
    left_behind: BTreeMap<RequestId, u64>,
    left_bytes: u64,
    waiting: VecDeque<ClientId>,
    /// Since when somebody has been waiting.
    waits_since: Option<Tick>,
}

impl MemoryBudget {
    /// Takes `bytes` for a connection that holds `held` already. If there is no room, the connection waits in line
    /// and asks again when it is [`MemoryBudget::next_in_line`].
    pub fn try_reserve(&mut self, client: ClientId, held: u64, bytes: u64, now: Tick) -> bool {
        // Whoever is gone had his share; clients that come and go must not have one each time.
        let is_within_share = held + bytes <= SHARE_BYTES && self.left_bytes < ALL_CLIENTS_BYTES_MAX;
        let fits_client = held == 0 || held + bytes <= CLIENT_BYTES_MAX;
        let is_next = self.waiting.front().is_none_or(|first| *first == client);
        let fits_all = is_next && (self.used == 0 || self.used + bytes <= ALL_CLIENTS_BYTES_MAX);
        if fits_client && (is_within_share || fits_all) {
            self.leave_line(client);
            self.used += bytes;
            return true;
        }
        // A connection over its own bound waits for its own replies, not for others.
        if fits_client && !self.waiting.contains(&client) {
            self.waiting.push_back(client);
            self.waits_since.get_or_insert(now);
        }
        false
    }

    /// Gives bytes back.
    pub fn release(&mut self, bytes: u64) {
        assert!(bytes <= self.used, "{bytes} bytes are released, {} are held", self.used);
        self.used -= bytes;
    }

    /// The client of a request is gone; its bytes are given back when the replica is done with it.
    pub fn leave_behind(&mut self, id: RequestId, bytes: u64) {
        self.left_behind.insert(id, bytes);
        self.left_bytes += bytes;
    }

    /// The replica is done with a request.
    pub fn on_request_ended(&mut self, id: RequestId) {
        if let Some(bytes) = self.left_behind.remove(&id) {
            self.left_bytes -= bytes;
            self.release(bytes);
        }
    }

    /// The replica has forgotten every request.
    pub fn on_requests_forgotten(&mut self) {
        self.left_behind.clear();
        self.release(self.left_bytes);
        self.left_bytes = 0;
    }

    /// Who asks again when there is room.
    #[must_use]
    pub fn next_in_line(&self) -> Option<ClientId> {
        self.waiting.front().copied()
    }

    /// Since when there has always been somebody in line.
    #[must_use]
    pub fn waits_since(&self) -> Option<Tick> {
        self.waits_since
    }

    /// Forgets that a connection waits.
    pub fn leave_line(&mut self, client: ClientId) {
        self.waiting.retain(|waiting| *waiting != client);
        if self.waiting.is_empty() {
            self.waits_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const NOW: Tick = Tick(5);

    #[test]
    fn one_connection_is_bounded_and_leaves_room_for_others() {
        let mut budget = MemoryBudget::default();
        assert!(budget.try_reserve(ClientId(1), 0, 32 * MIB, NOW));
        assert!(budget.try_reserve(ClientId(1), 32 * MIB, 32 * MIB, NOW));
        assert!(!budget.try_reserve(ClientId(1), 64 * MIB, 1, NOW));
        assert_eq!(budget.next_in_line(), None);
        assert!(budget.try_reserve(ClientId(2), 0, 32 * MIB, NOW));
    }

    #[test]
    fn what_a_client_leaves_behind_counts_until_the_replica_is_done_with_it() {
        let mut budget = MemoryBudget::default();
        for client in 1..=2 {
            assert!(budget.try_reserve(ClientId(client), 0, 64 * MIB, NOW));
            budget.leave_behind(RequestId(client), 64 * MIB);
        }
        assert!(!budget.try_reserve(ClientId(3), 0, 4096, NOW), "not even its share");
        budget.on_request_ended(RequestId(1));
        budget.on_request_ended(RequestId(1));
        assert!(budget.try_reserve(ClientId(3), 0, 64 * MIB, NOW));
        assert!(!budget.try_reserve(ClientId(4), 0, 2 * MIB, NOW));
        budget.on_requests_forgotten();
        assert!(budget.try_reserve(ClientId(4), 0, 64 * MIB, NOW));
    }

    #[test]
    fn whoever_waits_is_served_in_order_and_small_requests_pass() {
        let mut budget = MemoryBudget::default();
        for client in 1..=4 {
            assert!(budget.try_reserve(ClientId(client), 0, 32 * MIB, NOW));
        }
        assert!(!budget.try_reserve(ClientId(5), 0, 32 * MIB, NOW));
        assert!(!budget.try_reserve(ClientId(6), 0, 2 * MIB, NOW));
        assert!(budget.try_reserve(ClientId(7), 0, MIB, NOW));
        budget.release(33 * MIB);
        assert!(!budget.try_reserve(ClientId(6), 0, 2 * MIB, NOW), "the line is kept");
        assert_eq!(budget.next_in_line(), Some(ClientId(5)));
        assert!(budget.try_reserve(ClientId(5), 0, 32 * MIB, NOW));
        assert_eq!(budget.next_in_line(), Some(ClientId(6)));
        budget.leave_line(ClientId(6));
        assert_eq!(budget.next_in_line(), None);
    }
}
