//! Visitors, local services and strangers: independent hosts with seeded lengths, chunks, pauses and ways to end.

use super::orders::{Intrusion, Question, Visit};
use super::socket::Socket;
use super::stage::Stage;
use crate::holder::{Act, Holder};
use crate::impostor::Impostor;
use crate::kernel::{ProcId, Rng};
use crate::oracle::{Finding, Kind, Property, Side, Sometimes, StreamId};
use crate::scenario::{CTL, Fate, Front, Habits, Inquiry, Outcome, Scenario, Script, Shut, TunnelPlan};
use protocol_sm::driver::SysError;
use protocol_sm::routes::Web;
use protocol_sm::time::Instant;
use protocol_sm::wire::ConnKind;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use turmoil::net::TcpListener;

/// How often a service looks whether it should listen and accept.
const LOOK: Duration = Duration::from_millis(20);

/// How this ring's visitors and services behave.
const HABITS: Habits = Habits {
    empty: 1,
    short_total: 2048,
    short_pause: (1, 100),
    pause_unit: Duration::from_millis(1),
    long_pause: 1_500,
    paused_chunk: |_, largest| (largest / 30).max(64),
    largest_chunk: 64 * 1024,
    resets: 10,
    early_closes: 5,
    reset_part: 8,
};

fn script(rng: &mut Rng, stage: &Stage, side: Side, tunnel: usize) -> Script {
    let Scenario { calm, largest, tunnels, .. } = &stage.plan.scenario;
    HABITS.draw(rng, *largest, side, tunnels[tunnel].service_first, |rng, total| {
        let fate = HABITS.draw_fate(rng, *largest, total);
        if *calm || stage.orders.hurry.get() { Fate::Normal } else { fate }
    })
}

struct Actor {
    stage: Rc<Stage>,
    socket: Socket,
    /// Where a visitor goes, and to which tunnel, until it is there.
    goes_to: Option<(SocketAddr, usize)>,
    /// What a visitor's connection begins with, if it comes through a relay.
    front: Option<Front>,
    /// He, or his service, must be served.
    honest: bool,
    stream: StreamId,
    script: Script,
    sent: usize,
    shut: bool,
    eof: bool,
    next_write: Instant,
    next_read: Instant,
    rng: Rng,
    over: bool,
}

impl Actor {
    fn new(stage: &Rc<Stage>, socket: Socket, side: Side, tunnel: usize, mut rng: Rng) -> Self {
        stage.orders.actors.set(stage.orders.actors.get() + 1);
        Self {
            stage: Rc::clone(stage),
            socket,
            goes_to: None,
            front: None,
            honest: stage.plan.scenario.calm,
            stream: stage.oracle.streams.borrow_mut().open(side, tunnel),
            script: script(&mut rng, stage, side, tunnel),
            sent: 0,
            shut: false,
            eof: false,
            next_write: Instant::ZERO,
            next_read: Instant::ZERO,
            rng,
            over: false,
        }
    }

    /// Plays its script to the end.
    async fn play(mut self) -> Outcome<SysError> {
        loop {
            let mut outcome = None;
            let mut wake_at = None;
            let mut slept = false;
            poll_fn(|cx| {
                self.socket.pull(cx);
                while outcome.is_none() && self.step(&mut outcome) {}
                if outcome.is_none() && !slept {
                    slept = true;
                    wake_at = self.next_wake();
                    return if wake_at.is_some() { Poll::Ready(()) } else { Poll::Pending };
                }
                Poll::Ready(())
            })
            .await;
            if let Some(outcome) = outcome {
                return outcome;
            }
            if let Some(at) = wake_at {
                self.doze(at).await;
            }
        }
    }

    /// Sleeps until `at`, or until something happens to the socket.
    async fn doze(&mut self, at: Instant) {
        let pause = at.since(self.stage.now()).max(Duration::from_millis(1));
        let mut sleep = std::pin::pin!(tokio::time::sleep(pause));
        let mut woken = false;
        poll_fn(|cx| {
            self.socket.pull(cx);
            let timer = sleep.as_mut().poll(cx);
            if std::mem::replace(&mut woken, true) { Poll::Ready(()) } else { timer }
        })
        .await;
    }

    fn next_wake(&self) -> Option<Instant> {
        let now = self.stage.now();
        let timers = [self.next_write, self.next_read].into_iter().filter(|&at| at > now);
        timers.chain(self.socket.deadline()).min()
    }

    fn pause(&mut self, longest: Duration) -> Instant {
        let now = self.stage.now();
        if self.stage.orders.hurry.get() || longest.is_zero() {
            return now;
        }
        let nanos = u64::try_from(longest.as_nanos()).expect("short");
        now + Duration::from_nanos(self.rng.range(nanos / 4, nanos))
    }

    /// Does one thing that the script says and the socket allows. `false`: there is none.
    fn step(&mut self, outcome: &mut Option<Outcome<SysError>>) -> bool {
        match self.try_step() {
            Ok(None) => return false,
            Ok(Some(None)) => {}
            Ok(Some(Some(over))) => *outcome = Some(over),
            Err(error) => *outcome = Some(Outcome::Reset(error)),
        }
        true
    }

    fn try_step(&mut self) -> Result<Option<Option<Outcome<SysError>>>, SysError> {
        if self.socket.is_connecting() {
            return Ok(None);
        }
        if let Some((to, tunnel)) = self.goes_to.take() {
            let [name, public] = self.name(to);
            let tunnel = &self.stage.plan.scenario.tunnels[tunnel];
            let mut streams = self.stage.oracle.streams.borrow_mut();
            streams.on_connected(self.stream, name, tunnel.proxy_header(name, public));
            if let Some(told) = tunnel.told(name) {
                streams.tell_instead(self.stream, told);
            }
        }
        if let Some(outcome) = self.try_end() {
            return Ok(Some(Some(outcome)));
        }
        let now = self.stage.now();
        if self.read(now)? || self.write(now)? { Ok(Some(None)) } else { Ok(None) }
    }

    /// Who a visitor says he is, and where he says that he has come to, which is `public`.
    fn name(&mut self, public: SocketAddr) -> [SocketAddr; 2] {
        let own = self.socket.own_address();
        if !self.stage.plan.fronted {
            return [own, public];
        }
        let (seed, index) = (self.stage.plan.seed, self.stream.0 as usize);
        let front = Front::draw(seed, index, own, public, self.honest);
        let ends = [front.name, front.public];
        if front.check {
            (self.script.total, self.script.fate) = (0, Fate::CloseEarly);
        } else if self.script.shut == Shut::AfterSending {
            // Without a byte it would be a check.
            self.script.total = self.script.total.max(1);
        }
        self.front = Some(front);
        ends
    }

    /// Sends what a visitor's connection begins with. `None`: all of that is sent.
    fn introduce(&mut self, now: Instant) -> Result<Option<bool>, SysError> {
        let Some(front) = &mut self.front else { return Ok(None) };
        let Some(piece) = front.pieces.front_mut() else { return Ok(None) };
        if now < self.next_write {
            return Ok(Some(false));
        }
        match self.socket.send(piece) {
            Ok(n) => drop(piece.drain(..n)),
            Err(SysError::WouldBlock) => return Ok(Some(false)),
            Err(error) => return Err(error),
        }
        if piece.is_empty() {
            front.pieces.pop_front();
            let (pause, is_said, name) = (front.pause, front.introduces(), front.name);
            if is_said {
                self.stage.oracle.introduced.borrow_mut().insert(name);
            } else {
                self.next_write = self.pause(pause);
            }
        }
        Ok(Some(true))
    }

    fn try_end(&mut self) -> Option<Outcome<SysError>> {
        if self.front.as_ref().is_some_and(|front| !front.pieces.is_empty()) {
            return None;
        }
        let received = self.stage.oracle.streams.borrow().received(self.stream);
        let sent_all = self.sent == self.script.total;
        match self.script.fate {
            Fate::Reset { sent, received: enough } if self.sent >= sent && received >= enough => {
                self.over = true;
                self.socket.close(true);
                Some(Outcome::Own)
            }
            Fate::CloseEarly if sent_all => {
                self.leave();
                Some(Outcome::Own)
            }
            Fate::Normal | Fate::Reset { .. } | Fate::CloseEarly if self.shut && self.eof => {
                self.leave();
                Some(Outcome::Whole)
            }
            Fate::Normal | Fate::Reset { .. } | Fate::CloseEarly => None,
        }
    }

    /// Closes in good order, as far as that is possible.
    fn leave(&mut self) {
        self.over = true;
        if self.socket.close(false) {
            self.stage.oracle.streams.borrow_mut().on_ended(self.stream);
        }
    }

    fn read(&mut self, now: Instant) -> Result<bool, SysError> {
        if self.eof || now < self.next_read {
            return Ok(false);
        }
        let mut bytes = vec![0; self.script.read_chunk];
        let n = match self.socket.recv(&mut bytes) {
            Ok(n) => n,
            Err(SysError::WouldBlock) => return Ok(false),
            Err(error) => return Err(error),
        };
        let checked = {
            let mut streams = self.stage.oracle.streams.borrow_mut();
            if n == 0 { streams.on_eof(self.stream) } else { streams.on_received(self.stream, &bytes[..n]) }
        };
        self.stage.check(checked);
        let streams = self.stage.oracle.streams.borrow();
        if n == 0 && streams.was_refused(self.stream) {
            self.stage.saw(Sometimes::HostRefused);
            return Err(SysError::Reset);
        }
        if streams.header_is_split(self.stream) {
            self.stage.saw(Sometimes::HeaderSplit);
        }
        if streams.was_told_instead(self.stream) {
            self.stage.saw(Sometimes::ToldForWhom);
        }
        drop(streams);
        self.eof = n == 0;
        self.next_read = self.pause(self.script.read_pause);
        Ok(true)
    }

    fn write(&mut self, now: Instant) -> Result<bool, SysError> {
        if let Some(said) = self.introduce(now)? {
            return Ok(said);
        }
        if self.shut {
            return Ok(false);
        }
        if self.sent == self.script.total {
            if self.script.shut == Shut::AfterPeer && !self.eof {
                return Ok(false);
            }
            self.stage.oracle.streams.borrow_mut().on_ended(self.stream);
            self.socket.shut_write();
            self.shut = true;
            return Ok(true);
        }
        if now < self.next_write {
            return Ok(false);
        }
        let mut bytes = vec![0; self.script.write_chunk.min(self.script.total - self.sent)];
        self.stage.oracle.streams.borrow().next_bytes(self.stream, &mut bytes);
        match self.socket.send(&bytes) {
            Ok(n) => {
                self.stage.oracle.streams.borrow_mut().on_sent(self.stream, n);
                self.sent += n;
                self.next_write = self.pause(self.script.write_pause);
                Ok(true)
            }
            Err(SysError::WouldBlock) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Actor {
    /// Its host was killed, or it was reset.
    fn drop(&mut self) {
        if !self.over {
            self.leave();
        }
        self.stage.orders.actors.set(self.stage.orders.actors.get() - 1);
    }
}

/// The host of all visitors and strangers.
pub(super) async fn visitors(stage: Rc<Stage>, who: ProcId) -> turmoil::Result {
    poll_fn(|cx| {
        stage.orders.take_order(who, cx.waker());
        for visit in stage.orders.visits.borrow_mut().drain(..) {
            tokio::task::spawn_local(make_visit(Rc::clone(&stage), who, visit, stage.fork()));
        }
        for question in stage.orders.questions.borrow_mut().drain(..) {
            tokio::task::spawn_local(inquire(Rc::clone(&stage), who, question));
        }
        for intrusion in stage.orders.intrusions.borrow_mut().drain(..) {
            let (stage, rng) = (Rc::clone(&stage), stage.fork());
            match intrusion {
                Intrusion::Noise(port) => tokio::task::spawn_local(intrude(stage, who, port, rng)),
                Intrusion::Deceit => tokio::task::spawn_local(deceive(stage, who, rng)),
                Intrusion::Abuse => tokio::task::spawn_local(abuse(stage, who, rng)),
            };
        }
        Poll::<()>::Pending
    })
    .await;
    Ok(())
}

async fn make_visit(stage: Rc<Stage>, who: ProcId, visit: Visit, rng: Rng) {
    tokio::time::sleep(visit.after).await;
    let port = stage.orders.public.borrow()[visit.tunnel];
    let outcome = match port {
        None => Outcome::NotConnected(SysError::Refused),
        Some(port) => {
            stage.oracle.visitors.set(stage.oracle.visitors.get() + 1);
            let to = SocketAddr::new(turmoil::lookup("server"), port);
            let socket = Socket::connect(&stage, who, None, to);
            let mut actor = Actor::new(&stage, socket, Side::Visitor, visit.tunnel, rng);
            actor.goes_to = Some((to, visit.tunnel));
            actor.honest |= visit.probe;
            let head = stage.plan.scenario.tunnels[visit.tunnel].head();
            actor.script.total += head.len();
            stage.oracle.streams.borrow_mut().begin_with(actor.stream, head);
            let (stream, fate) = (actor.stream, actor.script.fate);
            let mut outcome = actor.play().await;
            if outcome == Outcome::Reset(SysError::Refused) {
                outcome = Outcome::NotConnected(SysError::Refused);
            }
            if let Fate::Reset { .. } = fate
                && outcome == Outcome::Own
            {
                stage.saw(Sometimes::VisitorReset);
            }
            stage.remark(Some(who), || format!("visitor stream {}: {outcome:?}", stream.0));
            outcome
        }
    };
    if outcome == Outcome::Whole {
        stage.oracle.whole.set(stage.oracle.whole.get() + 1);
    } else if visit.probe {
        stage.breach(
            Kind::Liveness,
            Property::ProbesRoundTrip,
            format!("through tunnel {}: {outcome:?}", visit.tunnel),
        );
    } else if stage.plan.scenario.calm {
        let what = format!("a visitor of tunnel {}: {outcome:?}", visit.tunnel);
        stage.breach(Kind::Safety, Property::NoUnprovokedReset, what);
    }
    stage.orders.to_come.set(stage.orders.to_come.get() - 1);
}

/// Somebody comes whom the server itself is to answer.
async fn inquire(stage: Rc<Stage>, who: ProcId, question: Question) {
    tokio::time::sleep(question.after).await;
    let outcome = ask(&stage, who, question).await;
    // Who asks for nobody's host may wait for it in vain.
    if stage.plan.scenario.calm && !matches!(outcome, Outcome::Whole | Outcome::Own) {
        let what = format!("who asks about {:?}: {outcome:?}", question.tunnel);
        stage.breach(Kind::Safety, Property::NoUnprovokedReset, what);
    }
    stage.orders.to_come.set(stage.orders.to_come.get() - 1);
}

async fn ask(stage: &Rc<Stage>, who: ProcId, question: Question) -> Outcome<SysError> {
    let scenario = &stage.plan.scenario;
    let tunnel = question.tunnel.map(|tunnel| &scenario.tunnels[tunnel]);
    let (mut inquiry, parts) = Inquiry::draw(stage.plan.seed, question.number, tunnel);
    let to = SocketAddr::new(turmoil::lookup("server"), scenario.host_port(Web::Http));
    let from = SocketAddr::from(([0; 4], u16::try_from(question.number).expect("few")));
    let front = stage.plan.fronted.then(|| Front::draw(stage.plan.seed, question.number, from, to, true));
    let header = front.into_iter().flat_map(|front| front.pieces);
    let (mut talk, mut rng) = (Talk::begin(stage, who, to), stage.fork());
    let (mut unsaid, mut over) = (Vec::new(), None);
    let mut hear = |came: &[u8], unsaid: &mut Vec<u8>| {
        stage.check(inquiry.on_bytes(came));
        std::mem::take(unsaid)
    };
    for part in header.chain(parts) {
        unsaid.extend(part);
        let pause = Duration::from_millis(rng.log_size(1, 300) as u64);
        over = talk.go_on(pause, &mut |came| hear(came, &mut unsaid)).await;
        if over.is_some() {
            break;
        }
    }
    let over = match over {
        Some(over) => over,
        None => talk.until_over(|came| hear(came, &mut unsaid)).await,
    };
    match over {
        Err(_) if inquiry.may_wait_in_vain() => Outcome::Own,
        Err(error) => Outcome::Reset(error),
        Ok(()) => match inquiry.on_eof() {
            Ok(Some(what)) => {
                stage.saw(what);
                Outcome::Whole
            }
            Ok(None) => {
                stage.saw(Sometimes::HostRefused);
                Outcome::Reset(SysError::Reset)
            }
            Err(finding) => {
                stage.check(Err(finding));
                Outcome::Own
            }
        },
    }
}

/// A connection on which somebody says what he has to say, and hears what comes.
struct Talk {
    socket: Socket,
    unsent: Vec<u8>,
    /// A write has failed: an error is told once, and what is read behind it is no end.
    failed: Option<SysError>,
}

impl Talk {
    fn begin(stage: &Rc<Stage>, who: ProcId, to: SocketAddr) -> Self {
        Self { socket: Socket::connect(stage, who, None, to), unsent: Vec::new(), failed: None }
    }

    /// Says and hears all that it can now. `turn` is handed what came, at first nothing, and answers. `Ready`: the
    /// connection is over, and how.
    fn poll(&mut self, cx: &mut Context<'_>, turn: &mut impl FnMut(&[u8]) -> Vec<u8>) -> Poll<Result<(), SysError>> {
        self.socket.pull(cx);
        if self.socket.is_connecting() {
            return Poll::Pending;
        }
        let mut bytes = [0; 512];
        let mut came = 0;
        loop {
            self.say(turn(&bytes[..came]));
            came = match self.socket.recv(&mut bytes) {
                Err(SysError::WouldBlock) => return Poll::Pending,
                Ok(0) => return Poll::Ready(self.failed.map_or(Ok(()), Err)),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(n) => n,
            };
        }
    }

    fn say(&mut self, words: Vec<u8>) {
        self.unsent.extend(words);
        while !self.unsent.is_empty() {
            match self.socket.send(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(SysError::WouldBlock) => break,
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
    }

    /// Goes on until the connection is over, and tells how, or `until` has passed.
    async fn go_on(
        &mut self,
        until: Duration,
        turn: &mut impl FnMut(&[u8]) -> Vec<u8>,
    ) -> Option<Result<(), SysError>> {
        tokio::time::timeout(until, poll_fn(|cx| self.poll(cx, turn))).await.ok()
    }

    /// Goes on until the connection is over: a silent line ends by the clock.
    async fn until_over(mut self, mut turn: impl FnMut(&[u8]) -> Vec<u8>) -> Result<(), SysError> {
        loop {
            if let Some(over) = self.go_on(LOOK * 5, &mut turn).await {
                return over;
            }
        }
    }
}

/// What came to somebody who may have found something.
fn take_in(stage: &Stage, heard: Result<Option<Sometimes>, Finding>) {
    match heard {
        Ok(seen) => seen.into_iter().for_each(|what| stage.saw(what)),
        Err(finding) => stage.check(Err(finding)),
    }
}

/// Somebody who is no client comes to one of the server's own ports, and says something or nothing.
async fn intrude(stage: Rc<Stage>, who: ProcId, port: u16, mut rng: Rng) {
    stage.saw(Sometimes::Stranger);
    let to = SocketAddr::new(turmoil::lookup("server"), port);
    let mut words = vec![0; rng.log_size(1, 3000)];
    words.fill_with(|| rng.next().to_le_bytes()[0]);
    if rng.chance(50) {
        words.clear();
    }
    // However it ends: he is sent away.
    let _ = Talk::begin(&stage, who, to).until_over(|_| std::mem::take(&mut words)).await;
    stage.orders.to_come.set(stage.orders.to_come.get() - 1);
}

/// Somebody who is no client speaks like one, until the server hangs up.
async fn deceive(stage: Rc<Stage>, who: ProcId, mut rng: Rng) {
    let mut impostor = Impostor::new(&mut rng, &stage.oracle.overheard.borrow());
    stage.remark(Some(who), || format!("{impostor:.40?}"));
    let port = if impostor.port() == ConnKind::Ctl { CTL } else { stage.plan.scenario.proxy_port() };
    let to = SocketAddr::new(turmoil::lookup("server"), port);
    let turn = |came: &[u8]| {
        if !came.is_empty() {
            take_in(&stage, impostor.on_bytes(came));
        }
        impostor.speak()
    };
    let _ = Talk::begin(&stage, who, to).until_over(turn).await;
    stage.orders.to_come.set(stage.orders.to_come.get() - 1);
}

/// A hostile holder of a token comes, speaks, listens, and does something from time to time.
async fn abuse(stage: Rc<Stage>, who: ProcId, mut rng: Rng) {
    let mut holder = Holder::new(rng.fork(), stage.oracle.past.take().filter(|_| rng.chance(60)));
    let server = turmoil::lookup("server");
    let mut talk = Talk::begin(&stage, who, SocketAddr::new(server, CTL));
    loop {
        let mut turn = |came: &[u8]| {
            if !came.is_empty() {
                take_in(&stage, holder.on_bytes(came));
            }
            holder.speak()
        };
        if talk.go_on(Duration::from_millis(rng.log_size(1, 300) as u64), &mut turn).await.is_some() {
            break;
        }
        match holder.act() {
            Act::Speak => {}
            Act::Conns(conns) => {
                for words in conns {
                    hold(&stage, who, SocketAddr::new(server, stage.plan.scenario.proxy_port()), words, rng.fork());
                }
            }
            Act::Visit(port) => hold(&stage, who, SocketAddr::new(server, port), b"a visitor".to_vec(), rng.fork()),
            Act::Leave => {
                talk.say(holder.speak());
                break;
            }
        }
    }
    stage.oracle.past.set(holder.past());
    stage.orders.to_come.set(stage.orders.to_come.get() - 1);
}

/// A connection of a hostile holder's on which it says this and no more, for a while.
fn hold(stage: &Rc<Stage>, who: ProcId, to: SocketAddr, mut words: Vec<u8>, mut rng: Rng) {
    stage.orders.to_come.set(stage.orders.to_come.get() + 1);
    let stage = Rc::clone(stage);
    tokio::task::spawn_local(async move {
        let until = Duration::from_millis(rng.log_size(10, 5_000) as u64);
        // It leaves, or is sent away.
        let _ = Talk::begin(&stage, who, to).go_on(until, &mut |_| std::mem::take(&mut words)).await;
        stage.orders.to_come.set(stage.orders.to_come.get() - 1);
    });
}

/// The host of all local services.
pub(super) async fn services(stage: Rc<Stage>, who: ProcId) -> turmoil::Result {
    stage.orders.awake(who).await;
    for tunnel in 0..stage.plan.scenario.tunnels.len() {
        tokio::task::spawn_local(serve(Rc::clone(&stage), who, tunnel));
    }
    std::future::pending().await
}

/// What a service of this tunnel is told before its visitor's own bytes.
fn expect(stage: &Stage, tunnel: &TunnelPlan, stream: StreamId) {
    let mut streams = stage.oracle.streams.borrow_mut();
    streams.expect_prefix(stream, tunnel.head());
    if tunnel.serving.service.forwarded {
        streams.expect_another_prefix(stream);
    }
    if let Some(version) = tunnel.serving.proxy_protocol {
        streams.expect_header(stream, version);
    }
}

async fn serve(stage: Rc<Stage>, who: ProcId, tunnel: usize) {
    loop {
        if stage.orders.closed.borrow()[tunnel] {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let at = ("0.0.0.0", stage.plan.scenario.tunnels[tunnel].service_port);
        let listener = TcpListener::bind(at).await.expect("the service's own port is free");
        while !stage.orders.closed.borrow()[tunnel] {
            if stage.orders.deaf.borrow()[tunnel] {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let Ok(accepted) = tokio::time::timeout(LOOK, listener.accept()).await else { continue };
            let (stream, _) = accepted.expect("turmoil's accept does not fail");
            let socket = Socket::accepted(&stage, who, false, stream);
            let actor = Actor::new(&stage, socket, Side::Service, tunnel, stage.fork());
            expect(&stage, &stage.plan.scenario.tunnels[tunnel], actor.stream);
            let stage = Rc::clone(&stage);
            tokio::task::spawn_local(async move {
                let fate = actor.script.fate;
                let outcome = actor.play().await;
                if let (Fate::Reset { .. }, Outcome::Own) = (fate, outcome) {
                    stage.saw(Sometimes::ServiceReset);
                }
            });
        }
    }
}
