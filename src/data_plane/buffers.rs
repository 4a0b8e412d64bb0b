//! Memory for disk and network: aligned for O_DIRECT, reused, handed on as `Bytes` without a copy.
//!
//! A [`PoolBuffer`] has one owner who may write to it; `freeze` turns it into shared, immutable `Bytes`.
//! When the last owner lets go, the memory goes to a cache of the thread that it happens on. There is no
//! shared free list and so no lock: the data plane allocates and frees on one thread, and a buffer that ends
//! on another thread is simply freed there. All memory is initialised, so that reading a buffer that was
//! only partly filled shows old bytes at worst, never undefined ones.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytes::Bytes;

/// Alignment of every buffer: the largest logical block size that is accepted.
pub const ALIGNMENT: usize = 4096;

/// Capacities that are kept for reuse. Larger buffers are made and freed as needed.
const CLASS_BYTES: [usize; 6] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];

/// Most bytes that a thread keeps for reuse.
const CACHED_BYTES_MAX: usize = 64 << 20;

/// Aligned, initialised memory with one owner. Its length is what was asked for.
#[derive(Debug)]
pub struct PoolBuffer {
    memory: Memory,
    length: usize,
}

impl PoolBuffer {
    /// A buffer of `length` bytes with whatever content it had before.
    ///
    /// The calling thread is one that keeps buffers for reuse from here on.
    #[must_use]
    pub fn with_length(length: usize) -> Self {
        let memory = match class_for(length) {
            Some(class) => CACHE.with_borrow_mut(|cache| cache.take(class)),
            None => Memory::allocate(memory_for(length)),
        };
        Self { memory, length }
    }

    /// A buffer that holds a copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::with_length(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// Makes the buffer shorter; the bytes behind `length` are given up.
    pub fn truncate(&mut self, length: usize) {
        assert!(length <= self.length, "a buffer of {} bytes does not grow to {length}", self.length);
        self.length = length;
    }

    /// The same memory, shared and immutable. Nothing is copied.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for PoolBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.as_slice()[..self.length]
    }
}

impl DerefMut for PoolBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory.as_mut_slice()[..self.length]
    }
}

impl AsRef<[u8]> for PoolBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Bytes of memory that a buffer of `length` bytes takes.
#[must_use]
pub fn memory_for(length: usize) -> usize {
    class_for(length).map_or_else(|| length.next_multiple_of(ALIGNMENT), |class| CLASS_BYTES[class])
}

/// Whether `bytes` may be given to an O_DIRECT file as it is.
#[must_use]
pub fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) && bytes.len().is_multiple_of(ALIGNMENT)
}

/// Index of the smallest class that holds `length` bytes; none if it is too long for all.
fn class_for(length: usize) -> Option<usize> {
    CLASS_BYTES.iter().position(|capacity| length <= *capacity)
}

/// One allocation. Belongs to exactly one owner, so it may move between threads.
#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: the allocation belongs to this value alone, and the global allocator takes memory back on any thread.
unsafe impl Send for Memory {}
// SAFETY: a shared reference gives only shared access to the bytes.
unsafe impl Sync for Memory {}

impl Memory {
    fn allocate(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        assert!(layout.size() > 0, "no allocation is empty");
        // SAFETY: the layout is not empty. The bytes are zeroed, hence initialised.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, capacity }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity.max(ALIGNMENT), ALIGNMENT)
            .expect("capacities are far below isize::MAX")
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` points to `capacity` initialised bytes that this value owns. While the kernel writes to
        // them, the value is in the ring's slot and nobody holds a reference.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.capacity) }
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and the exclusive borrow of the only owner makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.capacity) }
    }

    /// A second handle on the same allocation, for `Drop`, which has only a reference to the first.
    fn take(&mut self) -> Self {
        let whole = Self { start: self.start, capacity: self.capacity };
        self.capacity = 0;
        whole
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A capacity of zero marks a handle whose memory has moved to another one.
        if self.capacity > 0 {
            // SAFETY: `allocate` got the memory with this layout, and no other handle on it is left.
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
        }
    }
}

impl Drop for PoolBuffer {
    fn drop(&mut self) {
        let memory = self.memory.take();
        // When the thread is ending its cache may be gone; then the memory is freed here.
        let _ = CACHE.try_with(|cache| cache.borrow_mut().give(memory));
    }
}

/// What a thread keeps for reuse.
struct Cache {
    free: [Vec<Memory>; CLASS_BYTES.len()],
    bytes: usize,
    /// Whether this thread allocates; what a foreign thread kept would never be used again.
    is_in_use: bool,
}

thread_local! {
    static CACHE: RefCell<Cache> =
        const { RefCell::new(Cache { free: [const { Vec::new() }; CLASS_BYTES.len()], bytes: 0, is_in_use: false }) };
}

impl Cache {
    fn take(&mut self, class: usize) -> Memory {
        self.is_in_use = true;
        match self.free[class].pop() {
            Some(memory) => {
                self.bytes -= memory.capacity;
                memory
            }
            None => Memory::allocate(CLASS_BYTES[class]),
        }
    }

    fn give(&mut self, memory: Memory) {
        let class = CLASS_BYTES.iter().position(|capacity| memory.capacity == *capacity);
        if let Some(class) = class
            && self.is_in_use
            && self.bytes + memory.capacity <= CACHED_BYTES_MAX
        {
            self.bytes += memory.capacity;
            self.free[class].push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_is_aligned_and_as_long_as_asked_for() {
        for length in [0, 1, 4096, 4097, 65_536, (4 << 20) + 1] {
            let buffer = PoolBuffer::with_length(length);
            assert_eq!(buffer.len(), length);
            assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
        }
    }

    #[test]
    fn freezing_copies_nothing_and_memory_comes_back_when_the_last_piece_is_dropped() {
        let buffer = PoolBuffer::copy_of(&[7; 8192]);
        let address = buffer.as_ptr();
        let frozen = buffer.freeze();
        assert_eq!(frozen.as_ptr(), address);

        let piece = frozen.slice(4096..);
        drop(frozen);
        assert_ne!(PoolBuffer::with_length(8192).as_ptr(), address);
        drop(piece);
        assert_eq!(PoolBuffer::with_length(16_384).as_ptr(), address);
    }

    #[test]
    fn a_thread_keeps_no_more_than_its_bound() {
        let buffers: Vec<_> = (0..20).map(|_| PoolBuffer::with_length(4 << 20)).collect();
        drop(buffers);
        assert_eq!(CACHE.with_borrow(|cache| cache.bytes), CACHED_BYTES_MAX);
    }

    #[test]
    fn a_buffer_that_ends_on_another_thread_is_freed_there() {
        let bytes = PoolBuffer::copy_of(&[1; 100]).freeze();
        let kept = std::thread::spawn(move || {
            assert_eq!(bytes[99], 1);
            drop(bytes);
            CACHE.with_borrow(|cache| cache.bytes)
        });
        assert_eq!(kept.join().unwrap(), 0);
    }

    #[test]
    fn alignment_means_start_and_length() {
        let buffer = PoolBuffer::with_length(8192);
        assert!(is_aligned(&buffer));
        assert!(!is_aligned(&buffer[512..4608]));
        assert!(!is_aligned(&buffer[..100]));
    }
}
