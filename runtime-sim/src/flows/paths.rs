//! The paths beside the conns, one for each client: they lose, hold up and overtake, take no more than a size that changes,
//! and their line is dead at times, which each end finds out by itself, as production's do ([`Pulse`]). What QUIC does is
//! taken for granted: nothing comes twice, and nothing forged.

use super::{CONTROLS, Event, SERIAL, Sometimes, World};
use crate::kernel::Rng;
use protocol_sm::datagrams::{Beat, PathDatagram, PathState, Pulse};
use protocol_sm::driver::messages::{ToClientLoop, ToServerLoop};
use protocol_sm::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// The smallest size, so small that few datagrams are taken.
const SMALLEST: usize = 12;
/// The largest one.
const LARGEST: usize = 1_500;
/// By then their line is not dead any more.
const HEALED: Duration = Duration::from_secs(4);
/// So soon a dead line is left.
const LEFT: Duration = Duration::from_secs(1);

/// Whose path, and which end of it: `true` is the server's.
pub(super) type At = (usize, bool);

/// See the module.
#[derive(Debug)]
pub(super) struct Paths {
    /// What they take; before they stand, none.
    size: Option<usize>,
    /// Nothing comes through.
    dead: bool,
    /// How long an answer takes.
    rtt: Duration,
    ends: [[End; 2]; CONTROLS.len()],
    /// Of a hundred datagrams, so many are lost.
    loses: u64,
    /// Of a hundred, so many are held up for long.
    delays: u64,
    /// Datagrams on their way: whose path, which way, and what.
    crossing: BTreeMap<usize, (usize, bool, PathDatagram)>,
    last: usize,
    /// Of its own: seeds without paths mean what they meant before.
    rng: Rng,
}

/// One end of a path.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    pulse: Pulse,
    /// When it is looked at next.
    beat: Option<Instant>,
    /// The first thing that was sent on the dead line.
    in_vain: Option<Instant>,
}

impl Paths {
    /// Those of a world, if it has some.
    pub(super) fn of_seed(seed: u64) -> Option<Self> {
        let mut rng = Rng::new(seed ^ 0x9a7b_5000);
        let there = rng.chance(60);
        let (loses, delays, crossing) = (rng.range(0, 20), rng.range(0, 20), BTreeMap::new());
        let rtt = Duration::from_micros(rng.range(100, 200_000));
        let ends = [[End::default(); 2]; CONTROLS.len()];
        there.then_some(Self { size: None, dead: false, rtt, ends, loses, delays, crossing, last: 0, rng })
    }

    /// When they change.
    pub(super) fn changes(&mut self) -> Vec<Duration> {
        let count = self.rng.size(1, 12);
        let changes = (0..count).map(|_| Duration::from_micros(self.rng.range(0, 3_000_000)));
        changes.chain([HEALED]).collect()
    }

    fn end(&mut self, (of, is_server): At) -> &mut End {
        &mut self.ends[of][usize::from(is_server)]
    }

    /// What an end makes of it.
    fn state(&mut self, at: At) -> PathState {
        match self.size.filter(|_| !self.end(at).pulse.is_silent()) {
            Some(size) => PathState::Up { size },
            None => PathState::Down,
        }
    }

    /// The same, if no end is silent any more and none waits for an answer.
    pub(super) fn are_back(&self) -> bool {
        self.ends.iter().flatten().all(|end| !end.pulse.is_silent() && end.pulse.next_deadline(self.rtt).is_none())
    }
}

impl World {
    /// Their line is dead, or not any more, or takes another size.
    pub(super) fn change_paths(&mut self) {
        let healed = self.now >= Instant::ZERO + HEALED;
        let Some(paths) = &mut self.paths else { return };
        if !healed && paths.size.is_some() && paths.rng.chance(30) {
            paths.dead = true;
            return;
        }
        paths.dead = false;
        paths.ends.iter_mut().flatten().for_each(|end| end.in_vain = None);
        paths.size = Some(paths.rng.log_size(SMALLEST, LARGEST));
        let late = Duration::from_micros(paths.rng.below(100_000));
        self.after(late, Event::PathTold);
    }

    /// The loops are told what they take, a little late.
    pub(super) fn tell_of_paths(&mut self) {
        for of in 0..CONTROLS.len() {
            [true, false].into_iter().for_each(|is_server| self.tell_of_path((of, is_server)));
        }
    }

    fn tell_of_path(&mut self, at @ (of, is_server): At) {
        let state = self.paths.as_mut().expect("there is one").state(at);
        if is_server {
            self.to_server.push_back(ToServerLoop::Path { control: CONTROLS[of], state });
        } else {
            self.to_clients[of].push_back(ToClientLoop::Path { serial: SERIAL, state });
        }
    }

    /// A loop sends a datagram by the path of a client. `down`: to that client.
    pub(super) fn send_by_path(&mut self, of: usize, down: bool, datagram: PathDatagram) {
        let now = self.now;
        let paths = self.paths.as_mut().expect("told of one");
        let takes = matches!(paths.state((of, down)), PathState::Up { size } if datagram.len() <= size);
        if !takes {
            self.seen.insert(Sometimes::GivenBack);
            return if down {
                self.to_server.push_back(ToServerLoop::Back { control: CONTROLS[of], datagram });
            } else {
                self.to_clients[of].push_back(ToClientLoop::Back { serial: SERIAL, datagram });
            };
        }
        let in_vain = paths.dead.then(|| *paths.end((of, down)).in_vain.get_or_insert(now));
        // PROTOCOL.md: P-PATH-7.
        if in_vain.is_some_and(|since| now.since(since) > LEFT) {
            return self.fail("a second after a path has died a datagram is sent by it".into());
        }
        let lost = paths.dead || paths.rng.chance(paths.loses);
        self.send_on_path((of, down), !lost);
        if lost {
            self.lost += 1;
            return;
        }
        let paths = self.paths.as_mut().expect("told of one");
        let span = if paths.rng.chance(paths.delays) { 40_000_000 } else { 40_000 };
        paths.last += 1;
        let place = paths.last;
        paths.crossing.insert(place, (of, down, datagram));
        let late = Duration::from_micros(paths.rng.below(span));
        self.after(late, Event::Cross(place));
    }

    /// An end sends what is to be answered.
    fn send_on_path(&mut self, at: At, arrives: bool) {
        let (now, paths) = (self.now, self.paths.as_mut().expect("there is one"));
        let rtt = paths.rtt;
        paths.end(at).pulse.on_sent(now);
        if arrives {
            self.after(rtt, Event::PathAnswer(at));
        }
        self.set_beat(at);
    }

    /// It is answered.
    pub(super) fn on_path_answer(&mut self, at: At) {
        let paths = self.paths.as_mut().expect("there is one");
        if !paths.dead && paths.end(at).pulse.on_answer() {
            self.seen.insert(Sometimes::BackByItself);
            self.tell_of_path(at);
        }
    }

    fn set_beat(&mut self, at: At) {
        let (now, paths) = (self.now, self.paths.as_mut().expect("there is one"));
        let rtt = paths.rtt;
        let end = paths.end(at);
        let next = end.pulse.next_deadline(rtt);
        if next.is_some() && next != end.beat {
            end.beat = next;
            self.after(next.map_or(Duration::ZERO, |next| next.since(now)), Event::PathBeat(at));
        }
    }

    /// An end looks whether it is answered.
    pub(super) fn on_path_beat(&mut self, at: At) {
        let (now, paths) = (self.now, self.paths.as_mut().expect("there is one"));
        let rtt = paths.rtt;
        match paths.end(at).pulse.on_deadline(now, rtt) {
            Beat::Fine => return self.set_beat(at),
            Beat::Ask => {}
            Beat::Silent => self.tell_of_path(at),
        }
        let arrives = !self.paths.as_ref().expect("there is one").dead;
        self.send_on_path(at, arrives);
    }

    /// It arrives.
    pub(super) fn cross(&mut self, place: usize) {
        let paths = self.paths.as_mut().expect("there is one");
        let (of, down, datagram) = paths.crossing.remove(&place).expect("on its way");
        self.seen.insert(Sometimes::ByPath);
        if down {
            self.to_clients[of].push_back(ToClientLoop::Datagram { serial: SERIAL, datagram });
        } else {
            self.to_server.push_back(ToServerLoop::Datagram { control: CONTROLS[of], datagram });
        }
    }
}
