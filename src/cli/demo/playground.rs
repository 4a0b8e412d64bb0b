//! `twinblk demo --serve`: a pair to play with, until somebody interrupts it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use replicator::units::{bytes_u64, bytes_usize};
use rustix::fs::{Advice, FallocateFlags};
use serde_json::json;

use super::interruption::Interruption;
use super::pair::Pair;
use super::site::{RESOURCE, Side, Site};
use crate::config_file::values::show_size;

const LOOK_EVERY: Duration = Duration::from_millis(500);
const FILL_BYTES: u64 = 4 << 20;

/// How the beginning is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// For people.
    Text,
    /// One line of JSON, for programs.
    Json,
}

/// Serves until the interruption.
///
/// # Errors
/// The pair cannot be started, or does not end in order.
pub fn run(mut pair: Pair, announcement: Announcement, interruption: &Interruption) -> anyhow::Result<()> {
    for side in Side::BOTH {
        preallocate(&pair.site().data(side), pair.site().size_bytes())?;
    }
    pair.start()?;
    pair.promote(Side::A)?;
    announce(&pair, announcement)?;
    while interruption.pause(LOOK_EVERY).is_ok() {
        if let Some((name, status)) = pair.take_ended()? {
            eprintln!("{name} has ended ({status}). {}", restart(pair.site(), &name));
        }
    }
    pair.stop()
}

fn announce(pair: &Pair, announcement: Announcement) -> anyhow::Result<()> {
    let site = pair.site();
    let [a, b, tiebreaker] = pair.process_ids();
    let text = match announcement {
        Announcement::Json => {
            let node = |side: Side, pid: Option<u32>| {
                json!({
                    "name": side.name(), "pid": pid, "run-dir": site.run_dir(side), "uri": site.uri(side),
                    "socket": site.nbd_socket(side), "data": site.data(side), "log": site.log(side),
                })
            };
            let nodes = [node(Side::A, a), node(Side::B, b)];
            let all = json!({
                "schema": 1, "resource": RESOURCE, "uri": site.uri(Side::A), "size-bytes": site.size_bytes(),
                "config-dir": site.folder(), "nodes": nodes, "tiebreaker": { "pid": tiebreaker },
            });
            format!("{all}\n")
        }
        Announcement::Text => {
            let shown = |side: Side, command: &[&str]| shell_words(&site.command(side, command));
            format!(
                "A disk of {} on two replicas and a tiebreaker; a is Primary. Interrupt (Ctrl-C) to end.\n\n\
                 \x20 the disk    {}\n\
                 \x20 its state   {}\n\
                 \x20 the other   {}\n\n\
                 Try:\n\
                 \x20 nbdinfo '{}'\n\
                 \x20 kill -9 {}\n\
                 \x20 {}\n",
                show_size(site.size_bytes()),
                site.uri(Side::A),
                shown(Side::A, &["status", RESOURCE]),
                shown(Side::B, &["status", RESOURCE]),
                site.uri(Side::A),
                a.unwrap_or_default(),
                shown(Side::B, &["promote", RESOURCE]),
            )
        }
    };
    let mut output = std::io::stdout();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}

fn restart(site: &Site, name: &str) -> String {
    match Side::BOTH.into_iter().find(|side| side.name() == name) {
        Some(side) => {
            format!("Start it again with `{}`", shell_words(&site.command(side, &["run", RESOURCE])))
        }
        None => format!("Start it again with `{}`", shell_words(&site.tiebreaker_command(&[]))),
    }
}

/// A command line as a shell takes it.
fn shell_words(args: &[std::ffi::OsString]) -> String {
    let program =
        std::env::current_exe().map_or_else(|_| "twinblk".into(), |path| path.display().to_string());
    let plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    let quote = |word: String| if plain(&word) { word } else { format!("'{}'", word.replace('\'', r"'\''")) };
    let args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
    std::iter::once(program).chain(args).map(quote).collect::<Vec<_>>().join(" ")
}

/// Gives a file all of its space and writes every byte of it once, so that no write measured later pays for that.
fn preallocate(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let cannot = || format!("cannot preallocate {}", path.display());
    let file = File::options().read(true).write(true).open(path).with_context(cannot)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(errno).with_context(cannot),
    }
    let mut chunk = vec![0; bytes_usize(FILL_BYTES)];
    let mut done = 0;
    while done < bytes {
        let length = bytes_usize(FILL_BYTES.min(bytes - done));
        // What is there stays there, were it not zero.
        file.read_exact_at(&mut chunk[..length], done).with_context(cannot)?;
        file.write_all_at(&chunk[..length], done).with_context(cannot)?;
        done += bytes_u64(length);
    }
    file.sync_all().with_context(cannot)?;
    // Nobody reads it through the page cache.
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).with_context(cannot)
}
