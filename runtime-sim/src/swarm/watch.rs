//! What can be seen of the machines in the messages between their threads.

use super::stage::Stage;
use crate::oracle::{Books, Ends, Kind, Property, Sometimes};
use protocol_sm::crowd::Guest;
use protocol_sm::driver::Note;
use protocol_sm::driver::messages::{
    ControlKey, FromClientLoop, FromServerLoop, ToClientLoop, ToOperator, ToServerLoop,
};
use protocol_sm::ids::{ConnId, Epoch};
use protocol_sm::transfer::{Fin, How};
use protocol_sm::wire::{ClientBody, ClientMsg, ServerBody, ServerMsg, TransferMsg};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A conn as one process knows it: its session there, and its number.
type Key = (u64, ConnId);

/// One process's transfers. A process that is started again has another.
#[derive(Debug)]
pub(super) struct Watch {
    stage: Rc<Stage>,
    /// Halves whose end was announced.
    fins: RefCell<Ends<(Key, Epoch)>>,
    dones: RefCell<BTreeSet<(Key, Epoch)>>,
    /// The last transfer that was started on a conn.
    started: RefCell<BTreeMap<Key, Epoch>>,
    /// Visitors who are there, or on their way to a loop.
    guests: RefCell<Vec<Guest>>,
    /// Visits of which it was said that they are over.
    visits: Cell<u64>,
    /// What the program has noted.
    books: RefCell<Books>,
    /// Questions without an answer, and what was noted when each was asked.
    asked: RefCell<BTreeMap<u64, Books>>,
    turns: Cell<u64>,
    /// It has noted something while it gathered an answer.
    again: Cell<bool>,
}

/// Turns between two pairs of questions, in a run that has them.
const TURNS: u64 = 40;

impl Watch {
    pub(super) fn new(stage: &Rc<Stage>) -> Self {
        Self {
            stage: Rc::clone(stage),
            fins: RefCell::default(),
            dones: RefCell::default(),
            started: RefCell::default(),
            guests: RefCell::default(),
            visits: Cell::default(),
            books: RefCell::default(),
            asked: RefCell::default(),
            turns: Cell::default(),
            again: Cell::default(),
        }
    }

    fn said_fin(&self, half: (Key, Epoch), fin: Fin) {
        let checked = self.fins.borrow_mut().on_fin(half, fin);
        self.stage.check(checked);
        if self.fins.borrow().count(half) > 1 {
            self.stage.saw(Sometimes::ResetBehindEnd);
        }
    }

    /// A visitor has come, and there are no more than there may be.
    fn guest_came(&self, guest: Guest) {
        let mut guests = self.guests.borrow_mut();
        guests.push(guest);
        let Some(tight) = self.stage.plan.scenario.tight else { return };
        let same = guests.iter().filter(|other| **other == guest).count();
        if guests.len() > tight.visitors as usize || same > tight.per_source as usize {
            let what = format!("{} visitors, {same} of one address, with {tight:?}", guests.len());
            self.stage.breach(Kind::Safety, Property::CrowdsAreBounded, what);
        }
    }

    fn guest_left(&self, guest: Guest) {
        let mut guests = self.guests.borrow_mut();
        let at = guests.iter().position(|other| *other == guest).expect("who left had come");
        guests.swap_remove(at);
    }

    pub(super) fn said_by_server_loop<T>(&self, message: &FromServerLoop<T>) {
        // Who is passed on comes to another loop.
        if let FromServerLoop::Left { guest, .. } = message {
            self.guest_left(*guest);
        }
        if let FromServerLoop::PassOn { arrival, .. } = message {
            self.guest_left(arrival.guest);
        }
        if let FromServerLoop::WantBandwidth { .. } = message {
            self.stage.saw(Sometimes::Throttled);
        }
        if let FromServerLoop::Message { control, msg: ServerMsg::Fin { conn, epoch, total, how } } = message {
            self.said_fin(((control.0, *conn), *epoch), Fin { total: *total, how: *how });
        }
    }

    /// The program is about to have a turn. The name of a question, if it is time to ask one: some runs are asked all the
    /// time, twice in a row.
    pub(super) fn question(&self) -> Option<u64> {
        let turn = self.turns.get() + 1;
        self.turns.set(turn);
        let again = self.again.replace(false);
        let asks = self.stage.plan.asks && (turn % TURNS < 2 || again);
        asks.then(|| {
            self.asked.borrow_mut().insert(turn, self.books.borrow().clone());
            turn
        })
    }

    /// The program has noted something.
    pub(super) fn noted(&self, note: &Note) {
        self.books.borrow_mut().on_note(note);
        // What it has gathered is old.
        self.again.set(!self.asked.borrow().is_empty());
    }

    /// The program tells what it does.
    pub(super) fn answered(&self, answer: &ToOperator) {
        let ToOperator::Report { tags, report } = answer else { return };
        if tags.len() > 1 {
            self.stage.saw(Sometimes::AskedAtOnce);
        }
        for tag in tags {
            let told = match self.asked.borrow_mut().remove(tag) {
                None => Err("a question is answered that was not asked, or twice".to_owned()),
                Some(then) => then.up_to(&self.books.borrow(), report),
            };
            if let Err(what) = told {
                self.stage.breach(Kind::Safety, Property::BooksAgree, what);
            }
        }
    }

    pub(super) fn said_by_client_loop(&self, message: &FromClientLoop) {
        match message {
            FromClientLoop::WantBandwidth { .. } => self.stage.saw(Sometimes::Throttled),
            FromClientLoop::Message { serial, msg: ClientMsg::Fin { conn, epoch, total, how } } => {
                self.said_fin(((*serial, *conn), *epoch), Fin { total: *total, how: *how });
            }
            FromClientLoop::Message { serial, msg: ClientMsg::Done { conn, epoch } } => {
                if !self.dones.borrow_mut().insert(((*serial, *conn), *epoch)) {
                    let what = format!("Done twice for {conn:?} {epoch:?}");
                    self.stage.breach(Kind::Safety, Property::FinOnce, what);
                }
            }
            FromClientLoop::Message { .. }
            | FromClientLoop::ConnGone { .. }
            | FromClientLoop::Datagram { .. }
            | FromClientLoop::ConnUp { .. }
            | FromClientLoop::AskLine { .. }
            | FromClientLoop::LookUp { .. }
            | FromClientLoop::LocalFailed { .. }
            | FromClientLoop::Violation { .. }
            | FromClientLoop::Report(_)
            | FromClientLoop::Drained { .. } => {}
        }
    }

    /// The other side's end was announced.
    fn fin_came(&self, key: (Key, Epoch), how: How, [first, reset]: [Sometimes; 2]) {
        let crossed = self.fins.borrow().contains(key);
        self.stage.saw(if crossed { Sometimes::FinsCross } else { first });
        if how == How::Reset {
            self.stage.saw(reset);
            self.stage.saw(if crossed { Sometimes::ResetAfterOtherEnd } else { Sometimes::ResetBeforeOtherEnd });
        }
    }

    pub(super) fn told_server_loop<T>(&self, message: &ToServerLoop<T>) {
        match message {
            ToServerLoop::Visitor(arrival) => self.guest_came(arrival.guest),
            ToServerLoop::Transfer { control, msg: TransferMsg { conn, epoch, body: ClientBody::Fin(fin) } } => {
                let kinds = [Sometimes::ClientFinFirst, Sometimes::ResetDown];
                self.fin_came(((control.0, *conn), *epoch), fin.how, kinds);
            }
            ToServerLoop::HandOver { .. }
            | ToServerLoop::Port(_)
            | ToServerLoop::Admit { .. }
            | ToServerLoop::Path { .. }
            | ToServerLoop::Datagram { .. }
            | ToServerLoop::Back { .. }
            | ToServerLoop::Trust(_)
            | ToServerLoop::Transfer { .. }
            | ToServerLoop::ConnFailed { .. }
            | ToServerLoop::Open { .. }
            | ToServerLoop::Close { .. }
            | ToServerLoop::Conn { .. }
            | ToServerLoop::CloseTunnel { .. }
            | ToServerLoop::Retire { .. }
            | ToServerLoop::Limits { .. }
            | ToServerLoop::KeepTo(_)
            | ToServerLoop::Drain
            | ToServerLoop::Trim
            | ToServerLoop::Bandwidth { .. }
            | ToServerLoop::Line { .. }
            | ToServerLoop::Settle
            | ToServerLoop::Leave
            | ToServerLoop::Report { .. }
            | ToServerLoop::Stop => {}
        }
    }

    pub(super) fn told_client_loop(&self, message: &ToClientLoop) {
        match message {
            ToClientLoop::Transfer { serial, msg: TransferMsg { conn, epoch, body: ServerBody::Fin(fin) } } => {
                let kinds = [Sometimes::ServerFinFirst, Sometimes::ResetUp];
                self.fin_came(((*serial, *conn), *epoch), fin.how, kinds);
            }
            ToClientLoop::Session { .. }
            | ToClientLoop::Transfer { .. }
            | ToClientLoop::Tunnel { .. }
            | ToClientLoop::CloseTunnel { .. }
            | ToClientLoop::Relocated { .. }
            | ToClientLoop::Path { .. }
            | ToClientLoop::Datagram { .. }
            | ToClientLoop::Back { .. }
            | ToClientLoop::KeepTo(_)
            | ToClientLoop::Open { .. }
            | ToClientLoop::End { .. }
            | ToClientLoop::Bandwidth { .. }
            | ToClientLoop::Line { .. }
            | ToClientLoop::Serve { .. }
            | ToClientLoop::Report { .. }
            | ToClientLoop::Drain { .. } => {}
        }
    }

    /// A visit has left its record.
    pub(super) fn visit_over(&self) {
        self.visits.set(self.visits.get() + 1);
    }

    /// The process has ended by itself: each of its `visits` has left a record.
    pub(super) fn check_visits(&self, visits: u64) {
        let said = self.visits.get();
        if said != visits {
            self.stage.breach(Kind::Safety, Property::VisitsRecorded, format!("{said} records of {visits} visits"));
        }
    }

    /// The server started a transfer: the next on its conn.
    pub(super) fn started(&self, control: ControlKey, conn: ConnId, epoch: Epoch) {
        let before = self.started.borrow_mut().insert((control.0, conn), epoch).unwrap_or_default();
        if before.next() != Some(epoch) {
            self.stage.breach(Kind::Safety, Property::EpochsGrow, format!("{epoch:?} after {before:?} on {conn:?}"));
        }
    }
}
