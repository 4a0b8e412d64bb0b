//! twinblk: a replicated block device in user space.
fn main() {}
