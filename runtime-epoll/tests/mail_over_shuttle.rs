//! Many orders in which several threads use `src/mail.rs`: production's own text, compiled over shuttle's parts. A
//! letter that nobody is woken for is a deadlock, which shuttle notices.
//!
//! To shuttle every access is sequentially consistent: a missing fence is what `tests/mail_over_loom.rs` is for.

// Not all of it is used here.
#[allow(dead_code)]
#[path = "../src/mail.rs"]
mod mail;

use mail::{Bell, Mailbox, Outgoing};
use protocol_sm::driver::Tell;
use shuttle::scheduler::{DfsScheduler, PctScheduler, Scheduler};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::{Config, Runner, thread};
use std::panic::{AssertUnwindSafe, catch_unwind};

mod parts {
    pub(crate) use super::EventFd as Waker;
    pub(crate) use shuttle::sync::atomic::{AtomicBool, Ordering, fence};
    pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use std::sync::PoisonError;
}

/// A wake-up that comes before the wait is kept.
#[derive(Clone, Debug)]
pub(crate) struct EventFd(Arc<(Mutex<bool>, Condvar)>);

impl EventFd {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    pub(crate) fn wake(&self) -> std::io::Result<()> {
        let (rung, changed) = &*self.0;
        *rung.lock().expect("no panic while locked") = true;
        changed.notify_one();
        Ok(())
    }

    fn wait(&self) {
        let (rung, changed) = &*self.0;
        let mut rung = rung.lock().expect("no panic while locked");
        while !*rung {
            rung = changed.wait(rung).expect("no panic while locked");
        }
        *rung = false;
    }
}

/// Several senders post letters, one and two at a time, to two mailboxes of one thread, which sleeps whenever there
/// are none. `looks_first`: before it says so.
fn model(senders: u32, each: u32, looks_first: bool) {
    let event_fd = EventFd::new();
    let bell = Arc::new(Bell::new(event_fd.clone()));
    let mut mailboxes = [Mailbox::new(Arc::clone(&bell)), Mailbox::new(Arc::clone(&bell))];
    for sender in 0..senders {
        let mut outgoing = Outgoing::new(mailboxes[sender as usize % 2].address());
        thread::spawn(move || {
            for letter in 0..each {
                outgoing.tell((sender, letter));
                if letter % 3 != 1 {
                    outgoing.flush();
                }
            }
            outgoing.flush();
        });
    }
    let mut next = vec![0; senders as usize];
    while next.iter().any(|&next| next < each) {
        let has_mail = || mailboxes.iter().any(Mailbox::has_mail);
        let asleep = if looks_first {
            let mail = has_mail();
            bell.fall_asleep(|| mail)
        } else {
            bell.fall_asleep(has_mail)
        };
        if asleep {
            event_fd.wait();
            bell.wake_up();
        }
        for mailbox in &mut mailboxes {
            let mut batch = Vec::new();
            assert!(mailbox.take(&mut batch), "it is open");
            for (sender, letter) in batch {
                assert_eq!(letter, next[sender as usize], "each sender's order is kept");
                next[sender as usize] += 1;
            }
        }
    }
}

fn check(scheduler: impl Scheduler + 'static, model: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(model);
}

#[test]
fn no_letter_of_several_senders_is_lost_or_slept_over() {
    check(PctScheduler::new_from_seed(16, 4, 2_000), || model(3, 7, false));
}

#[test]
fn every_order_of_one_letter_wakes_its_receiver() {
    check(DfsScheduler::new(Some(20_000), false), || model(1, 1, false));
}

#[test]
fn a_look_before_the_bell_is_set_is_found() {
    let run = || check(DfsScheduler::new(Some(20_000), false), || model(1, 1, true));
    let found = catch_unwind(AssertUnwindSafe(run)).expect_err("a letter is slept over");
    let said = found.downcast_ref::<String>().map_or("", |said| said);
    assert!(said.contains("deadlock"), "{said}");
}
