use super::*;
use crate::units::ByteRange;

fn run(first: u64, count: u64) -> BlockRange {
    BlockRange::new(first, count)
}

fn copying(ranges: &[BlockRange], expectation: Expectation) -> Copying {
    let mut todo = BlockSet::default();
    ranges.iter().for_each(|range| todo.add(*range));
    Copying::new(todo, Lsn(7), expectation)
}

/// Blocks with a byte each.
fn bytes(blocks: &[u8]) -> Bytes {
    blocks.iter().flat_map(|byte| [*byte; BLOCK_SIZE]).collect::<Vec<_>>().into()
}

/// Says that nothing is a hole, as often as it is asked, and takes the next blocks to read.
fn next_run(copying: &mut Copying) -> Option<BlockRange> {
    if let Some(range) = copying.next_search() {
        copying.on_search_ordered(IoId(0), range, vec![range]);
        assert_eq!(copying.on_found(IoId(0), &[], Lsn(0)), Outcome::default());
    }
    copying.next_run()
}

fn sent(outcome: Outcome) -> Vec<(u64, BlockRange, bool)> {
    match outcome.outgoing {
        Some(Outgoing::Copies(copies)) => {
            copies.into_iter().map(|copy| (copy.lsn.0, copy.range, copy.kind == RecordKind::Trim)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocks_are_equal_only_when_flushed_and_not_if_marked_again() {
    let mut copying = copying(&[run(10, 4)], Expectation::Different);
    assert_eq!(next_run(&mut copying), Some(run(10, 4)));
    copying.on_read_ordered(IoId(1), run(10, 4));
    assert_eq!(next_run(&mut copying), None);
    let content = bytes(&[1, 2, 3, 4]);
    assert_eq!(copying.on_read(IoId(2), &content, Lsn(9)), Outcome::default(), "another read");
    assert_eq!(sent(copying.on_read(IoId(1), &content, Lsn(9))), [(1, run(10, 4), false)]);
    assert_eq!(copying.finished(), None);
    copying.mark_anew(run(11, 1));
    assert_eq!(copying.on_flushed(0), Ok(vec![]));
    assert_eq!(copying.on_flushed(1), Ok(vec![run(10, 1), run(12, 2)]));
    assert_eq!(copying.finished(), Some(Lsn(9)), "a copy may have what was written until it was read");
}

#[test]
fn no_more_is_under_way_than_the_target_takes() {
    let mut copying = copying(&[run(0, 100_000)], Expectation::Different);
    let content: Bytes = vec![1; 256 * BLOCK_SIZE].into();
    let mut io = 0;
    let mut read = |copying: &mut Copying| {
        while let Some(range) = next_run(copying) {
            io += 1;
            copying.on_read_ordered(IoId(io), range);
            let _ = copying.on_read(IoId(io), &content.slice(..bytes_usize(range.bytes())), Lsn(0));
        }
    };
    read(&mut copying);
    assert_eq!(copying.in_flight_bytes, IN_FLIGHT_BYTES_MAX);
    assert_eq!(copying.left(), 100_000);
    copying.on_flushed(1).expect("it was sent");
    read(&mut copying);
    assert_eq!(copying.in_flight_bytes, IN_FLIGHT_BYTES_MAX);
}

#[test]
fn only_blocks_that_differ_are_sent_and_the_others_are_equal_when_flushed() {
    let mut copying = copying(&[run(20, 4)], Expectation::Equal);
    assert_eq!(next_run(&mut copying), Some(run(20, 4)));
    copying.on_read_ordered(IoId(1), run(20, 4));
    let content = bytes(&[1, 2, 3, 4]);
    let question = copying.on_read(IoId(1), &content, Lsn(8)).outgoing;
    assert_eq!(question, Some(Outgoing::Question(Comparison::of(1, run(20, 4), &content))));
    let mut differing = Differing::default();
    differing.insert(1);
    let copies = copying.on_compared(1, &differing, Lsn(11)).expect("it was asked");
    assert_eq!(copies, [Record::write(Lsn(2), run(21, 1), bytes(&[2]))]);
    assert_eq!((copying.left(), copying.same), (4, 3));
    copying.mark_anew(run(23, 1));
    assert_eq!(copying.on_flushed(1), Ok(vec![run(20, 1), run(22, 1)]), "one was left to records");
    assert_eq!(copying.finished(), None);
    assert_eq!(copying.on_flushed(2), Ok(vec![run(21, 1)]));
    let is_over = (copying.finished(), copying.in_flight_bytes, copying.left());
    assert_eq!(is_over, (Some(Lsn(11)), 0, 0), "a record may have come instead until the answer did");
}

#[test]
fn the_disk_is_consistent_with_the_records_only_that_came_instead_of_copies() {
    let mut copying = copying(&[run(20, 2)], Expectation::Different);
    copying.leave_to_records(run(20, 2), Lsn(12));
    assert_eq!(copying.finished(), Some(Lsn(12)));
}

#[test]
fn an_answer_that_nobody_asked_for_and_a_flush_of_what_was_not_compared_are_refused() {
    let mut copying = copying(&[run(20, 2)], Expectation::Equal);
    let nothing = Differing::default();
    assert_eq!(copying.on_compared(1, &nothing, Lsn(8)), Err(AnswerRefusal::NotAsked(1)));
    assert_eq!(next_run(&mut copying), Some(run(20, 2)));
    copying.on_read_ordered(IoId(1), run(20, 2));
    let _ = copying.on_read(IoId(1), &bytes(&[1, 2]), Lsn(8));
    let too_soon = AnswerRefusal::NotCompared { up_to: 1, number: 1 };
    assert_eq!(copying.on_flushed(1), Err(too_soon));
    let mut copying = self::copying(&[run(20, 2)], Expectation::Equal);
    assert_eq!(next_run(&mut copying), Some(run(20, 2)));
    copying.on_read_ordered(IoId(1), run(20, 2));
    let _ = copying.on_read(IoId(1), &bytes(&[1, 2]), Lsn(8));
    let mut beyond = Differing::default();
    beyond.insert(2);
    assert_eq!(copying.on_compared(1, &beyond, Lsn(8)), Err(AnswerRefusal::NotAsked(1)));
}

#[test]
fn zeroes_are_not_sent_but_for_short_runs_between_other_blocks() {
    let mut copying = copying(&[run(0, 40)], Expectation::Different);
    assert_eq!(next_run(&mut copying), Some(run(0, 40)));
    copying.on_read_ordered(IoId(1), run(0, 40));
    let content = [&[0; 20][..], &[5; 2], &[0; 3], &[5; 15]].concat();
    let outcome = copying.on_read(IoId(1), &bytes(&content), Lsn(8));
    assert_eq!(sent(outcome), [(1, run(0, 20), true), (2, run(20, 20), false)]);
}

/// The data area holds data where `data` says so.
fn found(copying: &mut Copying, data: BlockRange, gaps: Vec<BlockRange>) -> Outcome {
    let range = copying.next_search().expect("it is worth asking");
    copying.on_search_ordered(IoId(5), range, gaps);
    assert_eq!(copying.next_run(), None, "not before the answer");
    assert_eq!(copying.finished(), None);
    let extent = |first: u64, end: u64, is_hole| AllocatedExtent {
        range: ByteRange::new(first * BLOCK_BYTES, (end - first) * BLOCK_BYTES),
        is_hole,
    };
    let extents = [
        extent(range.first, data.first, true),
        extent(data.first, data.end(), false),
        extent(data.end(), range.end(), true),
    ];
    copying.on_found(IoId(5), &extents, Lsn(9))
}

#[test]
fn holes_are_not_read_but_given_back_on_the_target() {
    let mut copying = copying(&[run(0, 10_000)], Expectation::Equal);
    let outcome = found(&mut copying, run(300, 2), vec![run(0, 10_000)]);
    let expected = [(1, run(0, 300), true), (2, run(302, 4096), true), (3, run(4398, 4096), true)];
    assert_eq!(sent(outcome), [&expected[..], &[(4, run(8494, 1506), true)]].concat());
    assert_eq!(copying.next_run(), Some(run(300, 2)));
    assert_eq!(copying.on_flushed(4).map(|equal| equal.len()), Ok(4));
    assert_eq!(copying.left(), 2);
}

#[test]
fn a_block_that_is_still_in_memory_is_no_hole_whatever_the_data_area_says() {
    let mut copying = copying(&[run(0, 1000)], Expectation::Equal);
    let outcome = found(&mut copying, run(999, 1), vec![run(0, 500), run(501, 499)]);
    assert_eq!(sent(outcome), [(1, run(0, 500), true), (2, run(501, 498), true)]);
    assert_eq!(copying.next_run(), Some(run(500, 1)));
}

#[test]
fn a_target_of_zeroes_is_sent_no_zeroes_at_all() {
    let mut copying = copying(&[run(0, 1000)], Expectation::Zero);
    let outcome = found(&mut copying, run(300, 2), vec![run(0, 1000)]);
    assert_eq!(outcome, Outcome { outgoing: None, equal: vec![run(0, 300), run(302, 698)] });
    assert_eq!(copying.next_run(), Some(run(300, 2)));
    copying.on_read_ordered(IoId(1), run(300, 2));
    let outcome = copying.on_read(IoId(1), &bytes(&[0, 0]), Lsn(9));
    assert_eq!(outcome, Outcome { outgoing: None, equal: vec![run(300, 2)] });
    assert_eq!(copying.finished(), Some(Lsn(9)));
}

#[test]
fn what_could_not_be_read_in_one_pass_is_read_in_the_next() {
    let mut copying = copying(&[run(3, 2), run(9, 1)], Expectation::Different);
    copying.begin_pass();
    assert_eq!(next_run(&mut copying), Some(run(3, 2)), "it is not read yet");
    assert_eq!(next_run(&mut copying), Some(run(9, 1)));
    copying.on_read_ordered(IoId(1), run(9, 1));
    copying.begin_pass();
    assert_eq!(next_run(&mut copying), Some(run(3, 2)));
}

#[test]
fn a_pass_that_left_blocks_to_write_back_is_not_begun_again_before_the_data_area_has_moved_on() {
    let mut copying = copying(&[run(10, 4)], Expectation::Different);
    assert!(!copying.may_find_more(Lsn(5)), "the first pass is not over");
    assert_eq!(next_run(&mut copying), Some(run(10, 4)));
    // They are in memory only, so that they are not read.
    assert!(copying.may_find_more(Lsn(5)));
    copying.begin_pass();
    assert_eq!(next_run(&mut copying), Some(run(10, 4)));
    assert!(!copying.may_find_more(Lsn(5)));
    assert!(copying.may_find_more(Lsn(6)));
}
