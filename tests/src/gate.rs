//! A gate in front of a port: forwards connections until a test cuts, freezes or closes it. Stands for
//! the network between client and server, without privileges.

use crate::sockets::{LOOPBACK, linger_zero};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
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
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    closed: AtomicBool,
    frozen: AtomicBool,
    accepted: AtomicU64,
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
        let listener = TcpListener::bind(addr).unwrap_or_else(|error| panic!("gate at {addr}: {error}"));
        let addr = listener.local_addr().expect("the gate's address");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let acceptor = std::thread::spawn(move || {
            for near in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                // A closed gate, and one whose target does not answer, hang up at once.
                if let (Ok(near), false) = (near, shared.closed.load(Ordering::SeqCst))
                    && let Ok(far) = TcpStream::connect(target)
                {
                    shared.link(near, far);
                }
            }
        });
        Self { addr, state, acceptor: Some(acceptor) }
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
            linger_zero(&link.near);
            linger_zero(&link.far);
            link.dead.store(true, Ordering::SeqCst);
        }
    }

    /// Ends every connection that is through the gate now as if either peer had closed it.
    pub fn hang_up(&self) {
        for link in self.state.links().iter() {
            link.dead.store(true, Ordering::SeqCst);
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

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.cut();
    }
}

impl State {
    fn links(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Link>>> {
        let mut links = self.links.lock().expect("no panic while locked");
        // The pumps hold a link too; one that only this list holds is over.
        links.retain(|link| Arc::strong_count(link) > 1);
        links
    }

    fn link(self: &Arc<Self>, near: TcpStream, far: TcpStream) {
        for stream in [&near, &far] {
            stream.set_nodelay(true).expect("TCP_NODELAY");
            stream.set_read_timeout(Some(TICK)).expect("read timeout");
            stream.set_write_timeout(Some(TICK)).expect("write timeout");
        }
        let recording = Arc::default();
        let link = Arc::new(Link {
            near,
            far,
            frozen: AtomicBool::new(self.frozen.load(Ordering::SeqCst)),
            dead: AtomicBool::new(false),
            recording: Arc::clone(&recording),
        });
        self.recordings.lock().expect("no panic while locked").push(recording);
        self.links().push(Arc::clone(&link));
        let other = Arc::clone(&link);
        std::thread::spawn(move || {
            pump(&other, &other.near, &other.far, |bytes| other.record(bytes));
            Self::release(&other);
        });
        std::thread::spawn(move || {
            pump(&link, &link.far, &link.near, |_| {});
            Self::release(&link);
        });
        self.accepted.fetch_add(1, Ordering::SeqCst);
    }
}
