//! The link to another voter: frames, messages, handshake.

mod check;
pub mod codec;
pub mod fields;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod message_type;
