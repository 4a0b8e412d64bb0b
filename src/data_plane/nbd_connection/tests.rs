//! A client on one end of a socket pair, a connection and a ring on the other, the test in the replica's place.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nbd_server::{Access, Export, HeaderStyle};
use replicator::effect::RequestError;
use replicator::event::Request as Asked;
use replicator::units::ByteRange;

use super::*;

const SIZE: u64 = 1 << 30;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const CACHE: u16 = 5;
const START: Tick = Tick(1_000_000);

struct Bench {
    client: UnixStream,
    connection: NbdConnection,
    round: Round,
    budget: MemoryBudget,
    now: Tick,
}

fn header(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let (flags, mut bytes) = (0_u16, REQUEST_MAGIC.to_be_bytes().to_vec());
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

impl Bench {
    fn with_early_bytes(leftover: Vec<u8>) -> Self {
        let (client, server) = UnixStream::pair().unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let export = Export {
            name: "mail".into(),
            description: String::new(),
            size_bytes: SIZE,
            access: Access::ReadWrite,
        };
        let (headers, leftover) = (HeaderStyle::Simple, leftover.into());
        let negotiated = Negotiated { export, headers, allocation_context: None, leftover };
        let connection = NbdConnection::new(ClientId(7), server.into(), &negotiated, START).unwrap();
        let (round, budget) = (Round::new().unwrap(), MemoryBudget::default());
        let mut bench = Self { client, connection, round, budget, now: START };
        bench.turn();
        bench
    }

    fn new() -> Self {
        Self::with_early_bytes(Vec::new())
    }

    fn ask(&mut self, command: u16, cookie: u64, offset: u64, payload_or_length: Result<&[u8], u32>) {
        let length =
            payload_or_length.map_or_else(|length| length, |payload| u32::try_from(payload.len()).unwrap());
        self.client.write_all(&header(command, cookie, offset, length)).unwrap();
        self.client.write_all(payload_or_length.unwrap_or_default()).unwrap();
    }

    /// Lets the connection do what it can until nothing happens any more.
    fn turn(&mut self) {
        self.connection.advance(&mut self.round, &mut self.budget, self.now);
        let mut completions = Vec::new();
        loop {
            self.round.ring.enter(Some(Duration::from_millis(20))).unwrap();
            self.round.ring.collect(&mut completions);
            if completions.is_empty() {
                return;
            }
            for completion in completions.drain(..) {
                let (round, budget, now) = (&mut self.round, &mut self.budget, self.now);
                match completion.tag {
                    Tag::ClientReceive(_) => {
                        self.connection.on_received(round, budget, now, completion.outcome)
                    }
                    Tag::ClientSend(_) => self.connection.on_sent(round, budget, now, completion.outcome),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// What the replica has been asked since the last call.
    fn asked(&mut self) -> Vec<(RequestId, Asked)> {
        self.turn();
        let asked = |event| match event {
            Event::RequestReceived { id, request } => (id, request),
            other => panic!("{other:?}"),
        };
        self.round.events.drain(..).map(asked).collect()
    }

    fn answer(&mut self, id: RequestId, outcome: Completion) {
        self.connection.complete(id, outcome, self.now);
        self.turn();
    }

    /// Error and cookie of the next simple reply.
    fn reply(&mut self) -> (u32, u64) {
        self.turn();
        let mut reply = [0; 16];
        self.client.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..4], REPLY_MAGIC.to_be_bytes());
        (
            u32::from_be_bytes(reply[4..8].try_into().unwrap()),
            u64::from_be_bytes(reply[8..].try_into().unwrap()),
        )
    }

    fn client_sees_the_end(&mut self) -> bool {
        self.turn();
        match self.client.read(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_write_arrives_aligned_and_replies_go_out_in_the_order_of_the_answers() {
    let mut bench = Bench::new();
    bench.ask(WRITE, 1, 8192, Ok(&[5; 4096]));
    bench.ask(READ, 2, 0, Err(3));
    bench.ask(FLUSH, 3, 0, Err(0));
    let asked = bench.asked();
    let [
        (write, Asked::Write { offset: 8192, payload, durability: _ }),
        (read, Asked::Read { range }),
        (flush, Asked::Flush),
    ] = asked.as_slice()
    else {
        panic!("{asked:?}")
    };
    assert!(crate::data_plane::buffers::is_aligned(payload) && payload.iter().all(|byte| *byte == 5));
    assert_eq!(*range, ByteRange::new(0, 3));
    bench.answer(*flush, Completion::Failed(RequestError::DiskFailed));
    bench.answer(*read, Completion::Bytes(vec![Bytes::from_static(b"a"), Bytes::from_static(b"bc")]));
    bench.answer(*write, Completion::Done);
    assert_eq!(bench.reply(), (5, 3));
    assert_eq!(bench.reply(), (0, 2));
    let mut data = [0; 3];
    bench.client.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"abc");
    assert_eq!(bench.reply(), (0, 1));
    assert_eq!(bench.connection.held, 0);
}

#[test]
fn bytes_that_came_during_negotiation_are_requests_too() {
    let mut bench = Bench::with_early_bytes(header(FLUSH, 9, 0, 0));
    assert!(matches!(bench.asked().as_slice(), [(_, Asked::Flush)]));
}

#[test]
fn a_refused_write_is_drained_and_a_hint_or_nothing_is_answered_at_once() {
    let mut bench = Bench::new();
    bench.ask(WRITE, 1, SIZE - 1, Ok(&header(FLUSH, 66, 0, 0).repeat(2000)));
    bench.ask(CACHE, 2, 0, Err(4096));
    bench.ask(READ, 3, 0, Err(0));
    bench.ask(WRITE, 4, 0, Err(0));
    assert!(bench.asked().is_empty());
    assert_eq!(
        [bench.reply(), bench.reply(), bench.reply(), bench.reply()],
        [(28, 1), (0, 2), (0, 3), (0, 4)]
    );
}

#[test]
fn a_client_has_no_more_requests_in_flight_than_the_bound_and_goes_on_when_one_is_answered() {
    let mut bench = Bench::new();
    for cookie in 0..200 {
        bench.ask(READ, cookie, 0, Err(16));
    }
    let asked = bench.asked();
    assert_eq!(asked.len(), REQUESTS_MAX);
    bench.answer(asked[0].0, Completion::Bytes(vec![Bytes::from_static(&[0; 16])]));
    assert_eq!(bench.asked().len(), 1);
}

#[test]
fn a_client_that_asks_for_more_memory_than_the_bound_waits() {
    let mut bench = Bench::new();
    for cookie in 0..3 {
        bench.ask(READ, cookie, 0, Err(32 << 20));
    }
    let asked = bench.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(bench.connection.held, 64 << 20);
    bench.answer(asked[0].0, Completion::Failed(RequestError::Invalid));
    assert_eq!(bench.reply(), (22, 0));
    assert_eq!(bench.asked().len(), 1);
}

#[test]
fn a_client_that_disconnects_gets_what_is_outstanding_and_then_the_end() {
    let mut bench = Bench::new();
    bench.ask(READ, 1, 0, Err(1));
    bench.ask(DISC, 0, 0, Err(0));
    bench.ask(FLUSH, 2, 0, Err(0));
    let asked = bench.asked();
    assert_eq!(asked.len(), 1, "nothing after the farewell is a request");
    bench.answer(asked[0].0, Completion::Bytes(vec![Bytes::from_static(b"x")]));
    assert_eq!(bench.reply(), (0, 1));
    bench.client.read_exact(&mut [0]).unwrap();
    assert!(bench.client_sees_the_end());
    drop(std::mem::replace(&mut bench.client, UnixStream::pair().unwrap().0));
    bench.turn();
    assert!(bench.connection.is_closed());
}

#[test]
fn shutting_down_answers_outstanding_and_new_requests_and_then_ends() {
    let mut bench = Bench::new();
    bench.ask(READ, 1, 0, Err(4096));
    let asked = bench.asked();
    // The next request is here in part when the end is announced.
    let flush = header(FLUSH, 2, 0, 0);
    bench.client.write_all(&flush[..10]).unwrap();
    assert!(bench.asked().is_empty());
    bench.client.write_all(&flush[10..]).unwrap();
    bench.round.ring.enter(Some(Duration::from_secs(1))).unwrap();
    bench.connection.end(bench.now);
    assert!(bench.asked().is_empty());
    assert_eq!([bench.reply(), bench.reply()], [(108, 1), (108, 2)]);
    assert!(bench.client_sees_the_end());
    bench.answer(asked[0].0, Completion::Done);
    assert!(bench.client_sees_the_end(), "the late answer goes nowhere");

    bench.now = bench.now.plus(FAREWELL_LIMIT);
    bench.turn();
    assert!(bench.connection.is_closed());
}

#[test]
fn a_client_that_leaves_its_replies_lying_is_cut_off_after_the_limit() {
    let mut bench = Bench::new();
    bench.ask(READ, 1, 0, Err(8 << 20));
    let asked = bench.asked();
    bench.answer(asked[0].0, Completion::Bytes(vec![Bytes::from(vec![0; 8 << 20])]));
    assert_eq!(bench.connection.deadline(&bench.budget), Some(START.plus(STALL_LIMIT)));
    bench.now = Tick(START.plus(STALL_LIMIT).0 - 1);
    bench.turn();
    assert!(!bench.connection.is_closed());
    bench.now = START.plus(STALL_LIMIT);
    bench.turn();
    assert!(bench.connection.is_closed());
}

#[test]
fn a_client_that_takes_a_little_now_and_then_is_cut_off_too() {
    let mut bench = Bench::new();
    bench.ask(READ, 1, 0, Err(8 << 20));
    let asked = bench.asked();
    bench.answer(asked[0].0, Completion::Bytes(vec![Bytes::from(vec![0; 8 << 20])]));
    // What the socket's buffer held is taken in one go; after that, one byte a second, and requests come in besides.
    let mut little = [0; 1];
    for second in 1..30 {
        bench.now = START.plus(Span::from_millis(second * 1000));
        bench.client.read_exact(&mut little).unwrap();
        bench.ask(FLUSH, 2, 0, Err(0));
        bench.turn();
        assert!(!bench.connection.is_closed(), "second {second}");
    }
    bench.now = START.plus(STALL_LIMIT);
    bench.turn();
    assert!(bench.connection.is_closed());
}

#[test]
fn a_client_that_takes_its_replies_slowly_but_steadily_is_served() {
    let mut bench = Bench::new();
    bench.ask(READ, 1, 0, Err(8 << 20));
    let asked = bench.asked();
    bench.answer(asked[0].0, Completion::Bytes(vec![Bytes::from(vec![0; 8 << 20])]));
    let mut taken = 0;
    for part in 1..16 {
        bench.now = START.plus(Span::from_millis(part * 25_000));
        while taken < part * (512 << 10) {
            let mut some = [0; 64 << 10];
            taken += bytes_u64(bench.client.read(&mut some).unwrap());
            bench.turn();
        }
        assert!(!bench.connection.is_closed(), "part {part}");
    }
}

#[test]
fn what_a_client_that_is_gone_had_asked_for_keeps_its_memory_until_the_replica_is_done() {
    let mut bench = Bench::new();
    bench.ask(READ, 1, 0, Err(32 << 20));
    let asked = bench.asked();
    bench.client.shutdown(std::net::Shutdown::Both).unwrap();
    bench.turn();
    assert!(bench.connection.is_closed());
    let others = [ClientId(8), ClientId(9), ClientId(10)];
    assert!(others.iter().all(|other| bench.budget.try_reserve(*other, 0, 32 << 20, START)));
    assert!(!bench.budget.try_reserve(ClientId(11), 0, 32 << 20, START));
    bench.budget.on_request_ended(asked[0].0);
    assert!(bench.budget.try_reserve(ClientId(11), 0, 32 << 20, START));
}

#[test]
fn what_a_client_that_is_gone_had_asked_for_is_counted_also_where_it_brought_no_bytes() {
    let mut bench = Bench::new();
    for cookie in 0..32 {
        bench.ask(FLUSH, cookie, 0, Err(0));
    }
    bench.ask(WRITE, 32, 0, Ok(&[7]));
    assert_eq!(bench.asked().len(), 33);
    assert_eq!(bench.connection.held, 33 * 4096, "a place in the lists, and the smallest buffer there is");
    bench.client.shutdown(std::net::Shutdown::Both).unwrap();
    bench.turn();
    assert!(bench.connection.is_closed());
    let all_but_theirs = (128 << 20) - 33 * 4096;
    assert!(bench.budget.try_reserve(ClientId(8), 0, 64 << 20, START));
    assert!(!bench.budget.try_reserve(ClientId(9), 0, all_but_theirs - (64 << 20) + 1, START));
    assert!(bench.budget.try_reserve(ClientId(9), 0, all_but_theirs - (64 << 20), START));
}

#[test]
fn a_write_that_waits_for_memory_is_refused_at_once_when_the_node_stops_serving() {
    let mut bench = Bench::new();
    assert!(bench.budget.try_reserve(ClientId(1), 0, 128 << 20, START));
    bench.ask(WRITE, 1, 0, Ok(&[7; 65_536]));
    bench.client.write_all(&header(WRITE, 2, 0, 2 << 20)).unwrap();
    bench.turn();
    assert_eq!(bench.budget.next_in_line(), Some(ClientId(7)));
    bench.connection.end(bench.now);
    bench.turn();
    assert_eq!(bench.budget.next_in_line(), None);
    for _ in 0..32 {
        bench.client.write_all(&[7; 64 << 10]).unwrap();
        bench.turn();
    }
    assert_eq!([bench.reply(), bench.reply()], [(108, 1), (108, 2)]);
}

#[test]
fn a_client_that_rests_between_requests_is_never_cut_off() {
    let mut bench = Bench::new();
    bench.client.write_all(&header(WRITE, 1, 0, 4096)).unwrap();
    bench.turn();
    assert_eq!(bench.connection.deadline(&bench.budget), None);
    assert!(bench.connection.inflow.is_in_payload());
}

#[test]
fn a_client_that_rests_in_a_payload_is_cut_off_only_when_others_have_waited_for_the_memory_long_enough() {
    let mut bench = Bench::new();
    bench.client.write_all(&header(WRITE, 1, 0, 2 << 20)).unwrap();
    bench.turn();
    assert_eq!(bench.connection.deadline(&bench.budget), None);
    bench.now = START.plus(STALL_LIMIT.times(3));
    assert!(bench.budget.try_reserve(ClientId(8), 0, 64 << 20, bench.now));
    assert!(!bench.budget.try_reserve(ClientId(9), 0, 64 << 20, bench.now));
    let limit = bench.now.plus(STALL_LIMIT);
    assert_eq!(bench.connection.deadline(&bench.budget), Some(limit));
    bench.turn();
    assert!(!bench.connection.is_closed());
    bench.now = limit;
    bench.turn();
    assert!(bench.connection.is_closed());
}

#[test]
fn a_client_that_breaks_the_protocol_or_vanishes_is_forgotten() {
    let mut broken = Bench::new();
    broken.client.write_all(&[0xff; 28]).unwrap();
    assert!(broken.client_sees_the_end() && broken.connection.is_closed());

    let mut gone = Bench::new();
    gone.ask(READ, 1, 0, Err(4096));
    assert_eq!(gone.asked().len(), 1);
    gone.client.shutdown(std::net::Shutdown::Both).unwrap();
    gone.turn();
    assert!(gone.connection.is_closed());
}
