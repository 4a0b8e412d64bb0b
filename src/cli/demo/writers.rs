//! The writers: a thread and a connection each, sending messages as fast as they are acknowledged, and going over
//! to another Primary when theirs is gone.
//!
//! Rule: a connection may break only after the volume was withdrawn, and at the end if nothing is unacknowledged; any
//! other trouble ends the demo. A place is used again only after its message was read back.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use replicator::units::bytes_u64;

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
    /// Acknowledged messages that were read back before newer ones went over them.
    pub checked: u64,
    /// Writers that got an acknowledgement since the volume was offered last.
    pub served: u32,
    /// Longest time in which no writer got an acknowledgement, the time since the last one included.
    pub longest_pause: Duration,
    /// Messages that were in flight when a Primary died.
    pub in_flight: u64,
    /// How many of them had arrived all the same.
    pub arrived: u64,
    /// What is wrong with acknowledged messages.
    pub lost: Vec<Lost>,
    /// When the last message was acknowledged, or the volume offered first.
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

impl Lost {
    /// Names the message.
    pub fn message(&self) -> (u32, u64) {
        (self.placed.message.writer, self.placed.message.sequence)
    }
}

#[derive(Debug, Default)]
struct State {
    /// Where the volume is served; nothing while no node is Primary.
    socket: Option<PathBuf>,
    /// How often the volume was withdrawn.
    withdrawals: u64,
    is_stopping: bool,
    stopped: Option<Instant>,
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
            let board = Arc::clone(&board);
            let mut writer = Writer { board, export, mailbox, drafted: None, unacknowledged: None };
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
        let mut state = self.board.lock();
        state.socket = Some(socket.to_owned());
        state.tally.served = 0;
        state.tally.last.get_or_insert_with(Instant::now);
        self.board.changed.notify_all();
    }

    /// The node that serves the volume is about to die.
    pub fn withdraw(&self) {
        let mut state = self.board.lock();
        state.socket = None;
        state.withdrawals += 1;
    }

    /// What they have done so far.
    ///
    /// # Errors
    /// A writer met trouble that it must not meet.
    pub fn tally(&self) -> anyhow::Result<Tally> {
        self.board.lock().tally_at(Instant::now())
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

impl State {
    fn tally_at(&self, now: Instant) -> anyhow::Result<Tally> {
        if let Some(failure) = &self.failure {
            anyhow::bail!("a writer met trouble that nobody had ordered: {failure}");
        }
        let mut tally = self.tally.clone();
        // Nobody expects anything after the stop.
        let until = self.stopped.unwrap_or(now);
        let pause = tally.last.map_or(Duration::ZERO, |last| until.saturating_duration_since(last));
        tally.longest_pause = tally.longest_pause.max(pause);
        Ok(tally)
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.is_stopping = true;
        state.stopped.get_or_insert_with(Instant::now);
        drop(state);
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
                return Some((socket.clone(), state.withdrawals));
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

    /// A message was acknowledged: the first of a connection shows that its writer is served.
    fn acknowledged(&self, placed: Placed, withdrawals: u64, nth: u64) {
        let mut state = self.lock();
        let now = Instant::now();
        let is_served = nth == 0 && state.withdrawals == withdrawals;
        let tally = &mut state.tally;
        let pause = tally.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        tally.longest_pause = tally.longest_pause.max(pause);
        tally.last = Some(now);
        tally.messages += 1;
        tally.bytes += u64::from(placed.message.length);
        tally.served += u32::from(is_served);
    }

    /// A connection that was made after so many withdrawals broke. Fine if the volume was withdrawn since, or if it
    /// is the end and nothing is missing.
    fn broken(&self, withdrawals: u64, error: &std::io::Error, unacknowledged: Option<Placed>) {
        let mut state = self.lock();
        let is_end = state.is_stopping && unacknowledged.is_none();
        if state.withdrawals == withdrawals && !is_end {
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
    /// Next in line; what it overwrites is still to be read back.
    drafted: Option<Placed>,
    /// Sent, perhaps, when the connection broke.
    unacknowledged: Option<Placed>,
}

impl Writer {
    fn work(&mut self) {
        let mut last_withdrawals = 0;
        while let Some((socket, withdrawals)) = self.board.volume() {
            let is_takeover = withdrawals != last_withdrawals;
            last_withdrawals = withdrawals;
            let ended = self.connect(&socket, withdrawals).and_then(|mut volume| {
                if is_takeover {
                    self.look_back(&mut volume)?;
                }
                self.write(&mut volume, withdrawals)
            });
            if let Err(error) = ended {
                self.board.broken(withdrawals, &error, self.unacknowledged);
            }
        }
    }

    fn connect(&self, socket: &Path, withdrawals: u64) -> std::io::Result<Volume> {
        let deadline = Instant::now() + CONNECT_LIMIT;
        loop {
            match Volume::connect(socket, self.export) {
                Ok(volume) => return Ok(volume),
                Err(error) if Instant::now() >= deadline || self.board.is_stopping() => return Err(error),
                Err(_) => {
                    let state = self.board.lock();
                    let is_withdrawn =
                        |state: &mut State| state.withdrawals == withdrawals && !state.is_stopping;
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

    fn write(&mut self, volume: &mut Volume, withdrawals: u64) -> std::io::Result<()> {
        let mut due = Instant::now();
        let mut nth = 0;
        while self.board.wait_until(due) {
            // What was cut off is sent again, as a mail server would.
            let placed = match self.unacknowledged {
                Some(placed) => placed,
                None => self.make_room(volume)?,
            };
            self.unacknowledged = Some(placed);
            volume.write_and_flush(placed.offset, &placed.message.encode())?;
            self.unacknowledged = None;
            self.mailbox.acknowledge(placed);
            self.board.acknowledged(placed, withdrawals, nth);
            nth += 1;
            let length = u64::from(placed.message.length);
            due = due.max(Instant::now() - BURST)
                + Duration::from_micros(length * 1_000_000 / WRITER_BYTES_PER_SECOND);
        }
        Ok(())
    }

    /// The next message, after every message in its place was read back.
    fn make_room(&mut self, volume: &mut Volume) -> std::io::Result<Placed> {
        let placed = *self.drafted.get_or_insert_with(|| self.mailbox.next());
        let old = self.mailbox.overwritten_by(placed);
        let mut lost = Vec::new();
        for old in &old {
            lost.extend(check(volume, *old)?);
        }
        let mut state = self.board.lock();
        state.tally.checked += bytes_u64(old.len());
        state.tally.lost.extend(lost);
        drop(state);
        self.mailbox.overwrite(placed);
        self.drafted = None;
        Ok(placed)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> std::io::Error {
        std::io::Error::from(std::io::ErrorKind::TimedOut)
    }

    fn placed() -> Placed {
        Mailbox::new(0, 0..1 << 20, 1).next()
    }

    #[test]
    fn a_message_that_is_never_answered_is_trouble_even_at_the_end() {
        for (unacknowledged, is_trouble) in [(Some(placed()), true), (None, false)] {
            let board = Board::default();
            board.stop();
            board.broken(0, &error(), unacknowledged);
            assert_eq!(board.lock().tally_at(Instant::now()).is_err(), is_trouble);
        }
    }

    #[test]
    fn a_connection_may_break_only_after_the_volume_was_withdrawn() {
        for (withdrawals, is_trouble) in [(0, true), (1, false)] {
            let board = Board::default();
            board.lock().withdrawals = withdrawals;
            board.broken(0, &error(), Some(placed()));
            assert_eq!(board.lock().tally_at(Instant::now()).is_err(), is_trouble);
        }
    }

    #[test]
    fn a_pause_that_has_not_ended_is_a_pause_until_the_stop() {
        let board = Board::default();
        let begun = Instant::now();
        board.acknowledged(placed(), 0, 0);
        let hour = Duration::from_secs(3600);
        let pause_at = |now| board.lock().tally_at(now).expect("no trouble").longest_pause;
        assert!(pause_at(begun + hour) > hour / 2);
        board.stop();
        assert!(pause_at(begun + hour) < hour / 2, "nobody expects anything after the stop");
    }

    #[test]
    fn only_the_first_acknowledgement_of_a_connection_that_is_not_withdrawn_shows_that_a_writer_is_served() {
        let board = Board::default();
        board.lock().withdrawals = 3;
        for (withdrawals, nth, served) in [(2, 0, 0), (3, 0, 1), (3, 1, 1), (3, 0, 2)] {
            board.acknowledged(placed(), withdrawals, nth);
            assert_eq!(board.lock().tally.served, served);
        }
    }
}
