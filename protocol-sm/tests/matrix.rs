//! The whole (state, event) matrix of the machines that carry a transfer, and of the first decision of a handshake,
//! held against the committed one. `UPDATE_MATRIX=1 cargo test -p protocol-sm --test matrix` writes it anew.

use protocol_sm::codes::Violation;
use protocol_sm::conn::client::Stage;
use protocol_sm::conn::server::{Answer, Doubt};
use protocol_sm::conn::{client, server};
use protocol_sm::control::challenge::Challenge;
use protocol_sm::ids::{ClientId, Epoch};
use protocol_sm::settings::{Credential, Scope, ServerSettings, Token};
use protocol_sm::transfer::{Egress, Fin, Half, Heard, How, Ingress, OuterDuty, Transfer};
use protocol_sm::wire::{ClientHello, ConnKind, Preface};
use std::collections::HashMap;
use std::fmt::Write;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What an event leads to.
enum Next<S> {
    /// Another state, or the same.
    State(S),
    /// The same state, and the message is dropped.
    Stale,
    /// The conn is closed.
    Closed,
    /// The peer broke the protocol: how.
    Error(String),
    /// Nothing that the runtime does then.
    Never,
}

impl<S> Next<S> {
    fn broken(violation: Violation) -> Self {
        Self::Error(match violation {
            // The row is the state and the column the message.
            Violation::Unexpected { .. } => "Unexpected".into(),
            Violation::Malformed
            | Violation::Sequence
            | Violation::FutureEpoch
            | Violation::Repeated
            | Violation::TotalTooSmall
            | Violation::DoneTooEarly
            | Violation::Unacknowledged
            | Violation::BadProof
            | Violation::Limit => format!("{violation:?}"),
        })
    }
}

type Event<S> = (&'static str, Box<dyn Fn(S) -> Next<S>>);

fn event<S>(name: &'static str, handle: impl Fn(S) -> Next<S> + 'static) -> Event<S> {
    (name, Box::new(handle))
}

/// Explores a machine breadth-first and writes one row per state, one column per event.
fn table<S: Clone + Eq + Hash>(
    title: &str,
    initial: S,
    events: &[Event<S>],
    describe: impl Fn(&S) -> String,
) -> String {
    let mut states = vec![initial.clone()];
    let mut known = HashMap::from([(initial, 0)]);
    let mut rows: Vec<Vec<String>> = Vec::new();
    while rows.len() < states.len() {
        let state = states[rows.len()].clone();
        let mut row = vec![rows.len().to_string(), describe(&state)];
        for (_, handle) in events {
            // Our own misuse is a panic, and belongs into the table.
            row.push(match catch_unwind(AssertUnwindSafe(|| handle(state.clone()))) {
                Err(_) => "misuse".to_owned(),
                Ok(Next::Never) => String::new(),
                Ok(Next::Stale) => "stale".to_owned(),
                Ok(Next::Closed) => "closed".to_owned(),
                Ok(Next::Error(error)) => error,
                Ok(Next::State(next)) => {
                    let new = states.len();
                    let index = *known.entry(next.clone()).or_insert(new);
                    if index == new {
                        states.push(next);
                    }
                    index.to_string()
                }
            });
        }
        rows.push(row);
    }
    let mut head = vec!["#".to_owned(), "state".to_owned()];
    head.extend(events.iter().map(|(name, _)| (*name).to_owned()));
    rows.insert(0, head);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let mut text = format!("{title}: {} states\n\n", rows.len() - 1);
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$} | ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push('\n');
    text
}

fn halves(transfer: &Transfer) -> String {
    format!("{}, {}", egress(&transfer.egress), ingress(&transfer.ingress))
}

fn egress(half: &Egress) -> String {
    // A reset behind the end is news only where the end was shut, and once.
    let reset = half.ended() && half.clone().on_reset_behind().is_none();
    let end = match (half.ended(), half.through()) {
        (false, _) => "",
        (true, false) => " ended",
        (true, true) => " through",
    };
    format!("in {}+{}{end}{}", half.forwarded(), half.budget(0).forward, if reset { " reset" } else { "" })
}

fn ingress(half: &Ingress) -> String {
    let held = half.budget(0).forward as u64;
    let total = if half.capped() {
        let reset = if half.peer_is_reset() { " reset" } else { "" };
        format!(" of {}{reset}", half.forwarded() + held + half.budget(usize::MAX).take as u64)
    } else {
        String::new()
    };
    let sink = match (half.drops(), half.through(), half.due()) {
        (true, false, _) => " dropped",
        (true, true, _) => " dropped, over",
        (false, true, _) => " over",
        (false, false, Some(How::Shut)) => " to be shut",
        (false, false, Some(How::Reset)) => " to be reset",
        (false, false, None) => "",
    };
    format!("out {}+{held}{total}{sink}", half.forwarded())
}

/// The outer socket's stream ends; `None` if it has before.
fn source_end(transfer: &mut Transfer, how: How) -> bool {
    let may = !transfer.egress.ended();
    if may {
        let _ = transfer.on_source_end(how);
    }
    may
}

/// The outer socket is reset behind its end.
fn reset_behind(transfer: &mut Transfer) -> bool {
    let may = transfer.egress.ended() && transfer.egress.clone().on_reset_behind().is_some();
    if may {
        let _ = transfer.on_outer_lost(true);
    }
    may
}

/// What must be done to the outer socket is done.
fn outer_duty(transfer: &mut Transfer, wanted: OuterDuty) -> bool {
    let due = transfer.outer_duty() == Some(wanted);
    match wanted {
        OuterDuty::ShutWrite if due => transfer.ingress.on_shut(),
        OuterDuty::Reset if due => transfer.ingress.on_reset(),
        OuterDuty::ShutWrite | OuterDuty::Reset | OuterDuty::Close | OuterDuty::Drop => {}
    }
    due
}

/// An outer socket both of whose directions are over is closed at once.
fn close_outer(transfer: &mut Transfer) {
    if transfer.outer_duty() == Some(OuterDuty::Close) {
        transfer.ingress.on_sink_lost();
    }
}

/// Takes one byte, the only one; or none where the machine allows none. The last transfer has none: it differs from the
/// first in its number alone.
fn take(epoch: Epoch, half: &mut impl Half, moved: u64) -> bool {
    let may = epoch < LAST && half.budget(1).take > 0 && half.budget(0).forward == 0 && moved == 0;
    if may {
        half.on_taken(1);
    }
    may
}

fn forward(half: &mut impl Half) -> bool {
    let may = half.budget(0).forward > 0;
    if may {
        half.on_forwarded(1);
    }
    may
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Server {
    Idle(server::IdleConn),
    Active(server::ActiveConn),
}

/// Epochs up to this one are explored.
const LAST: Epoch = Epoch(2);

fn server_table() -> String {
    type S = Server;
    fn active(change: impl Fn(&mut server::ActiveConn) -> Next<()> + 'static) -> impl Fn(S) -> Next<S> {
        move |state| match state {
            Server::Idle(_) => Next::Never,
            Server::Active(mut conn) => match change(&mut conn) {
                Next::State(()) => {
                    close_outer(&mut conn.transfer);
                    Next::State(Server::Active(conn))
                }
                Next::Stale => Next::Stale,
                Next::Closed => Next::Closed,
                Next::Error(error) => Next::Error(error),
                Next::Never => Next::Never,
            },
        }
    }
    fn may(done: bool) -> Next<()> {
        if done { Next::State(()) } else { Next::Never }
    }
    /// A message on the ctl_conn about the conn's current epoch, the one before, or the one after.
    fn heard(offset: i64, msg: impl Fn(&mut S, Epoch) -> Result<Heard, Violation> + 'static) -> impl Fn(S) -> Next<S> {
        move |mut state| {
            let current = match &state {
                Server::Idle(conn) => conn.last(),
                Server::Active(conn) => conn.transfer.epoch(),
            };
            let Ok(epoch) = u32::try_from(i64::from(current.0) + offset) else { return Next::Never };
            match msg(&mut state, Epoch(epoch)) {
                Ok(Heard::Stale) => Next::Stale,
                Ok(Heard::Current) => Next::State(state),
                Err(violation) => Next::broken(violation),
            }
        }
    }
    fn fin(total: u64, how: How) -> impl Fn(&mut S, Epoch) -> Result<Heard, Violation> {
        move |state, epoch| match state {
            Server::Idle(conn) => conn.on_message(epoch),
            Server::Active(conn) => {
                let heard = conn.on_fin(epoch, Fin { total, how });
                let _ = conn.transfer.end_for_peer();
                close_outer(&mut conn.transfer);
                heard
            }
        }
    }
    fn done(state: &mut S, epoch: Epoch) -> Result<Heard, Violation> {
        match state {
            Server::Idle(conn) => conn.on_message(epoch),
            Server::Active(conn) => conn.on_done(epoch),
        }
    }
    fn abort(state: &mut S, epoch: Epoch) -> Result<Heard, Violation> {
        match state {
            Server::Idle(conn) => conn.on_message(epoch),
            Server::Active(conn) => conn.on_abort(epoch),
        }
    }
    fn start_seen(seen: bool) -> impl Fn(&mut S, Epoch) -> Result<Heard, Violation> {
        move |state, epoch| match state {
            Server::Idle(conn) => conn.on_message(epoch),
            Server::Active(conn) => conn.on_start_seen(epoch, seen),
        }
    }
    let aborted = |next: Next<S>| if let Next::State(_) = next { Next::Closed } else { next };
    let (now, before, after) = (heard(0, abort), heard(-1, abort), heard(1, abort));
    let events = [
        event("start", |state: S| match state {
            Server::Idle(conn) if conn.last() < LAST => {
                conn.start().map_or(Next::Closed, |c| Next::State(Server::Active(c)))
            }
            Server::Idle(_) | Server::Active(_) => Next::Never,
        }),
        event(
            "Started",
            active(|conn| match conn.on_started(conn.transfer.epoch()) {
                Ok(()) => Next::State(()),
                Err(violation) => Next::broken(violation),
            }),
        ),
        event(
            "Refused",
            active(|conn| match conn.on_refused(conn.transfer.epoch()) {
                Ok(_) => Next::State(()),
                Err(violation) => Next::broken(violation),
            }),
        ),
        event(
            "visitor byte",
            active(|conn| {
                let moved = conn.transfer.egress.forwarded();
                may(take(conn.transfer.epoch(), &mut conn.transfer.egress, moved))
            }),
        ),
        event("byte sent", active(|conn| may(forward(&mut conn.transfer.egress)))),
        event("visitor end", active(|conn| may(source_end(&mut conn.transfer, How::Shut)))),
        event("visitor reset", active(|conn| may(source_end(&mut conn.transfer, How::Reset)))),
        event("reset behind", active(|conn| may(reset_behind(&mut conn.transfer)))),
        event(
            "payload",
            active(|conn| {
                let moved = conn.transfer.ingress.forwarded();
                may(conn.answer() == Answer::Started && take(conn.transfer.epoch(), &mut conn.transfer.ingress, moved))
            }),
        ),
        event("delivered", active(|conn| may(!conn.transfer.ingress.drops() && forward(&mut conn.transfer.ingress)))),
        event("shut", active(|conn| may(outer_duty(&mut conn.transfer, OuterDuty::ShutWrite)))),
        event("reset", active(|conn| may(outer_duty(&mut conn.transfer, OuterDuty::Reset)))),
        event("Fin 0", heard(0, fin(0, How::Shut))),
        event("Fin 1", heard(0, fin(1, How::Shut))),
        event("Fin 0, reset", heard(0, fin(0, How::Reset))),
        event("Fin 1, reset", heard(0, fin(1, How::Reset))),
        event("Fin, old", heard(-1, fin(0, How::Shut))),
        event("Fin, next", heard(1, fin(0, How::Shut))),
        event("Done", heard(0, done)),
        event("Done, old", heard(-1, done)),
        event("Done, next", heard(1, done)),
        event("Abort", move |state| aborted(now(state))),
        event("Abort, old", before),
        event("Abort, next", after),
        event("StartSeen", heard(0, start_seen(true))),
        event("StartSeen, old", heard(-1, start_seen(true))),
        event("StartSeen, next", heard(1, start_seen(true))),
        event("finish", |state| match state {
            Server::Active(conn) => conn.finish().map_or(Next::Never, |idle| Next::State(Server::Idle(idle))),
            Server::Idle(_) => Next::Never,
        }),
    ];
    table("A proxy_conn on the server", Server::Idle(server::IdleConn::default()), &events, |state| match state {
        Server::Idle(conn) => format!("Idle after {}", conn.last().0),
        Server::Active(conn) => {
            let done = if conn.is_done() { ", Done" } else { "" };
            let (epoch, answer) = (conn.transfer.epoch().0, conn.answer());
            format!("{epoch} {answer:?}, {}{done}", halves(&conn.transfer))
        }
    })
}

/// What the server makes of the answers to `Start` and to `AskStart`, in any order.
fn doubt_table() -> String {
    type S = server::ActiveConn;
    fn met(change: impl Fn(&mut S) -> Result<bool, Violation> + 'static) -> impl Fn(S) -> Next<S> {
        move |mut conn| match change(&mut conn) {
            Ok(true) => Next::State(conn),
            Ok(false) => Next::Never,
            Err(violation) => Next::broken(violation),
        }
    }
    fn start_seen(seen: bool) -> impl Fn(S) -> Next<S> {
        move |mut conn| match conn.on_start_seen(conn.transfer.epoch(), seen) {
            Ok(Heard::Stale) => Next::Stale,
            Ok(Heard::Current) if seen => Next::State(conn),
            Ok(Heard::Current) => Next::Closed,
            Err(violation) => Next::broken(violation),
        }
    }
    let none = Fin { total: 0, how: How::Shut };
    let events = [
        event(
            "doubt",
            met(|conn| match conn.on_doubt() {
                Doubt::Ask => Ok(true),
                Doubt::Wait | Doubt::Seen => Ok(false),
            }),
        ),
        event("StartSeen, seen", start_seen(true)),
        event("StartSeen, unseen", start_seen(false)),
        event("Started", met(|conn| conn.on_started(conn.transfer.epoch()).map(|()| true))),
        event("Refused", met(|conn| conn.on_refused(conn.transfer.epoch()).map(|_| true))),
        event("visitor end", met(|conn| Ok(source_end(&mut conn.transfer, How::Shut)))),
        event("Fin", met(move |conn| conn.on_fin(conn.transfer.epoch(), none).map(|_| true))),
        event("Done", met(|conn| conn.on_done(conn.transfer.epoch()).map(|_| true))),
    ];
    let initial = server::IdleConn::default().start().expect("epochs are left");
    table("A Start that is doubted", initial, &events, |conn| {
        let sight = match conn.clone().on_start_seen(conn.transfer.epoch(), true) {
            Ok(_) => ", asked",
            Err(Violation::Repeated) => ", told",
            Err(_) => "",
        };
        let done = if conn.is_done() { ", Done" } else { "" };
        format!("{:?}{sight}, {}{done}", conn.answer(), halves(&conn.transfer))
    })
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Client {
    Idle(client::IdleConn),
    Active(client::ActiveConn),
}

fn client_table() -> String {
    type S = Client;
    fn active(change: impl Fn(&mut client::ActiveConn) -> bool + 'static) -> impl Fn(S) -> Next<S> {
        move |state| {
            let Client::Active(mut conn) = state else { return Next::Never };
            if !change(&mut conn) {
                return Next::Never;
            }
            close_outer(&mut conn.transfer);
            Next::State(Client::Active(conn))
        }
    }
    fn start(offset: u32) -> impl Fn(S) -> Next<S> {
        move |state| match state {
            Client::Idle(conn) if conn.last() < LAST => {
                let epoch = Epoch(conn.last().0 + offset);
                match conn.on_start(epoch) {
                    Ok(conn) => Next::State(Client::Active(conn)),
                    Err(violation) => Next::broken(violation),
                }
            }
            Client::Idle(_) | Client::Active(_) => Next::Never,
        }
    }
    fn fin(total: u64, how: How) -> Fin {
        Fin { total, how }
    }
    fn serving_duty(conn: &mut client::ActiveConn, duty: OuterDuty) -> bool {
        conn.stage() == Stage::Serving && outer_duty(&mut conn.transfer, duty)
    }
    fn end_for_peer(conn: &mut client::ActiveConn) {
        // Nothing is exchanged while it is dialled.
        if conn.stage() != Stage::Dialling {
            let _ = conn.transfer.end_for_peer();
        }
    }
    /// About the conn's current epoch (for an idle one: its last), the one before, or the one after.
    fn heard(offset: i64, fin: Option<Fin>) -> impl Fn(S) -> Next<S> {
        move |mut state| {
            let current = match &state {
                Client::Idle(conn) => conn.last(),
                Client::Active(conn) => conn.transfer.epoch(),
            };
            let Ok(epoch) = u32::try_from(i64::from(current.0) + offset).map(Epoch) else { return Next::Never };
            if epoch > LAST {
                return Next::Never;
            }
            let heard = match (&mut state, fin) {
                (Client::Idle(conn), Some(fin)) => conn.on_fin(epoch, fin),
                (Client::Active(conn), Some(fin)) => {
                    let heard = conn.on_fin(epoch, fin);
                    end_for_peer(conn);
                    close_outer(&mut conn.transfer);
                    heard
                }
                (Client::Idle(conn), None) => conn.on_abort(epoch),
                (Client::Active(conn), None) => conn.on_abort(epoch),
            };
            match heard {
                Ok(Heard::Stale) => Next::Stale,
                Ok(Heard::Current) if fin.is_none() => Next::Closed,
                Ok(Heard::Current) => Next::State(state),
                Err(violation) => Next::broken(violation),
            }
        }
    }
    fn ask_start(offset: i64) -> impl Fn(S) -> Next<S> {
        move |state| {
            let (current, idle) = match &state {
                Client::Idle(conn) => (conn.last(), true),
                Client::Active(conn) => (conn.transfer.epoch(), false),
            };
            let Ok(epoch) = u32::try_from(i64::from(current.0) + offset).map(Epoch) else { return Next::Never };
            let heard = match &state {
                Client::Idle(conn) => conn.on_ask_start(epoch),
                Client::Active(conn) => conn.on_ask_start(epoch),
            };
            match heard {
                Ok(Heard::Stale) => Next::Stale,
                Ok(Heard::Current) if idle => Next::Closed,
                Ok(Heard::Current) => Next::State(state),
                Err(violation) => Next::broken(violation),
            }
        }
    }
    let events = [
        event("Start", start(1)),
        event("Start, same", start(0)),
        event("Start, later", start(2)),
        event(
            "dialled",
            active(|conn| {
                conn.on_dialed();
                end_for_peer(conn);
                true
            }),
        ),
        event(
            "refused",
            active(|conn| {
                conn.on_refused();
                true
            }),
        ),
        event(
            "local byte",
            active(|conn| {
                let moved = conn.transfer.egress.forwarded();
                conn.stage() == Stage::Serving && take(conn.transfer.epoch(), &mut conn.transfer.egress, moved)
            }),
        ),
        event("byte sent", active(|conn| forward(&mut conn.transfer.egress))),
        event("local end", active(|conn| conn.stage() == Stage::Serving && source_end(&mut conn.transfer, How::Shut))),
        event(
            "local reset",
            active(|conn| conn.stage() == Stage::Serving && source_end(&mut conn.transfer, How::Reset)),
        ),
        event("reset behind", active(|conn| conn.stage() == Stage::Serving && reset_behind(&mut conn.transfer))),
        event(
            "payload",
            active(|conn| {
                let moved = conn.transfer.ingress.forwarded();
                take(conn.transfer.epoch(), &mut conn.transfer.ingress, moved)
            }),
        ),
        event("delivered", active(|conn| conn.stage() == Stage::Serving && forward(&mut conn.transfer.ingress))),
        event("shut", active(|conn| serving_duty(conn, OuterDuty::ShutWrite))),
        event("reset", active(|conn| serving_duty(conn, OuterDuty::Reset))),
        event("Fin 0", heard(0, Some(fin(0, How::Shut)))),
        event("Fin 1", heard(0, Some(fin(1, How::Shut)))),
        event("Fin 0, reset", heard(0, Some(fin(0, How::Reset)))),
        event("Fin 1, reset", heard(0, Some(fin(1, How::Reset)))),
        event("Fin, old", heard(-1, Some(fin(0, How::Shut)))),
        event("Fin 0, next", heard(1, Some(fin(0, How::Shut)))),
        event("Fin 1, next", heard(1, Some(fin(1, How::Shut)))),
        event("Fin 0, next, reset", heard(1, Some(fin(0, How::Reset)))),
        event("Fin 1, next, reset", heard(1, Some(fin(1, How::Reset)))),
        event("Abort", heard(0, None)),
        event("Abort, old", heard(-1, None)),
        event("Abort, next", heard(1, None)),
        event("AskStart", ask_start(0)),
        event("AskStart, old", ask_start(-1)),
        event("AskStart, next", ask_start(1)),
        event("finish", |state| match state {
            Client::Active(conn) => conn.finish().map_or(Next::Never, |idle| Next::State(Client::Idle(idle))),
            Client::Idle(_) => Next::Never,
        }),
    ];
    table("A proxy_conn on the client", Client::Idle(client::IdleConn::default()), &events, |state| match state {
        Client::Idle(conn) => {
            // What an early Fin said shows in what its transfer may take.
            let early =
                conn.clone().on_start(Epoch(conn.last().0 + 1)).ok().filter(|conn| conn.transfer.ingress.capped());
            let early = early.map_or(String::new(), |conn| {
                let reset = if conn.transfer.ingress.peer_is_reset() { " reset" } else { "" };
                format!(", early Fin {}{reset}", conn.transfer.ingress.budget(9).take)
            });
            format!("Idle after {}{early}", conn.last().0)
        }
        Client::Active(conn) => {
            let (epoch, stage) = (conn.transfer.epoch().0, conn.stage());
            format!("{epoch} {stage:?}, {}", halves(&conn.transfer))
        }
    })
}

fn challenge_table() -> String {
    let credential = Credential { name: "c".into(), tokens: vec![Token::new(b"t".to_vec())], scope: Scope::default() };
    let mut text = "A client's hello, and what the server answers\n\n".to_owned();
    for (credentials, configured) in [(vec![], "no token configured"), (vec![credential], "a token configured")] {
        let settings = ServerSettings { credentials, ..ServerSettings::default() };
        for (token, has) in [(false, "client without a token"), (true, "client with a token")] {
            for (loopback, from) in [(true, "from this machine"), (false, "from elsewhere")] {
                let hello = ClientHello { nonce: [1; 32], client: ClientId([2; 16]), token, features: 0, resume: None };
                let answer = Challenge::new(&settings, loopback, Preface::ours(ConnKind::Ctl), hello, [3; 32], None);
                let answer = answer.map_or_else(|refusal| format!("{refusal:?}"), |_| "a challenge".to_owned());
                let _ = writeln!(text, "{configured:19} | {has:22} | {from:17} | {answer}");
            }
        }
    }
    text
}

#[test]
fn the_matrix_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/matrix.txt");
    // Misuse is expected here, and need not be loud.
    std::panic::set_hook(Box::new(|_| {}));
    let text = [server_table(), doubt_table(), client_table(), challenge_table()].concat();
    let _ = std::panic::take_hook();
    if std::env::var_os("UPDATE_MATRIX").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    let differs = text.lines().zip(committed.lines()).position(|(now, then)| now != then);
    assert!(
        text == committed,
        "the machines differ from tests/matrix.txt, first in line {}; UPDATE_MATRIX=1 writes it anew",
        differs.map_or(0, |line| line + 1)
    );
}
