//! What clients see when roles change, and what bad clients cannot do to others.

use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nbd::client::NbdClient;

use crate::harness::{Cluster, Listeners, RESOURCE, SOON, Settings, Voter};
use crate::volume::Volume;

/// NBD's number for "the server is shutting down".
const ESHUTDOWN: u32 = 108;

/// A client in the transmission phase, byte by byte, because the usual one hides error numbers.
fn raw_client(cluster: &Cluster, replica: Voter) -> UnixStream {
    let mut stream = UnixStream::connect(cluster.nbd_socket(replica)).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("set");
    nbd::client::handshake(&mut stream, RESOURCE.as_bytes()).expect("it serves");
    stream
}

fn ask_to_read(stream: &mut UnixStream, bytes: u32) -> std::io::Result<()> {
    let mut request = Vec::new();
    request.extend(0x2560_9513_u32.to_be_bytes());
    request.extend([0; 4]); // no flags, READ
    request.extend(77_u64.to_be_bytes());
    request.extend(0_u64.to_be_bytes());
    request.extend(bytes.to_be_bytes());
    stream.write_all(&request)
}

/// Memory of a process that is really there.
fn resident_kilobytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_client_of_a_node_that_is_demoted_by_force_hears_that_it_shuts_down_or_the_end_of_the_connection() {
    let cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    let mut stream = raw_client(&cluster, Voter::A);
    let refused = cluster.run(Voter::A, &["demote", RESOURCE]);
    assert_eq!(refused.status.code(), Some(11), "a client is connected");
    cluster.expect(Voter::A, &["demote", RESOURCE, "--force"]);
    // The end may come first; an answer that comes is this error and no other.
    let _ = ask_to_read(&mut stream, 512);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    if let Some(error) = answer.get(4..8) {
        assert_eq!(u32::from_be_bytes(error.try_into().expect("4 bytes")), ESHUTDOWN, "{answer:02x?}");
    }
    assert!(matches!(answer.len(), 0 | 16), "{answer:02x?}");
    assert!(Volume::connect(&cluster.nbd_socket(Voter::A), RESOURCE).is_err(), "a Secondary serves nobody");
}

#[test]
fn a_request_in_flight_at_a_forced_demotion_is_answered_with_shutdown_and_then_the_connection_ends() {
    let mut cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    let mut stream = raw_client(&cluster, Voter::A);
    // Without a majority all I/O waits, so the request is in flight for certain.
    cluster.kill(Voter::B);
    cluster.kill(Voter::Tiebreaker);
    cluster.wait_until("all I/O waits", SOON, |cluster| {
        cluster.value(Voter::A, "/frozen").is_some_and(|frozen| !frozen.is_null())
    });
    ask_to_read(&mut stream, 512).expect("sent");
    cluster.wait_until("the request waits too", SOON, |cluster| {
        cluster.value(Voter::A, "/devices/0/upper-pending").is_some_and(|pending| pending == 1)
    });
    let said = cluster.expect(Voter::A, &["demote", RESOURCE, "--force"]);
    let cost = "clients disconnected: 1, what they had in flight fails with ESHUTDOWN";
    assert!(said.contains(cost), "{said}");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an orderly end");
    assert_eq!(answer.len(), 16, "{answer:02x?}");
    assert_eq!(answer[4..8], ESHUTDOWN.to_be_bytes(), "{answer:02x?}");
    assert_eq!(answer[8..], 77_u64.to_be_bytes(), "the cookie of the request");
}

#[test]
fn in_a_freeze_a_client_negotiates_and_its_request_is_answered_when_io_goes_on() {
    let mut cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    cluster.kill(Voter::B);
    cluster.kill(Voter::Tiebreaker);
    cluster.wait_until("all I/O waits", SOON, |cluster| {
        cluster.value(Voter::A, "/frozen").is_some_and(|frozen| !frozen.is_null())
    });
    let mut stream = raw_client(&cluster, Voter::A);
    ask_to_read(&mut stream, 512).expect("sent");
    cluster.wait_until("the request waits", SOON, |cluster| {
        cluster.value(Voter::A, "/devices/0/upper-pending").is_some_and(|pending| pending == 1)
    });
    cluster.start_process(Voter::Tiebreaker);
    let mut answer = [0; 16 + 512];
    stream.read_exact(&mut answer).expect("a majority is back");
    assert_eq!((&answer[4..8], &answer[8..16]), (&[0; 4][..], &77_u64.to_be_bytes()[..]));
}

#[test]
fn half_open_and_silent_clients_hurt_nobody() {
    let cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    let socket = cluster.nbd_socket(Voter::A);
    // Some never speak, some stop in the middle of a word, some never read their answers.
    let silent: Vec<UnixStream> =
        (0..100).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
    let mut broken: Vec<UnixStream> =
        (0..5).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
    for stream in &mut broken {
        stream.write_all(&[0, 0, 0]).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("half open");
    }
    let mut deaf: Vec<UnixStream> = (0..4).map(|_| raw_client(&cluster, Voter::A)).collect();
    for (stream, bytes) in deaf.iter_mut().zip([512, 4096, 32 << 20, 32 << 20]) {
        stream.set_write_timeout(Some(Duration::from_millis(50))).expect("set");
        while ask_to_read(stream, bytes).is_ok() {}
    }
    let mut volume = Volume::connect(&socket, RESOURCE).expect("served beside them");
    for block in 0..64 {
        volume.write_and_flush(block * 4096, &[1; 4096]).expect("written beside them");
    }
    // Replies that nobody reads are bounded, all together; the rest is what a daemon needs anyway.
    let kilobytes = resident_kilobytes(cluster.process_id(Voter::A));
    assert!(kilobytes < 400 << 10, "the daemon holds {kilobytes} KiB");
    drop((silent, broken, deaf));
}

#[test]
fn clients_on_several_connections_see_each_others_flushed_writes() {
    let cluster = Cluster::start(&Settings::default());
    cluster.promote(Voter::A);
    let connect = || Volume::connect(&cluster.nbd_socket(Voter::A), RESOURCE).expect("served");
    let (mut one, mut other) = (connect(), connect());
    for round in 0..50_u8 {
        let offset = u64::from(round) * 1111;
        one.write_and_flush(offset, &[round + 1; 3000]).expect("written");
        assert_eq!(other.read(offset, 3000).expect("readable"), vec![round + 1; 3000]);
    }
}

#[test]
fn clients_over_tcp_and_over_the_unix_socket_see_one_volume() {
    let mut cluster = Cluster::start(&Settings { listeners: Listeners::Both, ..Settings::default() });
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    let mut stream =
        TcpStream::connect((Ipv4Addr::LOCALHOST, cluster.nbd_port(Voter::A))).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("set");
    let export = nbd::client::handshake(&mut stream, RESOURCE.as_bytes()).expect("it serves");
    assert_eq!(export.size, 64 << 20);
    let mut far = NbdClient::new(stream, &export);
    let mut near = Volume::connect(&cluster.nbd_socket(Voter::A), RESOURCE).expect("it serves");
    for round in 0..50_u8 {
        let offset = u64::from(round) * 1111;
        let mut found = vec![0; 3000];
        near.write_and_flush(offset, &[2 * round + 1; 3000]).expect("written");
        far.seek(SeekFrom::Start(offset)).expect("a place");
        far.read_exact(&mut found).expect("readable");
        assert_eq!(found, [2 * round + 1; 3000], "what the Unix socket wrote, round {round}");
        far.seek(SeekFrom::Start(offset)).expect("a place");
        far.write_all(&[2 * round + 2; 3000]).expect("written");
        far.flush().expect("flushed");
        assert_eq!(near.read(offset, 3000).expect("readable"), [2 * round + 2; 3000], "what TCP wrote");
    }
    drop((near, far));
    cluster.wait_until_unused(Voter::A);
    cluster.stop_and_compare(Voter::A);
}
