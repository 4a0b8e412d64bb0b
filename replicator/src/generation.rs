//! Generations: what the data of a node descends from.

pub mod lineage;
