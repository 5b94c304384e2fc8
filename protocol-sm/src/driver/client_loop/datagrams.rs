//! A flow's own socket towards its LocalServer: what comes there goes into the conn, and what comes out of it is sent.

use super::super::loop_core::LoopCore;
use super::super::relay::{Datagrams, Endpoint};
use super::super::slab::Token;
use super::super::sys::{Address, Datagrams as Sockets};
use super::super::thread::Cx;
use super::transfers::conn_and_local;
use super::{ClientLoop, LoopSys};
use crate::codes::Violation;
use crate::datagrams::{Lost, MAX_DATAGRAM};
use crate::report::Counts;
use crate::sys_error::SysError;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

/// Datagrams that are read before others get their turn.
const BATCH: usize = 64;

impl<T, P> ClientLoop<T, P> {
    /// Sends what has come for the LocalServer of a conn's flow, if it carries one.
    ///
    /// # Errors
    /// The server has sent what no datagram is.
    pub(super) fn deliver<S: LoopSys<T, P>>(&mut self, cx: &mut Cx<'_, S>, token: Token) -> Result<(), Violation> {
        let Some((conn, Some(local))) = conn_and_local(&mut self.slots, token) else { return Ok(()) };
        let lost = &mut self.core.tally.lost;
        let Some(delivered) = local.port.change(|stream| {
            let went_on = !stream.has_ended();
            let sent = say(cx, stream, &mut self.core.datagram, lost);
            if stream.has_ended() {
                stream.waiting.close(lost);
            }
            sent.map(|()| went_on && stream.has_ended())
        }) else {
            return Ok(());
        };
        if delivered? {
            self.core.queue_turn(token, &mut conn.queued);
        }
        Ok(())
    }
}

/// Reads what has come from the LocalServer of a flow; `None` if it is none. `Some(true)`: more may be there.
pub(super) fn hear_local<T, S>(cx: &mut Cx<'_, S>, port: &mut Endpoint<T>, core: &mut LoopCore) -> Option<bool>
where
    S: Sockets<Stream = T>,
{
    let (datagram, lost) = (&mut core.datagram, &mut core.tally.lost);
    port.change(|stream| {
        read(cx, stream, datagram, lost);
        stream.waiting.expire(cx.now, lost);
        stream.may_hear && !stream.has_ended()
    })
}

/// Reads until nothing is left, or others should have their turn.
// PROTOCOL.md: P-UDP-8.
fn read<T, S>(cx: &mut Cx<'_, S>, stream: &mut Datagrams<T>, datagram: &mut Vec<u8>, lost: &mut Counts<Lost>)
where
    S: Sockets<Stream = T>,
{
    let Some(socket) = &stream.socket else { return };
    for _ in 0..BATCH {
        if !stream.may_hear || stream.has_ended() {
            break;
        }
        datagram.clear();
        match cx.sys.hear(socket, datagram) {
            Ok(from) => match &mut stream.to {
                Some(to) if to.ip() != from.peer.ip() => lost.add(Lost::Foreign),
                to => {
                    to.iter_mut().for_each(|to| *to = from.peer);
                    if datagram.len() > MAX_DATAGRAM {
                        lost.add(Lost::TooLong);
                    } else {
                        stream.waiting.push(cx.now, datagram, lost);
                    }
                }
            },
            Err(SysError::Refused) => {
                stream.may_hear = false;
                stream.refuse();
                return;
            }
            Err(_) => stream.may_hear = false,
        }
    }
}

/// Sends all that is whole. A connected socket's send is told once what became of an earlier one, and has done nothing
/// then: it is repeated. `buffer`: for what is put together.
fn say<T, S>(
    cx: &mut Cx<'_, S>,
    stream: &mut Datagrams<T>,
    buffer: &mut Vec<u8>,
    lost: &mut Counts<Lost>,
) -> Result<(), Violation>
where
    S: Sockets<Stream = T>,
{
    let to = stream.to.map(|peer| Address { peer, own: Ipv4Addr::UNSPECIFIED.into() });
    let mut refused = false;
    while let Some(datagram) = stream.out.pop().map_err(|_| Violation::Malformed)? {
        let Some(socket) = &stream.socket else { continue };
        let datagram = match &stream.front {
            None => datagram,
            Some(front) => match front.put(datagram, buffer) {
                Some(datagram) => datagram,
                None => {
                    lost.add(Lost::TooLong);
                    continue;
                }
            },
        };
        let mut sent = cx.sys.say(socket, to, datagram);
        if sent == Err(SysError::Refused) {
            refused = true;
            sent = cx.sys.say(socket, to, datagram);
        }
        match (sent, &mut stream.front) {
            (Err(_), _) => lost.add(Lost::NotSent),
            (Ok(()), Some(front)) => front.on_sent(),
            (Ok(()), None) => {}
        }
    }
    if refused {
        stream.refuse();
    }
    Ok(())
}
