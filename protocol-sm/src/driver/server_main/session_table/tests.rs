//! Whose a session is decides whether it makes room: near misses.

use super::*;
use crate::auth::{Prover, Transcript};
use crate::settings::{Scope, TunnelLimits};
use crate::wire::{ClientMsg, ConnKind, Ctl, Preface, Reply};
use alloc::string::String;
use core::time::Duration;

const PORT: u16 = 6000;

/// A session of `holder` begins, with a tunnel at `PORT` if `has_port`.
fn begin(table: &mut SessionTable, holder: usize, client: u8, has_port: bool) -> ControlKey {
    let key = table.new_key();
    let (hello, answer) = (Ctl::Ping { received: 0 }, Ctl::Ping { received: 0 });
    let preface = Preface::ours(ConnKind::Ctl);
    let transcript = Transcript::new(preface.encode(), Reply::to(preface).encode(), &hello, &answer);
    let id = SessionId([u8::try_from(key.0).unwrap(); 16]);
    let secret = Prover::new(None, transcript).session_key(id);
    let mut control = Control::new(key, id, ClientId([client; 16]), Some(holder), secret, Scope::default(), 1);
    if has_port {
        let (tunnel, name, limits) = (TunnelId(1), String::new(), TunnelLimits::default());
        let register = ClientMsg::RegisterTunnel { tunnel, public_port: PORT, name, limits };
        assert!(control.on_msg(register, 5, &Ledger::default()).is_ok());
    }
    let token = Token::from_number(key.0).unwrap();
    table.insert(control, token, SocketAddr::from(([192, 0, 2, 1], 1)), Instant::ZERO);
    key
}

fn at_port(port: u16) -> Place {
    Place::Ports([port].into())
}

/// P-REPL-6.
#[test]
fn only_the_own_holders_ghost_makes_room_for_a_newcomer() {
    let at = |secs| Instant::ZERO + Duration::from_secs(secs);
    let table = &mut SessionTable::new(Ledger::default());
    let ghost = begin(table, 0, 1, true);
    let (newcomer, stranger) = (begin(table, 0, 2, false), begin(table, 1, 1, false));
    assert_eq!(table.ghost(newcomer, &at_port(PORT)), None, "it has a ctl_conn");
    table.detach(ghost, at(30), at(300));
    assert_eq!(table.ghost(newcomer, &at_port(PORT)), Some(ghost));
    assert_eq!(table.ghost(newcomer, &at_port(PORT + 1)), None);
    assert_eq!(table.ghost(stranger, &at_port(PORT)), None, "another holder's");
    assert_eq!(table.asleep(Some(0)), None, "it has its ports");
    table.sleep(ghost);
    assert_eq!([0, 1].map(|holder| table.asleep(Some(holder))), [Some(ghost), None]);
    table.on_heard(ghost);
    assert_eq!(table.ghost(newcomer, &at_port(PORT)), None, "it was heard since");
}
