//! What the server's operator orders: a session ends, or a public port closes.

use super::super::messages::{Order, ToListener};
use super::super::thread::Cx;
use super::{MainSys, ServerMain};
use crate::codes::{AbortCode, CloseCode, TunnelRefusal};
use crate::report::short;
use crate::wire::ServerMsg;
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

    // PROTOCOL.md: P-TUN-12.
    fn close_port<S: MainSys<T, L>>(&mut self, cx: &mut Cx<'_, S>, port: u16) -> usize {
        let keys: Vec<_> = self.sessions.keys().collect();
        for key in keys {
            let closed = self.sessions.act(key, |control, _| control.close_port(port)).flatten();
            if let Some((registration, name)) = closed {
                cx.sys.tell(ToListener::Close { control: key, registration });
                let told = ServerMsg::TunnelRefused { tunnel: registration.tunnel, code: TunnelRefusal::Closed };
                self.note_tunnel(cx, key, (name, port), &told);
                self.send(cx, key, told);
                return 1;
            }
        }
        0
    }
}
