//! Lengths beyond 32 bits, which only clients with extended headers can ask for; other people's tools cut their
//! requests shorter.

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use crate::harness::{Cluster, RESOURCE, SOON, Settings, Voter};

const GIB: u64 = 1 << 30;
const WRITE: u16 = 1;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;
/// NBD_CMD_FLAG_PAYLOAD_LEN: the length is that of a payload.
const PAYLOAD_LEN: u16 = 1 << 5;
const OPT_GO: u32 = 7;
const OPT_SET_META_CONTEXT: u32 = 10;
const OPT_EXTENDED_HEADERS: u32 = 11;
const REP_ACK: u32 = 1;
const REPLY_DONE: u16 = 1;
const REPLY_NONE: u16 = 0;
const REPLY_BLOCK_STATUS_EXT: u16 = 6;

/// A client that speaks extended headers.
struct Client(UnixStream);

/// A chunk of a reply.
#[derive(Debug)]
struct Chunk {
    flags: u16,
    kind: u16,
    payload: Vec<u8>,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

impl Client {
    fn connect(cluster: &Cluster) -> Self {
        let stream = UnixStream::connect(cluster.nbd_socket(Voter::A)).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("set");
        let mut client = Self(stream);
        client.take(18);
        client.0.write_all(&3_u32.to_be_bytes()).expect("sent");
        let name = [&4_u32.to_be_bytes()[..], RESOURCE.as_bytes()].concat();
        let context = b"base:allocation";
        client.option(OPT_EXTENDED_HEADERS, &[]);
        let queries = [&name[..], &1_u32.to_be_bytes(), &15_u32.to_be_bytes(), context].concat();
        client.option(OPT_SET_META_CONTEXT, &queries);
        client.option(OPT_GO, &[&name[..], &0_u16.to_be_bytes()].concat());
        client
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).expect("an answer");
        bytes
    }

    /// Asks for an option, which must be granted.
    fn option(&mut self, number: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).expect("short").to_be_bytes();
        let bytes = [b"IHAVEOPT", &number.to_be_bytes()[..], &length, data].concat();
        self.0.write_all(&bytes).expect("sent");
        loop {
            let header = self.take(20);
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
            self.take(usize::try_from(word(16)).expect("short"));
            assert_eq!(word(12) >> 31, 0, "option {number} is refused: {:08x}", word(12));
            if word(12) == REP_ACK {
                return;
            }
        }
    }

    /// Asks, and gives every chunk of the answer.
    fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> Vec<Chunk> {
        let mut request = 0x21e4_1c71_u32.to_be_bytes().to_vec();
        request.extend(flags.to_be_bytes());
        request.extend(command.to_be_bytes());
        request.extend([5_u64, offset, length].map(u64::to_be_bytes).concat());
        request.extend(payload);
        self.0.write_all(&request).expect("sent");
        let mut chunks: Vec<Chunk> = Vec::new();
        while chunks.last().is_none_or(|chunk| chunk.flags & REPLY_DONE == 0) {
            let header = self.take(32);
            assert_eq!(header[..4], 0x6e8a_278c_u32.to_be_bytes());
            assert_eq!((u64_at(&header, 8), u64_at(&header, 16)), (5, offset), "cookie and offset");
            let half = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
            let payload = self.take(usize::try_from(u64_at(&header, 24)).expect("short"));
            chunks.push(Chunk { flags: half(4), kind: half(6), payload });
        }
        chunks
    }

    /// Asks for something that is answered with success and nothing else.
    fn order(&mut self, command: u16, offset: u64, length: u64) {
        let chunks = self.ask(command, 0, offset, length, &[]);
        assert!(matches!(&chunks[..], [Chunk { kind: REPLY_NONE, .. }]), "{command}: {chunks:?}");
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let chunks = self.ask(WRITE, PAYLOAD_LEN, offset, bytes.len() as u64, bytes);
        assert!(matches!(&chunks[..], [Chunk { kind: REPLY_NONE, .. }]), "{chunks:?}");
    }

    /// Length and flags of every extent.
    fn extents(&mut self, offset: u64, length: u64) -> Vec<(u64, u64)> {
        let chunks = self.ask(BLOCK_STATUS, 0, offset, length, &[]);
        let status = chunks.iter().find(|chunk| chunk.kind == REPLY_BLOCK_STATUS_EXT);
        let payload = &status.unwrap_or_else(|| panic!("{chunks:?}")).payload;
        payload[8..].chunks(16).map(|extent| (u64_at(extent, 0), u64_at(extent, 8))).collect()
    }
}

#[test]
fn five_gibibytes_at_once_are_zeroed_trimmed_and_described_on_both_replicas() {
    let mut cluster =
        Cluster::start(&Settings { size: "8GiB", journal_size: "64MiB", ..Settings::default() });
    cluster.promote(Voter::A);
    cluster.wait_until_synced(Voter::A);
    let mut client = Client::connect(&cluster);
    // One on each side of 4 GiB, in which a length that is cut to 32 bits (1 GiB) would end, and one behind all.
    let written = [512 << 20, 3 * GIB, 5 * GIB + 4096, 7 * GIB];
    for (command, fill) in [(WRITE_ZEROES, 1), (TRIM, 2)] {
        for offset in written {
            client.write(offset, &[fill; 4096]);
        }
        client.order(command, GIB, 5 * GIB);
        cluster.wait_until_written_back(Voter::A);
        for replica in Voter::REPLICAS {
            let data = std::fs::File::open(cluster.data(replica)).expect("a data file");
            let found = written.map(|offset| {
                let mut byte = [0];
                data.read_exact_at(&mut byte, offset).expect("readable");
                byte[0]
            });
            assert_eq!(found, [fill, 0, 0, fill], "command {command} on {}", replica.name());
        }
    }
    let extents = client.extents(GIB, 5 * GIB);
    assert!(extents.iter().all(|(length, _)| *length > 0), "{extents:?}");
    let described: u64 = extents.iter().map(|(length, _)| length).sum();
    // The trimmed part is one hole that reads as zero: hole and zero are both set.
    assert_eq!(extents, [(described, 3)]);
    assert!((5 * GIB..=6 * GIB).contains(&described), "{extents:?}");
}
