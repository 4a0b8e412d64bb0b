//! The on-disk format: golden images, every flipped bit, and the tables of docs/FORMAT.md.
//!
//! After an intended change of the format (new version, line in the history, new folder):
//! `cargo test --test format -- --ignored write_the_golden_images`

mod document;
mod golden;
