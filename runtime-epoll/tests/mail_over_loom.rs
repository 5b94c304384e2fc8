//! All orders in which two or three threads can use `src/mail.rs`, with weak memory: production's own text, compiled
//! over loom's parts. A letter that nobody is woken for is a deadlock, which loom notices.
//!
//! loom takes an access that is sequentially consistent for less than it is; `mail.rs` rests on fences, which loom
//! knows. What must be noticed is shown, too: a fence left out on either side, and a look at the mailbox before the
//! bell is set. `tests/mail_over_shuttle.rs` makes more steps, with strong memory.

// Not all of it is used here.
#[allow(dead_code)]
#[path = "../src/mail.rs"]
mod mail;

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::Notify;
use loom::thread;
use mail::{Bell, Mailbox, Outgoing};
use protocol_sm::driver::Tell;
use std::cell::Cell;
use std::process::Command;

mod parts {
    pub(crate) use super::EventFd as Waker;
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use std::sync::PoisonError;

    pub(crate) fn fence(order: Ordering) {
        if !super::leaves_fences_out() {
            loom::sync::atomic::fence(order);
        }
    }
}

/// A wake-up that comes before the wait is kept, and a wait may end without one.
#[derive(Clone, Debug)]
pub(crate) struct EventFd(Arc<Notify>);

impl EventFd {
    pub(crate) fn wake(&self) -> std::io::Result<()> {
        self.0.notify();
        Ok(())
    }
}

/// Which thread does without its fence.
#[derive(Clone, Copy, PartialEq)]
enum Without {
    Nothing,
    TheReceiversFence,
    TheSendersFence,
    /// The receiver looks at its mailbox first, and only then says that it sleeps.
    Order,
}

loom::thread_local! {
    static LEAVES_OUT: Cell<bool> = Cell::new(false);
}

fn leaves_fences_out() -> bool {
    LEAVES_OUT.with(Cell::get)
}

/// Sleeps as `Thread::run` does, until there is mail, and takes it.
fn next_batch<M>(bell: &Bell, mailbox: &mut Mailbox<M>, event_fd: &EventFd, without: Without) -> (bool, Vec<M>) {
    loop {
        let asleep = if without == Without::Order {
            let has_mail = mailbox.has_mail();
            bell.fall_asleep(|| has_mail)
        } else {
            bell.fall_asleep(|| mailbox.has_mail())
        };
        if !asleep {
            break;
        }
        event_fd.0.wait();
        bell.wake_up();
    }
    let mut batch = Vec::new();
    (mailbox.take(&mut batch), batch)
}

/// `senders` threads post `each` letters, one by one, and the last of them closes the mailbox; the receiver sleeps
/// whenever there is none.
fn model(senders: u32, each: u32, without: Without) {
    let event_fd = EventFd(Arc::new(Notify::new()));
    let bell = Arc::new(Bell::new(event_fd.clone()));
    let mut mailbox = Mailbox::new(Arc::clone(&bell));
    for sender in 0..senders {
        let address = mailbox.address();
        thread::spawn(move || {
            LEAVES_OUT.with(|out| out.set(without == Without::TheSendersFence));
            let mut outgoing = Outgoing::new(address.clone());
            for letter in 0..each {
                outgoing.tell((sender, letter));
                outgoing.flush();
            }
            if senders == 1 {
                address.close();
            }
        });
    }
    LEAVES_OUT.with(|out| out.set(without == Without::TheReceiversFence));
    let mut next = vec![0; senders as usize];
    let mut open = true;
    while next.iter().any(|&next| next < each) || senders == 1 && open {
        let (still_open, batch) = next_batch(&bell, &mut mailbox, &event_fd, without);
        open = still_open;
        for (sender, letter) in batch {
            assert_eq!(letter, next[sender as usize], "each sender's order is kept");
            next[sender as usize] += 1;
        }
    }
}

fn check(senders: u32, each: u32, preemptions: Option<usize>, without: Without) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || model(senders, each, without));
}

#[test]
fn nobody_sleeps_over_a_letter_or_the_end() {
    check(1, 1, Some(4), Without::Nothing);
    check(1, 2, Some(2), Without::Nothing);
}

#[test]
fn nobody_sleeps_over_letters_of_two() {
    check(2, 1, Some(3), Without::Nothing);
}

#[test]
fn what_must_not_be_left_out_is_missed() {
    for model in ["without_the_receivers_fence", "without_the_senders_fence", "with_a_look_before_the_bell_is_set"] {
        // In a process of its own: loom does not get over a deadlock in this one.
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        let run = command.args(["--ignored", "--nocapture", "--exact", model]).output();
        let run = run.expect("run this test again");
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(!run.status.success() && said.contains("deadlock"), "{model}: a letter is slept over: {said}");
    }
}

#[test]
#[ignore = "must fail: the test above runs it"]
fn without_the_receivers_fence() {
    check(1, 1, Some(4), Without::TheReceiversFence);
}

#[test]
#[ignore = "must fail: the test above runs it"]
fn without_the_senders_fence() {
    check(1, 1, Some(4), Without::TheSendersFence);
}

#[test]
#[ignore = "must fail: the test above runs it"]
fn with_a_look_before_the_bell_is_set() {
    check(1, 1, Some(4), Without::Order);
}
