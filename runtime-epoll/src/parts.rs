//! What bells and mailboxes are made of in production.

pub(crate) use mio::Waker;
pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
