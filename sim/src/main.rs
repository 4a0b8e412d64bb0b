//! Runs seeds and prints how to repeat what fails.
fn main() {}
