//! Visitors and services that check every byte: in rounds, the visitor sends some bytes and the service answers with some.

use super::ledger::Ledger;
use crate::conversation::Draw;
use crate::payload::{Arrival, Flow};
use crate::services::Service;
use crate::sockets::bounded;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Visitors at once.
pub(super) const VISITORS: u32 = 12;
/// Longer than any disturbance and its healing: who is silent for so long hangs.
const HANGS: Duration = Duration::from_secs(400);
/// A healing is tried so often.
const PROBE: Duration = Duration::from_millis(50);
/// The answer to a look-up is so old at most when it is used; a little more for the look-up itself.
const NAME_IS_FRESH: Duration = Duration::from_secs(7);

/// Why a stream did not come to its end.
pub(super) enum Trouble {
    /// It was reset.
    Cut(String),
    /// Bytes or an end came that must not, or nothing at all for [`HANGS`].
    Damage(String),
}

/// What a visitor says first.
#[derive(Clone, Copy, Debug)]
struct Plan {
    stream: u32,
    rounds: u32,
    up: u32,
    down: u32,
}

/// Numbers of streams: all that this process has.
static STREAMS: AtomicU32 = AtomicU32::new(0);

impl Plan {
    fn draw(draw: &mut Draw) -> (Self, u64) {
        // Bulk one way or the other; a conversation with pauses; a short visit.
        let (rounds, up, down, pause) = match draw.next(4) {
            0 => (1, draw.next(8 << 20), draw.next(200), 0),
            1 => (1, draw.next(200), draw.next(8 << 20), 0),
            2 => (20 + draw.next(40), 1 + draw.next(2_000), 1 + draw.next(2_000), 1_000),
            _ => (1, 64, 64, 0),
        };
        (Self::new(rounds as u32, up as u32, down as u32), pause)
    }

    fn new(rounds: u32, up: u32, down: u32) -> Self {
        let stream = STREAMS.fetch_add(1, Ordering::SeqCst) % (1 << 20);
        Self { stream, rounds, up, down }
    }

    fn bytes(self) -> u64 {
        u64::from(self.rounds) * (u64::from(self.up) + u64::from(self.down))
    }

    fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (to, number) in bytes.chunks_exact_mut(4).zip([self.stream, self.rounds, self.up, self.down]) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: [u8; 16]) -> Self {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Self { stream: number(0), rounds: number(4), up: number(8), down: number(12) }
    }
}

/// One end of a stream.
struct End {
    stream: TcpStream,
    ours: Flow,
    sent: u64,
    theirs: Arrival,
}

impl End {
    fn send(&mut self, count: u32) -> Result<(), Trouble> {
        let bytes = self.ours.bytes(self.sent, count as usize);
        self.sent += u64::from(count);
        self.stream.write_all(&bytes).map_err(|error| self.failed(&error))
    }

    fn receive(&mut self, count: u32) -> Result<(), Trouble> {
        let (mut buffer, mut left) = (vec![0; 64 << 10], count as usize);
        while left > 0 {
            let room = left.min(buffer.len());
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => return Err(self.damage("a clean end too early")),
                Ok(n) => {
                    self.theirs.take(&buffer[..n]).map_err(Trouble::Damage)?;
                    left -= n;
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Trouble> {
        self.stream.shutdown(Shutdown::Write).map_err(|error| self.failed(&error))
    }

    fn ended(&mut self) -> Result<(), Trouble> {
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damage("a byte too many")),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn damage(&self, what: &str) -> Trouble {
        Trouble::Damage(format!("{}: {what}, after {} bytes", self.ours, self.theirs.offset()))
    }

    fn failed(&self, error: &std::io::Error) -> Trouble {
        let what = format!("{}, {} bytes sent and {} read: {error}", self.ours, self.sent, self.theirs.offset());
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            Trouble::Damage(format!("hangs: {what}"))
        } else {
            Trouble::Cut(what)
        }
    }
}

/// Whoever comes from outside.
#[derive(Clone, Copy)]
pub(super) struct Visitors<'a> {
    pub(super) public: SocketAddr,
    pub(super) ledger: &'a Ledger,
    pub(super) stop: &'a AtomicBool,
}

impl Visitors<'_> {
    /// Comes again and again, until it is time to stop.
    pub(super) fn come_and_go(self, seed: u64) {
        let mut draw = Draw::new(seed);
        while !self.stop.load(Ordering::SeqCst) {
            let (plan, pause) = Plan::draw(&mut draw);
            let (came, mut served) = (Instant::now(), None);
            match self.visit(plan, &mut served, || sleep(Duration::from_millis(draw.next(pause + 1)))) {
                Ok(()) => self.ledger.whole(plan.bytes()),
                Err(trouble) => self.ledger.trouble(came, served, trouble),
            }
            sleep(Duration::from_millis(draw.next(200)));
        }
    }

    /// Waits until a visitor is served.
    pub(super) fn heal(self) {
        let began = Instant::now();
        while self.visit(Plan::new(1, 64, 64), &mut None, || ()).is_err() {
            assert!(began.elapsed() < HANGS, "nobody is served");
            sleep(PROBE);
        }
    }

    /// `pause`: what he does between two rounds. Once he is `served`, he has had an answer.
    fn visit(self, plan: Plan, served: &mut Option<Instant>, mut pause: impl FnMut()) -> Result<(), Trouble> {
        let stream = TcpStream::connect_timeout(&self.public, HANGS);
        let stream = stream.map_err(|error| Trouble::Cut(format!("stream {} not connected: {error}", plan.stream)))?;
        bounded(&stream, HANGS);
        let (ours, theirs) = (Flow::up(plan.stream), Arrival::of(Flow::down(plan.stream)));
        let mut end = End { stream, ours, sent: 0, theirs };
        end.stream.write_all(&plan.encode()).map_err(|error| end.failed(&error))?;
        for _ in 0..plan.rounds {
            end.send(plan.up)?;
            end.receive(plan.down)?;
            served.get_or_insert_with(Instant::now);
            pause();
        }
        end.finish()?;
        end.ended()
    }
}

/// The LocalServers of one name: it has had one of these addresses, and has another.
#[derive(Clone, Default)]
pub(super) struct Services(Arc<Serving>);

#[derive(Default)]
struct Serving {
    /// The address that the name has, and since when.
    current: Mutex<Option<(SocketAddr, Instant)>>,
    misled: AtomicU64,
    damages: Mutex<Vec<String>>,
}

impl Services {
    /// Serves at `addr`.
    pub(super) fn serve_at(&self, addr: SocketAddr) -> Service {
        let serving = Arc::clone(&self.0);
        Service::start_at(addr, move |stream| {
            let current = *serving.current.lock().expect("nobody panics with it");
            if current.is_some_and(|(current, since)| current != addr && since.elapsed() > NAME_IS_FRESH) {
                serving.misled.fetch_add(1, Ordering::SeqCst);
            }
            if let Err(Trouble::Damage(what)) = serve(stream) {
                serving.damages.lock().expect("nobody panics with it").push(format!("at the service: {what}"));
            }
        })
    }

    /// The name has this address from now on.
    pub(super) fn moved_to(&self, addr: SocketAddr) {
        *self.0.current.lock().expect("nobody panics with it") = Some((addr, Instant::now()));
    }

    /// Visitors that came to an address that the name had not any more.
    pub(super) fn misled(&self) -> u64 {
        self.0.misled.load(Ordering::SeqCst)
    }

    /// What went wrong at the services.
    pub(super) fn damages(&self) -> Vec<String> {
        self.0.damages.lock().expect("nobody panics with it").clone()
    }
}

fn serve(mut stream: TcpStream) -> Result<(), Trouble> {
    bounded(&stream, HANGS);
    let mut plan = [0; 16];
    if let Err(error) = stream.read_exact(&mut plan) {
        return Err(Trouble::Cut(format!("no plan: {error}")));
    }
    let plan = Plan::decode(plan);
    let (ours, theirs) = (Flow::down(plan.stream), Arrival::of(Flow::up(plan.stream)));
    let mut end = End { stream, ours, sent: 0, theirs };
    for _ in 0..plan.rounds {
        end.receive(plan.up)?;
        end.send(plan.down)?;
    }
    end.ended()?;
    end.finish()
}
