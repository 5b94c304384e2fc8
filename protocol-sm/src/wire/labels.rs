//! Every message that the wire knows, with every code: for a test that asks which of them were sent.

use super::{Message, ProxyToClient, ProxyToServer, ToClient, ToServer};
use crate::sent::Label;
use alloc::vec::Vec;

/// A label for each message of each channel, with each of its codes. They are found by decoding, so that none can be
/// forgotten when a message or a code is added.
#[must_use]
pub fn labels() -> Vec<Label> {
    let mut found = Vec::new();
    collect::<ToServer>(&mut found);
    collect::<ToClient>(&mut found);
    collect::<ProxyToServer>(&mut found);
    collect::<ProxyToClient>(&mut found);
    found
}

/// Tries every number of a message and of a code, at each place where one may stand. All else is zero, which every field
/// can be.
fn collect<M: Message>(found: &mut Vec<Label>) {
    /// More than there are of anything, and no number needs a second byte.
    const NUMBERS: u8 = 16;
    // Outermost is the number of the message, or of `Ctl::Handshake` or `Ctl::Numbered`.
    for (outer, second, third) in numbers(NUMBERS) {
        for (at, then_at) in (1..6).flat_map(|at| (at + 1..6).map(move |then_at| (at, then_at))) {
            let mut body = [0; 256];
            (body[0], body[at], body[then_at]) = (outer, second, third);
            let Ok((message, _)) = postcard::take_from_bytes::<M>(&body) else { continue };
            let label = message.label();
            if !found.contains(&label) {
                found.push(label);
            }
        }
    }
}

fn numbers(end: u8) -> impl Iterator<Item = (u8, u8, u8)> {
    (0..end).flat_map(move |a| (0..end).flat_map(move |b| (0..end).map(move |c| (a, b, c))))
}
