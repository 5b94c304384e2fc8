//! The service's side of a bulk visit: plain blocking calls, one thread per direction, each with a time limit.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::exchange::Ending;
use super::pattern::{self, Way};
use super::sock;
use super::wire::{Header, Op, RECEIPT};

/// How long one call may block before the visit counts as hung.
pub(super) const STALL: Duration = Duration::from_secs(20);

/// How long a stream may take in all, even if something trickles through.
const LONGEST_STREAM: Duration = Duration::from_secs(120);

/// Bytes per read call; small enough that checking them hits the cache.
pub(super) const READ: usize = 128 * 1024;

/// Serves the visit to its end. `early` are the bytes that came along with the header.
pub(super) fn serve(mut stream: TcpStream, header: Header, early: &[u8]) -> Ending {
    let blocking = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(STALL)))
        .and_then(|()| stream.set_write_timeout(Some(STALL)));
    if blocking.is_err() {
        return Ending::Reset;
    }
    let served = match header.op {
        Op::Down => give(&stream, header).and_then(|()| take_end(&stream, early)),
        Op::Up => take(&stream, header, early).and_then(|()| stream.write_all(RECEIPT).map_err(|_| Ending::Reset)),
        Op::Both => std::thread::scope(|s| {
            let giving = s.spawn(|| give(&stream, header));
            let taken = take(&stream, header, early);
            giving.join().unwrap_or(Err(Ending::Wrong)).and(taken)
        }),
        Op::Echo | Op::EchoThenReset | Op::VisitorShutsFirst | Op::ServiceShutsFirst | Op::Tally => Err(Ending::Wrong),
    };
    match served {
        Ok(()) => Ending::Clean,
        Err(ending) => {
            sock::reset_on_close(&stream);
            ending
        }
    }
}

fn give(stream: &TcpStream, header: Header) -> Result<(), Ending> {
    send_stream(stream, header.seed, Way::Down, header.size).map_err(|_| Ending::Reset)
}

fn take(stream: &TcpStream, header: Header, early: &[u8]) -> Result<(), Ending> {
    match receive_stream(stream, header.seed, Way::Up, early) {
        Ok(n) if n == header.size => Ok(()),
        Err(e) if e.kind() != ErrorKind::InvalidData => Err(Ending::Reset),
        Ok(_) | Err(_) => Err(Ending::Wrong),
    }
}

/// A visitor that only takes says nothing more and closes.
fn take_end(mut stream: &TcpStream, early: &[u8]) -> Result<(), Ending> {
    let n = stream.read(&mut [0; 1]).map_err(|_| Ending::Reset)?;
    if n == 0 && early.is_empty() { Ok(()) } else { Err(Ending::Wrong) }
}

/// Writes the first `size` bytes of a stream and shuts the writing half.
pub(super) fn send_stream(mut stream: &TcpStream, seed: u32, way: Way, size: u64) -> std::io::Result<()> {
    let begun = Instant::now();
    let mut sent = 0;
    while sent < size {
        in_time(begun)?;
        let len = (size - sent).min(pattern::LONGEST as u64) as usize;
        stream.write_all(pattern::bytes(seed, way, sent, len))?;
        sent += len as u64;
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads a stream to its end, of which `early` has been read before, and returns its length. Wrong bytes are
/// [`ErrorKind::InvalidData`].
pub(super) fn receive_stream(mut stream: &TcpStream, seed: u32, way: Way, early: &[u8]) -> std::io::Result<u64> {
    let wrong = |at| std::io::Error::new(ErrorKind::InvalidData, format!("wrong bytes after {at} right ones"));
    if !pattern::matches(seed, way, 0, early) {
        return Err(wrong(0));
    }
    let mut taken = early.len() as u64;
    let mut buffer = vec![0; READ];
    let begun = Instant::now();
    loop {
        in_time(begun)?;
        let n = match stream.read(&mut buffer) {
            Ok(0) => return Ok(taken),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if !pattern::matches(seed, way, taken, &buffer[..n]) {
            return Err(wrong(taken));
        }
        taken += n as u64;
    }
}

fn in_time(begun: Instant) -> std::io::Result<()> {
    if begun.elapsed() > LONGEST_STREAM {
        return Err(std::io::Error::new(ErrorKind::TimedOut, format!("not done after {LONGEST_STREAM:?}")));
    }
    Ok(())
}
