//! Seeded conversations between two ends, held over a direct connection and through the tunnel: what either end reads
//! through the tunnel must be something that it could have read directly.
//!
//! A conversation is two scripts, drawn from a seed. The service is handed its script beforehand, so nothing but the
//! conversation itself travels. Some steps follow each other without a pause, so the direct connection has more than
//! one outcome: what is compared is therefore what holds for every one of them ([`Conversation::judge`]).

use crate::payload::{Arrival, Flow};
use crate::services::Service;
use crate::sockets::{connect_without_asking, linger_zero, unacknowledged};
use crate::wait::PATIENCE;
use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

/// What one end does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends so many bytes.
    Send(usize),
    /// Reads so many bytes, or to the end if fewer come.
    Read(usize),
    /// Reads to the end, however that comes.
    ReadToEnd,
    /// Shuts its write half.
    Shut,
    /// Does nothing for some milliseconds.
    Pause(u64),
    /// Waits until the peer's kernel has everything that was sent, 200 ms at most.
    Flush,
    /// Resets the connection.
    Reset,
}

/// How an end's reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It read a clean end.
    End,
    /// It read a reset.
    Reset,
    /// It did not read so far, or its own sending failed before: that takes the only error a socket has.
    Nothing,
}

/// What came of an end's script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that its kernel took from it.
    pub sent: u64,
    /// Bytes that it read, each of them the right one.
    pub read: u64,
    /// How its reading ended.
    pub seen: Seen,
}

/// Two scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Its seed, below 2^20.
    pub seed: u32,
    /// What the visitor does.
    pub visitor: Vec<Step>,
    /// What the service does.
    pub service: Vec<Step>,
}

/// What came of both scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The visitor's.
    pub visitor: Outcome,
    /// The service's.
    pub service: Outcome,
}

/// splitmix64.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn size(&mut self) -> usize {
        [0, 1, 100, 1_000, 4_096, 20_000, 60_000][self.next(7) as usize] + self.next(90) as usize + 1
    }

    /// Steps of both ends in one order, in which a read asks only for what was sent before it: so nobody waits for
    /// somebody who waits for him.
    fn scripts(&mut self) -> [Vec<Step>; 2] {
        let mut scripts = [Vec::new(), Vec::new()];
        let (mut sent, mut read, mut shut) = ([0; 2], [0; 2], [false; 2]);
        for _ in 0..2 + self.next(9) {
            let who = self.next(2) as usize;
            let unread = sent[1 - who] - read[who];
            let step = match self.next(9) {
                0..3 if !shut[who] => {
                    let count = self.size();
                    sent[who] += count;
                    Step::Send(count)
                }
                3..5 if unread > 0 => {
                    let count = self.size().min(unread);
                    read[who] += count;
                    Step::Read(count)
                }
                5 if !shut[who] => {
                    shut[who] = true;
                    Step::Shut
                }
                6 => Step::Flush,
                _ => Step::Pause(self.next(8)),
            };
            scripts[who].push(step);
        }
        for (script, shut) in scripts.iter_mut().zip(shut) {
            match self.next(5) {
                // Closes, perhaps with bytes unread, which its kernel turns into a reset.
                0 => {}
                1 => script.push(Step::Reset),
                2 => script.extend([Step::Flush, Step::Reset]),
                _ if shut => script.push(Step::ReadToEnd),
                _ => script.extend([Step::Shut, Step::ReadToEnd]),
            }
        }
        scripts
    }
}

/// Plays one end.
fn play(mut stream: TcpStream, steps: &[Step], mine: Flow, theirs: Flow) -> Result<Outcome, String> {
    let mut outcome = Outcome { sent: 0, read: 0, seen: Seen::Nothing };
    let mut arrival = Arrival::of(theirs);
    let mut failed = false;
    for &step in steps {
        match step {
            Step::Send(count) => {
                let bytes = mine.bytes(outcome.sent, count);
                let mut rest = &bytes[..];
                while !failed && !rest.is_empty() {
                    match stream.write(rest) {
                        Ok(n) => {
                            outcome.sent += n as u64;
                            rest = &rest[n..];
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(format!("{step:?} hangs")),
                        Err(_) => failed = true,
                    }
                }
            }
            Step::Read(_) | Step::ReadToEnd => {
                let mut left = if let Step::Read(count) = step { count } else { usize::MAX };
                let mut buffer = vec![0; 16 << 10];
                while left > 0 && outcome.seen == Seen::Nothing {
                    let room = left.min(buffer.len());
                    match stream.read(&mut buffer[..room]) {
                        Ok(0) => outcome.seen = Seen::End,
                        Ok(n) => {
                            arrival.take(&buffer[..n])?;
                            left -= n;
                        }
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => outcome.seen = Seen::Reset,
                        Err(error) => return Err(format!("{step:?}: {error}")),
                    }
                }
            }
            Step::Shut => failed |= stream.shutdown(Shutdown::Write).is_err(),
            Step::Pause(millis) => sleep(Duration::from_millis(millis)),
            Step::Flush => {
                for _ in 0..200 {
                    if unacknowledged(&stream) == 0 {
                        break;
                    }
                    sleep(Duration::from_millis(1));
                }
            }
            Step::Reset => linger_zero(&stream),
        }
    }
    outcome.read = arrival.offset();
    if failed {
        outcome.seen = Seen::Nothing;
    }
    Ok(outcome)
}

/// A service that plays the scripts it is handed, one connection after another.
pub struct Player {
    service: Service,
    scripts: Arc<Mutex<VecDeque<Conversation>>>,
    outcomes: Receiver<Result<Outcome, String>>,
}

impl fmt::Debug for Player {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Player").field("service", &self.service).finish()
    }
}

impl Player {
    /// On a free port of 127.0.0.1.
    #[must_use]
    pub fn start() -> Self {
        let scripts = Arc::new(Mutex::new(VecDeque::<Conversation>::new()));
        let (tell, outcomes): (Sender<_>, _) = channel();
        let handed = Arc::clone(&scripts);
        let service = Service::start(move |stream| {
            let script = handed.lock().expect("nobody panicked with it").pop_front();
            let Some(script) = script else { return };
            let (mine, theirs) = (Flow::down(script.seed), Flow::up(script.seed));
            let _ = tell.send(play(stream, &script.service, mine, theirs));
        });
        Self { service, scripts, outcomes }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.service.addr()
    }
}

impl Conversation {
    /// The one of this seed.
    #[must_use]
    pub fn of(seed: u32) -> Self {
        let mut draw = Draw::new(u64::from(seed));
        let [visitor, service] = draw.scripts();
        Self { seed, visitor, service }
    }

    /// Holds it with a visitor that connects to `at`, behind which `player` is.
    ///
    /// # Errors
    /// A byte was lost, invented or out of place, or somebody waits for ever.
    pub fn hold(&self, player: &Player, at: SocketAddr) -> Result<Held, String> {
        player.scripts.lock().expect("nobody panicked with it").push_back(self.clone());
        let visitor = play(connect_without_asking(at), &self.visitor, Flow::up(self.seed), Flow::down(self.seed));
        let service = player.outcomes.recv_timeout(PATIENCE).map_err(|_| "the service was never reached".to_owned())?;
        Ok(Held {
            visitor: visitor.map_err(|error| format!("visitor: {error}"))?,
            service: service.map_err(|error| format!("service: {error}"))?,
        })
    }

    /// Whether what was seen through the tunnel could have been seen directly, of which `direct` are examples.
    ///
    /// # Errors
    /// What could not.
    pub fn judge(&self, tunnel: Held, direct: &[Held]) -> Result<(), String> {
        let ends = [("visitor", tunnel.visitor, tunnel.service, &self.service, direct.iter().map(|held| held.visitor))];
        for (name, own, peer, script, examples) in ends {
            Self::judge_end(name, own, peer, script, &examples.collect::<Vec<_>>())?;
        }
        let examples: Vec<_> = direct.iter().map(|held| held.service).collect();
        Self::judge_end("service", tunnel.service, tunnel.visitor, &self.visitor, &examples)
    }

    /// The same for one end. `script` is its peer's.
    fn judge_end(name: &str, own: Outcome, peer: Outcome, script: &[Step], examples: &[Outcome]) -> Result<(), String> {
        let least = examples.iter().map(|example| example.read).min().unwrap_or(0);
        if own.read < least {
            return Err(format!("the {name} read {} bytes, directly at least {least}", own.read));
        }
        if own.read > peer.sent {
            return Err(format!("the {name} read {} bytes of {}", own.read, peer.sent));
        }
        let may_reset = examples.iter().any(|example| example.seen != Seen::End);
        match own.seen {
            Seen::End if own.read != peer.sent => {
                Err(format!("the {name} read a clean end after {} of {} bytes", own.read, peer.sent))
            }
            Seen::End if !script.contains(&Step::Shut) && script.contains(&Step::Reset) => {
                Err(format!("the {name} read a clean end that nobody sent"))
            }
            Seen::Reset if !may_reset => Err(format!("the {name} read a reset, directly always an end")),
            Seen::End | Seen::Reset | Seen::Nothing => Ok(()),
        }
    }
}

/// Holds the conversations of `seeds` directly, three times each, and through the tunnel at `public`.
///
/// # Errors
/// The first that could not have gone so directly, with its scripts.
pub fn compare(player: &Player, public: SocketAddr, seeds: impl Iterator<Item = u32>) -> Result<(), String> {
    for seed in seeds {
        let conversation = Conversation::of(seed);
        let held = || -> Result<(), String> {
            let directly = (0..3).map(|_| conversation.hold(player, player.addr()));
            let direct = directly.collect::<Result<Vec<_>, _>>().map_err(|error| format!("directly: {error}"))?;
            let tunnel = conversation.hold(player, public)?;
            conversation.judge(tunnel, &direct).map_err(|error| format!("{error}\n{tunnel:#?}\ndirectly {direct:#?}"))
        };
        held().map_err(|error| format!("seed {seed}: {error}\n{conversation:#?}"))?;
    }
    Ok(())
}
