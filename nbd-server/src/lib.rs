//! The server half of the NBD protocol, without I/O.
#![forbid(unsafe_code)]
