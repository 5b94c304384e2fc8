//! A flow's own socket towards its LocalServer: what comes there goes into the conn, and what comes out of it is sent.

use super::super::loop_core::LoopCore;
use super::super::messages::FromClientLoop;
use super::super::relay::{Datagrams, Endpoint};
use super::super::slab::Token;
use super::super::sys::{Address, Datagrams as Sockets};
use super::super::thread::{Cx, Tell};
use super::paths::Aside;
use super::transfers::conn_and_local;
use super::{ClientLoop, LoopSys};
use crate::canary::{PlantedBug, planted};
use crate::codes::Violation;
use crate::datagrams::{Front, Lost, MAX_DATAGRAM};
use crate::report::Counts;
use crate::sys_error::SysError;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddr};

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

/// What has come of a flow's socket.
pub(super) struct HeardLocal {
    /// More may be there.
    pub(super) more: bool,
    /// Bytes that have gone by the path.
    pub(super) by_path: u64,
}

/// Reads what has come from the LocalServer of a flow, and sends what goes by the path; `None` if it is none.
pub(super) fn hear_local<T, S>(
    cx: &mut Cx<'_, S>,
    port: &mut Endpoint<T>,
    core: &mut LoopCore,
    aside: Aside,
) -> Option<HeardLocal>
where
    S: Sockets<Stream = T> + Tell<FromClientLoop>,
{
    let (datagram, lost) = (&mut core.datagram, &mut core.tally.lost);
    port.change(|stream| {
        let by_path = read(cx, stream, datagram, lost, aside);
        stream.waiting.expire(cx.now, lost);
        HeardLocal { more: stream.may_hear && !stream.has_ended(), by_path }
    })
}

/// Reads until nothing is left, or others should have their turn. Returns how many bytes have gone by the path.
// PROTOCOL.md: P-UDP-8, P-PATH-6.
fn read<T, S>(
    cx: &mut Cx<'_, S>,
    stream: &mut Datagrams<T>,
    datagram: &mut Vec<u8>,
    lost: &mut Counts<Lost>,
    aside: Aside,
) -> u64
where
    S: Sockets<Stream = T> + Tell<FromClientLoop>,
{
    let mut by_path = 0;
    let Some(socket) = &stream.socket else { return by_path };
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
                        continue;
                    }
                    let taken = aside.take(datagram);
                    if taken.is_none() || planted(PlantedBug::SentByBoth) {
                        stream.waiting.push(cx.now, datagram, lost);
                    }
                    if let Some(taken) = taken {
                        by_path += datagram.len() as u64;
                        cx.sys.tell(FromClientLoop::Datagram { serial: aside.serial, datagram: taken });
                    }
                }
            },
            Err(SysError::Refused) => {
                stream.may_hear = false;
                stream.refuse();
                return by_path;
            }
            Err(_) => stream.may_hear = false,
        }
    }
    by_path
}

/// Sends all that is whole. `buffer`: for what is put together.
fn say<T, S>(
    cx: &mut Cx<'_, S>,
    stream: &mut Datagrams<T>,
    buffer: &mut Vec<u8>,
    lost: &mut Counts<Lost>,
) -> Result<(), Violation>
where
    S: Sockets<Stream = T>,
{
    let mut refused = false;
    let Datagrams { socket, to, front, out, .. } = stream;
    while let Some(datagram) = out.pop().map_err(|_| Violation::Malformed)? {
        refused |= send(cx, socket.as_ref(), *to, front.as_deref_mut(), datagram, buffer, lost);
    }
    if refused {
        stream.refuse();
    }
    Ok(())
}

/// Sends one. `true`: nobody is there at the LocalServer's port.
pub(super) fn say_one<T, S>(
    cx: &mut Cx<'_, S>,
    stream: &mut Datagrams<T>,
    datagram: &[u8],
    buffer: &mut Vec<u8>,
    lost: &mut Counts<Lost>,
) -> bool
where
    S: Sockets<Stream = T>,
{
    let Datagrams { socket, to, front, .. } = stream;
    send(cx, socket.as_ref(), *to, front.as_deref_mut(), datagram, buffer, lost)
}

/// The same. A connected socket's send is told once what became of an earlier one, and has done nothing then: it is
/// repeated.
fn send<T, S>(
    cx: &mut Cx<'_, S>,
    socket: Option<&T>,
    to: Option<SocketAddr>,
    mut front: Option<&mut Front>,
    datagram: &[u8],
    buffer: &mut Vec<u8>,
    lost: &mut Counts<Lost>,
) -> bool
where
    S: Sockets<Stream = T>,
{
    let Some(socket) = socket else { return false };
    let to = to.map(|peer| Address { peer, own: Ipv4Addr::UNSPECIFIED.into() });
    let datagram = match &front {
        None => datagram,
        Some(front) => match front.put(datagram, buffer) {
            Some(datagram) => datagram,
            None => {
                lost.add(Lost::TooLong);
                return false;
            }
        },
    };
    let mut sent = cx.sys.say(socket, to, datagram);
    let refused = sent == Err(SysError::Refused);
    if refused {
        sent = cx.sys.say(socket, to, datagram);
    }
    match (sent, &mut front) {
        (Err(_), _) => lost.add(Lost::NotSent),
        (Ok(()), Some(front)) => front.on_sent(),
        (Ok(()), None) => {}
    }
    refused
}
