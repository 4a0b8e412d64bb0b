//! How large a file system says that it is. Only those that people put below a replicated device; of any
//! other nothing is said.

const EXT_SUPERBLOCK: usize = 1024;
const EXT_MAGIC: u16 = 0xef53;
const EXT_INCOMPAT_64BIT: u32 = 0x80;
const XFS_MAGIC: &[u8] = b"XFSB";

/// Size of the file system whose first bytes these are.
pub fn size_of(head: &[u8]) -> Option<u64> {
    ext_size(head).or_else(|| xfs_size(head))
}

fn ext_size(head: &[u8]) -> Option<u64> {
    let field = |offset: usize| -> Option<u32> {
        let at = EXT_SUPERBLOCK + offset;
        Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?))
    };
    let magic = u16::from_le_bytes(head.get(EXT_SUPERBLOCK + 0x38..EXT_SUPERBLOCK + 0x3a)?.try_into().ok()?);
    if magic != EXT_MAGIC {
        return None;
    }
    let is_64_bit = field(0x60)? & EXT_INCOMPAT_64BIT != 0;
    let high = if is_64_bit { field(0x150)? } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(field(0x04)?);
    let block_bytes = 1024u64.checked_shl(field(0x18)?).filter(|bytes| *bytes <= 65_536)?;
    blocks.checked_mul(block_bytes)
}

fn xfs_size(head: &[u8]) -> Option<u64> {
    if !head.starts_with(XFS_MAGIC) {
        return None;
    }
    let block_bytes = u32::from_be_bytes(head.get(4..8)?.try_into().ok()?);
    let blocks = u64::from_be_bytes(head.get(8..16)?.try_into().ok()?);
    blocks.checked_mul(u64::from(block_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ext_and_xfs_say_their_size_and_others_nothing() {
        let mut ext = vec![0; 4096];
        ext[1024 + 0x38..][..2].copy_from_slice(&EXT_MAGIC.to_le_bytes());
        ext[1024 + 0x04..][..4].copy_from_slice(&1000u32.to_le_bytes());
        ext[1024 + 0x18..][..4].copy_from_slice(&2u32.to_le_bytes());
        assert_eq!(size_of(&ext), Some(1000 * 4096));
        ext[1024 + 0x60..][..4].copy_from_slice(&EXT_INCOMPAT_64BIT.to_le_bytes());
        ext[1024 + 0x150..][..4].copy_from_slice(&1u32.to_le_bytes());
        assert_eq!(size_of(&ext), Some(((1 << 32) + 1000) * 4096));
        let mut xfs = b"XFSB".to_vec();
        xfs.extend(4096u32.to_be_bytes());
        xfs.extend(77u64.to_be_bytes());
        assert_eq!(size_of(&xfs), Some(77 * 4096));
        assert_eq!(size_of(&[0; 4096]), None);
        assert_eq!(size_of(&[]), None);
    }
}
