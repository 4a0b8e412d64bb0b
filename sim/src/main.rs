//! Deterministic simulator.
fn main() {}
