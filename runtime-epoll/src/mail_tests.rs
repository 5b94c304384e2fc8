//! Bells and mailboxes as they are, with eventfds and threads. `tests/mail_over_loom.rs` and
//! `tests/mail_over_shuttle.rs` look at the orders of their steps.

use crate::mail::{Bell, Mailbox, Outgoing};
use crate::sys::Poller;
use protocol_sm::driver::Tell;
use std::sync::Arc;
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
        while !asleep.is_asleep() {
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

/// A server's event loop may have been busy while a hundred thousand visitors came and went.
#[test]
fn a_hundred_thousand_letters_wait_and_none_is_lost() {
    const LETTERS: u32 = 100_000;
    let mut reader = Reader::new();
    let mut others = Mailbox::new(Arc::clone(&reader.bell));
    let one_by_one = reader.mailbox.address();
    let mut kept = Outgoing::new(others.address());
    for letter in 0..LETTERS {
        one_by_one.post(letter);
        kept.tell(letter);
    }
    kept.flush();
    let mut batch = Vec::new();
    assert!(reader.next_batch(&mut batch), "still open");
    assert!(batch.iter().copied().eq(0..LETTERS), "{} of {LETTERS} in their order", batch.len());
    assert!(!reader.mailbox.has_mail(), "all of it at once");
    batch.clear();
    assert!(others.take(&mut batch), "still open");
    assert!(batch.iter().copied().eq(0..LETTERS), "{} of {LETTERS} in their order", batch.len());
}
