use super::*;
use crate::record::RecordKind;
use crate::units::BLOCK_SIZE;

fn zeroes(lsn: u64, first: u64, count: u64) -> Record {
    Record::zero(Lsn(lsn), RecordKind::Trim, BlockRange::new(first, count))
}

/// A question about blocks from `first` on that hold a byte each.
fn question(number: u64, first: u64, blocks: &[u8]) -> Comparison {
    let count = u64::try_from(blocks.len()).expect("few");
    Comparison::of(number, BlockRange::new(first, count), &bytes(blocks))
}

fn bytes(blocks: &[u8]) -> Vec<u8> {
    blocks.iter().flat_map(|byte| [*byte; BLOCK_SIZE]).collect()
}

fn differing(places: &[u64]) -> Differing {
    let mut differing = Differing::default();
    places.iter().for_each(|place| differing.insert(*place));
    differing
}

#[test]
fn a_record_wins_over_a_copy_in_whatever_order_they_come() {
    let mut receiving = Receiving::default();
    receiving.on_record(&zeroes(101, 5, 1));
    assert_eq!(receiving.on_copy(&zeroes(1, 4, 3)), Ok(vec![BlockRange::new(4, 1), BlockRange::new(6, 1)]));
    receiving.on_write_ordered(IoId(1), BlockRange::new(4, 1));
    receiving.on_write_ordered(IoId(2), BlockRange::new(6, 1));
    assert_eq!(receiving.oldest_held(), None);
    receiving.on_record(&zeroes(102, 9, 1));
    receiving.on_record(&zeroes(103, 6, 1));
    assert_eq!(receiving.oldest_held(), Some(Lsn(103)), "the copy is under way");
    assert!(receiving.on_written(IoId(2)));
    assert_eq!(receiving.oldest_held(), None);
}

#[test]
fn a_copy_is_flushed_when_it_and_all_before_it_were_written_before_the_flush() {
    let mut receiving = Receiving::default();
    for number in 1..=2 {
        receiving.on_copy(&zeroes(number, number, 1)).expect("in order");
        receiving.on_write_ordered(IoId(number), BlockRange::new(number, 1));
    }
    receiving.on_end(Lsn(50));
    assert!(receiving.on_written(IoId(2)));
    assert_eq!(receiving.flush_wanted(), None, "the first one is missing");
    assert!(receiving.on_written(IoId(1)));
    assert_eq!(receiving.flush_wanted(), Some(2));
    assert_eq!(receiving.finished(), None);
    receiving.on_flushed(2);
    assert_eq!((receiving.flush_wanted(), receiving.finished()), (None, Some(Lsn(50))));
}

#[test]
fn copies_come_in_order_and_no_more_than_may_be_under_way() {
    let mut receiving = Receiving::default();
    let missing = CopyRefusal::Number { number: 2, received: 0 };
    assert_eq!(receiving.on_copy(&zeroes(2, 0, 1)), Err(missing));
    let too_long = CopyRefusal::Length { number: 1, blocks: ZERO_BLOCKS_MAX + 1 };
    assert_eq!(receiving.on_copy(&zeroes(1, 0, ZERO_BLOCKS_MAX + 1)), Err(too_long));
    for number in 1..=17 {
        receiving.on_copy(&zeroes(number, number * ZERO_BLOCKS_MAX, ZERO_BLOCKS_MAX)).expect("there is room");
    }
    assert_eq!(receiving.on_copy(&zeroes(18, 0, 1)), Err(CopyRefusal::Window(18)));
}

#[test]
fn the_blocks_of_a_comparison_that_differ_are_those_with_another_digest() {
    let mut receiving = Receiving::default();
    let range = BlockRange::new(10, 4);
    assert_eq!(receiving.on_comparison(question(1, 10, &[1, 2, 3, 4])), Ok(vec![range]));
    receiving.on_read_ordered(IoId(1), range);
    assert_eq!((receiving.answer(), receiving.flush_wanted()), (None, None), "it is being read");
    receiving.on_read(IoId(1), &bytes(&[1, 9, 3, 9]));
    assert_eq!(receiving.answer(), Some(Compared { number: 1, differing: differing(&[1, 3]) }));
    assert_eq!((receiving.answer(), receiving.flush_wanted()), (None, Some(1)), "what is equal is flushed");
    assert_eq!(receiving.unflushed_bytes, 2 * BLOCK_BYTES, "the others come as copies");
}

#[test]
fn a_block_that_a_record_has_brought_is_never_called_different() {
    let mut receiving = Receiving::default();
    receiving.on_record(&zeroes(101, 11, 1));
    let wanted = receiving.on_comparison(question(1, 10, &[1, 2, 3, 4]));
    assert_eq!(wanted, Ok(vec![BlockRange::new(10, 1), BlockRange::new(12, 2)]));
    receiving.on_read_ordered(IoId(1), BlockRange::new(10, 1));
    receiving.on_read_ordered(IoId(2), BlockRange::new(12, 2));
    receiving.on_read(IoId(2), &bytes(&[8, 8]));
    receiving.on_record(&zeroes(102, 12, 1));
    assert_eq!(receiving.oldest_held(), None, "nothing is being written");
    receiving.on_read(IoId(1), &bytes(&[1]));
    assert_eq!(receiving.answer(), Some(Compared { number: 1, differing: differing(&[3]) }));
    receiving.on_record(&zeroes(103, 10, 4));
    assert_eq!(
        receiving.on_comparison(question(2, 10, &[1, 2, 3, 4])),
        Ok(vec![]),
        "there is nothing to read"
    );
    assert_eq!(receiving.answer(), Some(Compared { number: 2, differing: differing(&[]) }));
}

#[test]
fn reads_of_another_resync_mean_nothing() {
    let mut receiving = Receiving::default();
    receiving.on_read(IoId(7), &bytes(&[1]));
    assert_eq!(receiving.answer(), None);
}
