//! Messages between drivers: a mailbox for each, and a bell per thread for when it sleeps.
//!
//! This is the only lock of the data path. It is held while some messages are moved, and never while
//! anything is done with them; a receiver without mail does not take it. The receiver says when it goes to
//! sleep; only then does a sender ring (one write to an eventfd), and only the first one.
//!
//! ```text
//!   receiver: asleep = true ── fence ── is there mail?       no: it sleeps
//!   sender:   mail = true ──── fence ── was it asleep?       yes: it rings
//! ```
//!
//! Each says something and then looks at what the other said. The fences put all four steps in one order, so at least
//! one of the two sees the other: nobody sleeps over mail. Messages themselves are handed over by the lock.

// `tests/mail_over_loom.rs` and `tests/mail_over_shuttle.rs` compile this file over other parts.
use super::parts::{Arc, AtomicBool, Mutex, MutexGuard, Ordering, PoisonError, Waker, fence};
use protocol_sm::driver::Tell;

/// Wakes a thread that sleeps. Its drivers' mailboxes share it.
#[derive(Debug)]
pub(crate) struct Bell {
    asleep: AtomicBool,
    waker: Waker,
}

impl Bell {
    pub(crate) fn new(waker: Waker) -> Self {
        Self { asleep: AtomicBool::new(false), waker }
    }

    /// From now on the bell is rung for a message, until [`Bell::wake_up`]. `false`: there is mail already, so this
    /// is no time to sleep.
    pub(crate) fn fall_asleep(&self, has_mail: impl FnOnce() -> bool) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let asleep = !has_mail();
        if !asleep {
            self.wake_up();
        }
        asleep
    }

    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// After something was put into a mailbox.
    fn ring(&self) {
        fence(Ordering::SeqCst);
        // Of several senders one finds it asleep.
        if self.asleep.compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(event = "thread_not_woken", "a thread cannot be woken: {error}");
        }
    }
}

/// The receiving end, of one driver.
#[derive(Debug)]
pub(crate) struct Mailbox<M>(Arc<Shared<M>>);

/// A sending end.
#[derive(Debug)]
pub(crate) struct Address<M>(Arc<Shared<M>>);

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Shared<M> {
    /// There is something to take: messages, or the end. Set and cleared with the lock held.
    mail: AtomicBool,
    state: Mutex<State<M>>,
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct State<M> {
    queue: Vec<M>,
    closed: bool,
}

impl<M> Shared<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // A thread that panicked while it held the lock had moved whole messages only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State<M>)) {
        let mut state = self.lock();
        change(&mut state);
        self.mail.store(true, Ordering::Relaxed);
        drop(state);
        self.bell.ring();
    }
}

impl<M> Mailbox<M> {
    /// A mailbox on the thread that `bell` wakes.
    pub(crate) fn new(bell: Arc<Bell>) -> Self {
        let state = State { queue: Vec::new(), closed: false };
        Self(Arc::new(Shared { mail: AtomicBool::new(false), state: Mutex::new(state), bell }))
    }

    pub(crate) fn address(&self) -> Address<M> {
        Address(Arc::clone(&self.0))
    }

    /// Whether there is something to take: messages, or the end.
    pub(crate) fn has_mail(&self) -> bool {
        self.0.mail.load(Ordering::Relaxed)
    }

    /// Takes all messages into `into`, which is empty. `false`: the mailbox is closed, these were the last.
    pub(crate) fn take(&mut self, into: &mut Vec<M>) -> bool {
        debug_assert!(into.is_empty());
        if !self.has_mail() {
            return true;
        }
        let mut state = self.0.lock();
        std::mem::swap(&mut state.queue, into);
        self.0.mail.store(state.closed, Ordering::Relaxed);
        !state.closed
    }
}

impl<M> Address<M> {
    /// Posts one message.
    pub(crate) fn post(&self, message: M) {
        self.0.change(|state| {
            if !state.closed {
                state.queue.push(message);
            }
        });
    }

    /// Posts `messages`, if there are any, in their order.
    fn post_all(&self, messages: &mut Vec<M>) {
        if messages.is_empty() {
            return;
        }
        self.0.change(|state| {
            if state.closed {
                messages.clear();
            } else {
                state.queue.append(messages);
            }
        });
    }

    /// Tells the receiver to end once it has handled what was posted before. Later messages are dropped.
    pub(crate) fn close(&self) {
        self.0.change(|state| state.closed = true);
    }
}

/// What one driver has to say to another: kept until the end of a batch, then posted at once.
#[derive(Debug)]
pub(crate) struct Outgoing<M> {
    to: Address<M>,
    kept: Vec<M>,
}

impl<M> Outgoing<M> {
    pub(crate) fn new(to: Address<M>) -> Self {
        Self { to, kept: Vec::new() }
    }

    pub(crate) fn flush(&mut self) {
        self.to.post_all(&mut self.kept);
    }
}

impl<M> Tell<M> for Outgoing<M> {
    fn tell(&mut self, msg: M) {
        self.kept.push(msg);
    }
}
