//! What goes wrong, and how it is put right again.

use super::actors::Intrusion;
use super::line::{Fate, Line};
use super::plan::{Blow, Fault};
use super::stage::{Order, SERVER, Stage};
use crate::kernel::{ProcId, Rng};
use crate::oracle::Sometimes;
use protocol_sm::driver::Role;
use protocol_sm::time::Instant;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use turmoil::Sim;

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
    Names(ProcId),
    Lag(ProcId),
    RivalLeaves,
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
                self.stage.start(who);
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
            Remedy::Open(tunnel) => self.stage.closed.borrow_mut()[tunnel] = false,
            Remedy::Listen(tunnel) => self.stage.deaf.borrow_mut()[tunnel] = false,
            Remedy::Descriptors(who) => self.stage.with_status(who, |status| status.few_descriptors = false),
            Remedy::Names(who) => self.stage.with_status(who, |status| status.no_names = false),
            Remedy::Lag(who) => self.stage.with_status(who, |status| status.lag = Duration::ZERO),
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
        self.stage.seen.borrow_mut().struck(blow.fault);
        self.stage.trouble(until + Duration::from_secs(2));
        self.stage.remark(None, || format!("{:?} for {:?}", blow.fault, blow.lasts));
        if let Some(sometimes) = counts_as(blow.fault) {
            self.stage.saw(sometimes);
        }
        true
    }

    fn try_apply(&mut self, sim: &mut Sim<'_>, blow: Blow, until: Instant) -> bool {
        let client = Cast::client(self.rng.size(0, self.cast.clients - 1));
        let tunnel = self.rng.size(0, self.stage.plan.tunnels.len() - 1);
        let program = if self.rng.chance(50) { SERVER } else { client };
        let remedy = match blow.fault {
            Fault::ResetCtl => return self.kill_one(Role::Ctl, Fate::Reset),
            Fault::ResetProxy => return self.kill_one(Role::Proxy, Fate::Reset),
            Fault::ResetPublic => return self.kill_one(Role::Public, Fate::Reset),
            Fault::ResetLocal => return self.kill_one(Role::Local, Fate::Reset),
            Fault::BlackholeCtl => return self.kill_one(Role::Ctl, Fate::Silent(self.stage.last_now())),
            Fault::BlackholeProxy => return self.kill_one(Role::Proxy, Fate::Silent(self.stage.last_now())),
            Fault::Partition => return self.cut(sim, (SERVER, client), until),
            Fault::Hold => {
                let service = self.cast.service();
                let link = self.rng.pick(&[(SERVER, client), (SERVER, self.cast.visitors()), (client, service)]);
                if !self.bent.insert(link) {
                    return false;
                }
                sim.hold(self.cast.name(link.0), self.cast.name(link.1));
                Remedy::Release(link.0, link.1)
            }
            Fault::KillClient => return self.kill_for_a_while(sim, client, until),
            Fault::KillServer => return self.kill_for_a_while(sim, SERVER, until),
            Fault::KillService => return self.kill_for_a_while(sim, self.cast.service(), until),
            Fault::PowerOffClient => return self.power_off(sim, client, until),
            Fault::PowerOffServer => return self.power_off(sim, SERVER, until),
            Fault::StopClient => return self.stop(client, blow.lasts),
            Fault::StopServer => return self.stop(SERVER, blow.lasts),
            Fault::ServiceDown => {
                self.stage.closed.borrow_mut()[tunnel] = true;
                Remedy::Open(tunnel)
            }
            Fault::ServiceAcceptsNothing => {
                self.stage.deaf.borrow_mut()[tunnel] = true;
                Remedy::Listen(tunnel)
            }
            Fault::FewDescriptors => {
                self.stage.with_status(program, |status| status.few_descriptors = true);
                Remedy::Descriptors(program)
            }
            Fault::NoNames => {
                self.stage.with_status(client, |status| status.no_names = true);
                Remedy::Names(client)
            }
            Fault::Lag => {
                let lag = Duration::from_micros(self.rng.log_size(100, 50_000) as u64);
                self.stage.with_status(program, |status| status.lag = lag);
                Remedy::Lag(program)
            }
            Fault::Rival => {
                let rival = self.cast.rival();
                if !self.down.remove(&rival) {
                    return false;
                }
                self.stage.start(rival);
                Remedy::RivalLeaves
            }
            Fault::Stranger => {
                let port = self.rng.pick(&[8080, 8090]);
                self.stage.intrude(self.cast.visitors(), Intrusion::Noise(port));
                return true;
            }
            Fault::Impostor => {
                self.stage.intrude(self.cast.visitors(), Intrusion::Deceit);
                return true;
            }
        };
        self.active.push((until, remedy));
        true
    }

    fn kill_one(&mut self, role: Role, fate: Fate) -> bool {
        let lines: Vec<_> = self.stage.lines_of(role).into_iter().filter(|line| line.borrow().is_up()).collect();
        if lines.is_empty() {
            return false;
        }
        lines[self.rng.size(0, lines.len() - 1)].borrow_mut().kill(fate);
        true
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
        self.stage.lines().iter().for_each(silence);
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
        self.stage.with_status(who, |status| status.asleep = true);
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
        if self.down.contains(&who) || !self.stage.with_status(who, |status| status.up) {
            return false;
        }
        if !self.stage.lines_of(Role::Local).is_empty() {
            self.stage.saw(Sometimes::DrainedWithTransfers);
        }
        self.stage.order(who, Order::Restart(pause));
        true
    }
}

fn counts_as(fault: Fault) -> Option<Sometimes> {
    Some(match fault {
        Fault::ResetCtl => Sometimes::ResetCtl,
        Fault::ResetProxy => Sometimes::ResetProxy,
        Fault::ResetPublic => Sometimes::ResetPublic,
        Fault::ResetLocal => Sometimes::ResetLocal,
        Fault::BlackholeCtl => Sometimes::BlackholeCtl,
        Fault::BlackholeProxy => Sometimes::BlackholeProxy,
        Fault::Partition => Sometimes::Cut,
        Fault::KillClient => Sometimes::KillClient,
        Fault::KillServer => Sometimes::KillServer,
        Fault::PowerOffClient => Sometimes::PowerOffClient,
        Fault::PowerOffServer => Sometimes::PowerOffServer,
        Fault::StopClient => Sometimes::StopClient,
        Fault::StopServer => Sometimes::StopServer,
        Fault::ServiceDown => Sometimes::ServiceDown,
        Fault::ServiceAcceptsNothing => Sometimes::ServiceBlackholed,
        Fault::Hold | Fault::KillService | Fault::FewDescriptors | Fault::NoNames => return None,
        Fault::Lag | Fault::Rival | Fault::Stranger | Fault::Impostor => return None,
    })
}
