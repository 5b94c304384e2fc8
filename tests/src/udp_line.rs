//! A line for packets of UDP in front of a port, which a test can block, and on which it can have packets come twice, late
//! and forged: stands for the network between client and server, without privileges.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a thread that hears nothing looks at its orders.
const TICK: Duration = Duration::from_millis(5);
/// Longer than any packet.
const BUFFER: usize = 65_536;

/// See the module. Dropped, it ends.
#[derive(Debug)]
pub struct UdpLine {
    near: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

/// What becomes of packets, and what has become of them: whoever carries one holds it meanwhile.
#[derive(Debug, Default)]
struct Way {
    blocked: bool,
    twice: bool,
    carried: u64,
}

impl Way {
    fn carry(&mut self, send: impl Fn()) {
        let times = match (self.blocked, self.twice) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        (0..times).for_each(|_| send());
        self.carried += times;
    }
}

#[derive(Debug)]
struct State {
    stop: AtomicBool,
    way: Mutex<Way>,
    /// Where it leads to.
    target: SocketAddr,
    near: UdpSocket,
    /// From where it speaks to the target.
    far: Mutex<Arc<UdpSocket>>,
    /// Who has spoken last.
    client: Mutex<Option<SocketAddr>>,
    /// What has come from there.
    recorded: Mutex<Vec<Vec<u8>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn far(target: SocketAddr) -> Arc<UdpSocket> {
    let socket = UdpSocket::bind((target.ip(), 0)).expect("a free port");
    socket.set_read_timeout(Some(TICK)).expect("a timeout");
    Arc::new(socket)
}

impl UdpLine {
    /// One from `near` to `target`.
    ///
    /// # Panics
    /// `near` is in use.
    #[must_use]
    pub fn at(near: SocketAddr, target: SocketAddr) -> Self {
        let socket = UdpSocket::bind(near).expect("a free UDP port");
        socket.set_read_timeout(Some(TICK)).expect("a timeout");
        let state = Arc::new(State {
            stop: AtomicBool::new(false),
            way: Mutex::default(),
            target,
            near: socket,
            far: Mutex::new(far(target)),
            client: Mutex::new(None),
            recorded: Mutex::new(Vec::new()),
        });
        let [up, down] = [Arc::clone(&state), Arc::clone(&state)];
        let threads = vec![thread::spawn(move || up.carry_up()), thread::spawn(move || down.carry_down())];
        Self { near, state, threads }
    }

    /// Where it begins.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.near
    }

    /// Nothing gets through any more, or everything again.
    pub fn block(&self, blocked: bool) {
        locked(&self.state.way).blocked = blocked;
    }

    /// Each packet comes twice from now on.
    pub fn double(&self) {
        locked(&self.state.way).twice = true;
    }

    /// The client's packets come from another port from now on, as behind a NAT that has forgotten it.
    pub fn rebind(&self) {
        *locked(&self.state.far) = far(self.state.target);
    }

    /// Packets that it has carried.
    #[must_use]
    pub fn carried(&self) -> u64 {
        locked(&self.state.way).carried
    }

    /// What the client has sent, packet by packet.
    #[must_use]
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        locked(&self.state.recorded).clone()
    }

    /// Sends this to the target as if the client had sent it.
    pub fn inject(&self, packet: &[u8]) {
        let far = Arc::clone(&locked(&self.state.far));
        let _ = far.send_to(packet, self.state.target);
    }
}

impl State {
    fn carry_up(&self) {
        let mut buffer = vec![0; BUFFER];
        while !self.stop.load(Ordering::SeqCst) {
            let Ok((length, from)) = self.near.recv_from(&mut buffer) else { continue };
            *locked(&self.client) = Some(from);
            locked(&self.recorded).push(buffer[..length].to_vec());
            let far = Arc::clone(&locked(&self.far));
            locked(&self.way).carry(|| drop(far.send_to(&buffer[..length], self.target)));
        }
    }

    fn carry_down(&self) {
        let mut buffer = vec![0; BUFFER];
        while !self.stop.load(Ordering::SeqCst) {
            let far = Arc::clone(&locked(&self.far));
            let Ok((length, _)) = far.recv_from(&mut buffer) else { continue };
            let Some(client) = *locked(&self.client) else { continue };
            locked(&self.way).carry(|| drop(self.near.send_to(&buffer[..length], client)));
        }
    }
}

impl Drop for UdpLine {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the line went on to the end");
        }
    }
}
