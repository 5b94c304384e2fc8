//! The simulation's second ring: a choice tape over both sides' production drivers, with every invariant checked
//! at every step, driven by coverage instead of chance.

use runtime_sim::explore::run_tape;

/// Any bytes as a tape of 16-bit choices.
pub fn tape(data: &[u8]) {
    let tape: Vec<u16> =
        data.chunks(2).map(|pair| u16::from(pair[0]) | pair.get(1).map_or(0, |&b| u16::from(b)) << 8).collect();
    if let Err(failure) = run_tape(&tape) {
        panic!("{failure}");
    }
}
