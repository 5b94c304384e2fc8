//! Short visits: what most visitors of a tunnel do.

use crate::payload::{Arrival, Flow};
use crate::programs::Client;
use crate::sockets::{End, bounded, connect, connect_from, finish, read_all, read_each};
use crate::wait::{PATIENCE, eventually, until};
use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A request of 64 bytes to an echo service, with both ends closed after it.
///
/// # Panics
/// If anything but these bytes comes back, or no clean end.
#[track_caller]
pub fn short_visit(addr: SocketAddr, number: u32) {
    let mut visitor = connect(addr);
    begin_visit(&mut visitor, number);
    end_visit(&mut visitor, number);
}

/// The visitor's half of a [`short_visit`].
///
/// # Panics
/// If the connection is gone.
#[track_caller]
pub fn begin_visit(visitor: &mut TcpStream, number: u32) {
    visitor.write_all(&Flow::up(number).bytes(0, 64)).expect("send the request");
    finish(visitor);
}

/// The answer to a [`short_visit`].
///
/// # Panics
/// If anything but the request comes back, or no clean end.
#[track_caller]
pub fn end_visit(visitor: &mut TcpStream, number: u32) {
    let mut arrival = Arrival::of(Flow::up(number));
    let mut damage = Ok(());
    let end = read_each(visitor, |bytes| damage = damage.clone().and_then(|()| arrival.take(bytes)));
    let whole = damage.and_then(|()| arrival.end(64));
    assert_eq!((whole, end), (Ok(()), End::Clean), "answer to visit {number}");
}

/// One request and its answer on a connection that stays.
///
/// # Panics
/// If anything but the request comes back.
#[track_caller]
pub fn ping(visitor: &mut TcpStream, bytes: &[u8]) {
    visitor.write_all(bytes).expect("send the request");
    let mut answer = vec![0; bytes.len()];
    let read = visitor.read_exact(&mut answer);
    read.unwrap_or_else(|error| panic!("waiting for the answer to {} bytes: {error}", bytes.len()));
    assert_eq!(answer, bytes, "the answer is the request");
}

/// What a greeter behind `addr` says.
#[must_use]
#[track_caller]
pub fn greeting(addr: SocketAddr) -> String {
    String::from_utf8(read_all(&mut connect(addr))).expect("a greeting is text")
}

/// Visits `addr` anew until `good` holds for what it says before its end: after a failure the tunnel
/// comes back on its own, and nothing else tells when.
#[track_caller]
pub fn until_greeted(addr: SocketAddr, good: impl Fn(&str) -> bool) {
    eventually(&format!("{addr} is served again"), || {
        let text = try_greeting(addr).map_err(|error| error.to_string())?;
        if good(&text) { Ok(()) } else { Err(format!("it says `{text}`")) }
    });
}

fn try_greeting(addr: SocketAddr) -> std::io::Result<String> {
    let mut visitor = TcpStream::connect_timeout(&addr, PATIENCE)?;
    bounded(&visitor, Duration::from_secs(5));
    let mut text = String::new();
    visitor.read_to_string(&mut text)?;
    Ok(text)
}

/// Visits the echo service behind `addr` anew until it answers.
#[track_caller]
pub fn until_served(addr: SocketAddr) {
    eventually(&format!("{addr} is served again"), || try_echo(addr).map_err(|error| error.to_string()));
}

/// Whether the echo service behind `addr` answers a visit.
#[must_use]
pub fn is_served(addr: SocketAddr) -> bool {
    try_echo(addr).is_ok()
}

fn try_echo(addr: SocketAddr) -> std::io::Result<()> {
    let mut visitor = TcpStream::connect_timeout(&addr, PATIENCE)?;
    bounded(&visitor, Duration::from_secs(5));
    visitor.write_all(b"are you there?")?;
    visitor.read_exact(&mut [0; 14])
}

/// One of this machine's own addresses, 127.0.0.`last`: visitors from there count as others.
#[must_use]
pub fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

/// Visits, from `from`, the greeter that says `hi` behind the tunnel to `local`, and is greeted.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn expect_greeted(from: Ipv4Addr, client: &Client, local: impl fmt::Display) {
    let mut visitor = connect_from(from, client.public_of(local)).expect("not reset");
    assert_eq!(read_all(&mut visitor), b"hi", "a visitor from {from}");
}

/// Some 200 short visits a second, each of which must be served, until it is stopped or dropped.
#[derive(Debug)]
pub struct Visits {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU32>,
    threads: Vec<JoinHandle<()>>,
}

impl Visits {
    /// Visits `to` from now on.
    #[must_use]
    pub fn begin(to: SocketAddr) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let threads = (0..4).map(|_| {
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    short_visit(to, made.fetch_add(1, Ordering::SeqCst));
                    thread::sleep(Duration::from_millis(20));
                }
            })
        });
        Self { threads: threads.collect(), stop, made }
    }

    /// Waits until there were `more` of them.
    ///
    /// # Panics
    /// If they do not come.
    pub fn more(&self, more: u32) {
        let before = self.made.load(Ordering::SeqCst);
        let failed = || self.threads.iter().any(JoinHandle::is_finished);
        until("visits are served", || failed() || self.made.load(Ordering::SeqCst) >= before + more);
    }

    /// Stops them, and returns how many there were.
    ///
    /// # Panics
    /// If one has failed.
    pub fn expect_none_failed(mut self) -> u32 {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("each visit is served whole");
        }
        self.made.load(Ordering::SeqCst)
    }
}

impl Drop for Visits {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
