//! A peer on one end of a socket pair, a link and a ring on the other.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use replicator::peer::frame::FrameStamp;
use replicator::peer::message_type::MessageType;
use replicator::units::{Term, Tick};

use super::*;
use crate::data_plane::buffers::is_aligned;

struct Bench {
    peer: UnixStream,
    connection: PeerConnection,
    round: Round,
}

fn frame(number: u8, body_bytes: usize, payload_blocks: usize) -> OutboundFrame {
    let stamp = FrameStamp { term: Term::ZERO, clock: Tick(u64::from(number)), echo: Tick(0) };
    let body = vec![number; body_bytes];
    let payload = Bytes::from(vec![number; payload_blocks * 4096]);
    let header = FrameHeader::of(stamp, MessageType::Records, &body, payload.len());
    OutboundFrame { head: [&header.encode()[..], &body].concat(), payloads: vec![payload] }
}

fn on_the_wire(frame: &OutboundFrame) -> Vec<u8> {
    [frame.head.clone(), frame.payloads.concat()].concat()
}

impl Bench {
    fn new() -> Self {
        let (peer, ours) = UnixStream::pair().unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let connection = PeerConnection::new(NodeId(1), LinkId(5), ours.into());
        Self { peer, connection, round: Round::new().unwrap() }
    }

    /// Lets the link work until nothing happens any more, and says what the replica would hear.
    fn turn(&mut self) -> Vec<Event> {
        self.connection.advance(&mut self.round);
        let mut completions = Vec::new();
        loop {
            self.round.ring.enter(Some(Duration::from_millis(20))).unwrap();
            self.round.ring.collect(&mut completions);
            if completions.is_empty() {
                return self.round.events.drain(..).collect();
            }
            for completion in completions.drain(..) {
                match completion.tag {
                    Tag::PeerReceive(..) => self.connection.on_received(&mut self.round, completion.outcome),
                    Tag::PeerSend(..) => self.connection.on_sent(&mut self.round, completion.outcome),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn frames_of_every_size_arrive_in_order_with_aligned_payload() {
    let mut bench = Bench::new();
    let sizes = [(3, 0), (100, 1), (60_000, 0), (500, 64), (65_536, 1024), (1, 1)];
    let frames: Vec<OutboundFrame> =
        (1..).zip(sizes).map(|(number, (body, blocks))| frame(number, body, blocks)).collect();
    let mut peer = bench.peer.try_clone().unwrap();
    let stream: Vec<u8> = frames.iter().flat_map(on_the_wire).collect();
    let writer = std::thread::spawn(move || {
        for piece in stream.chunks(70_001) {
            peer.write_all(piece).unwrap();
        }
    });
    let mut events = Vec::new();
    while events.len() < sizes.len() {
        events.extend(bench.turn());
    }
    writer.join().unwrap();
    for ((number, (body_bytes, blocks)), event) in (1_u8..).zip(sizes).zip(events) {
        let Event::FrameReceived { peer: NodeId(1), link: LinkId(5), frame } = event else {
            panic!("{event:?}")
        };
        assert_eq!(frame.stamp.clock, Tick(u64::from(number)));
        assert_eq!((frame.body.len(), frame.payload.len()), (body_bytes, blocks * 4096));
        assert!(blocks == 0 || is_aligned(&frame.payload));
        assert!(frame.body.iter().chain(&frame.payload).all(|byte| *byte == number));
    }
}

#[test]
fn frames_leave_in_order_and_are_counted_when_the_kernel_has_them_whole() {
    let mut bench = Bench::new();
    let frames: Vec<OutboundFrame> =
        (1..=40).map(|number| frame(number, 50, usize::from(number) * 4)).collect();
    let wanted: Vec<u8> = frames.iter().flat_map(on_the_wire).collect();
    let length = wanted.len();
    let mut peer = bench.peer.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut received = vec![0; length];
        peer.read_exact(&mut received).unwrap();
        received
    });
    for frame in frames {
        bench.connection.push(frame);
    }
    let mut sent = 0;
    while sent < 40 {
        for event in bench.turn() {
            let Event::FramesSent { peer: NodeId(1), link: LinkId(5), frames } = event else {
                panic!("{event:?}")
            };
            assert!(frames > sent);
            sent = frames;
        }
    }
    assert!(reader.join().unwrap() == wanted);
}

#[test]
fn bytes_that_are_no_frame_end_the_link_once() {
    let mut damaged_body = on_the_wire(&frame(1, 100, 0));
    damaged_body[100] ^= 1;
    for bytes in [vec![0; 64], damaged_body] {
        let mut bench = Bench::new();
        bench.peer.write_all(&bytes).unwrap();
        let events = bench.turn();
        let reason = LinkLoss::BadFrame;
        assert!(
            matches!(&events[..], [Event::PeerLost { link: LinkId(5), reason: found, .. }] if *found == reason)
        );
        assert!(bench.connection.is_over());
        bench.connection.end(&mut bench.round, LinkLoss::Dropped);
        bench.connection.push(frame(1, 1, 1));
        assert!(bench.turn().is_empty());
    }
}

#[test]
fn a_peer_that_closes_is_lost() {
    let mut bench = Bench::new();
    assert!(bench.turn().is_empty());
    bench.peer.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(&bench.turn()[..], [Event::PeerLost { reason: LinkLoss::Closed, .. }]));
}

#[test]
fn what_a_peer_said_before_it_hung_up_is_heard_although_it_takes_nothing_any_more() {
    let mut bench = Bench::new();
    bench.peer.write_all(&on_the_wire(&frame(9, 10, 0))).unwrap();
    drop(std::mem::replace(&mut bench.peer, UnixStream::pair().unwrap().0));
    bench.connection.push(frame(1, 10, 0));
    let events = bench.turn();
    let [Event::FrameReceived { frame, .. }, Event::PeerLost { reason: LinkLoss::Socket(_), .. }] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(frame.stamp.clock, Tick(9));
}
