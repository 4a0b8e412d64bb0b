//! The data plane of a resource: one thread, one ring. It carries out what the replica decides and tells it what
//! came of it; it moves bytes between sockets, journal and data area, and takes no decision of its own.

pub mod backing_device;
pub mod buffers;
pub mod busy_poll;
pub mod continuity;
pub mod core;
pub mod event_loop;
pub mod inflow;
pub mod memory_budget;
pub mod nbd_connection;
pub mod outflow;
pub mod peer_connection;
pub mod rescue_writer;
pub mod ring;
pub mod round;
pub mod send_now;
pub mod spawn;
