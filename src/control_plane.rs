//! placeholder
mod backoff;
mod control_socket;
mod events;
#[cfg(test)]
mod fake_plane;
mod limit;
mod link_handshake;
mod listen;
mod nbd_listener;
mod peer_link;
mod plane_link;
mod systemd;
mod tiebreaker;
