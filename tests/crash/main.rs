//! Power cuts at every write and at every flush. A fake disk keeps what was flushed and any subset of the rest;
//! after each cut the journal is recovered and held against a model of what must be there.

mod fake_disk;
mod journal;
mod node;
mod superblock;
