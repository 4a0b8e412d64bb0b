//! Whatever the end of a file holds, it is a rescue image or refused, and what is parsed is written back as the same
//! bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use replicator::layout::rescue_image::{RangeTotals, RescueImage, range_reads};

/// Puts the checksum of the whole into bytes 12 to 16, so that the fuzzer gets behind it.
fn sealed(data: &[u8]) -> Vec<u8> {
    let mut block = data.to_vec();
    block.resize(4096, 0);
    block[12..16].fill(0);
    let crc = crc32c::crc32c(&block);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    block
}

fuzz_target!(|data: &[u8]| {
    let (head, ranges) = data.split_at(data.len().min(4096));
    let _ = RescueImage::parse(head);
    let block = sealed(head);
    let volume_bytes = match RescueImage::parse(&block) {
        Ok(image) => {
            assert_eq!(image.encode(), block, "one image has one last block");
            assert!(image.file_bytes() > image.head.volume_bytes);
            if let Some((offset, length)) = range_reads(&image).next() {
                assert!(offset == image.head.volume_bytes && length > 0);
            }
            image.head.volume_bytes
        }
        Err(_) => 1 << 30,
    };
    let mut read = RangeTotals::default();
    if let Ok(parsed) = read.parse(volume_bytes, ranges) {
        let mut written = RangeTotals::default();
        assert_eq!(written.encode(&parsed), ranges, "ranges are written back as they were read");
        assert_eq!(written, read);
    }
});
