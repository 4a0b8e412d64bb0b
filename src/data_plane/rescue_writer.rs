//! Writes what a node discards into a file, on a thread of its own: whatever that file's disk does, the data plane does
//! not wait for it.
//!
//! Rule: a file is made, never overwritten; its last block, without which it is no image, is written when everything else
//! is on stable storage; and a rescue that comes to nothing leaves no file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use replicator::event::Event;
use replicator::layout::rescue_image::{RangeTotals, RescueHead, RescueImage, RescuedRange};
use replicator::rescue::{RescueStep, RescueWork, Save};
use replicator::units::{BLOCK_SIZE, BlockRange, bytes_u64};
use thiserror::Error;

use crate::clock;

/// Where rescues are kept.
#[derive(Clone, Debug)]
pub struct RescueSettings {
    /// The folder for files that nobody has named.
    pub folder: PathBuf,
    /// What their names begin with: resource and node.
    pub stem: String,
    /// Most bytes that a file may take.
    pub bytes_max: Option<u64>,
}

/// Why a step failed.
#[derive(Debug, Error)]
enum StepError {
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    #[error("{}: {needed} bytes are needed and {free} are free", folder.display())]
    NoRoom { folder: PathBuf, needed: u64, free: u64 },
    #[error("{needed} bytes are needed, and `size-max` of [rescue] allows {allowed}")]
    TooLarge { needed: u64, allowed: u64 },
    #[error("no file was begun")]
    NotBegun,
}

/// The data plane's end of the thread.
#[derive(Debug)]
pub struct RescueWriter {
    settings: RescueSettings,
    counter: Arc<OwnedFd>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    orders: Sender<(RescueStep, RescueWork)>,
    outcomes: Receiver<Event>,
}

impl RescueWriter {
    /// Nothing runs before it is needed. `counter` is added to after each step.
    #[must_use]
    pub fn new(settings: RescueSettings, counter: Arc<OwnedFd>) -> Self {
        Self { settings, counter, running: None }
    }

    /// Has a step done. Never waits; the error is what the replica is to be told.
    pub fn order(&mut self, step: RescueStep, work: RescueWork) -> Option<Event> {
        let failed = |reason: String| Some(Event::RescueFailed { step, reason });
        if self.running.is_none() {
            match self.start() {
                Ok(running) => self.running = Some(running),
                Err(error) => return failed(format!("no thread to write with: {error}")),
            }
        }
        let sent = self.running.as_ref().is_some_and(|running| running.orders.send((step, work)).is_ok());
        if sent { None } else { failed("the thread that writes has ended".to_owned()) }
    }

    /// What has become of steps since the last call.
    pub fn outcomes(&self) -> impl Iterator<Item = Event> + '_ {
        self.running.iter().flat_map(|running| running.outcomes.try_iter())
    }

    fn start(&self) -> io::Result<Running> {
        let (orders, ordered) = mpsc::channel();
        let (tell, outcomes) = mpsc::channel();
        let (settings, counter) = (self.settings.clone(), self.counter.clone());
        let body = move || {
            let mut files = RescueFiles { settings, open: None };
            while let Ok((step, work)) = ordered.recv() {
                let Some(outcome) = files.carry_out(step, work) else { continue };
                if tell.send(outcome).is_err() || rustix::io::write(&*counter, &1_u64.to_ne_bytes()).is_err()
                {
                    return;
                }
            }
        };
        thread::Builder::new().name("rescue".into()).spawn(body)?;
        Ok(Running { orders, outcomes })
    }
}

/// The thread's work.
#[derive(Debug)]
struct RescueFiles {
    settings: RescueSettings,
    open: Option<OpenRescue>,
}

/// A file that is being written. What is not finished when it is dropped is taken away.
#[derive(Debug)]
struct OpenRescue {
    rescue: u64,
    path: PathBuf,
    /// The nearest folder above it that was there before: those below were made for it.
    oldest_folder: PathBuf,
    file: File,
    head: RescueHead,
    begun: u64,
    totals: RangeTotals,
    /// Bytes that the ranges take so far.
    ranges_bytes: u64,
    /// Bytes of blocks written so far.
    block_bytes: u64,
    is_finished: bool,
}

impl Drop for OpenRescue {
    fn drop(&mut self) {
        if !self.is_finished {
            // Nobody is left to be told; a file without a last block is no image.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl RescueFiles {
    fn carry_out(&mut self, step: RescueStep, work: RescueWork) -> Option<Event> {
        let done = match work {
            RescueWork::Check { save, bytes } => self.check(&save, bytes),
            RescueWork::Begin { save, bytes, head } => self.begin(step.rescue, &save, bytes, *head),
            RescueWork::Write { range, pieces, ranges } => self.write(range, &pieces, &ranges),
            RescueWork::End => self.finish(),
            RescueWork::Drop => {
                self.open.take_if(|open| open.rescue == step.rescue);
                return None;
            }
        };
        Some(match done {
            Ok(path) => Event::RescueDone { step, file: path.display().to_string() },
            Err(error) => {
                self.open = None;
                Event::RescueFailed { step, reason: error.to_string() }
            }
        })
    }

    /// Where the file would be, if it may be made.
    fn check(&self, save: &Save, bytes: u64) -> Result<PathBuf, StepError> {
        let path = match save {
            Save::To(path) => path.clone(),
            Save::ByDefault | Save::No => {
                let stamp = clock::utc(clock::seconds()).replace(['-', ':'], "");
                self.settings.folder.join(format!("{}-{stamp}.rescue", self.settings.stem))
            }
        };
        if path.symlink_metadata().is_ok() {
            return Err(StepError::Exists(path));
        }
        self.check_size(bytes)?;
        // The configured folder may have to be made; then its file system is that of the nearest one that is there.
        let nearest = match save {
            Save::To(_) => folder_of(&path),
            Save::ByDefault | Save::No => nearest_folder(folder_of(&path)),
        };
        let space = rustix::fs::statvfs(nearest)
            .map_err(|errno| StepError::File { path: nearest.into(), error: errno.into() })?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < bytes {
            return Err(StepError::NoRoom { folder: nearest.into(), needed: bytes, free });
        }
        Ok(path)
    }

    fn check_size(&self, needed: u64) -> Result<(), StepError> {
        match self.settings.bytes_max {
            Some(allowed) if needed > allowed => Err(StepError::TooLarge { needed, allowed }),
            Some(_) | None => Ok(()),
        }
    }

    fn begin(
        &mut self,
        rescue: u64,
        save: &Save,
        bytes: u64,
        head: RescueHead,
    ) -> Result<PathBuf, StepError> {
        self.open = None;
        let path = self.check(save, bytes)?;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => StepError::Exists(path.clone()),
            _ => StepError::File { path: path.clone(), error },
        };
        let oldest_folder = nearest_folder(folder_of(&path)).to_owned();
        if *save == Save::ByDefault {
            std::fs::create_dir_all(folder_of(&path)).map_err(failed)?;
        }
        // It holds what was in the volume: nobody but the owner may read that.
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let open = OpenRescue {
            rescue,
            path: path.clone(),
            oldest_folder,
            file,
            begun: clock::seconds(),
            totals: RangeTotals::default(),
            ranges_bytes: 0,
            block_bytes: 0,
            is_finished: false,
            head,
        };
        open.file.set_len(open.head.volume_bytes).map_err(failed)?;
        self.open = Some(open);
        Ok(path)
    }

    fn write(
        &mut self,
        range: BlockRange,
        pieces: &[bytes::Bytes],
        ranges: &[RescuedRange],
    ) -> Result<PathBuf, StepError> {
        let open = self.open.as_mut().ok_or(StepError::NotBegun)?;
        let path = open.path.clone();
        open.write(range, pieces, ranges).map_err(|error| StepError::File { path: path.clone(), error })?;
        let written = open.block_bytes + open.ranges_bytes;
        self.check_size(written)?;
        Ok(path)
    }

    fn finish(&mut self) -> Result<PathBuf, StepError> {
        let mut open = self.open.take().ok_or(StepError::NotBegun)?;
        let path = open.path.clone();
        open.finish().map_err(|error| StepError::File { path: path.clone(), error })?;
        Ok(path)
    }
}

impl OpenRescue {
    /// Puts blocks at their place, those of zeroes as holes, and lists ranges behind the volume.
    fn write(
        &mut self,
        range: BlockRange,
        pieces: &[bytes::Bytes],
        ranges: &[RescuedRange],
    ) -> io::Result<()> {
        let mut offset = range.byte_offset();
        for block in pieces.iter().flat_map(|piece| piece.chunk_by_zero()) {
            if !block.is_zero {
                self.file.write_all_at(block.bytes, offset)?;
                self.block_bytes += bytes_u64(block.bytes.len());
            }
            offset += bytes_u64(block.bytes.len());
        }
        let bytes = self.totals.encode(ranges);
        self.file.write_all_at(&bytes, self.head.volume_bytes + self.ranges_bytes)?;
        self.ranges_bytes += bytes_u64(bytes.len());
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let image = RescueImage { head: self.head.clone(), begun: self.begun, totals: self.totals };
        self.file.set_len(image.last_block_offset())?;
        self.file.sync_all()?;
        self.file.write_all_at(&image.encode(), image.last_block_offset())?;
        self.file.sync_all()?;
        for folder in folder_of(&self.path).ancestors() {
            File::open(folder)?.sync_all()?;
            if folder == self.oldest_folder {
                break;
            }
        }
        self.is_finished = true;
        Ok(())
    }
}

fn nearest_folder(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whole blocks that are all zero, or all not.
struct Run<'a> {
    bytes: &'a [u8],
    is_zero: bool,
}

trait ChunkByZero {
    fn chunk_by_zero(&self) -> Vec<Run<'_>>;
}

impl ChunkByZero for bytes::Bytes {
    fn chunk_by_zero(&self) -> Vec<Run<'_>> {
        let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
        let blocks: Vec<&[u8]> = self.chunks(BLOCK_SIZE).collect();
        let mut runs = Vec::new();
        let mut at = 0;
        for alike in blocks.chunk_by(|one, next| is_zero(one) == is_zero(next)) {
            let length: usize = alike.iter().map(|block| block.len()).sum();
            runs.push(Run { bytes: &self[at..at + length], is_zero: is_zero(alike[0]) });
            at += length;
        }
        runs
    }
}

#[cfg(test)]
mod tests;
