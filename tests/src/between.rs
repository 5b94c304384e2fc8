//! What other people's relays and proxies between client and server must not change: visits, conversations, the place of a
//! reset, reuse, and that the tunnel comes back after the relay was started again.

use crate::conversation::{Player, compare};
use crate::foreign::Foreign;
use crate::programs::{Client, Options, Server, options};
use crate::services::Service;
use crate::sockets::{End, read_end, reset, unacknowledged};
use crate::visits::{ping, short_visit, until_served};
use crate::wait::{PATIENCE, until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;

/// Resets in each direction.
const RESETS: usize = 20;
/// Short visits one after the other.
const VISITS: u32 = 100;
/// Conversations that are compared with direct ones.
const CONVERSATIONS: u32 = 40;

/// A relay or a proxy that listens when it is `started` for a server's ctl and proxy port, and how a client is `told` of
/// it. One that is not installed is not started.
#[derive(Debug)]
pub struct Between<S, T> {
    /// Starts it, and waits until it listens.
    pub start: S,
    /// Makes a client go through it.
    pub tell: T,
}

impl<S, T> Between<S, T>
where
    S: Fn([u16; 2]) -> Option<Foreign>,
    T: Fn(Options, [u16; 2]) -> Options,
{
    /// All of it.
    ///
    /// # Panics
    /// If something is not as it would be without it.
    pub fn changes_nothing(&self) {
        let (player, echo) = (Player::start(), Service::echo());
        let server = Server::start(options().threads(1).brisk());
        let ports = [server.ctl(), server.proxy()].map(|at| at.port());
        let Some(relay) = (self.start)(ports) else { return };
        let client = options().threads(1).brisk().tunnel(echo.addr()).tunnel(player.addr());
        let client = Client::start(&server, (self.tell)(client, ports));
        let public = client.public_of(echo.addr());
        (0..VISITS).for_each(|number| short_visit(public, number));
        if let Err(error) = compare(&player, client.public_of(player.addr()), 0..CONVERSATIONS) {
            panic!("{error}");
        }
        drop(relay);
        let _again = (self.start)(ports).expect("it was there");
        until_served(public);
        let done = client.stop();
        assert!(done.proxy_conns < u64::from(VISITS) / 2, "conns are reused: {done:?}");
    }

    /// Resets go up and down, each right behind what was sent.
    ///
    /// # Panics
    /// If one overtakes it, or does not come.
    pub fn resets_keep_their_place(&self) {
        const UP: usize = 100;
        const DOWN: usize = 64 << 10;
        let (ends, seen) = channel();
        // Who says nothing wants to be sent something.
        let service = Service::start(move |mut stream| {
            let mut first = [0];
            stream.read_exact(&mut first).expect("a visitor says what it wants");
            if first[0] == b'u' {
                let (more, end) = read_end(&mut stream);
                let _ = ends.send((1 + more, end));
            } else {
                stream.write_all(&[7; DOWN]).expect("sent");
                until("all is acknowledged", || unacknowledged(&stream) == 0);
                reset(stream);
            }
        });
        let server = Server::start(options().threads(1));
        let ports = [server.ctl(), server.proxy()].map(|at| at.port());
        let Some(_relay) = (self.start)(ports) else { return };
        let client = Client::start(&server, (self.tell)(options().threads(1).tunnel(service.addr()), ports));
        for visit in 0..RESETS {
            let mut visitor = client.visit();
            visitor.write_all(&[b'u'; UP]).expect("sent");
            reset(visitor);
            assert_eq!(seen.recv_timeout(PATIENCE), Ok((UP as u64, End::Reset)), "up, visit {visit}");
            let mut visitor = client.visit();
            visitor.write_all(b"d").expect("sent");
            assert_eq!(read_end(&mut visitor), (DOWN as u64, End::Reset), "down, visit {visit}");
        }
    }

    /// It cuts what is silent for a second or two: a visitor's silent connection ends in a reset, never as if it were
    /// over, and whoever comes afterwards is served. What is idle is pinged and outlives that.
    ///
    /// # Panics
    /// If one of these is not so.
    pub fn what_it_cuts_is_reset(&self) {
        let echo = Service::echo();
        let server = Server::start(options().threads(1).brisk());
        let ports = [server.ctl(), server.proxy()].map(|at| at.port());
        let Some(_relay) = (self.start)(ports) else { return };
        let client = options().threads(1).brisk().tunnel(echo.addr());
        let client = Client::start(&server, (self.tell)(client, ports));
        let mut silent: TcpStream = client.visit();
        ping(&mut silent, b"and then nothing");
        assert_eq!(read_end(&mut silent), (0, End::Reset));
        until_served(client.public());
    }
}
