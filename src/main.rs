//! twinblk: a replicated block device in user space.

mod control_protocol;

fn main() {}
