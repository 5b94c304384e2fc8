//! The paths beside the conns, one for each client: they lose, hold up and overtake, take no more than a size that changes,
//! and are down at times. What QUIC does is taken for granted: nothing comes twice, and nothing forged.

use super::{CONTROLS, Event, SERIAL, Sometimes, World};
use crate::kernel::Rng;
use protocol_sm::datagrams::{PathDatagram, PathState};
use protocol_sm::driver::messages::{ToClientLoop, ToServerLoop};
use std::collections::BTreeMap;
use std::time::Duration;

/// The smallest size, so small that few datagrams are taken.
const SMALLEST: usize = 12;
/// The largest one.
const LARGEST: usize = 1_500;

/// See the module.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) state: PathState,
    was_down: bool,
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

impl Paths {
    /// Those of a world, if it has some.
    pub(super) fn of_seed(seed: u64) -> Option<Self> {
        let mut rng = Rng::new(seed ^ 0x9a7b_5000);
        let there = rng.chance(60);
        let (loses, delays, crossing) = (rng.range(0, 20), rng.range(0, 20), BTreeMap::new());
        there.then_some(Self { state: PathState::Down, was_down: false, loses, delays, crossing, last: 0, rng })
    }

    /// When they change.
    pub(super) fn changes(&mut self) -> Vec<Duration> {
        let count = self.rng.size(1, 12);
        (0..count).map(|_| Duration::from_micros(self.rng.range(0, 3_000_000))).collect()
    }
}

impl World {
    /// They are down, or up, with another size.
    pub(super) fn change_paths(&mut self) {
        let Some(paths) = &mut self.paths else { return };
        let state = if paths.rng.chance(25) {
            PathState::Down
        } else {
            PathState::Up { size: paths.rng.log_size(SMALLEST, LARGEST) }
        };
        if state != PathState::Down && paths.was_down {
            self.seen.insert(Sometimes::BackByItself);
        }
        paths.was_down |= paths.state != PathState::Down && state == PathState::Down;
        paths.state = state;
        let late = Duration::from_micros(paths.rng.below(100_000));
        self.after(late, Event::PathTold);
    }

    /// The loops are told how they are, a little late.
    pub(super) fn tell_of_paths(&mut self) {
        let Some(&Paths { state, .. }) = self.paths.as_ref() else { return };
        for (control, to_client) in CONTROLS.into_iter().zip(&mut self.to_clients) {
            self.to_server.push_back(ToServerLoop::Path { control, state });
            to_client.push_back(ToClientLoop::Path { serial: SERIAL, state });
        }
    }

    /// A loop sends a datagram by the path of a client. `down`: to that client.
    pub(super) fn send_by_path(&mut self, of: usize, down: bool, datagram: PathDatagram) {
        let paths = self.paths.as_mut().expect("told of one");
        let takes = matches!(paths.state, PathState::Up { size } if datagram.len() <= size);
        if !takes {
            self.seen.insert(Sometimes::GivenBack);
            return if down {
                self.to_server.push_back(ToServerLoop::Back { control: CONTROLS[of], datagram });
            } else {
                self.to_clients[of].push_back(ToClientLoop::Back { serial: SERIAL, datagram });
            };
        }
        if paths.rng.chance(paths.loses) {
            self.lost += 1;
            return;
        }
        let span = if paths.rng.chance(paths.delays) { 40_000_000 } else { 40_000 };
        paths.last += 1;
        let place = paths.last;
        paths.crossing.insert(place, (of, down, datagram));
        let late = Duration::from_micros(paths.rng.below(span));
        self.after(late, Event::Cross(place));
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
