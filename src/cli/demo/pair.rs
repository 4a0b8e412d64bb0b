//! The two replicas and the tiebreaker of a demo, as processes, and the orders that it gives them.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::interruption::Interruption;
use super::lease_watch::LeaseWatch;
use super::process::{Process, log_end, run_to_end};
use super::site::{RESOURCE, Side, Site};
use crate::cli::args::Places;
use crate::cli::client::Client;
use crate::control_protocol::{Command, ReplyBody};

/// How long processes may take to start and to find each other.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a promotion may wait for the lease of a dead Primary and for votes.
const PROMOTE_LIMIT: Duration = Duration::from_secs(60);
/// How long a returning node may take to catch up.
const SYNC_LIMIT: Duration = Duration::from_secs(300);
/// How long write-back may take once nobody writes any more.
const WRITE_BACK_LIMIT: Duration = Duration::from_secs(60);
const DEMOTE_LIMIT: Duration = Duration::from_secs(60);

/// Three processes on one machine.
#[derive(Debug)]
pub struct Pair {
    site: Site,
    interruption: Interruption,
    replicas: [Option<Process>; 2],
    tiebreaker: Option<Process>,
}

impl Pair {
    /// Makes the disks and the tiebreaker's file; nothing runs yet.
    ///
    /// # Errors
    /// The disks cannot be made.
    pub fn make(site: Site, interruption: &Interruption) -> anyhow::Result<Self> {
        for side in Side::BOTH {
            run_to_end(&site.command(side, &["create-metadata", RESOURCE, "--uptodate-zeroed"]))?;
        }
        run_to_end(&site.tiebreaker_command(&["--init"]))?;
        Ok(Self { site, interruption: interruption.clone(), replicas: [None, None], tiebreaker: None })
    }

    /// Where its files are.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Starts all three, and waits until they have found each other.
    ///
    /// # Errors
    /// They do not.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let tiebreaker = Process::start(
            "the tiebreaker",
            &self.site.tiebreaker_log(),
            &self.site.tiebreaker_command(&[]),
        )?;
        self.tiebreaker = Some(tiebreaker);
        for side in Side::BOTH {
            self.start_replica(side)?;
        }
        for side in Side::BOTH {
            self.wait_for(side, "is linked to both others", START_LIMIT, is_linked)?;
        }
        Ok(())
    }

    /// Starts a replica, and does not wait.
    ///
    /// # Errors
    /// There is no room for a process.
    pub fn start_replica(&mut self, side: Side) -> anyhow::Result<()> {
        let command = self.site.command(side, &["run", RESOURCE]);
        let process = Process::start(side.name(), &self.site.log(side), &command)?;
        *self.replica(side) = Some(process);
        Ok(())
    }

    /// Ends a replica in the middle of whatever it does.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn kill(&mut self, side: Side) -> anyhow::Result<()> {
        self.replica(side).take().context("the replica runs")?.kill()
    }

    /// Numbers of the processes of a, b and the tiebreaker that run.
    pub fn process_ids(&self) -> [Option<u32>; 3] {
        let id = |process: &Option<Process>| process.as_ref().map(Process::id);
        [id(&self.replicas[0]), id(&self.replicas[1]), id(&self.tiebreaker)]
    }

    /// The first process that has ended by itself since it was started; it is forgotten.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn take_ended(&mut self) -> anyhow::Result<Option<(String, std::process::ExitStatus)>> {
        for place in self.replicas.iter_mut().chain([&mut self.tiebreaker]) {
            let Some(process) = place else { continue };
            if let Some(status) = process.ended()? {
                let name = process.name().to_owned();
                *place = None;
                return Ok(Some((name, status)));
            }
        }
        Ok(None)
    }

    /// Makes a replica Primary; says how long it waited for the lease of a dead Primary.
    ///
    /// # Errors
    /// It refuses.
    pub fn promote(&mut self, side: Side) -> anyhow::Result<Duration> {
        let wait_ms = u64::try_from(PROMOTE_LIMIT.as_millis()).expect("a minute");
        let watch = LeaseWatch::begin(&self.site.places(side), side)?;
        self.order(side, Command::Promote { wait_ms, peer_is_fenced: false, force: false }, PROMOTE_LIMIT)?;
        Ok(watch.since().map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Waits until a replica has noticed that the other one is gone: before, it refuses to take over.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_until_alone(&mut self, side: Side) -> anyhow::Result<()> {
        self.wait_for(side, "notices the loss of its peer", START_LIMIT, |status| {
            Some(status.pointer("/connections/0/connection-state")? != "Connected")
        })
    }

    /// Makes a replica Secondary.
    ///
    /// # Errors
    /// It refuses.
    pub fn demote(&mut self, side: Side) -> anyhow::Result<()> {
        self.order(side, Command::Demote { force: false }, DEMOTE_LIMIT)
    }

    /// Waits until the peer of this Primary has every write, and says how many bytes it lacked.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_synced(&mut self, primary: Side) -> anyhow::Result<u64> {
        let mut caught_up_kib = 0;
        self.wait_for(primary, "has both disks UpToDate", SYNC_LIMIT, |status| {
            caught_up_kib = status.pointer("/connections/0/peer_devices/0/caught-up")?.as_u64()?;
            is_synced(status)
        })?;
        Ok(caught_up_kib << 10)
    }

    /// Waits until the data area of each replica holds every write.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_until_written_back(&mut self, primary: Side) -> anyhow::Result<()> {
        let mut newest = None;
        self.wait_for(primary, "has written everything back", WRITE_BACK_LIMIT, |status| {
            newest = status.pointer("/lsn/assigned")?.as_u64();
            Some(status.pointer("/lsn/written-back")?.as_u64() == newest)
        })?;
        self.wait_for(primary.other(), "has written everything back", WRITE_BACK_LIMIT, |status| {
            Some(status.pointer("/lsn/written-back")?.as_u64() == newest)
        })
    }

    /// Ends all three in order. An interruption does not cut that short: it may be what asked for the end.
    ///
    /// # Errors
    /// One of them does not.
    pub fn stop(mut self) -> anyhow::Result<()> {
        for place in self.replicas.iter_mut().chain([&mut self.tiebreaker]) {
            if let Some(process) = place.take() {
                process.stop(&Interruption::default())?;
            }
        }
        Ok(())
    }

    fn replica(&mut self, side: Side) -> &mut Option<Process> {
        match side {
            Side::A => &mut self.replicas[0],
            Side::B => &mut self.replicas[1],
        }
    }

    fn order(&mut self, side: Side, command: Command, within: Duration) -> anyhow::Result<()> {
        let places = self.site.places(side);
        let answer_limit = within + Duration::from_secs(10);
        // On a thread of its own, so that an interruption need not wait for the answer.
        let asking = std::thread::spawn(move || {
            match Client::connect(&places, RESOURCE)?.ask(command, Some(answer_limit))? {
                ReplyBody::Done { .. } => Ok(()),
                other => anyhow::bail!("the daemon answered an order with {other:?}"),
            }
        });
        let what = format!("{} answers an order", side.name());
        self.interruption.wait_until(&what, 2 * answer_limit, || Ok(asking.is_finished()))?;
        let answer = asking.join().expect("asking does not panic");
        answer.with_context(|| format!("node {}\n{}", side.name(), log_end(&self.site.log(side))))
    }

    /// Waits until the status of a replica is as wanted.
    fn wait_for(
        &mut self,
        side: Side,
        what: &str,
        within: Duration,
        mut is_as_wanted: impl FnMut(&Value) -> Option<bool>,
    ) -> anyhow::Result<()> {
        let places = self.site.places(side);
        let interruption = self.interruption.clone();
        let mut last = None;
        let waited = interruption.wait_until(&format!("{} {what}", side.name()), within, || {
            for process in self.replicas.iter_mut().chain([&mut self.tiebreaker]).flatten() {
                process.check_alive()?;
            }
            last = status(&places);
            Ok(last.as_ref().is_some_and(|status| is_as_wanted(status) == Some(true)))
        });
        waited.map_err(|error| {
            if interruption.has_come() {
                return error;
            }
            let said = match &last {
                Some(status) => format!("its last status: {status:#}\n"),
                None => String::new(),
            };
            anyhow::anyhow!("the demo failed: {error:#}\n{said}{}", self.log_ends())
        })
    }

    /// The ends of all logs.
    pub fn log_ends(&self) -> String {
        let site = &self.site;
        let logs = [site.log(Side::A), site.log(Side::B), site.tiebreaker_log()];
        logs.map(|log| log_end(&log)).join("\n")
    }
}

/// What a daemon says of itself; nothing while it cannot be asked.
fn status(places: &Places) -> Option<Value> {
    Client::connect(places, RESOURCE).and_then(|mut client| client.status()).ok()
}

fn is_linked(status: &Value) -> Option<bool> {
    let replica = status.pointer("/connections/0/connection-state")?;
    let tiebreaker = status.pointer("/tiebreaker/connection-state")?;
    Some(replica == "Connected" && tiebreaker == "Connected")
}

fn is_synced(status: &Value) -> Option<bool> {
    let own = status.pointer("/devices/0/disk-state")?;
    let peer = status.pointer("/connections/0/peer_devices/0/peer-disk-state")?;
    let replication = status.pointer("/connections/0/peer_devices/0/replication-state")?;
    Some(own == "UpToDate" && peer == "UpToDate" && replication == "Established")
}
