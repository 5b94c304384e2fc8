//! H, the yardstick of datagrams: one hop of a bare relay. Two of them in a chain have our topology and nothing else: one
//! socket that listens, one for each flow, one recvfrom and one sendto for each datagram. No flow is ever forgotten.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::datagrams::{LONGEST, bound, connected};

/// Datagrams that are read at one socket before the others have their turn.
const BATCH: usize = 64;
const LISTENER: u64 = u64::MAX;

/// One hop, bound to its address.
pub(super) struct DatagramRelay {
    epoll: Epoll,
    pub(super) socket: UdpSocket,
    to: SocketAddr,
    /// Each with its visitor.
    flows: Vec<(UdpSocket, SocketAddr)>,
    by_visitor: BTreeMap<SocketAddr, usize>,
    buffer: Vec<u8>,
}

/// Relays whatever is sent to `listen` to `to`, until killed. Prints `Listening ADDR` once it does.
pub(super) fn run(listen: SocketAddr, to: SocketAddr) -> Result<(), String> {
    let relay = DatagramRelay::bind(listen, to)?;
    let at = relay.socket.local_addr().map_err(|e| format!("no address: {e}"))?;
    println!("Listening {at}");
    relay.serve_for_ever()
}

impl DatagramRelay {
    pub(super) fn bind(listen: SocketAddr, to: SocketAddr) -> Result<Self, String> {
        let socket = bound(listen)?;
        let open = || {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
            Ok(epoll)
        };
        let epoll = open().map_err(|e: Errno| format!("epoll: {e}"))?;
        let (flows, by_visitor) = Default::default();
        Ok(Self { epoll, socket, to, flows, by_visitor, buffer: vec![0; LONGEST] })
    }

    pub(super) fn serve_for_ever(mut self) -> Result<(), String> {
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let n = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(n) => n,
                Err(Errno::EINTR) => 0,
                Err(e) => return Err(format!("relay: {e}")),
            };
            for event in &events[..n] {
                if event.data() == LISTENER { self.inward()? } else { self.outward(event.data() as usize) }
            }
        }
    }

    fn inward(&mut self) -> Result<(), String> {
        for _ in 0..BATCH {
            let Ok((length, from)) = self.socket.recv_from(&mut self.buffer) else { break };
            let flow = match self.by_visitor.get(&from) {
                Some(&flow) => flow,
                None => self.begin(from)?,
            };
            // What cannot be sent is lost, as any datagram may be.
            let _ = self.flows[flow].0.send(&self.buffer[..length]);
        }
        Ok(())
    }

    fn begin(&mut self, visitor: SocketAddr) -> Result<usize, String> {
        let socket = connected(self.to, None)?;
        let flow = self.flows.len();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, flow as u64);
        self.epoll.add(&socket, event).map_err(|e| format!("epoll: {e}"))?;
        self.flows.push((socket, visitor));
        self.by_visitor.insert(visitor, flow);
        Ok(flow)
    }

    fn outward(&mut self, flow: usize) {
        let (socket, visitor) = &self.flows[flow];
        for _ in 0..BATCH {
            let Ok(length) = socket.recv(&mut self.buffer) else { break };
            let _ = self.socket.send_to(&self.buffer[..length], visitor);
        }
    }
}
