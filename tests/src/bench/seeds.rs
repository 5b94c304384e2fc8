//! A seed of its own for each visit of this run, so that bytes of one visit never pass for those of another.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// The next unused seed.
pub(super) fn next() -> u32 {
    NEXT.fetch_add(1, Relaxed)
}
