//! The laws that the world holds its nodes to, one for each invariant, each in a file of its own. They look at the world
//! from outside: what is on the disks, what was sent, what clients were told; never at what a replica thinks of itself
//! (`marks` does, and checks that it is sane). A broken law panics with the word "violation", like a broken assert of
//! the core.

pub mod branches;
pub mod convergence;
pub mod durability;
pub mod generations;
pub mod inconsistent_disk;
pub mod journal_view;
pub mod marked_blocks;
pub mod marks;
pub mod same_volume;
pub mod single_primary;
pub mod split_brain;
pub mod stable_data;
pub mod tail;
pub mod watch;
