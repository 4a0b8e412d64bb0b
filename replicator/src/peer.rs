//! The link to another voter: frames, messages, handshake.

pub mod frame;
pub mod message;
