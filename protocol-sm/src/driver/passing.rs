//! A passage through an outbound proxy, on the socket that is connected to it.

use super::relay::Endpoint;
use super::sys::Streams;
use crate::canary::{PlantedBug, planted};
use crate::outbound::{Passage, PassageFailure};
use crate::sys_error::SysError;

/// More than any passage wants at once.
const MOST: usize = 512;

/// Goes on with `passage` as far as the socket does. Returns whether it is through.
pub(crate) fn pass<S: Streams>(
    passage: &mut Passage,
    sys: &mut S,
    port: &mut Endpoint<S::Stream>,
) -> Result<bool, PassageFailure> {
    let mut bytes = [0; MOST];
    loop {
        while !passage.to_send().is_empty() {
            match port.send(sys, passage.to_send()) {
                Ok(sent) => passage.on_sent(sent),
                Err(SysError::WouldBlock) => return Ok(false),
                Err(_) => return Err(PassageFailure::Closed),
            }
        }
        if planted(PlantedBug::ProxyNotAwaited) {
            return Ok(true);
        }
        let wanted = passage.wants();
        match port.recv(sys, &mut bytes[..wanted]) {
            Ok(0) => return Err(PassageFailure::Closed),
            Ok(read) => {
                if passage.on_bytes(&bytes[..read])? {
                    return Ok(true);
                }
            }
            Err(SysError::WouldBlock) => return Ok(false),
            Err(_) => return Err(PassageFailure::Closed),
        }
    }
}
