//! Measures a pair.
fn main() {}
