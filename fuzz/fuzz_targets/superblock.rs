//! Whatever a block holds, it is parsed or refused, and what is parsed is written back as the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use replicator::layout::activity_page::ActivityPage;
use replicator::layout::bitmap_page::BitmapPage;
use replicator::layout::checksum_page::ChecksumPage;
use replicator::layout::locator::Locator;
use replicator::layout::superblock::{Superblock, choose_newest};

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
    let block = sealed(data);
    if let Ok(superblock) = Superblock::parse(&block) {
        assert_eq!(superblock.encode()[..], block[..], "one state has one image");
    }
    if let Ok(locator) = Locator::parse(&block) {
        assert_eq!(locator.encode(), block);
    }
    if let Ok(page) = BitmapPage::parse(&block, 0, 0) {
        assert_eq!(page.encode(), block);
    }
    let _ = ChecksumPage::parse(&block, 0);
    let _ = ActivityPage::parse(&block, 0);
    let _ = Superblock::parse(data);
    let half = data.len() / 2;
    let _ = choose_newest(&sealed(&data[..half]), &sealed(&data[half..]));
});
