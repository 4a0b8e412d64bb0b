//! Real files: what is finished is an image, what is not leaves nothing behind.

use bytes::Bytes;
use replicator::generation::lineage::Lineage;
use replicator::layout::superblock::ResourceName;
use replicator::units::{BLOCK_BYTES, GenerationId, Lsn, NodeId};

use super::*;

fn files(folder: &Path, bytes_max: Option<u64>) -> RescueFiles {
    let settings = RescueSettings { folder: folder.join("made"), stem: "mail-beta".into(), bytes_max };
    RescueFiles { settings, open: None }
}

fn head() -> Box<RescueHead> {
    Box::new(RescueHead {
        resource: ResourceName::parse("mail").expect("a name"),
        volume_bytes: 1 << 20,
        node: (NodeId(1), "beta".to_owned()),
        peer: (NodeId(0), "alpha".to_owned()),
        common: GenerationId::ZEROED,
        fork: Lsn(5),
        end: Lsn(9),
        is_damaged: false,
        lineage: Lineage::zeroed(),
    })
}

/// Carries out one step of rescue 1; the file, or why not.
fn step(files: &mut RescueFiles, work: RescueWork) -> Result<PathBuf, String> {
    match files.carry_out(RescueStep { rescue: 1, step: 1 }, work) {
        Some(Event::RescueDone { file, .. }) => Ok(file.into()),
        Some(Event::RescueFailed { reason, .. }) => Err(reason),
        other => panic!("{other:?}"),
    }
}

fn begin(save: Save) -> RescueWork {
    RescueWork::Begin { save, bytes: 4096, head: head() }
}

fn three_blocks() -> RescueWork {
    let range = BlockRange::new(7, 3);
    let pieces = vec![Bytes::from(vec![3; 4096]), Bytes::from([vec![0; 4096], vec![4; 4096]].concat())];
    let ranges = vec![
        RescuedRange { blocks: BlockRange::new(7, 1), lsn: Some(Lsn(6)) },
        RescuedRange { blocks: BlockRange::new(8, 2), lsn: None },
    ];
    RescueWork::Write { range, pieces, ranges }
}

#[test]
fn an_image_holds_each_block_at_its_place_and_is_sparse_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = files(folder.path(), None);
    let path = step(&mut files, begin(Save::ByDefault)).expect("begun");
    assert!(path.starts_with(folder.path().join("made")) && path.to_string_lossy().contains("mail-beta-2"));
    step(&mut files, three_blocks()).expect("written");
    step(&mut files, RescueWork::End).expect("finished");
    let bytes = std::fs::read(&path).expect("read");
    let image = RescueImage::parse(&bytes[bytes.len() - BLOCK_SIZE..]).expect("an image");
    assert_eq!(image.file_bytes(), bytes_u64(bytes.len()));
    assert_eq!(image.totals.blocks, 3);
    for (block, byte) in [(6, 0), (7, 3), (8, 0), (9, 4), (10, 0)] {
        assert!(bytes[block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE].iter().all(|found| *found == byte));
    }
    let metadata = std::fs::metadata(&path).expect("there");
    assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 < 20 * BLOCK_BYTES, "it is sparse");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777, 0o600);
}

#[test]
fn what_comes_to_nothing_leaves_no_file_and_nothing_is_ever_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = files(folder.path(), None);
    let path = folder.path().join("kept");
    step(&mut files, begin(Save::To(path.clone()))).expect("begun");
    assert!(path.exists());
    files.carry_out(RescueStep { rescue: 2, step: 9 }, RescueWork::Drop);
    assert!(path.exists(), "that was another rescue");
    files.carry_out(RescueStep { rescue: 1, step: 9 }, RescueWork::Drop);
    assert!(!path.exists());
    assert!(step(&mut files, three_blocks()).is_err(), "there is nothing to write to");
    std::fs::write(&path, "precious").expect("written");
    for work in [RescueWork::Check { save: Save::To(path.clone()), bytes: 0 }, begin(Save::To(path.clone()))]
    {
        assert!(step(&mut files, work).expect_err("it is there").ends_with("kept exists already"));
    }
    assert_eq!(std::fs::read(&path).expect("read"), b"precious");
}

#[test]
fn what_is_too_large_or_does_not_fit_is_refused_before_it_is_begun_and_in_between() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    let mut small = files(folder.path(), Some(10_000));
    let check = |bytes| RescueWork::Check { save: Save::To(path.clone()), bytes };
    assert!(step(&mut small, check(10_001)).expect_err("too large").contains("`size-max`"));
    step(&mut small, check(10_000)).expect("it fits");
    assert!(!path.exists(), "a check makes nothing");
    step(&mut small, begin(Save::To(path.clone()))).expect("begun");
    step(&mut small, three_blocks()).expect("8192 bytes and the ranges");
    assert!(
        step(
            &mut small,
            RescueWork::Write {
                range: BlockRange::new(20, 1),
                pieces: vec![Bytes::from(vec![9; 4096])],
                ranges: vec![RescuedRange { blocks: BlockRange::new(20, 1), lsn: None }],
            }
        )
        .is_err()
    );
    assert!(!path.exists());
    let mut any = files(folder.path(), None);
    assert!(step(&mut any, check(u64::MAX)).expect_err("no disk is as large").contains("are free"));
}

#[test]
fn a_check_refuses_a_folder_that_only_an_operator_would_make() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = files(folder.path(), None);
    let save = || Save::To(folder.path().join("missing/file"));
    let refused =
        step(&mut files, RescueWork::Check { save: save(), bytes: 0 }).expect_err("it is not there");
    assert!(refused.contains("missing"), "{refused}");
    assert!(step(&mut files, begin(save())).is_err());
    step(&mut files, RescueWork::Check { save: Save::ByDefault, bytes: 0 }).expect("it will be made");
}
