//! Processes that die at random moments, under writers that remember what was acknowledged.

use std::time::{Duration, Instant};

use replicator::prng::Prng;
use replicator::units::bytes_u64;

use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter};
use crate::mailbox::Mailbox;
use crate::volume::Volume;
use crate::writers::{self, Tally, Writers};

const WRITERS: u32 = 3;
const REGION_BYTES: u64 = 16 << 20;
/// Behind the writers' regions: what a dead node misses besides, so that it takes a while to catch up.
const BULK_BYTES: u64 = 16 << 20;
const BULK_ROUNDS: u8 = 6;
/// Kills of the long test, if nobody says otherwise: everybody dies at least once in every way.
const ROUNDS: u64 = 8;

/// Who dies, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Primary,
    Secondary,
    Tiebreaker,
    /// The returning node, while it catches up.
    Target,
    /// The Primary, while the other catches up from it.
    Source,
    BothReplicas,
}

impl Death {
    const ALL: [Self; 6] =
        [Self::Primary, Self::Secondary, Self::Tiebreaker, Self::Target, Self::Source, Self::BothReplicas];

    /// So many deaths in random order: each of them once before any comes again.
    fn drawn(count: u64, chance: &mut Prng) -> Vec<Self> {
        let mut deaths = Vec::new();
        while bytes_u64(deaths.len()) < count {
            let mut left = Self::ALL.to_vec();
            while !left.is_empty() {
                let at = chance.draw() % bytes_u64(left.len());
                deaths.push(left.remove(usize::try_from(at).expect("small")));
            }
        }
        deaths.truncate(usize::try_from(count).expect("not that many"));
        deaths
    }
}

/// What a dead node misses must fit into the journal.
fn settings() -> Settings {
    Settings { journal_size: "256MiB", ..Settings::default() }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn seed() -> u64 {
    number_from("TWINBLK_PROCESS_SEED").unwrap_or_else(|| u64::from(std::process::id()))
}

/// A pause that is the test's own input, not a wait for something.
fn let_them_write(chance: &mut Prng, milliseconds_max: u64) {
    let until = Instant::now() + Duration::from_millis(20 + chance.draw() % milliseconds_max);
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

fn start_writers(chance: &mut Prng) -> Writers {
    let region = |writer: u32| {
        let start = u64::from(writer) * REGION_BYTES;
        start..start + REGION_BYTES
    };
    let mailboxes = (0..WRITERS).map(|writer| Mailbox::new(writer, region(writer), chance.draw())).collect();
    Writers::start(RESOURCE, mailboxes).expect("room for threads")
}

/// A cluster under traffic.
struct Trial {
    cluster: Cluster,
    writers: Writers,
    primary: Voter,
}

impl Trial {
    /// A is Primary, and every writer is served.
    fn start(chance: &mut Prng) -> Self {
        let cluster = Cluster::start(&settings());
        cluster.promote(Voter::A);
        let writers = start_writers(chance);
        let mut trial = Self { cluster, writers, primary: Voter::A };
        trial.serve(Voter::A);
        trial
    }

    fn tally(&self) -> Tally {
        self.writers.tally().expect("no trouble but what was ordered")
    }

    /// Sends the writers to a Primary: each of them must get an acknowledgement.
    fn serve(&mut self, primary: Voter) {
        self.primary = primary;
        self.writers.offer(&self.cluster.nbd_socket(primary));
        let Self { cluster, writers, .. } = self;
        cluster.wait_until("every writer is served", SOON, |_| {
            writers.tally().expect("no trouble but what was ordered").served == WRITERS
        });
    }

    /// Messages must still be acknowledged.
    fn expect_more(&mut self) {
        let before = self.tally().messages;
        let Self { cluster, writers, .. } = self;
        cluster.wait_until("another message is acknowledged", SOON, |_| {
            writers.tally().expect("no trouble but what was ordered").messages > before
        });
    }

    /// Kills the Primary; the other one takes over.
    fn fail_over(&mut self) {
        let heir = self.primary.other();
        self.writers.withdraw();
        self.cluster.kill(self.primary);
        self.cluster.take_over(heir);
        self.serve(heir);
    }

    /// Promotes a replica when nobody has been Primary for a while: what both hold was compared. The preferred one may
    /// have died a little earlier than the other one, which then had it recorded as lost: `status` says who can be it.
    fn promote_again(&mut self, preferred: Voter) {
        self.cluster.wait_until_linked();
        let candidates = [preferred, preferred.other()];
        let may_be_promoted = |cluster: &Cluster, replica: Voter| {
            let Some(status) = cluster.status(replica) else { return false };
            let is = |pointer: &str, value: serde_json::Value| status.pointer(pointer) == Some(&value);
            !is("/connections/0/peer_devices/0/replication-state", "Off".into())
                && is("/can-promote/yes", true.into())
        };
        let mut chosen = None;
        self.cluster.wait_until("the replicas agree, and one may be promoted", SOON, |cluster| {
            chosen = candidates.into_iter().find(|replica| may_be_promoted(cluster, *replica));
            chosen.is_some()
        });
        let chosen = chosen.expect("it was waited for");
        self.cluster.promote(chosen);
        self.serve(chosen);
    }

    /// The Secondary was away and has missed so much that it is seen catching up.
    fn begin_catch_up(&mut self) {
        let target = self.primary.other();
        self.cluster.kill(target);
        let mut volume =
            Volume::connect(&self.cluster.nbd_socket(self.primary), RESOURCE).expect("it serves");
        for round in 0..BULK_ROUNDS {
            let megabyte = vec![round; 1 << 20];
            for at in 0..BULK_BYTES >> 20 {
                let offset = u64::from(WRITERS) * REGION_BYTES + (at << 20);
                volume.write_and_flush(offset, &megabyte).expect("the Primary goes on alone");
            }
        }
        drop(volume);
        self.cluster.start_process(target);
        let primary = self.primary;
        self.cluster.wait_until("the other is seen catching up", SOON, |cluster| {
            let state = cluster.value(primary, "/connections/0/peer_devices/0/replication-state");
            state.is_some_and(|state| state == "SyncSource")
        });
    }

    /// Lets them die; whoever died runs again afterwards, and the writers have somebody to write to.
    fn let_die(&mut self, death: Death, chance: &mut Prng) {
        let (primary, secondary) = (self.primary, self.primary.other());
        match death {
            Death::Primary => {
                self.fail_over();
                let_them_write(chance, 500);
                self.cluster.start_process(primary);
            }
            Death::Secondary | Death::Tiebreaker => {
                let victim = if death == Death::Secondary { secondary } else { Voter::Tiebreaker };
                self.cluster.kill(victim);
                let_them_write(chance, 500);
                self.expect_more();
                self.cluster.start_process(victim);
            }
            Death::Target => {
                self.begin_catch_up();
                self.cluster.kill(secondary);
                self.expect_more();
                self.cluster.start_process(secondary);
            }
            Death::Source => {
                self.begin_catch_up();
                self.writers.withdraw();
                self.cluster.kill(primary);
                // The other one does not hold everything that was acknowledged, so nobody can take over.
                self.cluster.start_process(primary);
                self.promote_again(primary);
            }
            Death::BothReplicas => {
                self.writers.withdraw();
                for replica in Voter::REPLICAS {
                    self.cluster.kill(replica);
                }
                for replica in Voter::REPLICAS {
                    self.cluster.start_process(replica);
                }
                self.promote_again(secondary);
            }
        }
        self.cluster.wait_until_linked();
        self.cluster.wait_until_synced(self.primary);
        self.expect_more();
    }

    /// Every acknowledged message was read back before its place was used again, or is now; then both disks are
    /// compared.
    fn check(self) {
        let Self { mut cluster, writers, primary } = self;
        let (mailboxes, tally) = writers.stop().expect("no trouble but what was ordered");
        assert!(tally.messages > 0, "nothing was written");
        assert!(tally.lost.is_empty(), "lost: {:?}", tally.lost);
        let mut volume = Volume::connect(&cluster.nbd_socket(primary), RESOURCE).expect("the Primary serves");
        let mut checked = tally.checked;
        for placed in mailboxes.iter().flat_map(Mailbox::kept) {
            let lost = writers::check(&mut volume, placed).expect("readable");
            assert!(lost.is_none(), "lost: {lost:?}");
            checked += 1;
        }
        assert_eq!(checked, tally.messages, "a message was acknowledged and never read back");
        drop(volume);
        cluster.wait_until_unused(primary);
        cluster.stop_and_compare(primary);
    }
}

#[test]
fn nothing_acknowledged_is_lost_whoever_is_killed_whenever() {
    let seed = seed();
    println!("again: TWINBLK_PROCESS_SEED={seed} cargo test --test process nothing_acknowledged");
    let mut chance = Prng::new(seed);
    let mut trial = Trial::start(&mut chance);
    let rounds = number_from("TWINBLK_PROCESS_ROUNDS").unwrap_or(ROUNDS);
    for (round, death) in Death::drawn(rounds, &mut chance).into_iter().enumerate() {
        let_them_write(&mut chance, 700);
        println!("round {round}: {death:?}, {} is Primary", trial.primary.name());
        trial.let_die(death, &mut chance);
    }
    trial.check();
}

#[test]
fn a_few_rounds_kill_everybody_in_every_way() {
    for seed in 0..50 {
        let deaths = Death::drawn(ROUNDS, &mut Prng::new(seed));
        assert!(Death::ALL.iter().all(|death| deaths.contains(death)), "{seed}: {deaths:?}");
    }
}

#[test]
fn all_processes_die_at_once_and_nothing_acknowledged_is_lost() {
    let mut chance = Prng::new(seed());
    let mut trial = Trial::start(&mut chance);
    let_them_write(&mut chance, 700);
    trial.writers.withdraw();
    for voter in Voter::ALL {
        trial.cluster.kill(voter);
    }
    for voter in Voter::ALL {
        trial.cluster.start_process(voter);
    }
    trial.promote_again(Voter::B);
    trial.cluster.wait_until_synced(trial.primary);
    let_them_write(&mut chance, 300);
    trial.expect_more();
    trial.check();
}
