//! What the server's operator orders: a session ends, or a public port closes.

use super::super::messages::Order;
use super::super::thread::Cx;
use super::{MainSys, ServerMain};
use crate::codes::{AbortCode, CloseCode, TunnelRefusal};
use crate::report::short;
use alloc::vec::Vec;

impl<T, L> ServerMain<T, L> {
    /// Returns how many sessions or tunnels it was about.
    pub(super) fn carry_out<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, order: &Order) -> usize {
        match order {
            Order::Kick(client) => self.kick(cx, client),
            Order::Close(port) => self.close_port(cx, *port),
        }
    }

    // PROTOCOL.md: P-END-4.
    fn kick<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, client: &str) -> usize {
        let named = self.sessions.iter().filter(|(_, entry)| {
            let control = &entry.control;
            short(control.client.0) == client || self.settings.name_of(control.credential).as_deref() == Some(client)
        });
        let keys: Vec<_> = named.map(|(key, _)| key).collect();
        for &key in &keys {
            self.end_session(cx, key, CloseCode::Kicked, AbortCode::SessionOver);
        }
        keys.len()
    }

    // PROTOCOL.md: P-TUN-14.
    fn close_port<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, port: u16) -> usize {
        let keys: Vec<_> = self.sessions.keys().collect();
        let mut count = 0;
        for key in keys {
            // At several addresses, or of TCP and of UDP.
            while let Some(Some(withdrawn)) = self.sessions.act(key, |control, _| control.close_port(port)) {
                self.withdraw(cx, key, withdrawn, TunnelRefusal::Closed);
                count += 1;
            }
        }
        count
    }
}
