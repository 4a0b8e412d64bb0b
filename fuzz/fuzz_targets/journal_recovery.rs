//! Whatever the ring holds, recovery ends, in consecutive verified records, and the ring can go on from there.
//! The input is a script: pieces of any bytes, and descriptors whose checksum, journal and place are put right.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use replicator::checksum::Crc32c;
use replicator::generation::lineage::Lineage;
use replicator::journal::recovery::RecoveryScan;
use replicator::layout::superblock::JournalAnchor;
use replicator::record::{Record, RecordKind};
use replicator::units::{BlockRange, GenerationId, Lsn, VoterId};

const RING: usize = 32 * 4096;

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        head
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }
}

/// Makes a valid header out of the 96 bytes at `at`, with small numbers, so that batches attach to one another.
fn seal(ring: &mut [u8], at: usize, previous: Option<u32>, small: [u8; 8]) -> u32 {
    let number = |value: u8| u64::from(value).to_le_bytes();
    ring[at..at + 8].copy_from_slice(b"TBLKBTCH");
    ring[at + 8..at + 16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    ring[at + 16..at + 24].copy_from_slice(&number(1));
    ring[at + 24..at + 32].copy_from_slice(&(at as u64).to_le_bytes());
    for (field, value) in small[..5].iter().enumerate() {
        ring[at + 32 + 8 * field..at + 40 + 8 * field].copy_from_slice(&number(*value % 32));
    }
    ring[at + 72..at + 76].copy_from_slice(&previous.unwrap_or(0).to_le_bytes());
    let records = small[5] % 4 + 1;
    ring[at + 76..at + 96].fill(0);
    (ring[at + 76], ring[at + 78]) = (records, 1);
    for entry in 0..usize::from(records) {
        let entry = at + 96 + 24 * entry;
        ring[entry..entry + 24].fill(0);
        (ring[entry], ring[entry + 8], ring[entry + 16]) = (3, small[6], 1);
    }
    ring[at + 96 + 24 * usize::from(records)..at + 4096].fill(0);
    let crc = crc32c::crc32c(&ring[at..at + 4096]);
    ring[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
    crc
}

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let mut ring = vec![0; RING];
    let anchor = JournalAnchor {
        tail_offset: u64::from(script.byte() % 32) * 4096,
        tail_lsn: Lsn(1 + u64::from(script.byte() % 8)),
        tail_generation: GenerationId(1),
        predecessor: Crc32c(0),
        session: u64::from(script.byte() % 32),
        session_first_lsn: Lsn(1 + u64::from(script.byte() % 32)),
        data_flushed: Lsn(8),
    };
    let mut previous = None;
    while !script.0.is_empty() {
        let at = usize::from(script.byte() % 32) * 4096;
        if script.byte() % 4 == 0 {
            let start = at + usize::from(script.byte()) * 16;
            let length = usize::from(script.byte()).min(RING - start);
            let bytes = script.take(length);
            ring[start..start + bytes.len()].copy_from_slice(bytes);
        } else {
            let mut small = [0; 8];
            let bytes = script.take(8);
            small[..bytes.len()].copy_from_slice(bytes);
            previous = Some(seal(&mut ring, at, previous, small));
        }
    }
    check(&ring, &anchor);
});

fn check(ring: &[u8], anchor: &JournalAnchor) {
    let read =
        |offset: u64, length: u64| Bytes::copy_from_slice(&ring[offset as usize..(offset + length) as usize]);
    let mut scan = RecoveryScan::over(RING as u64, VoterId(1), anchor, &Lineage::zeroed());
    while let Some(wanted) = scan.next_read() {
        scan.on_bytes(read(wanted.ring_offset, wanted.length));
    }
    let plan = scan.finish();
    assert!(plan.end.next() >= anchor.tail_lsn);
    let mut expected = plan.written_back_up_to.max(anchor.tail_lsn.previous()).next();
    for (_, record) in &plan.replay {
        assert_eq!(record.lsn, expected);
        assert!(record.verify());
        expected = expected.next();
    }
    let mut after = plan.ring;
    if let Some(mut reader) = after.reader(after.oldest_kept(), plan.end, 4096) {
        while let Some(wanted) = reader.next_read() {
            reader
                .on_bytes(read(wanted.ring_offset, wanted.length))
                .expect("what recovery accepted can be read");
        }
        assert_eq!(reader.next_lsn(), plan.end.next());
    }
    after.note_session_recorded(after.session());
    if after.fits(1) {
        let next = Record::zero(plan.end.next(), RecordKind::Trim, BlockRange::new(0, 1));
        let _ = after.append(GenerationId(1), &[next], plan.end, Lsn::ZERO);
    }
}
