//! What an access log says of a visit: one record at its end, made by the machine that ends it.
//!
//! Nothing here is kept unless the log is on: then a tunnel has a [`Label`], each of its visitors shares it, and who has
//! none leaves no record.

use crate::codes::{AbortCode, RefuseCode};
use crate::ids::ClientId;
use crate::notes::{Dropped, Note};
use crate::time::Instant;
use alloc::string::String;
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::time::Duration;

/// Whose visitors they are, in words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    /// The tunnel's name, as its client says it.
    pub tunnel: String,
    /// The client.
    pub client: ClientId,
    /// The name of the credential that the client proved; none where the server has no tokens, or on a client.
    pub credential: Option<String>,
}

/// A visit that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Where it went.
    pub label: Arc<Label>,
    /// The visitor's address.
    pub visitor: SocketAddr,
    /// From the accept to the end; on a client, from `Start` on.
    pub lasted: Duration,
    /// On the server: how long it waited for the conn that served it. On a client: how long the LocalServer was dialled.
    /// `None`: it never came so far.
    pub served_after: Option<Duration>,
    /// From the visitor to the LocalServer.
    pub up: Way,
    /// From the LocalServer to the visitor.
    pub down: Way,
    /// What became of it.
    pub outcome: VisitEnd,
}

/// One direction of a visit that is over, as this side's outer socket saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Bytes read from the outer socket, or written to it.
    pub bytes: u64,
    /// How it ended.
    pub end: WayEnd,
}

/// How one direction of a visit ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WayEnd {
    /// In good order: every byte came, and then the end.
    Shut,
    /// Behind every byte by a reset, or whoever reads it was reset.
    Reset,
    /// Not at all: the tunnel has cut it.
    #[default]
    Cut,
}

/// What became of a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisitEnd {
    /// Both directions came to their ends.
    Served,
    /// It was cut short.
    Aborted {
        /// The reason.
        code: AbortCode,
        /// Whether the other program said so first.
        by_peer: bool,
    },
    /// The client could not reach its LocalServer.
    Refused(RefuseCode),
    /// It was reset without a transfer.
    Dropped(Dropped),
}

/// A visit that is going on, and will leave a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Begun {
    label: Arc<Label>,
    at: Instant,
    served: Option<Instant>,
}

impl Begun {
    /// A visit that begins; none where the log is off.
    #[must_use]
    pub fn new(label: Option<Arc<Label>>, now: Instant) -> Option<Self> {
        label.map(|label| Self { label, at: now, served: None })
    }

    /// On the server it was given a conn, on a client it was connected to its LocalServer. The last time counts.
    pub fn on_served(&mut self, now: Instant) {
        self.served = Some(now);
    }

    /// The record of this visit, which is over.
    #[must_use]
    pub fn over(self, now: Instant, visitor: SocketAddr, [up, down]: [Way; 2], outcome: VisitEnd) -> Note {
        let Self { label, at, served } = self;
        let served_after = served.map(|served| served.since(at));
        Note::Visit(Visit { label, visitor, lasted: now.since(at), served_after, up, down, outcome })
    }

    /// The record of a visitor that is turned away at once, after `read` bytes were read of it; none where the log is off.
    #[must_use]
    pub fn turned_away(label: Option<&Arc<Label>>, visitor: SocketAddr, read: usize, why: Dropped) -> Option<Note> {
        let begun = Self::new(label.cloned(), Instant::ZERO)?;
        let up = Way { bytes: read as u64, ..Way::default() };
        Some(begun.over(Instant::ZERO, visitor, [up, Way::default()], VisitEnd::Dropped(why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn label() -> Option<Arc<Label>> {
        Some(Arc::new(Label { tunnel: "web".into(), client: ClientId([1; 16]), credential: None }))
    }

    fn over(begun: Begun) -> Visit {
        let visitor = SocketAddr::from(([192, 0, 2, 7], 5));
        let Note::Visit(visit) = begun.over(at(9), visitor, [Way::default(); 2], VisitEnd::Served) else { panic!() };
        visit
    }

    #[test]
    fn times_count_from_the_beginning_and_the_last_conn_counts() {
        let mut begun = Begun::new(label(), at(2)).unwrap();
        assert_eq!(over(begun.clone()).served_after, None);
        begun.on_served(at(3));
        begun.on_served(at(5));
        let visit = over(begun);
        assert_eq!((visit.lasted, visit.served_after), (Duration::from_secs(7), Some(Duration::from_secs(3))));
    }

    #[test]
    fn without_a_label_there_is_no_record() {
        assert_eq!(Begun::new(None, at(1)), None);
        let visitor = SocketAddr::from(([192, 0, 2, 7], 5));
        assert_eq!(Begun::turned_away(None, visitor, 0, Dropped::TooOften), None);
        let turned_away = Begun::turned_away(label().as_ref(), visitor, 81, Dropped::TooOften);
        let Some(Note::Visit(visit)) = turned_away else { panic!("{turned_away:?}") };
        assert_eq!((visit.visitor, visit.outcome), (visitor, VisitEnd::Dropped(Dropped::TooOften)));
        assert_eq!((visit.lasted, visit.up.bytes, visit.down.end), (Duration::ZERO, 81, WayEnd::Cut));
    }
}
