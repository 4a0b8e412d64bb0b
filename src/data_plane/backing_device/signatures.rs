//! Recognises what is on a disk before it is overwritten. Pure: takes the first and the last bytes of the disk.
//! To know something that is not there costs a `--force`; not to know something that is there costs the data.

use replicator::layout::locator::LOCATOR_MAGIC;
use replicator::layout::superblock::bytes::SUPERBLOCK_MAGIC;
use replicator::promotion::tiebreaker_file::TIEBREAKER_MAGIC;

/// Bytes that must be read from the beginning and from the end of a disk.
pub const PROBE_BYTES: usize = 1 << 20;

/// Where something shows: from the beginning, or back from the end rounded down to 4 KiB.
#[derive(Clone, Copy)]
enum At {
    Start(usize),
    End(usize),
}

/// One way in which something shows.
struct Signature {
    name: &'static str,
    at: At,
    magic: &'static [u8],
}

const fn start(name: &'static str, offset: usize, magic: &'static [u8]) -> Signature {
    Signature { name, at: At::Start(offset), magic }
}

const fn end(name: &'static str, back: usize, magic: &'static [u8]) -> Signature {
    Signature { name, at: At::End(back), magic }
}

/// Everything that is recognised, one row for each way in which it shows.
const SIGNATURES: &[Signature] = &[
    start("twinblk metadata", 0, &SUPERBLOCK_MAGIC),
    start("twinblk metadata", 64 << 10, &SUPERBLOCK_MAGIC),
    end("twinblk metadata", 4096, &LOCATOR_MAGIC),
    end("twinblk metadata", 128 << 10, &LOCATOR_MAGIC),
    start("state of a twinblk tiebreaker", 0, &TIEBREAKER_MAGIC),
    start("ext2, ext3 or ext4 file system", 1024 + 56, &[0x53, 0xef]),
    start("XFS file system", 0, b"XFSB"),
    start("Btrfs file system", (64 << 10) + 64, b"_BHRfS_M"),
    start("NTFS file system", 3, b"NTFS    "),
    start("exFAT file system", 3, b"EXFAT   "),
    start("FAT file system", 54, b"FAT"),
    start("FAT file system", 82, b"FAT32   "),
    start("LUKS encryption", 0, b"LUKS\xba\xbe"),
    start("LUKS encryption", 16 << 10, b"SKUL\xba\xbe"),
    start("LVM2 physical volume", 0, b"LABELONE"),
    start("LVM2 physical volume", 512, b"LABELONE"),
    start("LVM2 physical volume", 1024, b"LABELONE"),
    start("LVM2 physical volume", 1536, b"LABELONE"),
    start("swap space", 4096 - 10, b"SWAPSPACE2"),
    start("swap space", 4096 - 10, b"SWAP-SPACE"),
    start("swap space", (64 << 10) - 10, b"SWAPSPACE2"),
    start("GPT partition table", 512, b"EFI PART"),
    start("GPT partition table", 4096, b"EFI PART"),
    end("GPT partition table", 512, b"EFI PART"),
    end("GPT partition table", 4096, b"EFI PART"),
    start("boot sector or MBR partition table", 510, &[0x55, 0xaa]),
    // DRBD 8.3, 8.4 (clean and not) and 9, internal and external metadata.
    end("DRBD metadata", 4096 - 60, &[0x83, 0x74, 0x02, 0x6b]),
    end("DRBD metadata", 4096 - 60, &[0x83, 0x74, 0x02, 0x6c]),
    end("DRBD metadata", 4096 - 60, &[0x83, 0x74, 0x02, 0x6d]),
    start("DRBD metadata", 60, &[0x83, 0x74, 0x02, 0x6b]),
    start("DRBD metadata", 60, &[0x83, 0x74, 0x02, 0x6c]),
    start("DRBD metadata", 60, &[0x83, 0x74, 0x02, 0x6d]),
    start("Linux software RAID member", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    start("Linux software RAID member", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    end("Linux software RAID member", 64 << 10, &[0xfc, 0x4e, 0x2b, 0xa9]),
    end("Linux software RAID member", 8 << 10, &[0xfc, 0x4e, 0x2b, 0xa9]),
    start("bcache device", 4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]),
    start("ZFS pool member", (128 << 10) + 1024, &[0x0c, 0xb1, 0xba, 0x00, 0, 0, 0, 0]),
];

/// What a disk holds: `head` are its first bytes, `tail` its last, up to its end rounded down to 4 KiB; each
/// [`PROBE_BYTES`] long, or as long as the disk. Every name once.
#[must_use]
pub fn signatures(head: &[u8], tail: &[u8]) -> Vec<&'static str> {
    let mut names = Vec::new();
    for signature in SIGNATURES {
        let found = match signature.at {
            At::Start(offset) => head.get(offset..),
            At::End(back) => tail.len().checked_sub(back).and_then(|offset| tail.get(offset..)),
        };
        if found.is_some_and(|bytes| bytes.starts_with(signature.magic)) && !names.contains(&signature.name) {
            names.push(signature.name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_is_found_where_it_belongs_and_nowhere_else() {
        for signature in SIGNATURES {
            let (mut head, mut tail) = (vec![0; PROBE_BYTES], vec![0; PROBE_BYTES]);
            let (bytes, offset) = match signature.at {
                At::Start(offset) => (&mut head, offset),
                At::End(back) => (&mut tail, PROBE_BYTES - back),
            };
            bytes[offset..offset + signature.magic.len()].copy_from_slice(signature.magic);
            assert_eq!(signatures(&head, &tail), [signature.name]);
        }
    }

    #[test]
    fn zeroes_and_disks_of_no_size_hold_nothing() {
        assert!(signatures(&[0; 4096], &[0; 4096]).is_empty());
        assert!(signatures(&[], &[]).is_empty());
    }

    #[test]
    fn a_partition_table_with_its_protective_mbr_is_told_by_both_names() {
        let mut head = vec![0; PROBE_BYTES];
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        head[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(signatures(&head, &[]), ["GPT partition table", "boot sector or MBR partition table"]);
    }
}
