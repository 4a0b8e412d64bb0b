//! Any bytes as a frame of a peer, as the bytes of a handshake, and as a tiebreaker's file: no panic, and what
//! is accepted has exactly one encoding.
//!
//! Input: one byte that chooses what the rest is. A fuzzer never hits a CRC32C by chance, so message bodies
//! are also offered with the checksums made right. Repeat a finding by
//! `cargo +nightly fuzz run peer_frame fuzz/artifacts/peer_frame/FILE`.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use replicator::checksum::Crc32c;
use replicator::peer::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameStamp, OutboundFrame, ReceivedFrame};
use replicator::peer::handshake::{
    Handshake, KnownPeer, LocalIdentity, PROTOCOL_VERSIONS, Progress, Secret, VoterKind,
};
use replicator::peer::message::Message;
use replicator::peer::message_type::MessageType;
use replicator::promotion::tiebreaker_file::{TiebreakerState, choose_newest};
use replicator::units::{NodeId, Term, Tick, VoterId};

const STAMP: FrameStamp = FrameStamp { term: Term { number: 3, taker: 4 }, clock: Tick(5), echo: Tick(6) };
/// Offset of the body's record count and of the first block checksum in a batch of one write.
const ONE_WRITE_SUM_AT: usize = 32 + 24;

fn received(frame: &OutboundFrame) -> ReceivedFrame {
    let (header, body) = frame.head.split_at(FRAME_HEADER_BYTES);
    let header = FrameHeader::parse(header.try_into().expect("64 bytes")).expect("we sent it");
    let payload = Bytes::from(frame.payloads.concat());
    ReceivedFrame::assemble(header, Bytes::copy_from_slice(body), payload).expect("we sent it")
}

/// Parses; what is accepted must come back the same.
fn message(frame: &ReceivedFrame) {
    if let Ok(message) = Message::parse(frame) {
        let again = message.encode(frame.stamp);
        assert_eq!(again.head[FRAME_HEADER_BYTES..], frame.body[..]);
        assert_eq!(received(&again), *frame);
        assert_eq!(Message::parse(&received(&again)), Ok(message));
    }
}

fn whole_frame(bytes: &[u8]) {
    let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else { return };
    let Ok(header) = FrameHeader::parse(header) else { return };
    assert_eq!(FrameHeader::parse(&header.encode()), Ok(header));
    let Some((body, rest)) = rest.split_at_checked(header.body_bytes()) else { return };
    let Some(payload) = rest.get(..header.payload_bytes()) else { return };
    let (body, payload) = (Bytes::copy_from_slice(body), Bytes::copy_from_slice(payload));
    if let Ok(frame) = ReceivedFrame::assemble(header, body, payload) {
        message(&frame);
    }
}

fn body(bytes: &[u8]) {
    let Some((row, body)) = bytes.split_first() else { return };
    let (message_type, ..) = MessageType::ALL[usize::from(*row) % MessageType::ALL.len()];
    let frame = |payload: Bytes, body: &[u8]| {
        let body = Bytes::copy_from_slice(body);
        ReceivedFrame { stamp: STAMP, message_type, body, payload }
    };
    message(&frame(Bytes::new(), body));
    let payload = Bytes::from(vec![0x5a; 4096]);
    message(&frame(payload.clone(), body));
    if let Some(sum) = body.get(ONE_WRITE_SUM_AT..ONE_WRITE_SUM_AT + 4) {
        let mut summed = body.to_vec();
        let at = ONE_WRITE_SUM_AT..ONE_WRITE_SUM_AT + sum.len();
        summed[at].copy_from_slice(&Crc32c::of(&payload).0.to_le_bytes());
        message(&frame(payload, &summed));
    }
}

fn handshake(bytes: &[u8]) {
    let Some((side, bytes)) = bytes.split_first() else { return };
    let local = LocalIdentity {
        resource: "mail".into(),
        node: NodeId(0),
        name: "alpha".into(),
        voter: VoterId(1),
        kind: VoterKind::Replica,
        volume_bytes: 1 << 30,
        configuration_digest: 0,
        versions: PROTOCOL_VERSIONS,
    };
    let peer = KnownPeer { node: NodeId(1), name: "beta".into(), kind: VoterKind::Replica };
    let secret = Secret::new(vec![7; 32]).expect("long enough");
    let mut handshake = if side % 2 == 0 {
        Handshake::dial(local, peer, secret, [1; 32])
    } else {
        Handshake::listen(local, vec![peer], secret, [1; 32])
    };
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let end = bytes.len().min(at + 1 + usize::from(*side));
        let step = handshake.on_bytes(&bytes[at..end], &mut out);
        assert!(step.consumed <= end - at);
        at += step.consumed;
        match step.progress {
            Progress::More => assert!(step.consumed > 0, "it wants more, so it takes some"),
            Progress::Refused(_) => break,
            Progress::Done(peer) => panic!("{peer:?} proved a secret that it does not know"),
        }
    }
    assert!(out.len() <= 3 * 1024, "answers are bounded");
}

fn tiebreaker_file(bytes: &[u8]) {
    if let Ok(state) = TiebreakerState::parse(bytes) {
        assert_eq!(state.encode()[..], *bytes);
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let _ = choose_newest(first, second);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => whole_frame(bytes),
        1 => body(bytes),
        2 => handshake(bytes),
        _ => tiebreaker_file(bytes),
    }
});
