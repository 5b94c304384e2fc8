//! The messages of every transfer are encoded and decoded without touching the allocator, and no
//! hostile length makes the decoder reserve memory.

use protocol_sm::codes::AbortCode;
use protocol_sm::ids::{ConnId, Epoch, TunnelId};
use protocol_sm::wire::{
    ClientMsg, FRAME_HEADER, Framer, Message, ProxyToClient, ProxyToServer, ServerMsg, ToClient,
    ToServer,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

thread_local! {
    static ALLOCATED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Counts this thread's allocations and their bytes.
struct Counting;

// SAFETY: every call is passed on to `System` unchanged; counting touches a thread-local without a
// destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (count, bytes) = ALLOCATED.get();
        ALLOCATED.set((count + 1, bytes + layout.size()));
        // SAFETY: the caller's obligations are those of `System.alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligations are those of `System.dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and allocated bytes while `work` runs.
fn allocated(work: impl FnOnce()) -> (usize, usize) {
    let before = ALLOCATED.get();
    work();
    let after = ALLOCATED.get();
    (after.0 - before.0, after.1 - before.1)
}

fn round_trip<M: Message + PartialEq>(message: &M) {
    let mut frame = [0; 1024];
    let mut framer = Framer::<M>::default();
    let used = allocated(|| {
        let length = black_box(message).encode(&mut frame);
        let mut input = black_box(&frame[..length]);
        let decoded = framer.next(&mut input);
        assert!(decoded == Ok(Some(black_box(message).to_owned_by_hand())) && input.is_empty());
    });
    assert_eq!(used, (0, 0));
}
