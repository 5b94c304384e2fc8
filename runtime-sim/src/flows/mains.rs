//! What the main threads do between the loops: conns are opened and admitted, messages carried over.

use super::sys::{Side, Stream};
use super::{CONTROLS, SERIAL, Sometimes, World, ip};
use crate::explore::mains::{about_a_transfer, to_server_loop};
use crate::explore::{KEY, SESSION};
use protocol_sm::datagrams::Lost;
use protocol_sm::driver::messages::{ControlKey, FromClientLoop, FromServerLoop, ToClientLoop, ToServerLoop};
use protocol_sm::ids::ConnId;
use protocol_sm::outbound::Destination;
use protocol_sm::report::Counts;
use protocol_sm::settings::Origin;
use protocol_sm::wire::{Framer, Message, PrefaceReader, ProxyToClient, ProxyToServer, Reply, ServerMsg};
use std::collections::VecDeque;
use std::net::SocketAddr;

impl World {
    /// Reads a new conn's hello and answers it, as the server's main thread does.
    pub(super) fn admit(&mut self, sock: usize) {
        if !self.net.newcomers.contains(&sock) {
            return;
        }
        let Some(conn) = self.net.conn(sock).filter(|conn| !conn.stuck && !conn.reset) else { return };
        let bytes: Vec<_> = conn.inbox.iter().copied().collect();
        let mut rest = &bytes[..];
        let Some(preface) = PrefaceReader::default().next(&mut rest).expect("a preface") else { return };
        let Some(ProxyToServer::Hello(hello)) = Framer::default().next(&mut rest).expect("a hello") else { return };
        conn.inbox.clear();
        let peer = conn.peer;
        let mut answer = Reply::to(preface).encode().to_vec();
        ProxyToClient::Accepted { proof: KEY.accept(SESSION, hello.conn) }.encode_to(&mut answer);
        self.net.push(peer, &answer);
        self.net.newcomers.retain(|&newcomer| newcomer != sock);
        let Some((Side::Client(of), _)) = self.net.watched(peer) else { return };
        let (control, stream) = (CONTROLS[of], Stream(sock));
        self.to_server.push_back(ToServerLoop::Conn { control, conn: hello.conn, stream });
    }

    /// What the main threads do.
    pub(super) fn carry_over(&mut self) {
        while let Some(message) = self.net.from_server.pop_front() {
            match message {
                FromServerLoop::Message { control, msg } => self.tell_client(control, msg),
                FromServerLoop::Datagram { control, datagram } => {
                    self.send_by_path(usize::from(control != CONTROLS[0]), true, datagram);
                }
                FromServerLoop::Ask { control, count, .. } => self.open_conns(control, count),
                FromServerLoop::Violation { violation, .. } => self.fail(format!("an honest client: {violation}")),
                FromServerLoop::Report(part) => {
                    self.lost += part.tally.lost.sum();
                    self.no_flow += part.tally.lost.get(Lost::NoFlow);
                    self.look_for_stale(&part.tally.lost);
                }
                FromServerLoop::AskLine { .. }
                | FromServerLoop::ConnGone { .. }
                | FromServerLoop::Drained { .. }
                | FromServerLoop::Settled { .. }
                | FromServerLoop::Left { .. }
                | FromServerLoop::PortClosed
                | FromServerLoop::WantBandwidth { .. }
                | FromServerLoop::PassOn { .. } => {}
            }
        }
        while let Some((of, message)) = self.net.from_clients.pop_front() {
            match message {
                FromClientLoop::Message { msg, .. } => self.to_server.push_back(to_server_loop(CONTROLS[of], msg)),
                FromClientLoop::Violation { violation, .. } => self.fail(format!("an honest server: {violation}")),
                FromClientLoop::Datagram { datagram, .. } => self.send_by_path(of, false, datagram),
                FromClientLoop::Report(part) => {
                    self.lost += part.tally.lost.sum();
                    self.look_for_stale(&part.tally.lost);
                }
                FromClientLoop::LocalFailed { .. }
                | FromClientLoop::LookUp { .. }
                | FromClientLoop::ConnUp { .. }
                | FromClientLoop::ConnGone { .. }
                | FromClientLoop::AskLine { .. }
                | FromClientLoop::Drained { .. }
                | FromClientLoop::WantBandwidth { .. } => {}
            }
        }
    }

    fn look_for_stale(&mut self, lost: &Counts<Lost>) {
        if lost.get(Lost::Stale) > 0 {
            self.seen.insert(Sometimes::Stale);
        }
    }

    fn mail_for(&mut self, control: ControlKey) -> &mut VecDeque<ToClientLoop> {
        &mut self.to_clients[usize::from(control != CONTROLS[0])]
    }

    fn tell_client(&mut self, control: ControlKey, msg: ServerMsg) {
        self.mail_for(control).push_back(ToClientLoop::Transfer { serial: SERIAL, msg: about_a_transfer(msg) });
    }

    fn open_conns(&mut self, control: ControlKey, count: u32) {
        for _ in 0..count {
            let conn = ConnId(self.next_conn);
            self.next_conn += 1;
            let (from, to) = (Origin::default(), Destination { to: SocketAddr::new(ip(1), 8090), through: None });
            let open = ToClientLoop::Open { from, to, conn, session: SESSION, secret: KEY.clone() };
            self.mail_for(control).push_back(open);
        }
    }
}
