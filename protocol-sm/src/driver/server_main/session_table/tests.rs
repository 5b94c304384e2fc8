//! Whose a session is decides whether it makes room: near misses.

use super::super::tests::control;
use super::*;
use crate::settings::TunnelLimits;
use crate::wire::{ClientMsg, Resume};
use alloc::string::String;
use core::time::Duration;

const PORT: u16 = 6000;

/// A session of `holder` begins, with a tunnel at `PORT` if `has_port`.
fn begin(table: &mut SessionTable, holder: usize, client: u8, has_port: bool) -> ControlKey {
    let key = table.new_key();
    let mut control = control(key, Some(holder), client);
    if has_port {
        let (tunnel, name, limits) = (TunnelId(1), String::new(), TunnelLimits::default());
        let register = ClientMsg::RegisterTunnel { tunnel, public_port: PORT, bind_addr: None, name, limits };
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
    assert_eq!(table.ghost(newcomer, &at_port(PORT), None), None, "it has a ctl_conn");
    table.detach(ghost, at(30), at(300));
    assert_eq!(table.ghost(newcomer, &at_port(PORT), None), Some(ghost));
    assert_eq!(table.ghost(newcomer, &at_port(PORT + 1), None), None);
    let elsewhere = Some(IpAddr::from([192, 0, 2, 9]));
    assert_eq!(table.ghost(newcomer, &at_port(PORT), elsewhere), Some(ghost), "its ports may be at every address");
    assert_eq!(table.ghost(stranger, &at_port(PORT), None), None, "another holder's");
    assert_eq!(table.asleep(Some(0)), None, "it has its ports");
    table.sleep(ghost);
    assert_eq!([0, 1].map(|holder| table.asleep(Some(holder))), [Some(ghost), None]);
    table.on_heard(ghost);
    assert_eq!(table.ghost(newcomer, &at_port(PORT), None), None, "it was heard since");
}

/// P-RES-9: anybody may have heard a session's number.
#[test]
fn a_session_is_named_by_its_own_client_alone() {
    let table = &mut SessionTable::new(Ledger::default());
    let key = begin(table, 0, 1, false);
    let named = |client, session| {
        let (client, resume) = (ClientId([client; 16]), Some(Resume { session, received: 0 }));
        let hello = ClientHello { nonce: [0; 32], client, token: true, features: 0, resume };
        table.named_by(&hello)
    };
    let id = table.get(key).unwrap().control.id;
    assert_eq!(named(1, id), Some(Some(0)));
    assert_eq!(named(2, id), None);
    assert_eq!(named(1, SessionId([99; 16])), None);
}

/// P-TAKE-6: two that take over from each other are counted together.
#[test]
fn the_count_of_takeovers_passes_to_whoever_takes_over() {
    let at = |secs| Instant::ZERO + Duration::from_secs(secs);
    let table = &mut SessionTable::new(Ledger::default());
    let former = begin(table, 0, 1, false);
    assert!(table.get_mut(former).unwrap().takeovers.ask(at(1)));
    let counted = table.get(former).unwrap().takeovers.clone();
    let (key, from) = (table.new_key(), SocketAddr::from(([192, 0, 2, 1], 1)));
    let token = Token::from_number(key.0).unwrap();
    table.take_over(former, control(key, Some(0), 1), token, from, at(1), at(11));
    assert_eq!(table.get(key).unwrap().takeovers, counted);
    assert_ne!(counted, Takeovers::default());
}
