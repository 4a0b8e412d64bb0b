//! Generations: what the data of a node descends from, and what two nodes are to each other.

pub mod compare;
pub mod lineage;
pub mod rule;
pub mod split_brain;
pub mod why;
