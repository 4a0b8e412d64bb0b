//! The writers: a thread and a connection each, sending messages as fast as they are acknowledged, and going over
//! to another Primary when theirs is gone.
//!
//! Rule: a connection may break only after the volume was withdrawn; any other trouble ends the demo.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::mailbox::{Mailbox, Placed};
use super::message::Found;
use super::volume::Volume;

/// Bytes that one writer delivers in a second at most: mail comes as fast as it is sent, not as fast as disks are.
/// And a node that is dead for a while can catch up from the journal.
const WRITER_BYTES_PER_SECOND: u64 = 6 << 20;
/// How much of a pause a writer makes up for.
const BURST: Duration = Duration::from_millis(200);

/// How many of its newest messages a writer reads back after a takeover, before they may be overwritten.
const NEWEST_CHECKED: usize = 64;
/// How long a new Primary may take until it lets clients in.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// What the writers have done so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Messages acknowledged.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Longest time in which no writer got an acknowledgement.
    pub longest_pause: Duration,
    /// Messages that were in flight when a Primary died.
    pub in_flight: u64,
    /// How many of them had arrived all the same.
    pub arrived: u64,
    /// What is wrong with acknowledged messages.
    pub lost: Vec<Lost>,
    last: Option<Instant>,
}

/// An acknowledged message that is not where it was put.
#[derive(Clone, Copy, Debug)]
pub struct Lost {
    /// Which, and where.
    pub placed: Placed,
    /// What is there instead.
    pub found: Found,
}

#[derive(Debug, Default)]
struct State {
    /// Where the volume is served; nothing while no node is Primary.
    socket: Option<PathBuf>,
    /// How often the volume was withdrawn.
    epoch: u64,
    is_stopping: bool,
    tally: Tally,
    failure: Option<String>,
}

/// What the writers and their master share.
#[derive(Debug, Default)]
struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

/// The writers at work.
#[derive(Debug)]
pub struct Writers {
    board: Arc<Board>,
    threads: Vec<JoinHandle<Mailbox>>,
}

impl Writers {
    /// Starts a writer for each mailbox. They wait until a volume is offered.
    ///
    /// # Errors
    /// There is no room for threads.
    pub fn start(export: &'static str, mailboxes: Vec<Mailbox>) -> anyhow::Result<Self> {
        let board = Arc::new(Board::default());
        let mut threads = Vec::new();
        for mailbox in mailboxes {
            let mut writer = Writer { board: Arc::clone(&board), export, mailbox, unacknowledged: None };
            let builder = std::thread::Builder::new().name("writer".to_owned());
            threads.push(builder.spawn(move || {
                writer.work();
                writer.mailbox
            })?);
        }
        Ok(Self { board, threads })
    }

    /// The volume is served behind `socket` from now on.
    pub fn offer(&self, socket: &Path) {
        self.board.lock().socket = Some(socket.to_owned());
        self.board.changed.notify_all();
    }

    /// The node that serves the volume is about to die.
    pub fn withdraw(&self) {
        let mut state = self.board.lock();
        state.socket = None;
        state.epoch += 1;
    }

    /// What they have done so far.
    ///
    /// # Errors
    /// A writer met trouble that it must not meet.
    pub fn tally(&self) -> anyhow::Result<Tally> {
        let state = self.board.lock();
        match &state.failure {
            None => Ok(state.tally.clone()),
            Some(failure) => anyhow::bail!("a writer met trouble that nobody had ordered: {failure}"),
        }
    }

    /// Lets every writer finish its message, and gives back what they know.
    ///
    /// # Errors
    /// As [`Self::tally`].
    pub fn stop(mut self) -> anyhow::Result<(Vec<Mailbox>, Tally)> {
        self.board.stop();
        let ended = self.threads.drain(..).map(|thread| thread.join().expect("a writer does not panic"));
        let mailboxes = ended.collect();
        Ok((mailboxes, self.tally()?))
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.board.stop();
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().is_stopping = true;
        self.changed.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.lock().is_stopping
    }

    /// Where the volume is, and since which withdrawal; nothing when it is time to stop.
    fn volume(&self) -> Option<(PathBuf, u64)> {
        let mut state = self.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            if let Some(socket) = &state.socket {
                return Some((socket.clone(), state.epoch));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the next message is due. False if the writers stop.
    fn wait_until(&self, due: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if state.is_stopping || left.is_zero() {
                return !state.is_stopping;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn acknowledged(&self, placed: Placed) {
        let mut state = self.lock();
        let now = Instant::now();
        let tally = &mut state.tally;
        let pause = tally.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        tally.longest_pause = tally.longest_pause.max(pause);
        tally.last = Some(now);
        tally.messages += 1;
        tally.bytes += u64::from(placed.message.length);
    }

    /// A connection of this epoch broke. Fine if the volume was withdrawn since.
    fn broken(&self, epoch: u64, error: &std::io::Error) {
        let mut state = self.lock();
        if state.epoch == epoch && !state.is_stopping {
            state.failure.get_or_insert(error.to_string());
            state.is_stopping = true;
            self.changed.notify_all();
        }
    }
}

/// One writer.
struct Writer {
    board: Arc<Board>,
    export: &'static str,
    mailbox: Mailbox,
    /// Sent, perhaps, when the connection broke.
    unacknowledged: Option<Placed>,
}

impl Writer {
    fn work(&mut self) {
        let mut last_epoch = 0;
        while let Some((socket, epoch)) = self.board.volume() {
            let is_takeover = epoch != last_epoch;
            last_epoch = epoch;
            let ended = self.connect(&socket, epoch).and_then(|mut volume| {
                if is_takeover {
                    self.look_back(&mut volume)?;
                }
                self.write(&mut volume)
            });
            if let Err(error) = ended {
                self.board.broken(epoch, &error);
            }
        }
    }

    fn connect(&self, socket: &Path, epoch: u64) -> std::io::Result<Volume> {
        let deadline = Instant::now() + CONNECT_LIMIT;
        loop {
            match Volume::connect(socket, self.export) {
                Ok(volume) => return Ok(volume),
                Err(error) if Instant::now() >= deadline || self.board.is_stopping() => return Err(error),
                Err(_) => {
                    let state = self.board.lock();
                    let is_withdrawn = |state: &mut State| state.epoch == epoch && !state.is_stopping;
                    let waited = self.board.changed.wait_timeout_while(state, RETRY_AFTER, is_withdrawn);
                    drop(waited);
                }
            }
        }
    }

    /// After a takeover: is everything there that was acknowledged last, and what became of what was not?
    fn look_back(&mut self, volume: &mut Volume) -> std::io::Result<()> {
        for placed in self.mailbox.newest(NEWEST_CHECKED) {
            if let Some(lost) = check(volume, placed)? {
                self.board.lock().tally.lost.push(lost);
            }
        }
        if let Some(placed) = self.unacknowledged {
            let has_arrived = check(volume, placed)?.is_none();
            let mut state = self.board.lock();
            state.tally.in_flight += 1;
            state.tally.arrived += u64::from(has_arrived);
        }
        Ok(())
    }

    fn write(&mut self, volume: &mut Volume) -> std::io::Result<()> {
        let mut due = Instant::now();
        while self.board.wait_until(due) {
            // What was cut off is sent again, as a mail server would.
            let placed = self.unacknowledged.unwrap_or_else(|| self.mailbox.next());
            self.unacknowledged = Some(placed);
            volume.write_and_flush(placed.offset, &placed.message.encode())?;
            self.unacknowledged = None;
            self.mailbox.acknowledge(placed);
            self.board.acknowledged(placed);
            let length = u64::from(placed.message.length);
            due = due.max(Instant::now() - BURST)
                + Duration::from_micros(length * 1_000_000 / WRITER_BYTES_PER_SECOND);
        }
        Ok(())
    }
}

/// What is wrong with a message on the volume, if anything is.
///
/// # Errors
/// The volume cannot be read.
pub fn check(volume: &mut Volume, placed: Placed) -> std::io::Result<Option<Lost>> {
    let bytes = volume.read(placed.offset, placed.message.length)?;
    let found = placed.message.judge(&bytes);
    Ok((found != Found::Whole).then_some(Lost { placed, found }))
}
