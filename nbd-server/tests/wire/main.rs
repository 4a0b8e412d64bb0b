//! The crate as a client meets it: bytes in, bytes out, held against the tables of the protocol document.
//!
//! Everything goes through the public interface. What one function alone decides is tested beside that function.

mod client;
mod fragments;
mod hostile;
mod meta_contexts;
mod options;
mod replies;
mod requests;
