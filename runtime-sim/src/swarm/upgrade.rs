//! The server is upgraded: another process of it, on the same host, takes the listeners over, or fails to, while
//! everything goes on. Both are tasks of the host, so that its death is the death of both.

use super::orders::Order;
use super::program::serve;
use super::stage::{SERVER, Stage};
use super::sys::{Mailbox, Process, Stream};
use crate::oracle::Sometimes;
use protocol_sm::driver::messages::{Step, ToServerMain};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use tokio::task::JoinHandle;

/// How far a process of the server is with leaving its place to another.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    /// What it was asked to do last, until it has answered.
    under_way: Option<Step>,
    /// The process that has its place, and whose order counts.
    successor: Option<JoinHandle<Order>>,
}

impl Upgrade {
    /// Whether another process has its place.
    pub(super) fn has_left(&self) -> bool {
        self.successor.is_some()
    }

    /// The process that has its place.
    pub(super) fn successor(self) -> Option<JoinHandle<Order>> {
        self.successor
    }

    /// It is wanted, unless one is under way.
    pub(super) fn begin(&mut self, process: &RefCell<Process>, mailbox: &Mailbox<ToServerMain<Stream>>) {
        if self.under_way.is_none() {
            process.borrow_mut().forget_lent();
            self.ask(mailbox, Step::Lend);
        }
    }

    fn ask(&mut self, mailbox: &Mailbox<ToServerMain<Stream>>, step: Step) {
        self.under_way = Some(step);
        mailbox.borrow_mut().push_back(ToServerMain::Upgrade { tag: 0, step });
    }

    /// Takes the next step when one is done. One that `stops` does not take the last.
    pub(super) fn go_on(
        &mut self,
        stage: &Rc<Stage>,
        process: &RefCell<Process>,
        mailbox: &Mailbox<ToServerMain<Stream>>,
        stops: bool,
    ) {
        let Some(count) = process.borrow_mut().done.take() else { return };
        match self.under_way.take().expect("an answer has its question") {
            // It stops.
            Step::Lend | Step::Settle if count == 0 => {}
            Step::Lend => self.ask(mailbox, Step::Settle),
            // The other one may fail at any time before.
            Step::Settle if stops || process.borrow_mut().rng.chance(30) => {
                stage.saw(Sometimes::UpgradeFailed);
                self.ask(mailbox, Step::GoOn);
            }
            Step::Settle => {
                stage.remark(Some(SERVER), || "another process has the listeners".to_owned());
                stage.saw(Sometimes::Upgraded);
                if stage.oracle.live() > 0 {
                    stage.saw(Sometimes::UpgradedWithTransfers);
                }
                let (stage, left) = (Rc::clone(stage), process.borrow_mut().give());
                let serving: Pin<Box<dyn Future<Output = Order>>> = Box::pin(async move { serve(&stage, left).await });
                self.successor = Some(tokio::task::spawn_local(serving));
                self.ask(mailbox, Step::Leave);
            }
            Step::Leave | Step::GoOn => {}
        }
    }
}
