//! What the two ends of each connection share beside turmoil's stream: see `socket`.

use protocol_sm::driver::Role;
use protocol_sm::time::Instant;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use turmoil::net::TcpStream;

/// All connections of a run.
#[derive(Debug, Default)]
pub(super) struct Lines(RefCell<BTreeMap<LineKey, Rc<RefCell<Line>>>>);

impl Lines {
    /// The line between two addresses; the first of its two ends makes it. The other may come when the first has
    /// gone already.
    pub(super) fn get(&self, key: LineKey, end: usize) -> Rc<RefCell<Line>> {
        let mut lines = self.0.borrow_mut();
        let line = lines.entry(key).or_insert_with(|| Rc::new(RefCell::new(Line::new(key))));
        line.borrow_mut().attach(end);
        Rc::clone(line)
    }

    /// Every line that still has an end.
    pub(super) fn all(&self) -> Vec<Rc<RefCell<Line>>> {
        let mut lines = self.0.borrow_mut();
        lines.retain(|_, line| !line.borrow().is_over());
        lines.values().cloned().collect()
    }

    /// Lines with this role.
    pub(super) fn of(&self, role: Role) -> Vec<Rc<RefCell<Line>>> {
        self.all().into_iter().filter(|line| line.borrow().role == Some(role)).collect()
    }
}

/// Address of the end that connected, and of the one that accepted.
pub(super) type LineKey = (SocketAddr, SocketAddr);

/// How a line dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Reset on both ends.
    Reset,
    /// Silent since then.
    Silent(Instant),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) key: LineKey,
    /// What our program uses it for.
    pub(super) role: Option<Role>,
    pub(super) fate: Option<Fate>,
    /// When something was sent on it last.
    pub(super) moved: Instant,
    pub(super) ends: [End; 2],
}

/// What one end has done, so that the other can tell.
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) written: u64,
    pub(super) read: u64,
    /// It sent its FIN in good order.
    pub(super) fin: bool,
    /// It was closed by a reset.
    pub(super) reset: bool,
    pub(super) attached: bool,
    pub(super) gone: bool,
    pub(super) waker: Option<Waker>,
}

impl Line {
    pub(super) fn new(key: LineKey) -> Self {
        Self { key, role: None, fate: None, moved: Instant::ZERO, ends: Default::default() }
    }

    /// The line in words, with the bytes that are under way or unread in each direction.
    pub(super) fn show(&self) -> String {
        let [a, b] = &self.ends;
        let (there, back) = (a.written - b.read, b.written - a.read);
        format!(
            "{} to {} ({:?}, {:?}): {there} and {back} bytes under way",
            self.key.0, self.key.1, self.role, self.fate
        )
    }

    /// Kills it, if it lives.
    pub(super) fn kill(&mut self, fate: Fate) {
        self.fate.get_or_insert(fate);
        self.ends.iter_mut().for_each(End::wake);
    }

    /// One of its ends is there.
    pub(super) fn attach(&mut self, end: usize) {
        self.ends[end].attached = true;
    }

    /// Whether both ends are there, and nothing has happened to it.
    pub(super) fn is_up(&self) -> bool {
        self.fate.is_none() && self.ends.iter().all(|end| end.attached && !end.gone)
    }

    /// Whether both ends have been there and are gone.
    pub(super) fn is_over(&self) -> bool {
        self.ends.iter().all(|end| end.attached && end.gone)
    }
}

impl End {
    /// Something that this end waits for may have happened.
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Both ends of a connection, the one that connected first.
pub(super) fn key(stream: &TcpStream, connected: bool) -> LineKey {
    let local: SocketAddr = stream.local_addr().expect("turmoil knows");
    let peer: SocketAddr = stream.peer_addr().expect("turmoil knows");
    if connected { (local, peer) } else { (peer, local) }
}
