//! A gate in front of a port: forwards connections until a test cuts, freezes or closes it. Stands for
//! the network between client and server, without privileges.

use crate::services::stop_listening;
use crate::sockets::{LOOPBACK, linger_zero};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a pump that has nothing to do looks at its orders.
const TICK: Duration = Duration::from_millis(10);
/// How many of a connection's first bytes are kept.
const RECORDED: usize = 4096;

/// A forwarder under the test's control. Dropping it cuts everything.
#[derive(Debug)]
pub struct Gate {
    addr: SocketAddr,
    listener: TcpListener,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    closed: AtomicBool,
    frozen: AtomicBool,
    dribble: AtomicBool,
    accepted: AtomicU64,
    /// Where new connections go, if not where they went at first.
    elsewhere: Mutex<Option<SocketAddr>>,
    links: Mutex<Vec<Arc<Link>>>,
    recordings: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
}

/// One connection through the gate.
#[derive(Debug)]
struct Link {
    near: TcpStream,
    far: TcpStream,
    frozen: AtomicBool,
    dead: AtomicBool,
    pumps_ended: AtomicU64,
    tampers: AtomicBool,
    /// Everything goes on byte by byte.
    dribble: bool,
    /// First bytes from the connecting side.
    recording: Arc<Mutex<Vec<u8>>>,
}

impl Gate {
    /// A gate on a free port of 127.0.0.1 that leads to `target`.
    #[must_use]
    pub fn before(target: SocketAddr) -> Self {
        Self::at(SocketAddr::new(LOOPBACK, 0), target)
    }

    /// A gate at `addr` that leads to `target`.
    ///
    /// # Panics
    /// If `addr` is taken.
    #[must_use]
    pub fn at(addr: SocketAddr, target: SocketAddr) -> Self {
        crate::limit::arm();
        let listener = TcpListener::bind(addr).unwrap_or_else(|error| panic!("gate at {addr}: {error}"));
        let addr = listener.local_addr().expect("the gate's address");
        let accepting = listener.try_clone().expect("a second handle");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let acceptor = std::thread::spawn(move || {
            for near in accepting.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                // A closed gate, and one whose target does not answer, hang up at once.
                if let (Ok(near), false) = (near, shared.closed.load(Ordering::SeqCst))
                    && let Ok(far) = TcpStream::connect(shared.elsewhere().unwrap_or(target))
                {
                    shared.link(near, far);
                }
            }
        });
        Self { addr, listener, state, acceptor: Some(acceptor) }
    }

    /// Where to connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections that have come through, ever.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections through the gate now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.state.links().len()
    }

    /// Resets every connection that is through the gate now, on both sides.
    pub fn cut(&self) {
        for link in self.state.links().iter() {
            link.sever();
        }
    }

    /// Ends every connection that is through the gate now as if either peer had closed it.
    pub fn hang_up(&self) {
        for link in self.state.links().iter() {
            link.dead.store(true, Ordering::SeqCst);
        }
    }

    /// Changes one bit of what passes from now on, in each piece, on the connections there are.
    pub fn tamper(&self) {
        for link in self.state.links().iter() {
            link.tampers.store(true, Ordering::SeqCst);
        }
    }

    /// Lets nothing pass any more on the connections there are; they stay up, and new ones work.
    pub fn freeze_present(&self) {
        for link in self.state.links().iter() {
            link.frozen.store(true, Ordering::SeqCst);
        }
    }

    /// Lets nothing pass any more, on new connections neither; they stay up.
    pub fn freeze(&self) {
        self.state.frozen.store(true, Ordering::SeqCst);
        self.freeze_present();
    }

    /// Lets everything pass again, beginning with what waited.
    pub fn thaw(&self) {
        self.state.frozen.store(false, Ordering::SeqCst);
        for link in self.state.links().iter() {
            link.frozen.store(false, Ordering::SeqCst);
        }
    }

    /// Passes everything on one byte at a time, on connections that are still to come.
    pub fn dribble(&self) {
        self.state.dribble.store(true, Ordering::SeqCst);
    }

    /// Leads new connections to another target.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.state.elsewhere.lock().expect("no panic while locked") = Some(target);
    }

    /// Hangs up on every new connection.
    pub fn close(&self) {
        self.state.closed.store(true, Ordering::SeqCst);
    }

    /// Takes new connections again.
    pub fn open(&self) {
        self.state.closed.store(false, Ordering::SeqCst);
    }

    /// The first bytes that each connection sent towards the target, in order of arrival.
    ///
    /// # Panics
    /// If a thread of the gate has panicked.
    #[must_use]
    pub fn recordings(&self) -> Vec<Vec<u8>> {
        let recordings = self.state.recordings.lock().expect("no panic while locked");
        recordings.iter().map(|bytes| bytes.lock().expect("no panic while locked").clone()).collect()
    }
}

/// Two gates between a client and a server on 127.0.0.1: one for the ctl_conn and one for the proxy_conns.
/// The client is told the address of `ctl`; it finds the proxy port by the same host, so the second gate
/// has the real proxy port's number on another loopback address.
#[derive(Debug)]
pub struct Between {
    /// Where the client is to connect to.
    pub ctl: Gate,
    /// What its proxy_conns pass.
    pub proxy: Gate,
}

impl Between {
    /// Gates before the ports of a server.
    #[must_use]
    pub fn new(ctl: SocketAddr, proxy: SocketAddr) -> Self {
        let host = IpAddr::from(Ipv4Addr::new(127, 0, 0, 2));
        Self { ctl: Gate::at((host, 0).into(), ctl), proxy: Gate::at((host, proxy.port()).into(), proxy) }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        stop_listening(&self.listener);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.cut();
    }
}

impl State {
    fn links(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.links.lock().expect("no panic while locked")
    }

    fn elsewhere(&self) -> Option<SocketAddr> {
        *self.elsewhere.lock().expect("no panic while locked")
    }

    fn link(self: &Arc<Self>, near: TcpStream, far: TcpStream) {
        for stream in [&near, &far] {
            stream.set_nodelay(true).expect("TCP_NODELAY");
            stream.set_read_timeout(Some(TICK)).expect("read timeout");
            stream.set_write_timeout(Some(TICK)).expect("write timeout");
        }
        let frozen = AtomicBool::new(self.frozen.load(Ordering::SeqCst));
        let recording = Arc::default();
        let link = Arc::new(Link {
            near,
            far,
            frozen,
            dead: AtomicBool::new(false),
            dribble: self.dribble.load(Ordering::SeqCst),
            pumps_ended: AtomicU64::new(0),
            tampers: AtomicBool::new(false),
            recording: Arc::clone(&recording),
        });
        self.recordings.lock().expect("no panic while locked").push(recording);
        self.links().push(Arc::clone(&link));
        self.accepted.fetch_add(1, Ordering::SeqCst);
        let (state, up) = (Arc::clone(self), Arc::clone(&link));
        std::thread::spawn(move || {
            up.pump(&up.near, &up.far, |bytes| up.record(bytes));
            state.release(&up);
        });
        let state = Arc::clone(self);
        std::thread::spawn(move || {
            link.pump(&link.far, &link.near, |_| {});
            state.release(&link);
        });
    }

    /// A pump has ended. After the second one nothing holds the link any more, which closes both ends.
    fn release(&self, link: &Arc<Link>) {
        if link.pumps_ended.fetch_add(1, Ordering::SeqCst) == 1 {
            self.links().retain(|other| !Arc::ptr_eq(other, link));
        }
    }
}

impl Link {
    /// Carries bytes one way until the end or the link's death.
    fn pump(&self, mut from: &TcpStream, to: &TcpStream, on_bytes: impl Fn(&[u8])) {
        let mut buffer = vec![0; 64 << 10];
        while !self.is_dead() {
            if self.is_frozen() {
                std::thread::sleep(TICK);
                continue;
            }
            match from.read(&mut buffer) {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(n) => {
                    if self.tampers.load(Ordering::SeqCst) {
                        buffer[n / 2] ^= 1;
                    }
                    on_bytes(&buffer[..n]);
                    self.push(to, &buffer[..n]);
                }
                Err(error) if is_pause(&error) => {}
                Err(_) => self.sever(),
            }
        }
    }

    fn push(&self, mut to: &TcpStream, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_dead() {
            if self.is_frozen() {
                std::thread::sleep(TICK);
                continue;
            }
            let piece = if self.dribble { 1 } else { bytes.len() };
            match to.write(&bytes[..piece]) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if is_pause(&error) => {}
                Err(_) => self.sever(),
            }
        }
    }

    /// Makes both ends close with a reset.
    fn sever(&self) {
        linger_zero(&self.near);
        linger_zero(&self.far);
        self.dead.store(true, Ordering::SeqCst);
    }

    fn record(&self, bytes: &[u8]) {
        let mut recording = self.recording.lock().expect("no panic while locked");
        let room = RECORDED - recording.len();
        recording.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }
}

/// Whether an error only says that the socket's timeout passed.
fn is_pause(error: &std::io::Error) -> bool {
    [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted].contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::Service;
    use crate::sockets::{End, connect, finish, read_all, read_end};
    use crate::wait::until;

    #[test]
    fn an_open_gate_changes_nothing() {
        let service = Service::echo();
        let gate = Gate::before(service.addr());
        let mut visitor = connect(gate.addr());
        visitor.write_all(b"hello").unwrap();
        finish(&visitor);
        assert_eq!(read_all(&mut visitor), b"hello");
        until("the connection is released", || gate.open_connections() == 0);
        assert_eq!((gate.accepted(), gate.recordings()), (1, vec![b"hello".to_vec()]));
    }

    #[test]
    fn a_cut_resets_and_a_hang_up_ends() {
        let service = Service::echo();
        let gate = Gate::before(service.addr());
        let mut visitors = [connect(gate.addr()), connect(gate.addr())];
        until("both are through", || gate.open_connections() == 2);
        gate.cut();
        for visitor in &mut visitors {
            assert_eq!(read_end(visitor), (0, End::Reset));
        }
        let mut visitor = connect(gate.addr());
        until("it is through", || gate.open_connections() == 1);
        gate.hang_up();
        assert_eq!(read_end(&mut visitor), (0, End::Clean));
    }

    #[test]
    fn frozen_bytes_come_after_the_thaw() {
        let service = Service::echo();
        let gate = Gate::before(service.addr());
        let mut old = connect(gate.addr());
        until("it is through", || gate.open_connections() == 1);
        gate.freeze_present();
        old.write_all(b"old").unwrap();
        let mut new = connect(gate.addr());
        new.write_all(b"new").unwrap();
        finish(&new);
        assert_eq!(read_all(&mut new), b"new");
        old.set_nonblocking(true).unwrap();
        assert_eq!(old.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        old.set_nonblocking(false).unwrap();
        gate.thaw();
        finish(&old);
        assert_eq!(read_all(&mut old), b"old");
    }

    #[test]
    fn a_closed_gate_hangs_up() {
        let service = Service::echo();
        let gate = Gate::before(service.addr());
        gate.close();
        assert_eq!(read_end(&mut connect(gate.addr())), (0, End::Clean));
        assert_eq!(gate.accepted(), 0);
        gate.open();
        let visitor = connect(gate.addr());
        until("it is through", || gate.open_connections() == 1);
        drop(visitor);
    }
}
