//! The other end's word: what the service says about the visits of a run.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::bulk;
use super::service_bulk::STALL;
use super::wire::{HEADER_LEN, Header, Op, TALLY_LEN, Tally};

/// Asks the service, without the peer between, how its visits ended.
pub(super) fn tally(service: SocketAddr) -> Result<Tally, String> {
    let ask = || {
        let mut stream = bulk::connect(service)?;
        let header: [u8; HEADER_LEN] = Header { op: Op::Tally, seed: 0, size: 0 }.encode();
        let mut bytes = [0; TALLY_LEN];
        stream
            .write_all(&header)
            .and_then(|()| stream.read_exact(&mut bytes))
            .map_err(|e| format!("no answer: {e}"))?;
        Ok(Tally::decode(&bytes))
    };
    ask().map_err(|e: String| format!("the service itself: {e}"))
}

/// Waits until the service has seen `visits` more of them end, and requires that all ended well.
pub(super) fn settle(service: SocketAddr, before: Tally, visits: u64) -> Result<(), String> {
    let deadline = Instant::now() + STALL;
    loop {
        let now = tally(service)?;
        let [clean, reset, wrong] = [now.clean - before.clean, now.reset - before.reset, now.wrong - before.wrong];
        if reset + wrong == 0 && clean == visits {
            return Ok(());
        }
        if now.ended() - before.ended() >= visits || Instant::now() > deadline {
            return Err(format!(
                "of {visits} visits the service saw {clean} end well, {reset} reset, {wrong} with wrong bytes, and {} not \
                 end",
                now.begun - now.ended()
            ));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
