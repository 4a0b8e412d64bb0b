//! Processes that die at random moments, under writers that remember what was acknowledged.

use std::time::{Duration, Instant};

use replicator::prng::Prng;

use crate::harness::{Cluster, RESOURCE, Settings, Voter};
use crate::mailbox::Mailbox;
use crate::volume::Volume;
use crate::writers::{self, Writers};

const WRITERS: u32 = 3;
const REGION_BYTES: u64 = 16 << 20;

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

/// Every acknowledged message is read back through the Primary; then both disks are compared.
fn check(cluster: Cluster, primary: Voter, writers: Writers) {
    let (mailboxes, tally) = writers.stop().expect("no trouble but what was ordered");
    assert!(tally.messages > 0, "nothing was written");
    assert!(tally.lost.is_empty(), "lost after a takeover: {:?}", tally.lost);
    let mut volume = Volume::connect(&cluster.nbd_socket(primary), RESOURCE).expect("the Primary serves");
    for placed in mailboxes.iter().flat_map(Mailbox::kept) {
        let lost = writers::check(&mut volume, placed).expect("readable");
        assert!(lost.is_none(), "lost: {lost:?}");
    }
    drop(volume);
    let mut cluster = cluster;
    cluster.wait_until("the clients are gone", crate::harness::SOON, |cluster| {
        cluster.value(primary, "/devices/0/clients").is_some_and(|clients| clients == 0)
    });
    cluster.stop_and_compare(primary);
}

#[test]
fn nothing_acknowledged_is_lost_whoever_is_killed_whenever() {
    let seed = seed();
    println!("again: TWINBLK_PROCESS_SEED={seed} cargo test --test process nothing_acknowledged");
    let mut chance = Prng::new(seed);
    let mut cluster = Cluster::start(&settings());
    let mut primary = Voter::A;
    cluster.promote(primary);
    let writers = start_writers(&mut chance);
    writers.offer(&cluster.nbd_socket(primary));
    for round in 0..number_from("TWINBLK_PROCESS_ROUNDS").unwrap_or(8) {
        let_them_write(&mut chance, 700);
        let victim = Voter::ALL[usize::try_from(chance.draw() % 3).expect("small")];
        println!("round {round}: {} dies, {} is Primary", victim.name(), primary.name());
        if victim == primary {
            writers.withdraw();
            cluster.kill(victim);
            primary = primary.other();
            cluster.take_over(primary);
            writers.offer(&cluster.nbd_socket(primary));
        } else {
            cluster.kill(victim);
        }
        let_them_write(&mut chance, 500);
        cluster.start_process(victim);
        cluster.wait_until_linked();
        cluster.wait_until_synced(primary);
        writers.tally().expect("no trouble but what was ordered");
    }
    check(cluster, primary, writers);
}

#[test]
fn all_processes_die_at_once_and_nothing_acknowledged_is_lost() {
    let mut chance = Prng::new(seed());
    let mut cluster = Cluster::start(&settings());
    cluster.promote(Voter::A);
    let writers = start_writers(&mut chance);
    writers.offer(&cluster.nbd_socket(Voter::A));
    let_them_write(&mut chance, 700);
    writers.withdraw();
    for voter in Voter::ALL {
        cluster.kill(voter);
    }
    for voter in Voter::ALL {
        cluster.start_process(voter);
    }
    cluster.wait_until_linked();
    cluster.promote(Voter::B);
    writers.offer(&cluster.nbd_socket(Voter::B));
    cluster.wait_until_synced(Voter::B);
    let_them_write(&mut chance, 300);
    check(cluster, Voter::B, writers);
}
