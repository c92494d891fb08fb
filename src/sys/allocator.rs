//! The allocator: the system's, but for the memory that requests are read into, which is there before it is
//! needed.
//!
//! A thread that is being killed gets no more memory from the kernel. Where it is about to copy a request
//! to such a thread - both may happen at once - it gives up, and the program whose request it was gets
//! `EIO`, though nothing is wrong with it: the next worker would have served it. The FUSE library makes
//! these buffers, one for each thread, and nobody else sees them.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::types::limits;

/// How large these buffers are: the library's `MAX_WRITE_SIZE` and some more.
const BUFFER_BYTES: usize = (16 << 20) + 4096;

/// Requests are shorter, since no write is longer than a record: its bytes, and room for headers.
const USED_BYTES: usize = limits::PAYLOAD_BYTES_MAX + 2 * PAGE_BYTES;

const PAGE_BYTES: usize = 4096;

struct Allocator;

// Under the fuzzer its own counts, and it is the one that a program may have.
#[cfg_attr(not(fuzzing), global_allocator)]
#[cfg_attr(fuzzing, allow(dead_code, reason = "nobody allocates here"))]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: everything is the system allocator's; a block is written to only before it is handed out, inside
// of it, with what it has already.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let block = unsafe { System.alloc_zeroed(layout) };
        if layout.size() == BUFFER_BYTES && !block.is_null() {
            for offset in (0..USED_BYTES).step_by(PAGE_BYTES) {
                // SAFETY: the block is new, has so many bytes, and all of them are 0.
                unsafe { block.add(offset).write_volatile(0) };
            }
        }
        block
    }
}
