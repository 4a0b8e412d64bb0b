//! placeholder
mod backoff;
mod control_socket;
mod events;
#[cfg(test)]
mod fake_plane;
mod limit;
mod listen;
mod nbd_listener;
mod plane_link;
mod systemd;
mod tiebreaker;
