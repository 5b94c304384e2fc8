//! Messages between threads: a mailbox per thread, with a bell for when its owner sleeps.
//!
//! This is the only lock of the data path. It is held while some messages are moved, and never while
//! anything is done with them. The receiver says when it goes to sleep; only then does a sender ring (one
//! write to an eventfd), and only the first one.

use mio::Waker;
use protocol_sm::driver::Tell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The receiving end, of one thread.
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
    state: Mutex<State<M>>,
    bell: Waker,
}

#[derive(Debug)]
struct State<M> {
    queue: Vec<M>,
    asleep: bool,
    closed: bool,
}

impl<M> Shared<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // Whoever panicked with the lock did so between two whole messages.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State<M>)) {
        let mut state = self.lock();
        change(&mut state);
        let ring = std::mem::take(&mut state.asleep);
        drop(state);
        if ring && let Err(error) = self.bell.wake() {
            tracing::error!("a thread cannot be woken: {error}");
        }
    }
}

impl<M> Mailbox<M> {
    /// A mailbox of the thread that `bell` wakes.
    pub(crate) fn new(bell: Waker) -> Self {
        let state = State { queue: Vec::new(), asleep: false, closed: false };
        Self(Arc::new(Shared { state: Mutex::new(state), bell }))
    }

    pub(crate) fn address(&self) -> Address<M> {
        Address(Arc::clone(&self.0))
    }

    /// From now on the bell is rung for a message, until the next [`Mailbox::take`]. `false`: there is
    /// something to take already, so this is no time to sleep.
    pub(crate) fn fall_asleep(&mut self) -> bool {
        let mut state = self.0.lock();
        state.asleep = state.queue.is_empty() && !state.closed;
        state.asleep
    }

    /// Takes all messages into `into`, which is empty. `false`: the mailbox is closed, these were the last.
    pub(crate) fn take(&mut self, into: &mut Vec<M>) -> bool {
        debug_assert!(into.is_empty());
        let mut state = self.0.lock();
        state.asleep = false;
        std::mem::swap(&mut state.queue, into);
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

/// What one thread has to say to another: kept until the end of a batch, then posted at once.
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
    use crate::sys::Linux;
    use crate::sys::Poller;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn mailbox<M>() -> (Linux, Mailbox<M>) {
        let poller = Poller::new().unwrap();
        let mailbox = Mailbox::new(poller.waker().unwrap());
        (Linux::with_poller(poller, ()), mailbox)
    }

    /// Polls as a thread does; panics if nothing comes in time.
    fn next_batch<M>(linux: &mut Linux, mailbox: &mut Mailbox<M>, into: &mut Vec<M>) -> bool {
        if mailbox.fall_asleep() {
            sleep(linux);
        }
        let open = mailbox.take(into);
        assert!(!open || !into.is_empty(), "woken for a message");
        open
    }

    fn sleep(linux: &mut Linux) {
        let started = Instant::now();
        linux.poll(Some(PATIENCE), &mut Vec::new()).unwrap();
        assert!(started.elapsed() < PATIENCE, "nobody rang within {PATIENCE:?}");
    }

    #[test]
    fn no_message_and_no_wake_up_is_lost_and_each_senders_order_is_kept() {
        const SENDERS: u32 = 3;
        const EACH: u32 = 20_000;
        let (mut linux, mut mailbox) = mailbox();
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let mut out = Outgoing::new(mailbox.address());
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
            assert!(next_batch(&mut linux, &mut mailbox, &mut batch));
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
        let (mut linux, mut mailbox) = mailbox();
        let address = mailbox.address();
        address.post(1);
        address.close();
        address.post(2);
        let mut batch = Vec::new();
        assert!(!next_batch(&mut linux, &mut mailbox, &mut batch));
        assert_eq!(batch, [1]);
    }

    #[test]
    fn a_sleeper_is_woken_by_the_close() {
        let (mut linux, mut mailbox) = mailbox::<()>();
        let address = mailbox.address();
        assert!(mailbox.fall_asleep());
        let closer = std::thread::spawn(move || address.close());
        sleep(&mut linux);
        assert!(!mailbox.take(&mut Vec::new()), "it is closed");
        closer.join().unwrap();
    }
}
