//! Messages between drivers: a mailbox for each, and a bell per thread for when it sleeps.
//!
//! This is the only lock of the data path. It is held while some messages are moved, and never while
//! anything is done with them; a receiver without mail does not take it. The receiver says when it goes to
//! sleep; only then does a sender ring (one write to an eventfd), and only the first one.

use mio::Waker;
use protocol_sm::driver::Tell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
        // Set before the mailboxes are read, because a sender posts before it reads this: so one of the two sees the
        // other.
        self.asleep.store(true, Ordering::SeqCst);
        let asleep = !has_mail();
        if !asleep {
            self.wake_up();
        }
        asleep
    }

    pub(crate) fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    fn ring(&self) {
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!("a thread cannot be woken: {error}");
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
        self.mail.store(true, Ordering::SeqCst);
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
        self.0.mail.load(Ordering::SeqCst)
    }

    /// Takes all messages into `into`, which is empty. `false`: the mailbox is closed, these were the last.
    pub(crate) fn take(&mut self, into: &mut Vec<M>) -> bool {
        debug_assert!(into.is_empty());
        if !self.has_mail() {
            return true;
        }
        let mut state = self.0.lock();
        std::mem::swap(&mut state.queue, into);
        self.0.mail.store(state.closed, Ordering::SeqCst);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Poller;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A thread that has one mailbox and nothing else.
    struct Reader<M> {
        poller: Poller,
        bell: Arc<Bell>,
        mailbox: Mailbox<M>,
    }

    impl<M> Reader<M> {
        fn new() -> Self {
            let poller = Poller::new().unwrap();
            let bell = Arc::new(Bell::new(poller.waker().unwrap()));
            Self { poller, mailbox: Mailbox::new(Arc::clone(&bell)), bell }
        }

        /// Sleeps as a thread does, until there is mail; panics if nobody rings in time. A ring may come late, for
        /// what was taken already.
        fn next_batch(&mut self, into: &mut Vec<M>) -> bool {
            while self.bell.fall_asleep(|| self.mailbox.has_mail()) {
                let started = Instant::now();
                self.poller.wait(Some(PATIENCE)).unwrap();
                assert!(started.elapsed() < PATIENCE, "nobody rang within {PATIENCE:?}");
                self.bell.wake_up();
            }
            self.mailbox.take(into)
        }
    }

    #[test]
    fn no_message_and_no_wake_up_is_lost_and_each_senders_order_is_kept() {
        const SENDERS: u32 = 3;
        const EACH: u32 = 20_000;
        let mut reader = Reader::new();
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let mut out = Outgoing::new(reader.mailbox.address());
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        out.tell((sender, number));
                        // Batches of 1, 2, 3, 1, … so that the receiver falls asleep in between, often.
                        if number % 6 != 1 && number % 6 != 3 && number % 6 != 4 {
                            out.flush();
                        }
                    }
                    out.flush();
                })
            })
            .collect();
        let mut next = [0; SENDERS as usize];
        let mut batch = Vec::new();
        while next.iter().sum::<u32>() < SENDERS * EACH {
            assert!(reader.next_batch(&mut batch));
            for (sender, number) in batch.drain(..) {
                assert_eq!(number, next[sender as usize], "in order");
                next[sender as usize] += 1;
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
    }

    #[test]
    fn a_closed_mailbox_gives_what_came_before_and_takes_nothing_after() {
        let mut reader = Reader::new();
        let address = reader.mailbox.address();
        address.post(1);
        address.close();
        address.post(2);
        let mut batch = Vec::new();
        assert!(!reader.next_batch(&mut batch));
        assert_eq!(batch, [1]);
    }

    #[test]
    fn a_sleeper_is_woken_by_a_close() {
        let mut reader = Reader::<()>::new();
        let address = reader.mailbox.address();
        let asleep = Arc::clone(&reader.bell);
        let closer = std::thread::spawn(move || {
            while !asleep.asleep.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            address.close();
        });
        assert!(!reader.next_batch(&mut Vec::new()), "it is closed");
        closer.join().unwrap();
    }

    #[test]
    fn nobody_falls_asleep_over_any_of_several_mailboxes() {
        let reader = Reader::<()>::new();
        let other = Mailbox::new(Arc::clone(&reader.bell));
        other.address().post(1);
        assert!(!reader.bell.fall_asleep(|| reader.mailbox.has_mail() || other.has_mail()));
    }
}
