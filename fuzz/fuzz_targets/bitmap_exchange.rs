//! Dirty bitmaps on their way between two nodes: whatever bytes come as DirtyRuns are refused by name, or are a set of
//! blocks within bounds that is merged into what is there, block by block as a simple model does it; and what one node
//! has marked arrives, whole and as nothing else, through the encoding.
//!
//! Input: one byte that chooses what the rest is. Repeat a finding by
//! `cargo +nightly fuzz run bitmap_exchange fuzz/artifacts/bitmap_exchange/FILE`.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use replicator::bitmap::DirtyBitmap;
use replicator::block_set::BlockSet;
use replicator::layout::bitmap_page::{BITMAP_PAGE_BLOCKS, BitmapPage};
use replicator::peer::codec::{MessageError, RUNS_MAX};
use replicator::peer::frame::{
    FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameStamp, ReceivedFrame,
};
use replicator::peer::message::Message;
use replicator::peer::message_type::MessageType;
use replicator::units::{
    BLOCK_BYTES, BlockRange, Term, Tick, VOLUME_BYTES_MAX, bytes_u64, bytes_usize, index_range,
};

const STAMP: FrameStamp = FrameStamp { term: Term { number: 3, taker: 4 }, clock: Tick(5), echo: Tick(6) };
const SLOT: u8 = 0;
const BLOCKS_MAX: u64 = VOLUME_BYTES_MAX / BLOCK_BYTES;
/// Blocks of the model's volume: two pages and a bit of a third.
const MODEL_BLOCKS: u64 = 2 * BITMAP_PAGE_BLOCKS + 100;

fn parse(body: &[u8]) -> Result<Message, MessageError> {
    let message_type = MessageType::DirtyRuns;
    let body = Bytes::copy_from_slice(body);
    Message::parse(&ReceivedFrame { stamp: STAMP, message_type, body, payload: Bytes::new() })
}

/// Any bytes. What is taken lies within the largest volume and has one encoding.
fn any_bytes(body: &[u8]) {
    let message = match parse(body) {
        Ok(message) => message,
        Err(error) => {
            assert!(error.to_string().contains("DirtyRuns"), "a refusal names the message: {error}");
            return;
        }
    };
    let Message::DirtyRuns { runs, .. } = &message else { panic!("{message:?} is another message") };
    assert!(runs.len() <= RUNS_MAX);
    assert!(runs.iter().all(|run| run.count > 0 && run.end() <= BLOCKS_MAX));
    let again = message.encode(STAMP);
    assert_eq!(again.head[FRAME_HEADER_BYTES..], *body);
}

/// Runs of blocks of the model's volume, three bytes each; they may overlap.
fn runs_of(bytes: &[u8]) -> Vec<BlockRange> {
    let run = |bytes: &[u8]| {
        let at = u64::from(bytes[0]) * 257 + u64::from(bytes[2] & 0x0f);
        let first = at % MODEL_BLOCKS;
        // Short ones mostly, and some that reach over a page.
        let count = if bytes[2] & 0x80 == 0 { u64::from(bytes[1] % 32) } else { u64::from(bytes[1]) * 200 };
        BlockRange::new(first, (1 + count).min(MODEL_BLOCKS - first))
    };
    bytes.chunks_exact(3).map(run).collect()
}

/// The model: whether each block of the volume is in one of the runs.
fn blocks(runs: &[BlockRange]) -> Vec<bool> {
    let mut blocks = vec![false; bytes_usize(MODEL_BLOCKS)];
    for run in runs {
        blocks[index_range(run.first..run.end())].fill(true);
    }
    blocks
}

fn count(blocks: &[bool]) -> u64 {
    bytes_u64(blocks.iter().filter(|is_in| **is_in).count())
}

/// Every run of the marked blocks, by the way a sender goes through them.
fn marked(bitmap: &BlockSet, count_max: u64) -> Vec<BlockRange> {
    let mut runs = Vec::new();
    let mut from = 0;
    while let Some(run) = bitmap.next_run(from, count_max) {
        assert!(run.first >= from && run.count <= count_max, "{run} from {from} on");
        from = run.end();
        runs.push(run);
    }
    runs
}

/// Two nodes have marked blocks; one sends its own, the other takes them in: the union, and nothing else.
fn exchange(bytes: &[u8]) {
    let Some((split, bytes)) = bytes.split_first() else { return };
    let (ours, theirs) = bytes.split_at(bytes.len() * usize::from(*split) / 256);
    let (ours, theirs) = (runs_of(ours), runs_of(theirs));
    let mut sender = DirtyBitmap::new(Vec::<BitmapPage>::new());
    for run in &theirs {
        sender.set(SLOT, *run);
    }
    let mut receiver = DirtyBitmap::new(Vec::<BitmapPage>::new());
    for run in &ours {
        receiver.set(SLOT, *run);
    }

    let told = marked(&sender.blocks(SLOT), u64::MAX);
    let mut arrived = BlockSet::default();
    let runs_of_a_frame = (1 + 8 * usize::from(*split)).min(RUNS_MAX);
    let frames = told.chunks(runs_of_a_frame).count();
    for (at, runs) in (1..).zip(told.chunks(runs_of_a_frame)) {
        let message = Message::DirtyRuns { runs: runs.to_vec(), is_last: at == frames };
        let frame = message.encode(STAMP);
        assert!(frame.head.len() <= FRAME_HEADER_BYTES + FRAME_BODY_BYTES_MAX);
        let (header, body) = frame.head.split_at(FRAME_HEADER_BYTES);
        FrameHeader::parse(header.try_into().expect("64 bytes")).expect("what is sent can be read");
        let Ok(Message::DirtyRuns { runs, is_last }) = parse(body) else { panic!("it was sent") };
        assert_eq!(is_last, at == frames);
        for run in runs {
            receiver.set(SLOT, run);
            arrived.add(run);
        }
    }
    let union: Vec<bool> =
        blocks(&ours).iter().zip(blocks(&theirs)).map(|(one, other)| *one || other).collect();
    assert!(
        blocks(&marked(&receiver.blocks(SLOT), 16 + 16 * u64::from(*split))) == union,
        "the union, and nothing else"
    );
    assert_eq!(receiver.count(SLOT), count(&union));
    assert_eq!(arrived.count(), count(&blocks(&theirs)));
    // What is missing of anything is what was not sent.
    let all = BlockRange::new(0, MODEL_BLOCKS);
    let missing: u64 = arrived.missing(all).iter().map(|run| run.count).sum();
    assert_eq!(missing + arrived.count(), MODEL_BLOCKS);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 2 {
        0 => any_bytes(bytes),
        _ => exchange(bytes),
    }
});
