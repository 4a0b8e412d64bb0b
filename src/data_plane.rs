//! The data plane of a resource: one thread, one ring. It carries out what the replica decides and tells it what
//! came of it; it moves bytes between sockets, journal and data area, and takes no decision of its own.

pub mod backing_device;
pub mod buffers;
pub mod ring;
pub mod round;
