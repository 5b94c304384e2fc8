//! Bulk visitors: one blocking thread per stream and direction, every byte checked, every call bounded in time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::pattern::{self, Way};
use super::seeds;
use super::service_bulk::{STALL, receive_stream, send_stream};
use super::wire::{Header, Op, RECEIPT};

/// Runs `streams` visits of `size` bytes at once. The time from the first byte to the last end.
pub(super) fn run(target: SocketAddr, op: Op, streams: usize, size: u64) -> Result<Duration, String> {
    let connected = (0..streams).map(|_| connect(target)).collect::<Result<Vec<_>, _>>()?;
    let ready = Barrier::new(streams + 1);
    std::thread::scope(|s| {
        let threads: Vec<_> = connected
            .iter()
            .map(|stream| {
                let ready = &ready;
                s.spawn(move || {
                    ready.wait();
                    visit(stream, op, size)
                })
            })
            .collect();
        ready.wait();
        let begun = Instant::now();
        let results: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        let elapsed = begun.elapsed();
        for result in results {
            result.map_err(|_| "a bulk visitor panicked".to_owned())??;
        }
        Ok(elapsed)
    })
}

/// A connection for one bulk visit.
pub(super) fn connect(target: SocketAddr) -> Result<TcpStream, String> {
    let open = || {
        let stream = TcpStream::connect_timeout(&target, STALL)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
        Ok(stream)
    };
    open().map_err(|e: std::io::Error| format!("cannot connect: {e}"))
}

/// One bulk visit from its header to its end.
pub(super) fn visit(stream: &TcpStream, op: Op, size: u64) -> Result<(), String> {
    let seed = seeds::next();
    let mut out = stream;
    out.write_all(&Header { op, seed, size }.encode()).map_err(|e| format!("cannot send: {e}"))?;
    match op {
        Op::Down => receive(stream, seed, size),
        Op::Up => {
            send(stream, seed, size)?;
            let mut receipt = Vec::new();
            let mut input = stream;
            input.read_to_end(&mut receipt).map_err(|e| format!("no receipt: {e}"))?;
            if receipt == RECEIPT { Ok(()) } else { Err(format!("no receipt but {} bytes", receipt.len())) }
        }
        Op::Both => std::thread::scope(|s| {
            let sending = s.spawn(|| send(stream, seed, size));
            let received = receive(stream, seed, size);
            sending.join().map_err(|_| "a bulk sender panicked".to_owned())?.and(received)
        }),
        Op::Echo | Op::EchoThenReset | Op::VisitorShutsFirst | Op::ServiceShutsFirst | Op::Tally => {
            Err(format!("{op:?} is no bulk visit"))
        }
    }
}

/// The bytes of a stream down until it is told to stop, all of them checked. It is read no faster than 6 MB/s: a faster one
/// fills the queues of a line, which lose packets then.
pub(super) fn down_until(mut stream: &TcpStream, stop: &AtomicBool) -> Result<u64, String> {
    const AT_ONCE: usize = 64 << 10;
    const PAUSE: Duration = Duration::from_millis(10);
    let seed = seeds::next();
    let header = Header { op: Op::Down, seed, size: u64::MAX }.encode();
    stream.write_all(&header).map_err(|e| format!("cannot send: {e}"))?;
    let (mut buffer, mut received) = (vec![0; AT_ONCE], 0);
    while !stop.load(Relaxed) {
        let length = stream.read(&mut buffer).map_err(|e| format!("broken: {e}"))?;
        if length == 0 || !pattern::matches(seed, Way::Down, received, &buffer[..length]) {
            return Err(format!("wrong bytes, or an end, after {received}"));
        }
        received += length as u64;
        std::thread::sleep(PAUSE);
    }
    Ok(received)
}

fn send(stream: &TcpStream, seed: u32, size: u64) -> Result<(), String> {
    send_stream(stream, seed, Way::Up, size).map_err(|e| format!("cannot send {size} bytes: {e}"))
}

fn receive(stream: &TcpStream, seed: u32, size: u64) -> Result<(), String> {
    match receive_stream(stream, seed, Way::Down, &[]) {
        Ok(n) if n == size => Ok(()),
        Ok(n) => Err(format!("a clean end after {n} of {size} bytes")),
        Err(e) => Err(format!("broken: {e}")),
    }
}
