//! What can be seen of the machines in the messages between their threads.

use super::stage::Stage;
use crate::oracle::{Kind, Property, Sometimes};
use protocol_sm::driver::messages::{ControlKey, FromClientLoop, FromServerLoop, ToClientLoop, ToServerLoop};
use protocol_sm::ids::{ConnId, Epoch};
use protocol_sm::wire::{ClientBody, ClientMsg, ServerBody, ServerMsg, TransferMsg};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

/// A conn as one process knows it: its session there, and its number.
type Key = (u64, ConnId);

/// One process's transfers. A process that is started again has another.
#[derive(Debug)]
pub(super) struct Watch {
    stage: Rc<Stage>,
    /// Halves whose end was announced.
    fins: RefCell<BTreeSet<(Key, Epoch)>>,
    dones: RefCell<BTreeSet<(Key, Epoch)>>,
    /// The session that a visitor came to.
    visitors: RefCell<BTreeMap<SocketAddr, ControlKey>>,
    /// The last transfer that was started on a conn.
    started: RefCell<BTreeMap<Key, Epoch>>,
    /// The client's session.
    serial: RefCell<u64>,
}

impl Watch {
    pub(super) fn new(stage: &Rc<Stage>) -> Self {
        Self {
            stage: Rc::clone(stage),
            fins: RefCell::default(),
            dones: RefCell::default(),
            visitors: RefCell::default(),
            started: RefCell::default(),
            serial: RefCell::default(),
        }
    }

    fn once(&self, seen: &RefCell<BTreeSet<(Key, Epoch)>>, what: (Key, Epoch)) {
        if !seen.borrow_mut().insert(what) {
            self.stage.breach(Kind::Safety, Property::FinOnce, format!("twice: {what:?}"));
        }
    }

    pub(super) fn said_by_server_loop<T>(&self, message: &FromServerLoop<T>) {
        if let FromServerLoop::Message { control, msg: ServerMsg::Fin { conn, epoch, .. } } = message {
            self.once(&self.fins, ((control.0, *conn), *epoch));
        }
    }

    pub(super) fn said_by_client_loop(&self, message: &FromClientLoop) {
        match message {
            FromClientLoop::Message { serial, msg: ClientMsg::Fin { conn, epoch, .. } } => {
                self.once(&self.fins, ((*serial, *conn), *epoch));
            }
            FromClientLoop::Message { serial, msg: ClientMsg::Done { conn, epoch } } => {
                self.once(&self.dones, ((*serial, *conn), *epoch));
            }
            FromClientLoop::Message { .. }
            | FromClientLoop::ConnGone { .. }
            | FromClientLoop::LocalFailed { .. }
            | FromClientLoop::Violation { .. }
            | FromClientLoop::Drained { .. } => {}
        }
    }

    /// The other side's end was announced.
    fn fin_came(&self, key: (Key, Epoch), first: Sometimes) {
        let crossed = self.fins.borrow().contains(&key);
        self.stage.saw(if crossed { Sometimes::FinsCross } else { first });
    }

    pub(super) fn told_server_loop<T>(&self, message: &ToServerLoop<T>) {
        match message {
            ToServerLoop::Visitor(arrival) => {
                self.visitors.borrow_mut().insert(arrival.from, arrival.control);
            }
            ToServerLoop::Transfer { control, msg: TransferMsg { conn, epoch, body: ClientBody::Fin { .. } } } => {
                self.fin_came(((control.0, *conn), *epoch), Sometimes::ClientFinFirst);
            }
            ToServerLoop::Transfer { .. }
            | ToServerLoop::ConnFailed { .. }
            | ToServerLoop::Open { .. }
            | ToServerLoop::Close { .. }
            | ToServerLoop::Conn { .. }
            | ToServerLoop::CloseTunnel { .. }
            | ToServerLoop::Drain
            | ToServerLoop::Stop => {}
        }
    }

    pub(super) fn told_client_loop(&self, message: &ToClientLoop) {
        match message {
            ToClientLoop::Session { serial } => *self.serial.borrow_mut() = *serial,
            ToClientLoop::Transfer(TransferMsg { conn, epoch, body: ServerBody::Fin { .. } }) => {
                self.fin_came(((*self.serial.borrow(), *conn), *epoch), Sometimes::ServerFinFirst);
            }
            ToClientLoop::Transfer(_)
            | ToClientLoop::Tunnel { .. }
            | ToClientLoop::CloseTunnel { .. }
            | ToClientLoop::Open { .. }
            | ToClientLoop::End { .. }
            | ToClientLoop::Drain => {}
        }
    }

    /// The server started a transfer: the next on its conn.
    pub(super) fn started(&self, conn: ConnId, epoch: Epoch, visitor: SocketAddr) {
        let Some(control) = self.visitors.borrow().get(&visitor).copied() else { return };
        let before = self.started.borrow_mut().insert((control.0, conn), epoch).unwrap_or_default();
        if before.next() != Some(epoch) {
            self.stage.breach(Kind::Safety, Property::EpochsGrow, format!("{epoch:?} after {before:?} on {conn:?}"));
        }
    }
}
