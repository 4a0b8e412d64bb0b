//! How a replica decides. Pure: no I/O, no clock, no threads, no chance but from a seed.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod generation;
pub mod promotion;
pub mod record;
pub mod units;
