//! Every property has a world that breaks it: a check that cannot fail checks nothing, and most planted bugs are caught
//! by several at once.

use super::actors::Who;
use super::phases::KEEPALIVE;
use super::reload::Reloading;
use super::sys::{Mail, OuterReset, Pipe, Stream, ThreadSys};
use super::tasks::Task;
use super::watch::Dialled;
use super::{Phase, Plan, World, run_plan};
use crate::holder::Holder;
use crate::impostor::{Impostor, Overheard};
use crate::kernel::{Errno, Rng};
use crate::oracle::{Property, Side, Streams};
use crate::scenario::{Inquiry, Outcome, Scenario, Tight};
use core::net::SocketAddr;
use protocol_sm::codes::{AbortCode, Violation};
use protocol_sm::datagrams::PathId;
use protocol_sm::driver::messages::{
    ControlKey, FromClientLoop, FromServerLoop, ToClientLoop, ToClientMain, ToListener, ToOperator, ToServerMain,
};
use protocol_sm::driver::{Cx, Listen, Note, Role, Splice, Strategy, Streams as _, Token};
use protocol_sm::ids::{ClientId, ConnId, Epoch, Registration, SessionId, TunnelId};
use protocol_sm::routes::Speaks;
use protocol_sm::settings::Origin;
use protocol_sm::time::Instant;
use protocol_sm::transfer::How;
use protocol_sm::visit::Label;
use protocol_sm::visit::{Begun, VisitEnd, Way};
use protocol_sm::wire::{
    ClientMsg, ConnKind, Ctl, Message, Preface, Reply, ServerHandshake, ServerHello, ServerMsg, ToClient, Welcome,
};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

thread_local! {
    /// The lines of the checks that have failed in this thread.
    static FAILED: RefCell<BTreeSet<(String, u32)>> = const { RefCell::new(BTreeSet::new()) };
}

pub(super) fn saw(check: &Location<'_>) {
    let file = Path::new(check.file()).file_name().expect("it has a name").to_string_lossy().into_owned();
    FAILED.with_borrow_mut(|failed| failed.insert((file, check.line())));
}

/// Nothing goes wrong by itself.
fn plan() -> Plan {
    let plan = Plan::bench(5);
    let length = Duration::from_secs(10);
    let scenario = Scenario { length, strategy: Strategy::Copy, no_pipe: 0, idle_conns: 1, ..plan.scenario };
    Plan { scenario, ..plan }
}

fn fresh() -> World {
    World::new(plan(), false)
}

fn with_flows() -> World {
    World::new(Plan { flows: true, ..plan() }, false)
}

/// A world that has come so far.
fn until(reached: impl Fn(&World) -> bool) -> World {
    let mut world = fresh();
    while !reached(&world) {
        assert!(world.breach.is_none() && world.phase != Phase::Over, "it never came so far: {:?}", world.breach);
        world.turn();
    }
    world
}

fn in_phase(phase: impl Fn(Phase) -> bool) -> World {
    until(|world| phase(world.phase))
}

/// Ten seconds before it is looked whether everything is back at its baseline.
fn settled() -> World {
    let mut world = in_phase(|phase| phase == Phase::Settling);
    let timings = world.plan.scenario.longest_timings();
    let pause = timings.idle_conn_lifetime + timings.idle_ping_interval * 2 + KEEPALIVE - Duration::from_secs(10);
    let end = world.now() + pause;
    while world.now() < end {
        world.turn();
    }
    world
}

/// A transfer is under way, and some bytes have come to it from its visitor.
fn carried() -> (World, Dialled) {
    let dialled = |world: &World| {
        let up = |it: &Dialled| world.kernel.is_up(it.public) && world.kernel.is_up(it.local);
        world.watch.last_dialled().filter(up).filter(|it| world.kernel.received(it.public) > 0)
    };
    let world = until(|world| dialled(world).is_some());
    let it = dialled(&world).expect("just so");
    (world, it)
}

/// A service reads a hundred bytes, or what `change` makes of two hundred, where the visitor has sent a hundred.
fn read(change: impl FnOnce(&mut Streams, &mut Vec<u8>)) -> World {
    let mut world = fresh();
    let streams = &mut world.actors.streams;
    let (visitor, service) = (streams.open(Side::Visitor, 0), streams.open(Side::Service, 0));
    let mut bytes = vec![0; 200];
    streams.next_bytes(visitor, &mut bytes);
    streams.on_sent(visitor, 100);
    change(streams, &mut bytes);
    let found = streams.on_received(service, &bytes);
    world.after_actor(found);
    world
}

/// A service reads a clean end behind sixty bytes, where the visitor has sent a hundred.
fn read_end(ended: bool) -> World {
    let mut world = fresh();
    let streams = &mut world.actors.streams;
    let (visitor, service) = (streams.open(Side::Visitor, 0), streams.open(Side::Service, 0));
    let mut bytes = [0; 60];
    streams.next_bytes(visitor, &mut bytes);
    streams.on_sent(visitor, 100);
    if ended {
        streams.on_ended(visitor);
    }
    streams.on_received(service, &bytes).expect("a prefix");
    let found = streams.on_eof(service);
    world.after_actor(found);
    world
}

/// A loop of the server's calls its system wrongly, on a connection to a service and with an empty pipe.
fn call(role: Role, wrongly: impl FnOnce(&mut Cx<'_, ThreadSys<'_>>, &Stream, Pipe)) -> World {
    let mut world = fresh();
    let thread = world.processes[world.server].threads[2];
    let to = SocketAddr::new(world.kernel.ip(world.service_hosts[0]), world.plan.scenario.tunnels[0].service_port);
    let token = Token::from_number(u64::MAX).expect("not 0");
    let stream =
        world.with(thread, |_, cx| cx.sys.connect(&Origin::default(), to, role, token).expect("there are descriptors"));
    while !world.kernel.is_up(stream.0) {
        world.turn();
    }
    world.with(thread, |_, cx| {
        let (pipe, _) = cx.sys.pipe().expect("there are descriptors");
        wrongly(cx, &stream, pipe);
    });
    world
}

/// The same, with a pipe that holds five bytes.
fn call_with_bytes(wrongly: impl FnOnce(&mut Cx<'_, ThreadSys<'_>>, &Stream, Pipe)) -> World {
    call(Role::Local, |cx, stream, pipe| {
        cx.sys.kernel.fill_pipe(pipe.0, 5);
        wrongly(cx, stream, pipe);
    })
}

/// The server is dead, and is looked at as one that has ended by itself.
fn ended(mut world: World) -> World {
    world.kernel.kill(world.processes[world.server].proc);
    world.check_end(world.server);
    world
}

/// A client says twice that it is done with the last transfer.
fn done_twice() -> World {
    let (mut world, it) = carried();
    let (serial, msg) = (it.session, ClientMsg::Done { conn: it.conn, epoch: it.epoch });
    let mail = Mail::ClientMain(ToClientMain::Loop(FromClientLoop::Message { serial, msg }));
    world.see_sent(it.client, &mail);
    world.see_sent(it.client, &mail);
    world
}

/// A visitor who is served is given to a second conn, and dialled for once more.
fn dialled_twice() -> World {
    let (mut world, it) = carried();
    let (control, conn, visitor) = (ControlKey(it.session), ConnId(99), world.kernel.remote(it.public));
    world.see_note(it.server, &Note::Started { control, conn, epoch: Epoch(1), tunnel: TunnelId(0), visitor });
    world.watch.rename(it.sock, (it.server, it.session, conn));
    let is_loop = |thread: &&usize| matches!(world.threads[**thread].task, Task::ClientLoop(_));
    let thread = *world.processes[it.client].threads.iter().find(is_loop).expect("a client has a loop");
    let last_read = world.kernel.peer(it.sock);
    world.see_dials(thread, last_read, &[(Role::Local, it.local)]);
    world
}

/// A driver says something that it never should.
fn note(note: &Note) -> World {
    let mut world = fresh();
    world.see_note(world.server, note);
    world
}

/// A transfer is said to follow the last one on its conn, which goes on.
fn start(ahead: u32) -> World {
    let (mut world, it) = carried();
    let (epoch, visitor) = (Epoch(it.epoch.0 + ahead), world.kernel.remote(it.public));
    let (control, tunnel) = (ControlKey(it.session), TunnelId(0));
    world.see_note(it.server, &Note::Started { control, conn: it.conn, epoch, tunnel, visitor });
    world
}

/// A program resets the service's connection, and has written so much into it.
fn reset(visitor_left: bool, written: u64, unsent: usize) -> World {
    let (mut world, it) = carried();
    if visitor_left {
        assert!(world.kernel.reset_one_end(it.public));
    }
    world.see_reset(OuterReset { sock: it.local, written, unsent });
    world
}

/// Time for everything to converge is up.
fn healed(mut world: World) -> World {
    world.phase = Phase::Healing(world.now());
    world.next_phase();
    world
}

/// The next check of this world's phase is due, once `change` has happened.
fn checked(mut world: World, change: impl FnOnce(&mut World)) -> World {
    change(&mut world);
    world.next_phase();
    world
}

fn reset_first(world: &mut World, which: impl Fn(Who) -> bool) {
    let whole = world.actors.all.iter_mut().find(|actor| which(actor.who));
    whole.expect("one came").outcome = Some(Outcome::Reset(Errno::ECONNRESET));
}

/// A world in which this was broken, and only this.
fn broken(property: Property) -> World {
    match property {
        Property::PrefixDelivered => read(|_, _| {}),
        Property::NothingLost => read(|_, bytes| {
            bytes.truncate(100);
            bytes.drain(40..50);
        }),
        Property::NothingInvented => read(|_, bytes| bytes[50..].fill(1)),
        Property::NothingReordered => read(|_, bytes| {
            bytes.truncate(100);
            bytes.extend_from_within(10..30);
        }),
        Property::NoCrossTalk => read(|streams, bytes| {
            let other = streams.open(Side::Visitor, 1);
            streams.next_bytes(other, bytes);
        }),
        Property::OneServicePerVisitor => read(|streams, bytes| {
            bytes.truncate(100);
            let second = streams.open(Side::Service, 0);
            streams.on_received(second, bytes).expect("it is the first to read them");
        }),
        Property::CleanEndIsWhole => read_end(true),
        Property::CleanEndWasSent => read_end(false),
        Property::BeforeResetDelivered => reset(true, 0, 0),
        Property::NoUnprovokedReset => reset(false, u64::MAX, 0),
        Property::AsDirect => {
            checked(settled(), |world| reset_first(world, |who| who == Who::Visitor { probe: false }))
        }
        Property::ResetCostsNoConn => {
            let code = AbortCode::OuterReset;
            note(&Note::Aborted { conn: ConnId(1), epoch: Epoch(1), code, by_peer: false })
        }
        Property::HonestPeersNeverViolate => note(&Note::Violation { conn: None, violation: Violation::Malformed }),
        Property::EpochsGrow => start(2),
        Property::StartOnlyToIdle => start(1),
        Property::FinOnce => {
            let (mut world, it) = carried();
            let (control, conn, epoch) = (ControlKey(it.session), it.conn, it.epoch);
            let msg = ServerMsg::Fin { conn, epoch, total: 1, how: How::Reset };
            let mail = Mail::ServerMain(ToServerMain::Loop(FromServerLoop::Message { control, msg }));
            world.see_sent(it.server, &mail);
            world.see_sent(it.server, &mail);
            world
        }
        Property::ShutOnce => call(Role::Local, |cx, stream, _| {
            cx.sys.shut_write(stream);
            cx.sys.shut_write(stream);
        }),
        Property::NothingAfterShut => call(Role::Local, |cx, stream, _| {
            cx.sys.shut_write(stream);
            let _ = cx.sys.send(stream, b"too late");
        }),
        Property::PipesEmptyAtRest => call(Role::Local, |cx, stream, pipe| {
            let _ = cx.sys.splice_out(&pipe, stream, 5);
        }),
        Property::ChunksWhole => call(Role::Proxy, |cx, stream, pipe| {
            let _ = cx.sys.splice_out(&pipe, stream, 0);
        }),
        Property::ClosedOnce => {
            let (mut world, it) = carried();
            world.check_end(it.server);
            world
        }
        Property::VisitorsAccountedFor => {
            let (mut world, _) = carried();
            world.threads.iter_mut().for_each(|thread| thread.pool.clear());
            ended(world)
        }
        Property::VisitsRecorded => {
            let label = Label { tunnel: "tunnel0".into(), client: ClientId([1; 16]), credential: None };
            let visitor = SocketAddr::from(([192, 0, 2, 1], 1));
            let visit = Begun::new(Some(Arc::new(label)), Instant::ZERO).expect("it has a label");
            note(&visit.over(Instant::ZERO, visitor, [Way::default(); 2], VisitEnd::Served))
        }
        Property::VisitorsAreNamed => {
            let (mut world, it) = carried();
            world.plan.fronted = true;
            let (visitor, control, tunnel) = (world.kernel.remote(it.public), ControlKey(it.session), TunnelId(0));
            world.see_note(it.server, &Note::Started { control, conn: it.conn, epoch: Epoch(1), tunnel, visitor });
            world
        }
        Property::AnswersAreOurs => {
            let mut world = fresh();
            let (mut inquiry, _) = Inquiry::draw(world.plan.seed, 0, None);
            let found = inquiry.on_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nelse");
            let found = found.and_then(|()| inquiry.on_eof().map(drop));
            world.after_actor(found);
            world
        }
        Property::BandwidthKept => {
            let (mut world, it) = carried();
            world.throttles.limit(it.public, (it.server, Some(it.session), 0), NonZeroU64::new(4096));
            world.see_moved(it.public, 0, 1000);
            world.see_moved(it.public, 0, 100);
            world
        }
        Property::PortsAccountedFor => {
            let mut world = in_phase(|phase| matches!(phase, Phase::Resting(_)));
            let server = &world.processes[world.server];
            let (main, proc, options) = (server.threads[0], server.proc, world.plan.options(Role::Public));
            let anywhere = SocketAddr::new(world.kernel.ip(world.server_host), 0);
            world.kernel.listen(proc, anywhere, 1, options).expect("there are descriptors");
            world.threads[main].next_run = Some(world.now());
            world.run_thread(main);
            world
        }
        Property::BooksAgree => checked(settled(), |world| {
            world.ask(world.server);
        }),
        Property::StrangersHoldNothing => checked(in_phase(|phase| matches!(phase, Phase::Probing(_))), |world| {
            let to = SocketAddr::new(world.kernel.ip(world.server_host), crate::scenario::CTL);
            world.actors.intrude(&mut world.kernel, &world.plan, world.visitors, to);
            let stranger = world.actors.all.last_mut().expect("just came");
            stranger.outcome = Some(Outcome::Own);
            stranger.ended = stranger.began + Duration::from_secs(3600);
        }),
        Property::SilentPeersGivenUp => {
            let mut world = until(|world| world.now() > Instant::ZERO + Duration::from_secs(30));
            world.silence.values_mut().for_each(|(_, since)| *since = Instant::ZERO);
            world.processes.iter_mut().for_each(|process| process.awake = Instant::ZERO);
            world.look_for_silence();
            world
        }
        Property::StrangersGetNothing => {
            let mut world = fresh();
            let mut impostor = Impostor::new(&mut Rng::new(1), &Overheard::default());
            let found = impostor.on_bytes(b"CPRX, come in, whoever you are, and have a look at all there is");
            world.after_actor(found.map(drop));
            world
        }
        Property::ScopesAreKept => {
            let mut world = fresh();
            let mut holder = Holder::new(Rng::new(1), None);
            let mut told = Reply::to(Preface::ours(ConnKind::Ctl)).encode().to_vec();
            let hello = ServerHandshake::Hello(ServerHello { nonce: [0; 32], features: 0 });
            let (session, proof) = (SessionId([1; 16]), [0; 32]);
            let welcome =
                ServerHandshake::Welcome(Welcome { session, resumed: false, received: 0, proxy_port: 1, proof });
            let public = SocketAddr::from(([0, 0, 0, 0], 6000));
            let ready = Ctl::Numbered { seq: 1, msg: ServerMsg::TunnelReady { tunnel: TunnelId(1), public } };
            let messages: [ToClient; 3] = [Ctl::Handshake(hello), Ctl::Handshake(welcome), ready];
            for message in messages {
                message.encode_to(&mut told);
            }
            let found = holder.on_bytes(&told);
            world.after_actor(found.map(drop));
            world
        }
        Property::CrowdsAreBounded => {
            let (mut world, it) = carried();
            world.plan.scenario.tight = Some(Tight { visitors: 100, per_source: 0, conns: 100 });
            world.check_crowd(it.server);
            world
        }
        Property::ReloadsSpareOthers => {
            let mut world = fresh();
            world.watch.reloading = Some(Reloading::Client { stays: BTreeSet::new() });
            world.see_said_at_reload(&Mail::ClientLoop(ToClientLoop::End { serial: 1, code: AbortCode::SessionOver }));
            world
        }
        Property::ClosedTakesNobody => {
            let mut world = fresh();
            let (control, tunnel) = (ControlKey(1), TunnelId(0));
            let registration = Registration { tunnel, serial: 1 };
            world.see_listener_told(0, &ToListener::Close { control, registration });
            world.see_arrival(0, control, tunnel);
            world
        }
        Property::TurnsAreShort => {
            let mut world = fresh();
            let listener = world.processes[world.server].threads[1];
            world.with(listener, |_, cx| {
                for port in 5000..5005 {
                    let token = Token::from_number(u64::from(port)).expect("not 0");
                    cx.sys.listen(SocketAddr::from(([0, 0, 0, 0], port)), token).expect("it is free");
                }
            });
            world
        }
        Property::NoPanic => unreachable!("that takes a whole run"),
        Property::TransfersEnd => healed(carried().0),
        Property::ClientsReturn => healed(fresh()),
        Property::PortsListen => {
            let mut world = in_phase(|phase| matches!(phase, Phase::Resting(_)));
            world.publics[0] = None;
            healed(world)
        }
        Property::ProbesRoundTrip => {
            let probe = |who| who == Who::Visitor { probe: true };
            let world = until(|world| world.actors.all.iter().any(|actor| probe(actor.who)));
            checked(world, |world| reset_first(world, probe))
        }
        Property::PoolsAtTarget => checked(settled(), |world| world.plan.scenario.idle_conns += 1),
        Property::DescriptorsAtBaseline => checked(settled(), |world| {
            let to = SocketAddr::new(world.kernel.ip(world.service_hosts[0]), 7000);
            let (server, options) = (world.processes[world.server].proc, world.plan.foreign());
            world.kernel.connect(server, to, options).expect("there are descriptors");
        }),
        Property::DrainEnds => checked(settled(), |world| {
            world.phase = Phase::Stopping(world.now());
            world.ask_to_stop(world.server);
        }),
        Property::OnlyFutureTimers => {
            let mut world = settled();
            world.processes.iter_mut().for_each(|process| process.frozen = true);
            while world.breach.is_none() {
                world.turn();
            }
            world
        }
        Property::NoSpinning => {
            let mut world = fresh();
            let now = world.now();
            world.threads[0].spins = u32::MAX - 1;
            world.threads[0].next_run = Some(now);
            world.run_thread(0);
            world
        }
        Property::DatagramsInPlace => {
            let mut world = with_flows();
            let found = world.hear_answer(0, b"nobody has said this");
            world.see_datagram(found);
            world
        }
        Property::PathsClosed => {
            let mut world = fresh();
            let to = SocketAddr::new(world.kernel.ip(world.server_host), 8090);
            world.open_line(world.server, PathId(1), to, [0; 32]);
            world.pass_line(world.server, PathId(1));
            world.check_lines(world.server, 0);
            world
        }
        Property::PathsReturn => {
            let mut world = with_flows();
            while !matches!(world.phase, Phase::Healing(_)) {
                world.turn();
            }
            // The actors are through, and nobody answers who visits over UDP.
            world.actors.all.iter_mut().for_each(|actor| actor.outcome = Some(Outcome::Whole));
            healed(world)
        }
    }
}

/// Properties with more than one check, and a world that only one of the others sees.
fn broken_elsewhere() -> Vec<(Property, World)> {
    let starved = Note::Aborted { conn: ConnId(1), epoch: Epoch(1), code: AbortCode::Resources, by_peer: false };
    vec![
        (Property::VisitsRecorded, {
            let mut world = broken(Property::VisitsRecorded);
            world.breach = None;
            world.check_visits(world.server);
            world
        }),
        (Property::BooksAgree, {
            let mut world = fresh();
            let report = Box::default();
            world.see_answer(world.server, ToOperator::Report { tags: vec![7], report });
            world
        }),
        (Property::ClosedOnce, {
            let mut world = fresh();
            let thread = world.processes[world.server].threads[2];
            world.with(thread, |_, cx| {
                let (pipe, _) = cx.sys.pipe().expect("there are descriptors");
                cx.sys.recycle(pipe, true);
            });
            ended(world)
        }),
        (Property::ProbesRoundTrip, {
            let underway = |world: &World| {
                world
                    .actors
                    .all
                    .iter()
                    .any(|actor| actor.who == Who::Visitor { probe: true } && actor.outcome.is_none())
            };
            checked(until(underway), |world| world.phase = Phase::Probing(world.now()))
        }),
        (Property::NoUnprovokedReset, {
            let world = in_phase(|phase| matches!(phase, Phase::Probing(_)));
            checked(world, |world| reset_first(world, |who| who == Who::Visitor { probe: false }))
        }),
        (Property::DescriptorsAtBaseline, {
            checked(settled(), |world| {
                let to = SocketAddr::new(world.kernel.ip(world.service_hosts[0]), 7000);
                let (client, options) = (world.processes[world.clients[0]].proc, world.plan.foreign());
                world.kernel.connect(client, to, options).expect("there are descriptors");
            })
        }),
        (
            Property::PipesEmptyAtRest,
            call_with_bytes(|cx, stream, pipe| {
                let _ = cx.sys.splice_in(stream, &pipe, 9);
            }),
        ),
        (
            Property::PipesEmptyAtRest,
            call_with_bytes(|cx, _, pipe| {
                let _ = cx.sys.read_pipe(&pipe, &mut [0; 3]);
            }),
        ),
        (Property::PipesEmptyAtRest, call_with_bytes(|cx, _, pipe| cx.sys.recycle(pipe, true))),
        (
            Property::ChunksWhole,
            call(Role::Proxy, |cx, stream, pipe| {
                let _ = cx.sys.splice_in(stream, &pipe, 9);
            }),
        ),
        (Property::ChunksWhole, {
            call(Role::Proxy, |cx, stream, _| {
                // More than fits, so that some of it is owed.
                assert!(cx.sys.send(stream, &[1; 1 << 20]).is_err());
                let _ = cx.sys.send(stream, b"something else");
            })
        }),
        (
            Property::ChunksWhole,
            call(Role::Public, |cx, stream, _| {
                cx.sys.end_tls(stream, &[], Speaks::Http1).expect("it ends here");
                cx.sys.shut_write(stream);
            }),
        ),
        (Property::FinOnce, done_twice()),
        (Property::OneServicePerVisitor, dialled_twice()),
        (Property::NoUnprovokedReset, {
            let (mut world, it) = carried();
            world.see_note(it.server, &Note::PathDead { conn: it.conn, silence: Duration::from_secs(60) });
            world
        }),
        (Property::NoUnprovokedReset, {
            let (mut world, it) = carried();
            world.kernel.close(it.local, true);
            let (egress, ingress) = (1, 1);
            world.see_note(it.client, &Note::Finished { conn: it.conn, epoch: it.epoch, egress, ingress });
            world.see_reset(OuterReset { sock: it.public, written: u64::MAX, unsent: 0 });
            world
        }),
        (Property::BeforeResetDelivered, reset(true, u64::MAX, 1)),
        (Property::NoUnprovokedReset, note(&starved)),
    ]
}

/// Every check is there because of a world that fails it: one that sleeps is noticed.
#[test]
fn every_check_can_fail() {
    FAILED.take();
    for property in Property::ALL.into_iter().filter(|&property| property != Property::NoPanic) {
        let _world = broken(property);
    }
    for (property, world) in broken_elsewhere() {
        assert_eq!(world.breach.map(|breach| breach.property), Some(property));
    }
    let failed = FAILED.take();
    let (mut checks, mut asleep) = (0, Vec::new());
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/world")).expect("the sources are there") {
        let path = file.expect("it can be read").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        if name == "violations.rs" {
            continue;
        }
        for (line, number) in std::fs::read_to_string(&path).expect("it is text").lines().zip(1..) {
            if !(line.contains("self.fail(") || line.contains("self.breach(")) {
                continue;
            }
            checks += 1;
            if !failed.contains(&(name.clone(), number)) {
                asleep.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(asleep.is_empty(), "no world fails these checks: {asleep:#?}");
    assert!(checks > 40, "{checks} were found");
}

/// No property is without: the compiler asks for each.
#[test]
fn every_property_can_be_broken_alone() {
    let found = |property| {
        let whole_run = property == Property::NoPanic;
        if whole_run { run_plan(Plan { batch: 0, ..plan() }, false).breach } else { broken(property).breach }
    };
    let wrong = |property| {
        let breach = found(property).map(|breach| breach.property);
        (breach != Some(property)).then(|| format!("{property:?} is taken for {breach:?}"))
    };
    let wrong: Vec<_> = Property::ALL.into_iter().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_world_that_breaks_nothing_ends_well() {
    assert!(run_plan(plan(), false).breach.is_none());
    for (index, property) in Property::ALL.into_iter().enumerate() {
        assert_eq!(property as usize, index, "all are listed, in their order");
    }
}
