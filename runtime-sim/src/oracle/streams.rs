//! Every byte says where it belongs: it derives from its stream and its offset there. So loss, invention,
//! reordering and cross-talk are told apart.
//!
//! The first eight bytes of a stream name it. What a visitor receives names the local_conn that serves it, and the
//! reverse: the two are paired from then on.

use super::Property;
use super::header::Header;
use crate::kernel::mix;
use protocol_sm::proxy_protocol::ProxyProtocol;
use std::borrow::Cow;
use std::fmt::Write;
use std::net::SocketAddr;

/// One direction's source: a visitor, or a local service's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// Which end of a tunnel sends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A PublicClient.
    Visitor,
    /// A LocalServer.
    Service,
}

#[derive(Debug)]
struct Stream {
    side: Side,
    tunnel: usize,
    sent: u64,
    /// Ended cleanly: `sent` is all of it.
    ended: bool,
    peer: Option<StreamId>,
    received: u64,
    /// The first bytes received.
    head: Vec<u8>,
    /// What a service is told of its visitor before them, if it expects to be.
    header: Option<Header>,
    /// What a visitor says before bytes of its own.
    prefix: Vec<u8>,
    /// The same of the visitors that a service gets.
    expected: Vec<u8>,
    /// What a visitor's service is told instead of its prefix.
    instead: Option<Vec<u8>>,
    /// What a service was told so, if that is what it expects.
    told: Option<Vec<u8>>,
    /// The server has told the visitor why it is nobody's.
    refused: bool,
    /// A visitor's own address, and the header that tells its service who it is.
    line: Option<(SocketAddr, Option<Vec<u8>>)>,
}

/// All streams of a run.
#[derive(Debug, Default)]
pub struct Streams(Vec<Stream>);

/// What was found wrong, and in which words.
pub type Finding = (Property, String);

const HEAD: usize = 8;
/// How the server's own answers begin: in HTTP, and in TLS.
const ANSWER: &[u8] = b"HTTP/1.1";
const ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2];

fn word(id: StreamId, index: u64) -> u64 {
    let name = u64::from(id.0);
    if index == 0 { name | mix(name) << 32 } else { mix(name << 40 ^ index) }
}

/// Writes what the stream has at `offset`, behind its prefix, into `into`.
fn fill(id: StreamId, offset: u64, into: &mut [u8]) {
    let mut at = 0;
    let mut offset = offset;
    while at < into.len() {
        let bytes = word(id, offset / 8).to_le_bytes();
        let skip = usize::try_from(offset % 8).expect("below 8");
        let n = (8 - skip).min(into.len() - at);
        into[at..at + n].copy_from_slice(&bytes[skip..skip + n]);
        at += n;
        offset += n as u64;
    }
}

/// Whether this is the head of a request, to its end.
fn is_head(bytes: &[u8]) -> bool {
    const LONGEST: usize = 1024;
    bytes.ends_with(b"\r\n\r\n") || bytes.len() == LONGEST
}

/// The stream that eight bytes name.
fn named(head: &[u8]) -> Option<StreamId> {
    let word = u64::from_le_bytes(head.get(..HEAD)?.try_into().ok()?);
    let name = word & u64::from(u32::MAX);
    (word == name | mix(name) << 32).then(|| StreamId(u32::try_from(name).expect("32 bits")))
}

impl Stream {
    /// Writes what it has at `offset`, its prefix included, into `into`.
    fn fill(&self, id: StreamId, offset: u64, into: &mut [u8]) {
        let begin = usize::try_from(offset).map_or(self.prefix.len(), |begin| begin.min(self.prefix.len()));
        let head = &self.prefix[begin..];
        let n = head.len().min(into.len());
        into[..n].copy_from_slice(&head[..n]);
        fill(id, offset + n as u64 - self.prefix.len().min(begin + n) as u64, &mut into[n..]);
    }
}

impl Streams {
    /// A new stream.
    pub fn open(&mut self, side: Side, tunnel: usize) -> StreamId {
        let (peer, header, line) = (None, None, None);
        let (head, prefix, refused) = (Vec::new(), Vec::new(), false);
        self.0.push(Stream {
            side,
            tunnel,
            sent: 0,
            ended: false,
            peer,
            received: 0,
            head,
            header,
            prefix,
            expected: Vec::new(),
            instead: None,
            told: None,
            refused,
            line,
        });
        StreamId(u32::try_from(self.0.len() - 1).expect("fewer than 2^32 streams"))
    }

    fn get(&mut self, id: StreamId) -> &mut Stream {
        &mut self.0[id.0 as usize]
    }

    /// The visitor that sends `id` says this before bytes of its own.
    pub fn begin_with(&mut self, id: StreamId, prefix: Vec<u8>) {
        self.get(id).prefix = prefix;
    }

    /// The service that sends `id` gets visitors that say this first.
    pub fn expect_prefix(&mut self, id: StreamId, prefix: Vec<u8>) {
        self.get(id).expected = prefix;
    }

    /// The service of the visitor that sends `id` is told this instead of what it says first: another head of a request.
    pub fn tell_instead(&mut self, id: StreamId, head: Vec<u8>) {
        self.get(id).instead = Some(head);
    }

    /// The service that sends `id` may be told something else than its visitors say first.
    pub fn expect_another_prefix(&mut self, id: StreamId) {
        self.get(id).told = Some(Vec::new());
    }

    /// Whether the service that sends `id` was told something else, all of it.
    #[must_use]
    pub fn was_told_instead(&self, id: StreamId) -> bool {
        let stream = &self.0[id.0 as usize];
        let instead = stream.peer.and_then(|peer| self.0[peer.0 as usize].instead.as_ref());
        instead.is_some() && instead == stream.told.as_ref()
    }

    /// By how much that is longer than what `visitor` has said first, if it was a visitor.
    #[must_use]
    pub fn grown(&self, visitor: SocketAddr) -> u64 {
        let of = |stream: &&Stream| stream.line.as_ref().is_some_and(|line| line.0 == visitor);
        let grown = |stream: &Stream| Some(stream.instead.as_ref()?.len() - stream.prefix.len());
        self.0.iter().rev().find(of).and_then(grown).unwrap_or(0) as u64
    }

    /// Whether the server has told the visitor that sends `id` why it is nobody's.
    #[must_use]
    pub fn was_refused(&self, id: StreamId) -> bool {
        self.0[id.0 as usize].refused
    }

    /// The visitor that sends `id` is connected: its own address, and the header that tells its service who it is.
    pub fn on_connected(&mut self, id: StreamId, visitor: SocketAddr, header: Option<Vec<u8>>) {
        self.get(id).line = Some((visitor, header));
    }

    /// The header that tells a service of `visitor`, if it was a visitor.
    #[must_use]
    pub fn header_of(&self, visitor: SocketAddr) -> Option<&[u8]> {
        let mut lines = self.0.iter().rev().filter_map(|stream| stream.line.as_ref());
        lines.find(|line| line.0 == visitor)?.1.as_deref()
    }

    /// The service that sends `id` expects to be told first who its visitor is.
    pub fn expect_header(&mut self, id: StreamId, version: ProxyProtocol) {
        self.get(id).header = Some(Header::new(version));
    }

    /// Whether the service that sends `id` has read a part of the header, and no more yet.
    #[must_use]
    pub fn header_is_split(&self, id: StreamId) -> bool {
        self.0[id.0 as usize].header.as_ref().is_some_and(Header::is_split)
    }

    /// The next bytes to send.
    pub fn next_bytes(&self, id: StreamId, into: &mut [u8]) {
        let stream = &self.0[id.0 as usize];
        stream.fill(id, stream.sent, into);
    }

    /// `n` of them were accepted by the socket.
    pub fn on_sent(&mut self, id: StreamId, n: usize) {
        self.get(id).sent += n as u64;
    }

    /// The stream was ended cleanly.
    pub fn on_ended(&mut self, id: StreamId) {
        self.get(id).ended = true;
    }

    /// The tunnel that it goes through.
    #[must_use]
    pub fn tunnel(&self, id: StreamId) -> usize {
        self.0[id.0 as usize].tunnel
    }

    /// Whom it talks to, if known.
    #[must_use]
    pub fn peer(&self, id: StreamId) -> Option<StreamId> {
        self.0[id.0 as usize].peer
    }

    /// Bytes received by the end that sends `id`.
    #[must_use]
    pub fn received(&self, id: StreamId) -> u64 {
        self.0[id.0 as usize].received
    }

    /// The same, with those of a head that is not whole yet.
    #[must_use]
    pub fn got(&self, id: StreamId) -> u64 {
        let stream = &self.0[id.0 as usize];
        let part = stream.told.as_ref().filter(|told| !is_head(told)).map_or(0, Vec::len);
        stream.received + part as u64
    }

    /// Bytes came to the end that sends `id`.
    ///
    /// # Errors
    /// They are not what they should be.
    pub fn on_received(&mut self, id: StreamId, bytes: &[u8]) -> Result<(), Finding> {
        let stream = self.get(id);
        let payload = stream.header.as_mut().map_or(bytes, |header| header.take(bytes));
        if payload.len() < bytes.len() {
            self.check_header(id)?;
            if payload.is_empty() {
                return Ok(());
            }
        }
        let Some(bytes) = self.take_told(id, payload)? else { return Ok(()) };
        let (bytes, stream) = (&*bytes, self.get(id));
        let at = stream.received;
        stream.received += bytes.len() as u64;
        // The peer is known by the bytes of its own.
        let skip = stream.expected.len().saturating_sub(usize::try_from(at).unwrap_or(usize::MAX)).min(bytes.len());
        if stream.head.len() < HEAD {
            let more = (bytes.len() - skip).min(HEAD - stream.head.len());
            stream.head.extend_from_slice(&bytes[skip..skip + more]);
        }
        let expected = &stream.expected[stream.expected.len().min(usize::try_from(at).unwrap_or(usize::MAX))..];
        if !expected.starts_with(&bytes[..skip]) {
            let what = format!("{} is not told its host: {}", self.show(id), self.describe(bytes));
            return Err((Property::NothingInvented, what));
        }
        stream.refused |= !stream.prefix.is_empty() && stream.peer.is_none() && stream.head == ANSWER;
        if stream.refused {
            return Ok(());
        }
        if stream.peer.is_none() {
            if stream.head.len() < HEAD {
                return Ok(());
            }
            let head = stream.head.clone();
            self.pair(id, &head)?;
        }
        let Some(peer) = self.get(id).peer else { return Ok(()) };
        self.compare(peer, at, bytes)
    }

    /// The first bytes name the peer.
    fn pair(&mut self, id: StreamId, head: &[u8]) -> Result<(), Finding> {
        let (side, tunnel) = (self.get(id).side, self.get(id).tunnel);
        let peer = named(head).filter(|peer| (peer.0 as usize) < self.0.len());
        let Some(peer) = peer else {
            return Err((Property::NothingInvented, format!("{} begins with {}", self.show(id), self.describe(head))));
        };
        let other = self.get(peer);
        if other.side == side || other.tunnel != tunnel {
            let what = format!("{} receives the bytes of {}", self.show(id), self.show(peer));
            return Err((Property::NoCrossTalk, what));
        }
        if other.peer.is_some_and(|known| known != id) {
            let what = format!("{} and another talk to {}", self.show(id), self.show(peer));
            return Err((Property::OneServicePerVisitor, what));
        }
        other.peer = Some(id);
        self.get(id).peer = Some(peer);
        self.check_header(if side == Side::Service { id } else { peer })?;
        self.check_told(if side == Side::Service { id } else { peer })?;
        // The peer may have received a few bytes before it could know.
        let early = self.get(peer).head.clone();
        let behind = self.get(peer).expected.len() as u64;
        // It may have received a part only of what stands before them.
        if self.get(peer).received < behind + HEAD as u64 && !early.is_empty() {
            self.compare(id, behind, &early)
        } else {
            Ok(())
        }
    }

    /// A service is told the visitor whose bytes it gets.
    fn check_header(&self, service: StreamId) -> Result<(), Finding> {
        let stream = &self.0[service.0 as usize];
        let Some(header) = stream.header.as_ref().filter(|header| header.is_whole()) else { return Ok(()) };
        let Some((visitor, Some(expected))) = stream.peer.and_then(|peer| self.0[peer.0 as usize].line.as_ref()) else {
            return Ok(());
        };
        if header.is(expected) {
            return Ok(());
        }
        let what = format!("{} is not told {visitor} by {expected:?}: {header:?}", self.show(service));
        Err((Property::NothingInvented, what))
    }

    /// What came counts as what the visitor has said, once all is there that a service is told instead.
    fn take_told<'a>(&mut self, id: StreamId, mut bytes: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, Finding> {
        let stream = self.get(id);
        let Some(told) = stream.told.as_mut().filter(|told| !is_head(told)) else { return Ok(Some(bytes.into())) };
        while !is_head(told)
            && let Some((first, rest)) = bytes.split_first()
        {
            told.push(*first);
            bytes = rest;
        }
        if !is_head(told) {
            return Ok(None);
        }
        let counts = [&stream.expected, bytes].concat();
        self.check_told(id)?;
        Ok(Some(counts.into()))
    }

    /// A service is told what it must be in place of what its visitor has said first.
    fn check_told(&self, service: StreamId) -> Result<(), Finding> {
        let stream = &self.0[service.0 as usize];
        let (Some(told), Some(peer)) = (stream.told.as_ref().filter(|told| is_head(told)), stream.peer) else {
            return Ok(());
        };
        let visitor = &self.0[peer.0 as usize];
        let expected = visitor.instead.as_ref().unwrap_or(&visitor.prefix);
        if told == expected {
            return Ok(());
        }
        let [told, expected] = [told, expected].map(|bytes| String::from_utf8_lossy(bytes));
        let what = format!("{} is told of {} {told:?}, not {expected:?}", self.show(service), self.show(peer));
        Err((Property::NothingInvented, what))
    }

    /// Whether `bytes` are what `from` sent at `offset`.
    fn compare(&self, from: StreamId, offset: u64, bytes: &[u8]) -> Result<(), Finding> {
        let stream = &self.0[from.0 as usize];
        let mut expected = vec![0; bytes.len()];
        stream.fill(from, offset, &mut expected);
        let wrong = bytes.iter().zip(&expected).position(|(a, b)| a != b);
        let Some(wrong) = wrong else {
            if offset + bytes.len() as u64 > stream.sent {
                let what = format!("more came than {} had sent", self.show(from));
                return Err((Property::PrefixDelivered, what));
            }
            return Ok(());
        };
        let (at, rest) = (offset + wrong as u64, &bytes[wrong..]);
        let found = self.find(from, rest);
        Err(match found {
            Some((id, elsewhere)) if id == from && elsewhere > at => {
                let lost = elsewhere - at;
                (Property::NothingLost, format!("{lost} bytes of {} are missing at offset {at}", self.show(from)))
            }
            Some((id, elsewhere)) if id == from => (
                Property::NothingReordered,
                format!("{} at offset {at}: its offset {elsewhere} again", self.show(from)),
            ),
            Some((id, elsewhere)) => (
                Property::NoCrossTalk,
                format!("{} at offset {at}: bytes of {} (offset {elsewhere})", self.show(from), self.show(id)),
            ),
            None => (Property::NothingInvented, format!("{} at offset {at}: {}", self.show(from), self.describe(rest))),
        })
    }

    /// Where `bytes` come from, the most likely stream first.
    fn find(&self, likely: StreamId, bytes: &[u8]) -> Option<(StreamId, u64)> {
        let sample = &bytes[..bytes.len().min(12)];
        if sample.len() < 4 {
            return None;
        }
        let others = (0..self.0.len()).map(|i| StreamId(i as u32)).filter(|&id| id != likely);
        std::iter::once(likely).chain(others).find_map(|id| {
            let sent = usize::try_from(self.0[id.0 as usize].sent).expect("fits memory");
            let mut whole = vec![0; sent];
            self.0[id.0 as usize].fill(id, 0, &mut whole);
            let at = whole.windows(sample.len()).position(|window| window == sample)?;
            Some((id, at as u64))
        })
    }

    /// The end that sends `id` read a clean end.
    ///
    /// # Errors
    /// Its peer did not end its stream, or not there.
    pub fn on_eof(&mut self, id: StreamId) -> Result<(), Finding> {
        let stream = self.get(id);
        if stream.header.as_ref().is_some_and(|header| !header.is_whole()) {
            return Err((Property::NothingLost, format!("{} read an end before the whole header", self.show(id))));
        }
        if stream.told.as_ref().is_some_and(|told| !is_head(told)) {
            return Err((Property::NothingLost, format!("{} read an end before the whole head", self.show(id))));
        }
        let stream = self.get(id);
        stream.refused |= !stream.prefix.is_empty() && stream.received == 7 && stream.head.starts_with(ALERT);
        if stream.refused {
            return Ok(());
        }
        let (received, side, tunnel) = (stream.received, stream.side, stream.tunnel);
        if let Some(peer) = stream.peer {
            let other = self.get(peer);
            let (sent, ended) = (other.sent, other.ended);
            if !ended {
                return Err((Property::CleanEndWasSent, format!("{} never ended its stream", self.show(peer))));
            }
            if sent != received {
                let what = format!("{} sent {sent} bytes, and {received} came", self.show(peer));
                return Err((Property::CleanEndIsWhole, what));
            }
            return Ok(());
        }
        // Too few bytes to know the peer: it must at least exist.
        let head = stream.head.clone();
        let fits = |(i, other): (usize, &Stream)| {
            let mut begin = vec![0; head.len()];
            fill(StreamId(i as u32), 0, &mut begin);
            let free = other.peer.is_none_or(|peer| peer == id);
            other.side != side
                && other.tunnel == tunnel
                && free
                && other.ended
                && other.sent == received
                && begin == head
        };
        if self.0.iter().enumerate().any(fits) {
            Ok(())
        } else {
            let what = format!("{} read an end after {received} bytes, and nobody ended there", self.show(id));
            Err((Property::CleanEndWasSent, what))
        }
    }

    /// The stream in words.
    #[must_use]
    pub fn show(&self, id: StreamId) -> String {
        let stream = &self.0[id.0 as usize];
        let side = match stream.side {
            Side::Visitor => "visitor",
            Side::Service => "local_conn",
        };
        format!("{side} stream {} (tunnel {})", id.0, stream.tunnel)
    }

    fn describe(&self, bytes: &[u8]) -> String {
        let mut hex = String::from("bytes that nobody sent:");
        for byte in &bytes[..bytes.len().min(24)] {
            let _ = write!(hex, " {byte:02x}");
        }
        hex
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A visitor and a service that both sent `n` bytes, and what the visitor sent.
    fn pair(n: usize) -> (Streams, StreamId, StreamId, Vec<u8>) {
        let mut streams = Streams::default();
        let visitor = streams.open(Side::Visitor, 0);
        let service = streams.open(Side::Service, 0);
        let mut bytes = vec![0; n];
        streams.next_bytes(visitor, &mut bytes);
        streams.on_sent(visitor, n);
        streams.on_sent(service, n);
        (streams, visitor, service, bytes)
    }

    #[test]
    fn whole_streams_in_any_chunks_are_fine() {
        let (mut streams, visitor, service, bytes) = pair(100);
        for chunk in bytes.chunks(7) {
            streams.on_received(service, chunk).unwrap();
        }
        assert_eq!(streams.peer(service), Some(visitor));
        streams.on_ended(visitor);
        streams.on_eof(service).unwrap();
    }

    #[test]
    fn each_wrong_is_called_what_it_is() {
        let wrong = |change: &dyn Fn(&mut Streams, &mut Vec<u8>)| {
            let (mut streams, _, service, mut bytes) = pair(100);
            change(&mut streams, &mut bytes);
            streams.on_received(service, &bytes).unwrap_err().0
        };
        assert_eq!(wrong(&|_, bytes| drop(bytes.drain(40..50))), Property::NothingLost);
        assert_eq!(wrong(&|_, bytes| bytes.extend_from_within(10..30)), Property::NothingReordered);
        assert_eq!(wrong(&|_, bytes| bytes[50..].fill(1)), Property::NothingInvented);
        assert_eq!(wrong(&|_, bytes| bytes[..].fill(1)), Property::NothingInvented);
        assert_eq!(
            wrong(&|streams, bytes| {
                let other = streams.open(Side::Visitor, 0);
                streams.on_sent(other, 90);
                fill(other, 30, &mut bytes[30..60]);
            }),
            Property::NoCrossTalk
        );
        assert_eq!(
            wrong(&|streams, bytes| {
                let other = streams.open(Side::Visitor, 1);
                fill(other, 0, bytes);
            }),
            Property::NoCrossTalk
        );
        assert_eq!(wrong(&|streams, _| streams.get(StreamId(0)).sent = 99), Property::PrefixDelivered);
    }

    #[test]
    fn a_cut_stream_must_not_end_cleanly() {
        let (mut streams, visitor, service, bytes) = pair(100);
        streams.on_received(service, &bytes[..60]).unwrap();
        assert_eq!(streams.on_eof(service).unwrap_err().0, Property::CleanEndWasSent);
        streams.on_ended(visitor);
        assert_eq!(streams.on_eof(service).unwrap_err().0, Property::CleanEndIsWhole);
        let silent = streams.open(Side::Service, 0);
        assert_eq!(streams.on_eof(silent).unwrap_err().0, Property::CleanEndWasSent);
    }

    #[test]
    fn a_visitor_has_one_service() {
        let (mut streams, _, service, bytes) = pair(20);
        let second = streams.open(Side::Service, 0);
        streams.on_received(service, &bytes).unwrap();
        assert_eq!(streams.on_received(second, &bytes).unwrap_err().0, Property::OneServicePerVisitor);
    }
}
