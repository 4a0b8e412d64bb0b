//! The ring against real files, sockets and eventfds.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

fn scratch_file(bytes: u64) -> Arc<OwnedFd> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(bytes).unwrap();
    Arc::new(file.into())
}

/// Enters until one operation is done.
fn wait_for_one<T>(ring: &mut Ring<T>) -> Completion<T> {
    let begun = Instant::now();
    let mut completions = Vec::new();
    while completions.is_empty() {
        assert!(begun.elapsed() < DEADLINE, "nothing completes");
        ring.enter(Some(DEADLINE)).unwrap();
        ring.collect(&mut completions);
    }
    assert_eq!(completions.len(), 1);
    completions.remove(0)
}

#[test]
fn what_was_written_in_pieces_is_read_back_whole() {
    let mut ring = Ring::new().unwrap();
    let file = scratch_file(0);
    let pieces = vec![Bytes::from_static(b"first "), Bytes::new(), Bytes::from_static(b"second")];
    ring.submit("write", Operation::Write { file: file.clone(), offset: 3, pieces });
    assert!(matches!(wait_for_one(&mut ring), Completion { tag: "write", outcome: Outcome::Written }));

    ring.submit("flush", Operation::Flush { file: file.clone() });
    assert!(matches!(wait_for_one(&mut ring).outcome, Outcome::Flushed));

    ring.submit("read", Operation::Read { file, offset: 3, buffer: PoolBuffer::with_length(12) });
    let Outcome::Read(buffer) = wait_for_one(&mut ring).outcome else { panic!("the read failed") };
    assert_eq!(&buffer[..], b"first second");
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn more_pieces_than_one_system_call_takes_are_written_all_the_same() {
    let mut ring = Ring::new().unwrap();
    let file = scratch_file(0);
    let pieces: Vec<Bytes> = (0..3000_u32).map(|n| Bytes::copy_from_slice(&n.to_le_bytes())).collect();
    ring.submit((), Operation::Write { file: file.clone(), offset: 0, pieces });
    assert!(matches!(wait_for_one(&mut ring).outcome, Outcome::Written));

    ring.submit((), Operation::Read { file, offset: 0, buffer: PoolBuffer::with_length(12_000) });
    let Outcome::Read(buffer) = wait_for_one(&mut ring).outcome else { panic!("the read failed") };
    assert!(buffer.chunks(4).zip(0_u32..).all(|(chunk, n)| chunk == n.to_le_bytes()));
}

#[test]
fn a_read_beyond_the_end_fails_instead_of_returning_less() {
    let mut ring = Ring::new().unwrap();
    let file = scratch_file(100);
    ring.submit((), Operation::Read { file, offset: 50, buffer: PoolBuffer::with_length(100) });
    assert!(matches!(wait_for_one(&mut ring).outcome, Outcome::Failed(Errno::IO)));
}

#[test]
fn a_write_that_the_file_refuses_is_reported_with_its_error() {
    let mut ring = Ring::new().unwrap();
    let file = Arc::new(OwnedFd::from(std::fs::File::open("/dev/zero").unwrap()));
    ring.submit((), Operation::Write { file, offset: 0, pieces: vec![Bytes::from_static(b"x")] });
    assert!(matches!(wait_for_one(&mut ring).outcome, Outcome::Failed(Errno::BADF)));
}

#[test]
fn a_socket_takes_what_it_can_and_says_how_much() {
    let mut ring = Ring::new().unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let socket = Arc::new(OwnedFd::from(ours));
    let total = 8 << 20;
    let mut pieces = vec![Bytes::from(vec![1; total / 2]), Bytes::from(vec![2; total / 2])];
    let reader = std::thread::spawn(move || {
        let mut received = vec![0; total];
        theirs.read_exact(&mut received).unwrap();
        (received, theirs)
    });
    let mut sent = 0;
    while sent < total {
        ring.submit((), Operation::Send { socket: socket.clone(), pieces });
        let Outcome::Sent { pieces: back, bytes } = wait_for_one(&mut ring).outcome else {
            panic!("the send failed")
        };
        assert!(bytes > 0);
        sent += bytes;
        let mut skip = bytes;
        pieces = back
            .iter()
            .map(|piece| {
                piece.slice({
                    let from = skip.min(piece.len());
                    skip -= from;
                    from..
                })
            })
            .collect();
    }
    let (received, mut theirs) = reader.join().unwrap();
    assert!(received[..total / 2].iter().all(|byte| *byte == 1));
    assert!(received[total / 2..].iter().all(|byte| *byte == 2));

    theirs.write_all(b"answer").unwrap();
    let buffer = PoolBuffer::with_length(100);
    ring.submit((), Operation::Receive { socket: socket.clone(), buffer, into: 10..100 });
    let Outcome::Received { buffer, bytes } = wait_for_one(&mut ring).outcome else { panic!("no answer") };
    assert_eq!(&buffer[10..10 + bytes], b"answer");

    drop(theirs);
    ring.submit((), Operation::Receive { socket, buffer, into: 0..100 });
    assert!(matches!(wait_for_one(&mut ring).outcome, Outcome::Received { bytes: 0, .. }));
}

#[test]
fn sending_to_a_closed_socket_is_an_error_and_no_signal() {
    let mut ring = Ring::new().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let pieces = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    ring.submit((), Operation::Send { socket: Arc::new(ours.into()), pieces });
    assert!(matches!(wait_for_one(&mut ring).outcome, Outcome::Failed(Errno::PIPE)));
}

#[test]
fn another_thread_wakes_the_ring_by_an_eventfd() {
    let mut ring = Ring::new().unwrap();
    let counter = Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap());
    ring.submit("wake", Operation::WaitForWake { counter: counter.clone() });
    let waker = std::thread::spawn(move || rustix::io::write(&*counter, &1_u64.to_ne_bytes()).unwrap());
    assert!(matches!(wait_for_one(&mut ring), Completion { tag: "wake", outcome: Outcome::Woken }));
    waker.join().unwrap();
}

#[test]
fn waiting_ends_when_the_time_is_over() {
    let mut ring = Ring::<()>::new().unwrap();
    let begun = Instant::now();
    ring.enter(Some(Duration::from_millis(20))).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(20));
}

#[test]
fn looking_ends_with_the_first_completion_and_without_one_when_the_window_is_over() {
    let mut ring = Ring::new().unwrap();
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let socket = Arc::new(OwnedFd::from(ours));
    ring.submit((), Operation::Receive { socket, buffer: PoolBuffer::with_length(4096), into: 0..4096 });
    assert_ne!(ring.look(Duration::from_millis(5)).unwrap(), Look::Done);
    theirs.write_all(b"x").unwrap();
    let begun = Instant::now();
    while ring.look(DEADLINE).unwrap() != Look::Done {
        assert!(begun.elapsed() < DEADLINE);
    }
    ring.enter(Some(DEADLINE)).unwrap();
    let mut completions = Vec::new();
    ring.collect(&mut completions);
    assert!(matches!(completions[..], [Completion { outcome: Outcome::Received { bytes: 1, .. }, .. }]));
    assert!(begun.elapsed() < DEADLINE);
}

#[test]
fn more_operations_than_both_queues_hold_are_all_completed() {
    let mut ring = Ring::new().unwrap();
    let file = scratch_file(4096);
    let count = 3 * COMPLETIONS;
    for number in 0..count {
        let buffer = PoolBuffer::with_length(1);
        ring.submit(number, Operation::Read { file: file.clone(), offset: 0, buffer });
    }
    let mut completions = Vec::new();
    let begun = Instant::now();
    while ring.in_flight() > 0 {
        assert!(begun.elapsed() < DEADLINE, "{} operations never complete", ring.in_flight());
        ring.enter(Some(DEADLINE)).unwrap();
        ring.collect(&mut completions);
    }
    let mut tags: Vec<u32> = completions.iter().map(|completion| completion.tag).collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq(0..count));
}

#[test]
fn a_ring_that_ends_with_operations_in_flight_takes_them_back_first() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let socket = Arc::new(OwnedFd::from(ours));
    let mut ring = Ring::new().unwrap();
    let buffer = PoolBuffer::with_length(4096);
    ring.submit((), Operation::Receive { socket: socket.clone(), buffer, into: 0..4096 });
    ring.enter(Some(Duration::from_millis(1))).unwrap();
    assert_eq!(Arc::strong_count(&socket), 2);
    drop(ring);
    assert_eq!(Arc::strong_count(&socket), 1);
}
