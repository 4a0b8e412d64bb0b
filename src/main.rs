//! twinblk: a replicated block device in user space.

mod config_file;
mod control_protocol;

fn main() {}
