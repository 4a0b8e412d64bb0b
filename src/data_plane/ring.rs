//! The one `io_uring` of a data plane: operations go in with everything they own, and come out when they are done.
//!
//! The rule that makes it safe: an operation in flight *owns* its memory and its descriptor. They sit in a slot of
//! this ring from submission to completion and cannot be reached meanwhile, so that nobody can free, move or read
//! what the kernel is using. The number of the slot is the operation's `user_data`.
//!
//! The ring resumes short reads and writes of disks by itself; what a socket takes or gives is reported as it is.
//! It knows nothing of what an operation is for: the caller's tag comes back with the completion.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;

use crate::data_plane::buffers::PoolBuffer;
use crate::data_plane::busy_poll::CROWDED_AFTER;

/// Submissions that fit between two system calls; more are submitted early.
const SUBMISSIONS: u32 = 512;
/// Completions that fit; the kernel keeps more for the next round.
const COMPLETIONS: u32 = 4096;
/// Most pieces of one vectored operation (IOV_MAX); a longer write goes on as after a short one.
const PIECES_MAX: usize = 1024;
/// Bytes of the counter behind an eventfd.
const COUNTER_BYTES: usize = 8;
/// Time to wait for cancelled operations when the ring ends.
const CANCEL_WAIT: Duration = Duration::from_millis(100);

/// Looks at the ring between two offers of the processor to others.
const LOOKS_BETWEEN_YIELDS: u32 = 16;

/// What to do. Everything it needs moves in with it.
#[derive(Debug)]
pub enum Operation {
    /// Fill the whole buffer from a file.
    Read {
        /// From where.
        file: Arc<OwnedFd>,
        /// Byte offset in the file.
        offset: u64,
        /// Where to.
        buffer: PoolBuffer,
    },
    /// Write pieces to a file, one behind the other.
    Write {
        /// Where to.
        file: Arc<OwnedFd>,
        /// Byte offset in the file.
        offset: u64,
        /// What.
        pieces: Vec<Bytes>,
    },
    /// Flush a file's data, and what is needed to find it again.
    Flush {
        /// Which.
        file: Arc<OwnedFd>,
    },
    /// Change the allocation of a range of a file.
    Allocate {
        /// Which.
        file: Arc<OwnedFd>,
        /// Mode of `fallocate(2)`.
        mode: i32,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Receive what has arrived at a socket, at least one byte.
    Receive {
        /// From where.
        socket: Arc<OwnedFd>,
        /// Where to.
        buffer: PoolBuffer,
        /// Which part of the buffer.
        into: Range<usize>,
    },
    /// Send as much of the pieces as the socket takes.
    Send {
        /// Where to.
        socket: Arc<OwnedFd>,
        /// What, in order.
        pieces: Vec<Bytes>,
    },
    /// Wait until another thread adds to an eventfd, and reset it.
    WaitForWake {
        /// Which.
        counter: Arc<OwnedFd>,
    },
}

/// What came of an operation, with the memory that the caller wants back.
#[derive(Debug)]
pub enum Outcome {
    /// The buffer is full.
    Read(PoolBuffer),
    /// All pieces are written.
    Written,
    /// The file is flushed.
    Flushed,
    /// The allocation is changed.
    Allocated,
    /// So many bytes arrived; none means that the other side closed.
    Received {
        /// The buffer that was given.
        buffer: PoolBuffer,
        /// How many bytes of it are new.
        bytes: usize,
    },
    /// The socket took so many bytes.
    Sent {
        /// The pieces that were given, all of them.
        pieces: Vec<Bytes>,
        /// How many bytes of them are sent.
        bytes: usize,
    },
    /// The eventfd was added to.
    Woken,
    /// It failed; its memory is freed.
    Failed(Errno),
}

/// What [`Ring::look`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Something is done, or may be.
    Done,
    /// Nothing in the time given.
    Nothing,
    /// Another thread has used the processor for so long that it is better left to it.
    Crowded,
}

/// An operation that is done.
#[derive(Debug)]
pub struct Completion<T> {
    /// What the caller gave along.
    pub tag: T,
    /// What came of it.
    pub outcome: Outcome,
}

/// An operation that the kernel may be working on.
struct InFlight<T> {
    tag: T,
    operation: Operation,
    /// Bytes of a disk operation that are done already.
    done: usize,
}

/// A place for one operation. Its vectors and boxes are kept for the next one.
struct Slot<T> {
    in_flight: Option<InFlight<T>>,
    iovecs: Vec<libc::iovec>,
    message: Box<libc::msghdr>,
    counter: Box<[u8; COUNTER_BYTES]>,
}

impl<T> Slot<T> {
    fn empty() -> Self {
        // SAFETY: a msghdr of zeroes is valid: null pointers with lengths of zero.
        let message = Box::new(unsafe { std::mem::zeroed() });
        Self { in_flight: None, iovecs: Vec::new(), message, counter: Box::new([0; COUNTER_BYTES]) }
    }
}

/// The ring. Lives on the thread that made it.
pub struct Ring<T> {
    kernel: IoUring,
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    in_flight: usize,
    /// Completions as the kernel told them, not looked at yet.
    raw_completions: Vec<(u64, i32)>,
}

impl<T> Ring<T> {
    /// A ring for the calling thread, with what the kernel offers to make it cheap.
    ///
    /// # Errors
    /// The kernel has no `io_uring`, or forbids it.
    pub fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_clamp();
        // One thread submits, and completion work runs when that thread waits: no interrupts of its work. A kernel
        // older than 6.1 refuses this and gets a plain ring.
        let mut cheap = builder.clone();
        cheap
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all();
        let kernel = cheap.build(SUBMISSIONS).or_else(|_| builder.build(SUBMISSIONS))?;
        if !kernel.params().is_feature_ext_arg() || !kernel.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring needs Linux 5.11 or newer"));
        }
        Ok(Self { kernel, slots: Vec::new(), free: Vec::new(), in_flight: 0, raw_completions: Vec::new() })
    }

    /// How many operations are not done yet.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queues an operation. The kernel hears of it at the next [`Ring::enter`] at the latest.
    pub fn submit(&mut self, tag: T, operation: Operation) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::empty());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        assert!(slot.in_flight.is_none(), "slot {index} is taken twice");
        slot.in_flight = Some(InFlight { tag, operation, done: 0 });
        self.in_flight += 1;
        self.push(index);
    }

    /// The one system call of a round: hands over what is queued and waits until something is done, or until the
    /// time is over.
    ///
    /// # Errors
    /// The ring is broken; nothing can go on.
    pub fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.raw_completions.is_empty() {
            // Taken out already, to make room: what they lead to comes first.
            return self
                .kernel
                .submit()
                .map(|_| ())
                .or_else(|error| if is_fatal(&error) { Err(error) } else { Ok(()) });
        }
        let entered = match timeout {
            None => self.kernel.submit_and_wait(1),
            Some(timeout) => {
                let time = Timespec::from(timeout);
                self.kernel.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                // Time over, a signal, or completions that must be taken out first: the round goes on.
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
                Some(_) | None => Err(error),
            },
        }
    }

    /// Hands over what is queued and looks for something that is done for at most `window`, without sleeping. Lets
    /// every other thread pass that wants the processor.
    ///
    /// # Errors
    /// The ring is broken; nothing can go on.
    pub fn look(&mut self, window: Duration) -> io::Result<Look> {
        if let Err(error) = self.kernel.submit() {
            return if is_fatal(&error) { Err(error) } else { Ok(Look::Done) };
        }
        let begun = Instant::now();
        let mut before = begun;
        loop {
            for _ in 0..LOOKS_BETWEEN_YIELDS {
                // Either there is a completion, or work of the kernel that may end as one waits for this thread.
                if self.kernel.submission().taskrun() || !self.kernel.completion().is_empty() {
                    return Ok(Look::Done);
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
            let after = Instant::now();
            match () {
                () if after - before >= CROWDED_AFTER => return Ok(Look::Crowded),
                () if after - begun >= window => return Ok(Look::Nothing),
                () => before = after,
            }
        }
    }

    /// Takes out everything that is done.
    pub fn collect(&mut self, completions: &mut Vec<Completion<T>>) {
        self.take_raw_completions();
        let mut next = 0;
        // An operation that goes on may need room in the queue, and then more completions are taken meanwhile.
        while let Some((user_data, result)) = self.raw_completions.get(next).copied() {
            next += 1;
            let index = usize::try_from(user_data).expect("user_data is the index of a slot");
            completions.extend(self.on_completion(index, result));
        }
        self.raw_completions.clear();
    }

    fn take_raw_completions(&mut self) {
        let entries = self.kernel.completion().map(|entry| (entry.user_data(), entry.result()));
        self.raw_completions.extend(entries);
    }

    /// Ends a slot's operation, unless it has to go on.
    fn on_completion(&mut self, index: usize, result: i32) -> Option<Completion<T>> {
        let slot = &mut self.slots[index];
        let mut in_flight = slot.in_flight.take().expect("the kernel completes only what was submitted");
        let outcome = match usize::try_from(result) {
            Ok(bytes) => finish(in_flight.operation, &mut in_flight.done, bytes),
            Err(_) => match Errno::from_raw_os_error(-result) {
                // A signal came between; nothing was done.
                Errno::INTR => Err(in_flight.operation),
                errno => Ok(Outcome::Failed(errno)),
            },
        };
        match outcome {
            Ok(outcome) => {
                self.free.push(index);
                self.in_flight -= 1;
                Some(Completion { tag: in_flight.tag, outcome })
            }
            Err(operation) => {
                slot.in_flight = Some(InFlight { operation, ..in_flight });
                self.push(index);
                None
            }
        }
    }

    /// Puts the operation of a slot into the submission queue.
    fn push(&mut self, index: usize) {
        let entry = self.slots[index].entry().user_data(index.try_into().expect("usize has at most 64 bits"));
        // SAFETY: every pointer in the entry leads to memory that the slot's operation owns, or to boxes and vectors
        // of the slot itself. None of it is touched before the completion, and `Drop` leaks it if there is none.
        while unsafe { self.kernel.submission().push(&entry) }.is_err() {
            // The queue is full: hand over what is there. A kernel whose other queue is full as well wants its
            // completions taken out first.
            if let Err(error) = self.kernel.submit() {
                assert!(!is_fatal(&error), "the ring takes no more submissions: {error}");
                self.take_raw_completions();
            }
        }
    }
}

impl<T> Slot<T> {
    /// Describes the operation to the kernel, from where it has come to.
    fn entry(&mut self) -> squeue::Entry {
        let in_flight = self.in_flight.as_mut().expect("only a taken slot is submitted");
        let done = in_flight.done;
        match &mut in_flight.operation {
            Operation::Read { file, offset, buffer } => {
                let rest = &mut buffer[done..];
                opcode::Read::new(Fd(file.as_raw_fd()), rest.as_mut_ptr(), io_length(rest.len()))
                    .offset(*offset + to_u64(done))
                    .build()
            }
            Operation::Write { file, offset, pieces } => {
                let file = Fd(file.as_raw_fd());
                let offset = *offset + to_u64(done);
                fill_iovecs(&mut self.iovecs, pieces, done);
                match self.iovecs.as_slice() {
                    [one] => opcode::Write::new(file, one.iov_base.cast(), io_length(one.iov_len))
                        .offset(offset)
                        .build(),
                    many => {
                        opcode::Writev::new(file, many.as_ptr(), io_length(many.len())).offset(offset).build()
                    }
                }
            }
            Operation::Flush { file } => {
                opcode::Fsync::new(Fd(file.as_raw_fd())).flags(FsyncFlags::DATASYNC).build()
            }
            Operation::Allocate { file, mode, offset, length } => {
                opcode::Fallocate::new(Fd(file.as_raw_fd()), *length).offset(*offset).mode(*mode).build()
            }
            Operation::Receive { socket, buffer, into } => {
                let into = &mut buffer[into.clone()];
                assert!(!into.is_empty(), "receiving nothing would look like the end of the stream");
                opcode::Recv::new(Fd(socket.as_raw_fd()), into.as_mut_ptr(), io_length(into.len())).build()
            }
            Operation::Send { socket, pieces } => {
                let socket = Fd(socket.as_raw_fd());
                fill_iovecs(&mut self.iovecs, pieces, 0);
                if let [one] = self.iovecs.as_slice() {
                    return opcode::Send::new(socket, one.iov_base.cast(), io_length(one.iov_len))
                        .flags(libc::MSG_NOSIGNAL)
                        .build();
                }
                self.message.msg_iov = self.iovecs.as_mut_ptr();
                self.message.msg_iovlen = self.iovecs.len();
                let flags = u32::try_from(libc::MSG_NOSIGNAL).expect("a flag is positive");
                opcode::SendMsg::new(socket, ptr::from_ref(&*self.message)).flags(flags).build()
            }
            Operation::WaitForWake { counter } => opcode::Read::new(
                Fd(counter.as_raw_fd()),
                self.counter.as_mut_ptr(),
                io_length(COUNTER_BYTES),
            )
            .build(),
        }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            let everything = CancelBuilder::any();
            // A kernel that cannot do this, or not in time, leaves operations in flight; they are leaked below.
            let _ =
                self.kernel.submitter().register_sync_cancel(Some(Timespec::from(CANCEL_WAIT)), everything);
            let _ = self.enter(Some(CANCEL_WAIT));
            let mut completions = Vec::new();
            self.collect(&mut completions);
        }
        if self.in_flight > 0 {
            // What the kernel may still write to must never be freed.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

/// What a successful result means; the operation comes back if there is more to do.
fn finish(operation: Operation, done: &mut usize, bytes: usize) -> Result<Outcome, Operation> {
    let total = match &operation {
        Operation::Read { buffer, .. } => buffer.len(),
        Operation::Write { pieces, .. } => pieces.iter().map(Bytes::len).sum(),
        Operation::Flush { .. } => return Ok(Outcome::Flushed),
        Operation::Allocate { .. } => return Ok(Outcome::Allocated),
        Operation::WaitForWake { .. } => return Ok(Outcome::Woken),
        Operation::Receive { .. } | Operation::Send { .. } => bytes,
    };
    match operation {
        Operation::Receive { buffer, .. } => return Ok(Outcome::Received { buffer, bytes }),
        Operation::Send { pieces, .. } => return Ok(Outcome::Sent { pieces, bytes }),
        Operation::Read { .. }
        | Operation::Write { .. }
        | Operation::Flush { .. }
        | Operation::Allocate { .. }
        | Operation::WaitForWake { .. } => {}
    }
    *done += bytes;
    if *done < total && bytes > 0 {
        return Err(operation);
    }
    Ok(match operation {
        // Nothing moved although something was left: the file is shorter than it was when it was opened.
        _ if *done < total => Outcome::Failed(Errno::IO),
        Operation::Read { buffer, .. } => Outcome::Read(buffer),
        _ => Outcome::Written,
    })
}

/// Points `iovecs` to what follows the first `done` bytes of `pieces`, as far as one operation can go.
fn fill_iovecs(iovecs: &mut Vec<libc::iovec>, pieces: &[Bytes], done: usize) {
    iovecs.clear();
    let mut skip = done;
    for piece in pieces {
        if iovecs.len() == PIECES_MAX {
            break;
        }
        let rest = &piece[skip.min(piece.len())..];
        skip = skip.saturating_sub(piece.len());
        if !rest.is_empty() {
            iovecs.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
        }
    }
    assert!(!iovecs.is_empty(), "there is something to write");
}

/// A length as an operation carries it.
fn io_length(length: usize) -> u32 {
    u32::try_from(length).expect("no operation moves 4 GiB")
}

fn to_u64(bytes: usize) -> u64 {
    bytes.try_into().expect("usize has at most 64 bits")
}

/// Whether submitting failed for good, not only until completions are taken out.
fn is_fatal(error: &io::Error) -> bool {
    !matches!(Errno::from_io_error(error), Some(Errno::BUSY | Errno::AGAIN | Errno::INTR))
}

#[cfg(test)]
mod tests;
