//! twinblk: a replicated block device in user space.

mod data_plane;

fn main() {}
