//! What goes wrong, and how it is put right again.

use super::lines::{Fate, Line};
use super::orders::{Intrusion, Moment, Order};
use super::plan::Blow;
use super::stage::{SERVER, Stage};
use crate::kernel::{ProcId, Rng};
use crate::oracle::Sometimes;
use crate::scenario::{CTL, SimFault, TurmoilFault};
use protocol_sm::driver::Role;
use protocol_sm::routes::Web;
use protocol_sm::time::Instant;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use turmoil::Sim;

/// After so long a NAT may forget a connection.
const IDLE: Duration = Duration::from_millis(300);

/// The parties, by number and by name.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) clients: usize,
}

impl Cast {
    pub(super) fn client(index: usize) -> ProcId {
        ProcId(SERVER.0 + 1 + index)
    }

    pub(super) fn rival(&self) -> ProcId {
        Self::client(self.clients)
    }

    pub(super) fn service(&self) -> ProcId {
        ProcId(self.rival().0 + 1)
    }

    pub(super) fn visitors(&self) -> ProcId {
        ProcId(self.rival().0 + 2)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = ProcId> {
        (0..=self.visitors().0).map(ProcId)
    }

    pub(super) fn name(&self, who: ProcId) -> String {
        match who.0 {
            0 => "server".into(),
            n if n <= self.clients => format!("client-{}", n - 1),
            n if n == self.rival().0 => "rival".into(),
            n if n == self.service().0 => "service".into(),
            _ => "visitors".into(),
        }
    }
}

/// What ends a fault that lasts.
#[derive(Clone, Copy, Debug)]
enum Remedy {
    Release(ProcId, ProcId),
    Repair(ProcId, ProcId),
    /// Start a process again.
    Start(ProcId),
    /// Give a host its power back.
    PowerOn(ProcId),
    Open(usize),
    Listen(usize),
    Descriptors(ProcId),
    Memory(ProcId),
    Names(ProcId),
    Lag(ProcId),
    RivalLeaves,
    /// Tell a program what it was told at its start.
    Restore(ProcId),
}

/// Whom a fault can hit, picked before it is known which fault it is.
#[derive(Clone, Copy, Debug)]
struct Target {
    client: ProcId,
    tunnel: usize,
    program: ProcId,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Faults {
    pub(super) cast: Cast,
    stage: Rc<Stage>,
    rng: Rng,
    active: Vec<(Instant, Remedy)>,
    down: BTreeSet<ProcId>,
    /// Links that are held or cut.
    bent: BTreeSet<(ProcId, ProcId)>,
}

impl Faults {
    pub(super) fn new(stage: &Rc<Stage>, cast: Cast, rng: Rng) -> Self {
        let down = BTreeSet::from([cast.rival()]);
        Self { cast, stage: Rc::clone(stage), rng, active: Vec::new(), down, bent: BTreeSet::new() }
    }

    /// Ends what has lasted long enough.
    pub(super) fn remedy(&mut self, sim: &mut Sim<'_>) {
        let now = self.stage.last_now();
        for (_, remedy) in self.active.extract_if(.., |(until, _)| *until <= now).collect::<Vec<_>>() {
            self.put_right(sim, remedy);
        }
    }

    /// Ends everything.
    pub(super) fn remedy_all(&mut self, sim: &mut Sim<'_>) {
        self.stage.orders.ambush.set(None);
        for (_, remedy) in std::mem::take(&mut self.active) {
            self.put_right(sim, remedy);
        }
    }

    fn put_right(&mut self, sim: &mut Sim<'_>, remedy: Remedy) {
        self.stage.remark(None, || format!("{remedy:?}"));
        match remedy {
            Remedy::Release(a, b) => {
                sim.release(self.cast.name(a), self.cast.name(b));
                self.bent.remove(&(a, b));
            }
            Remedy::Repair(a, b) => {
                sim.repair(self.cast.name(a), self.cast.name(b));
                self.bent.remove(&(a, b));
            }
            Remedy::Start(who) => {
                self.stage.orders.start(who);
                self.down.remove(&who);
            }
            Remedy::PowerOn(who) => {
                for other in self.cast.all().filter(|&other| other != who).collect::<Vec<_>>() {
                    sim.repair(self.cast.name(who), self.cast.name(other));
                }
                self.bent.retain(|&(a, b)| a != who && b != who);
                sim.bounce(self.cast.name(who));
                self.down.remove(&who);
            }
            Remedy::Open(tunnel) => self.stage.orders.closed.borrow_mut()[tunnel] = false,
            Remedy::Listen(tunnel) => self.stage.orders.deaf.borrow_mut()[tunnel] = false,
            Remedy::Descriptors(who) => self.stage.orders.with_status(who, |status| status.few_descriptors = false),
            Remedy::Memory(who) => self.stage.orders.with_status(who, |status| status.no_memory = 0),
            Remedy::Names(who) => self.stage.orders.with_status(who, |status| status.no_names = false),
            Remedy::Lag(who) => self.stage.orders.with_status(who, |status| status.lag = Duration::ZERO),
            Remedy::Restore(who) => self.stage.orders.reload(who, None),
            Remedy::RivalLeaves => {
                self.kill(sim, self.cast.rival());
            }
        }
    }

    /// Lets one happen. `false`: there is nothing that it could hit now.
    pub(super) fn apply(&mut self, sim: &mut Sim<'_>, blow: Blow) -> bool {
        let until = self.stage.last_now() + blow.lasts;
        if !self.try_apply(sim, blow, until) {
            return false;
        }
        self.stage.oracle.seen.borrow_mut().struck(blow.fault);
        self.stage.oracle.trouble(until + Duration::from_secs(2));
        self.stage.remark(None, || format!("{} for {:?}", blow.fault, blow.lasts));
        if let TurmoilFault::Sim(fault) = blow.fault
            && let Some(what) = fault.counts_as()
        {
            self.stage.saw(what);
        }
        true
    }

    fn try_apply(&mut self, sim: &mut Sim<'_>, blow: Blow, until: Instant) -> bool {
        let client = Cast::client(self.rng.size(0, self.cast.clients - 1));
        let tunnel = self.rng.size(0, self.stage.plan.scenario.tunnels.len() - 1);
        let program = if self.rng.chance(50) { SERVER } else { client };
        let remedy = match blow.fault {
            TurmoilFault::Sim(fault) => {
                return self.strike(sim, fault, Target { client, tunnel, program }, blow.lasts, until);
            }
            TurmoilFault::Hold => {
                let service = self.cast.service();
                let link = self.rng.pick(&[(SERVER, client), (SERVER, self.cast.visitors()), (client, service)]);
                if !self.bent.insert(link) {
                    return false;
                }
                sim.hold(self.cast.name(link.0), self.cast.name(link.1));
                Remedy::Release(link.0, link.1)
            }
            TurmoilFault::KillService => return self.kill_for_a_while(sim, self.cast.service(), until),
            TurmoilFault::NoNames => {
                self.stage.orders.with_status(client, |status| status.no_names = true);
                Remedy::Names(client)
            }
            TurmoilFault::Lag => {
                let lag = Duration::from_micros(self.rng.log_size(100, 50_000) as u64);
                self.stage.orders.with_status(program, |status| status.lag = lag);
                Remedy::Lag(program)
            }
            TurmoilFault::ForgetfulNat => return self.forget_idle_conns(sim, client),
        };
        self.active.push((until, remedy));
        true
    }

    /// Lets a fault strike that the other ring knows too.
    fn strike(&mut self, sim: &mut Sim<'_>, fault: SimFault, target: Target, lasts: Duration, until: Instant) -> bool {
        let Target { client, tunnel, program } = target;
        let now = self.stage.last_now();
        let remedy = match fault {
            SimFault::ResetCtl => return self.kill_one(Role::Ctl, Fate::Reset),
            // Some wait for a certain moment.
            SimFault::ResetProxy if lasts.as_millis() % 5 < 3 => {
                let moment = if lasts.as_millis().is_multiple_of(5) { Moment::Dialling } else { Moment::PipeHeld };
                self.stage.orders.ambush.set(Some(moment));
                return true;
            }
            SimFault::ResetProxy => return self.kill_one(Role::Proxy, Fate::Reset),
            SimFault::ResetPublic => return self.kill_one(Role::Public, Fate::Reset),
            SimFault::ResetLocal => return self.kill_one(Role::Local, Fate::Reset),
            SimFault::BlackholeCtl => return self.kill_one(Role::Ctl, Fate::Silent(now)),
            SimFault::BlackholeProxy => return self.kill_one(Role::Proxy, Fate::Silent(now)),
            SimFault::Cut => return self.cut(sim, (SERVER, client), until),
            SimFault::KillClient => return self.kill_for_a_while(sim, client, until),
            SimFault::KillServer => return self.kill_for_a_while(sim, SERVER, until),
            SimFault::PowerOffClient => return self.power_off(sim, client, until),
            SimFault::PowerOffServer => return self.power_off(sim, SERVER, until),
            SimFault::StopClient => return self.stop(client, lasts),
            SimFault::StopServer => return self.stop(SERVER, lasts),
            SimFault::ServiceDown => {
                self.stage.orders.closed.borrow_mut()[tunnel] = true;
                Remedy::Open(tunnel)
            }
            SimFault::ServiceAcceptsNothing => {
                self.stage.orders.deaf.borrow_mut()[tunnel] = true;
                // A dial times out, as if the service were silent.
                self.stage.saw(Sometimes::ServiceBlackholed);
                Remedy::Listen(tunnel)
            }
            SimFault::FewDescriptors => {
                self.stage.orders.with_status(program, |status| status.few_descriptors = true);
                Remedy::Descriptors(program)
            }
            SimFault::NoMemory => {
                let chance = self.rng.pick(&[20, 60, 100]);
                self.stage.orders.with_status(program, |status| status.no_memory = chance);
                Remedy::Memory(program)
            }
            SimFault::Rival => {
                let rival = self.cast.rival();
                if !self.down.remove(&rival) {
                    return false;
                }
                self.stage.orders.start(rival);
                Remedy::RivalLeaves
            }
            SimFault::Stranger => {
                let scenario = &self.stage.plan.scenario;
                let ports = [CTL, scenario.proxy_port(), scenario.host_port(Web::Http), scenario.host_port(Web::Https)];
                let port = self.rng.pick(&ports);
                self.stage.orders.intrude(self.cast.visitors(), Intrusion::Noise(port));
                return true;
            }
            SimFault::Impostor => {
                self.stage.orders.intrude(self.cast.visitors(), Intrusion::Deceit);
                return true;
            }
            SimFault::Holder => {
                self.stage.orders.intrude(self.cast.visitors(), Intrusion::Abuse);
                return true;
            }
            SimFault::Upgrade => {
                let up = self.stage.orders.with_status(SERVER, |status| status.up);
                if up {
                    self.stage.orders.upgrade(SERVER);
                }
                return up;
            }
            SimFault::ReloadClient | SimFault::ReloadServer => {
                let who = if fault == SimFault::ReloadServer { SERVER } else { client };
                if !self.stage.orders.with_status(who, |status| status.up) {
                    return false;
                }
                if self.stage.oracle.live() > 0 {
                    self.stage.saw(Sometimes::ReloadedWithTransfers);
                }
                self.stage.orders.reload(who, Some(self.rng.next()));
                Remedy::Restore(who)
            }
        };
        self.active.push((until, remedy));
        true
    }

    fn kill_one(&mut self, role: Role, fate: Fate) -> bool {
        let lines: Vec<_> = self.stage.lines.of(role).into_iter().filter(|line| line.borrow().is_up()).collect();
        if lines.is_empty() {
            return false;
        }
        lines[self.rng.size(0, lines.len() - 1)].borrow_mut().kill(fate);
        true
    }

    /// A NAT in front of a client forgets the proxy_conns on which nothing has moved for a while.
    fn forget_idle_conns(&mut self, sim: &mut Sim<'_>, client: ProcId) -> bool {
        let ip: IpAddr = sim.lookup(self.cast.name(client).as_str());
        let now = self.stage.last_now();
        let mut lines = self.stage.lines.of(Role::Proxy);
        lines.retain(|line| {
            let line = line.borrow();
            line.is_up() && line.key.0.ip() == ip && now.since(line.moved) >= IDLE
        });
        lines.iter().for_each(|line| line.borrow_mut().kill(Fate::Silent(now)));
        !lines.is_empty()
    }

    /// Every line that `is_hit` goes silent.
    fn silence(&self, is_hit: impl Fn(&Line) -> bool) {
        let since = self.stage.last_now();
        let silence = |line: &Rc<RefCell<Line>>| {
            let hit = is_hit(&line.borrow());
            if hit {
                line.borrow_mut().kill(Fate::Silent(since));
            }
        };
        self.stage.lines.all().iter().for_each(silence);
    }

    fn cut(&mut self, sim: &mut Sim<'_>, link: (ProcId, ProcId), until: Instant) -> bool {
        if !self.bent.insert(link) {
            return false;
        }
        let names = (self.cast.name(link.0), self.cast.name(link.1));
        let ips: (IpAddr, IpAddr) = (sim.lookup(names.0.as_str()), sim.lookup(names.1.as_str()));
        sim.partition(names.0, names.1);
        self.silence(|line| {
            let ends = (line.key.0.ip(), line.key.1.ip());
            ends == ips || ends == (ips.1, ips.0)
        });
        self.active.push((until, Remedy::Repair(link.0, link.1)));
        true
    }

    /// Kills a process; its machine goes on.
    fn kill(&mut self, sim: &mut Sim<'_>, who: ProcId) -> bool {
        if !self.down.insert(who) {
            return false;
        }
        sim.crash(self.cast.name(who));
        self.stage.on_crash(who);
        self.stage.orders.with_status(who, |status| status.asleep = true);
        sim.bounce(self.cast.name(who));
        true
    }

    fn kill_for_a_while(&mut self, sim: &mut Sim<'_>, who: ProcId, until: Instant) -> bool {
        if !self.kill(sim, who) {
            return false;
        }
        self.active.push((until, Remedy::Start(who)));
        true
    }

    /// Nothing that the host would say at its death gets out.
    fn power_off(&mut self, sim: &mut Sim<'_>, who: ProcId, until: Instant) -> bool {
        if self.down.contains(&who) || self.bent.iter().any(|&(a, b)| a == who || b == who) {
            return false;
        }
        for other in self.cast.all().filter(|&other| other != who).collect::<Vec<_>>() {
            sim.partition(self.cast.name(who), self.cast.name(other));
            self.bent.insert((who, other));
            self.bent.insert((other, who));
        }
        let ip = sim.lookup(self.cast.name(who));
        self.silence(|line| line.key.0.ip() == ip || line.key.1.ip() == ip);
        self.down.insert(who);
        sim.crash(self.cast.name(who));
        self.stage.on_crash(who);
        self.active.push((until, Remedy::PowerOn(who)));
        true
    }

    fn stop(&mut self, who: ProcId, pause: Duration) -> bool {
        if self.down.contains(&who) || !self.stage.orders.with_status(who, |status| status.up) {
            return false;
        }
        if !self.stage.lines.of(Role::Local).is_empty() {
            self.stage.saw(Sometimes::DrainedWithTransfers);
        }
        self.stage.orders.order(who, Order::Restart(pause));
        true
    }
}
