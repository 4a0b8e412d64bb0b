//! The story of the demo: mail traffic, a Primary that dies, another that takes over, a node that returns, and the
//! proof that nothing was lost.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use replicator::prng::Prng;
use replicator::units::bytes_u64;

use super::compare;
use super::figures::{Figures, Takeover, seconds, size, thousands};
use super::interruption::Interruption;
use super::mailbox::Mailbox;
use super::pair::Pair;
use super::site::{RESOURCE, Side};
use super::volume::Volume;
use super::writers::{self, Lost, Tally, Writers};

/// Writers, a connection each.
const WRITERS: u32 = 4;
/// How long writing goes on between two steps at least, so that each step has something to do.
const PHASE_MIN: Duration = Duration::from_millis(700);
/// How often the progress display moves.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// How long a new Primary may take until every writer has had an acknowledgement.
const SERVE_LIMIT: Duration = Duration::from_secs(30);
/// Lost messages that are listed.
const LOST_SHOWN: usize = 20;

/// What a trial is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long to write.
    pub writing: Duration,
    /// How often to kill a Primary.
    pub kills: u32,
    /// Where all chance comes from.
    pub seed: u64,
}

/// A trial under way.
struct Trial<'p> {
    pair: &'p mut Pair,
    interruption: &'p Interruption,
    plan: Plan,
    chance: Prng,
    writers: Writers,
    primary: Side,
    begun: Instant,
    takeovers: Vec<Takeover>,
    progress: ProgressBar,
}

/// Runs the story on a pair that runs, up to the clean end of its processes.
///
/// # Errors
/// Something else went wrong than the loss of a message, which is in the figures.
pub fn run(mut pair: Pair, plan: Plan, interruption: &Interruption) -> anyhow::Result<Figures> {
    let mut chance = Prng::new(plan.seed);
    let region_bytes = pair.site().size_bytes() / u64::from(WRITERS);
    let regions = (0..WRITERS).map(|writer| u64::from(writer) * region_bytes);
    let mailboxes = regions
        .zip(0..)
        .map(|(start, writer)| Mailbox::new(writer, start..start + region_bytes, chance.draw()));
    let writers = Writers::start(RESOURCE, mailboxes.collect())?;
    let mut trial = Trial {
        interruption,
        plan,
        chance,
        writers,
        primary: Side::A,
        begun: Instant::now(),
        takeovers: Vec::new(),
        progress: progress_bar(plan.writing),
        pair: &mut pair,
    };
    trial.pair.promote(Side::A)?;
    trial.say("two replicas and a tiebreaker run; a is Primary, four writers send mail");
    trial.serve(Side::A)?;
    for done in 0..plan.kills {
        trial.takeover(plan.kills - done)?;
    }
    let left = plan.writing.saturating_sub(trial.begun.elapsed());
    trial.write_for(left.max(PHASE_MIN))?;
    trial.expect_more()?;
    let (mut figures, primary) = trial.finish()?;
    pair.wait_until_written_back(primary)?;
    pair.demote(primary)?;
    let site = pair.site().clone();
    pair.stop()?;
    let found = compare::compare(&site.data(Side::A), &site.data(Side::B), site.size_bytes())?;
    (figures.compared_blocks, figures.different_blocks) = (found.blocks, found.different);
    if let Some(first) = found.first {
        eprintln!("the first block that differs is {first}");
    }
    Ok(figures)
}

impl Trial<'_> {
    /// Kills the Primary in the middle of the traffic, and goes on until both disks are UpToDate again.
    fn takeover(&mut self, kills_left: u32) -> anyhow::Result<()> {
        let left = self.plan.writing.saturating_sub(self.begun.elapsed());
        let share = (left / (kills_left + 1)).max(2 * PHASE_MIN);
        let before = self.between(share / 4, share);
        self.write_for(before)?;
        let (dead, heir) = (self.primary, self.primary.other());
        let mut takeover = Takeover::of(dead);
        self.writers.withdraw();
        let killed = Instant::now();
        self.pair.kill(dead)?;
        let tally = self.writers.tally()?;
        self.say(&format!(
            "{} is killed (SIGKILL) after {} messages, {}",
            dead.name(),
            thousands(tally.messages),
            size(tally.bytes)
        ));
        self.pair.wait_until_alone(heir)?;
        takeover.lease_seconds = seconds(self.pair.promote(heir)?);
        takeover.promotion_seconds = seconds(killed.elapsed());
        self.primary = heir;
        self.say(&format!(
            "{} is Primary; it waited for the lease of the dead Primary for {:.1} s",
            heir.name(),
            takeover.lease_seconds
        ));
        self.serve(heir)?;
        let alone = self.between(PHASE_MIN, share / 2);
        self.write_until(alone, tally.bytes + self.pair.site().journal_bytes() / 4)?;
        let returned = Instant::now();
        self.pair.start_replica(dead)?;
        self.say(&format!("{} starts again", dead.name()));
        takeover.caught_up_bytes = self.pair.wait_until_synced(heir)?;
        takeover.return_seconds = seconds(returned.elapsed());
        self.say(&format!(
            "{} has caught up with {}; both disks are UpToDate",
            dead.name(),
            size(takeover.caught_up_bytes)
        ));
        self.takeovers.push(takeover);
        self.expect_more()
    }

    /// Sends the writers to a Primary, and demands that each of them gets an acknowledgement.
    fn serve(&self, primary: Side) -> anyhow::Result<()> {
        self.writers.offer(&self.pair.site().nbd_socket(primary));
        let what = format!("{} acknowledges a message of every writer", primary.name());
        self.wait_until(&what, |tally| tally.served == WRITERS)
    }

    /// Demands that messages are acknowledged, from now on.
    fn expect_more(&self) -> anyhow::Result<()> {
        let before = self.writers.tally()?.messages;
        let what = format!("{} acknowledges another message", self.primary.name());
        self.wait_until(&what, |tally| tally.messages > before)
    }

    fn wait_until(&self, what: &str, is_met: impl Fn(&Tally) -> bool) -> anyhow::Result<()> {
        let waited = self.interruption.wait_until(what, SERVE_LIMIT, || Ok(is_met(&self.writers.tally()?)));
        waited.map_err(
            |error| {
                if self.interruption.has_come() { error } else { error.context(self.pair.log_ends()) }
            },
        )
    }

    /// Ends the traffic and reads everything back.
    fn finish(self) -> anyhow::Result<(Figures, Side)> {
        let writing = self.begun.elapsed();
        let (mailboxes, tally) = self.writers.stop()?;
        self.progress.finish_and_clear();
        let elapsed = self.begun.elapsed();
        say(
            elapsed,
            &self.progress,
            "the writers stop; every acknowledged message that is still there is read back",
        );
        let socket = self.pair.site().nbd_socket(self.primary);
        let (checked, lost) = read_back(&socket, &mailboxes, self.interruption)?;
        let mut all_lost: Vec<Lost> = tally.lost.iter().copied().chain(lost).collect();
        // What was missing after a takeover is missing at the end again.
        all_lost.sort_by_key(Lost::message);
        all_lost.dedup_by_key(|lost| lost.message());
        list(&all_lost);
        let figures = Self::count(&self.plan, self.pair.site().size_bytes(), writing, &tally, self.takeovers);
        Ok((
            Figures {
                checked_messages: tally.checked + checked,
                lost_messages: bytes_u64(all_lost.len()),
                ..figures
            },
            self.primary,
        ))
    }

    fn count(
        plan: &Plan,
        size_bytes: u64,
        writing: Duration,
        tally: &Tally,
        takeovers: Vec<Takeover>,
    ) -> Figures {
        let longest = seconds(tally.longest_pause);
        let lease = takeovers.iter().map(|takeover| takeover.lease_seconds).fold(0.0, f64::max);
        Figures {
            schema: 1,
            seed: plan.seed,
            size_bytes,
            seconds: seconds(writing),
            acknowledged_messages: tally.messages,
            acknowledged_bytes: tally.bytes,
            checked_messages: 0,
            lost_messages: 0,
            in_flight_messages: tally.in_flight,
            arrived_messages: tally.arrived,
            longest_pause_seconds: longest,
            longest_pause_lease_seconds: lease.min(longest),
            caught_up_bytes: takeovers.iter().map(|takeover| takeover.caught_up_bytes).sum(),
            takeovers,
            compared_blocks: 0,
            different_blocks: 0,
        }
    }

    fn write_for(&self, duration: Duration) -> anyhow::Result<()> {
        self.write_until(duration, u64::MAX)
    }

    /// Lets the writers write this long, or until they have written so much in all.
    fn write_until(&self, duration: Duration, bytes_max: u64) -> anyhow::Result<()> {
        let until = Instant::now() + duration;
        loop {
            let tally = self.writers.tally()?;
            self.progress
                .set_position(u64::try_from(self.begun.elapsed().as_millis()).expect("not that long"));
            self.progress.set_message(format!(
                "{} messages, {}",
                thousands(tally.messages),
                size(tally.bytes)
            ));
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || tally.bytes >= bytes_max {
                return Ok(());
            }
            self.interruption.pause(left.min(SHOW_EVERY))?;
        }
    }

    /// A random length of time.
    fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let spread = u64::try_from(longest.saturating_sub(shortest).as_micros()).expect("not that long");
        shortest + Duration::from_micros(self.chance.draw() % (spread + 1))
    }

    fn say(&self, text: &str) {
        say(self.begun.elapsed(), &self.progress, text);
    }
}

/// A line of the story, above the progress display.
fn say(elapsed: Duration, progress: &ProgressBar, text: &str) {
    progress.suspend(|| eprintln!("{:6.1} s  {text}", elapsed.as_secs_f64()));
}

fn progress_bar(writing: Duration) -> ProgressBar {
    let bar = ProgressBar::new(u64::try_from(writing.as_millis()).expect("not that long"));
    let style = ProgressStyle::with_template("          {bar:40} {msg}");
    bar.with_style(style.expect("the template is constant"))
}

/// Reads every message that must be there; says how many, and what is wrong.
fn read_back(
    socket: &std::path::Path,
    mailboxes: &[Mailbox],
    interruption: &Interruption,
) -> anyhow::Result<(u64, Vec<Lost>)> {
    let mut volume = Volume::connect(socket, RESOURCE)?;
    let (mut checked, mut lost) = (0, Vec::new());
    for placed in mailboxes.iter().flat_map(Mailbox::kept) {
        interruption.pause(Duration::ZERO)?;
        checked += 1;
        lost.extend(writers::check(&mut volume, placed)?);
    }
    Ok((checked, lost))
}

fn list(lost: &[Lost]) {
    for Lost { placed, found } in lost.iter().take(LOST_SHOWN) {
        let message = placed.message;
        eprintln!(
            "LOST: message {} of writer {}, {} bytes at {}: there is {found:?}",
            message.sequence, message.writer, message.length, placed.offset
        );
    }
}
