//! The faults of a run: when they strike, whom, and how each is undone.

use super::{Event, Phase, Role, World};
use crate::kernel::{HostId, Kernel, ProcId, SockId};
use crate::oracle::Sometimes;
use crate::scenario::{CTL, HOSTS, KernelFault, PROXY, SHARED, SimFault};
use core::net::SocketAddr;
use protocol_sm::driver::messages::Order;
use protocol_sm::ids::TunnelId;
use protocol_sm::time::Instant;
use std::time::Duration;

/// A fault, and whom it has struck.
#[derive(Clone, Copy, Debug)]
pub(super) struct Struck {
    fault: KernelFault,
    lasts: Duration,
    begun: Option<Instant>,
    ended: bool,
    /// The client, tunnel or socket that was picked.
    target: usize,
}

/// As a server's operator knows it.
fn client_name(client: usize) -> String {
    format!("{:02x}", client + 1).repeat(4)
}

impl World {
    /// Lays down what strikes when.
    pub(super) fn lay_faults(&mut self, length: u64) {
        if self.plan.faults.is_empty() {
            return;
        }
        for index in 0..self.plan.fault_count {
            let fault = self.rng.pick(&self.plan.faults);
            let begins = self.rng.range(500_000_000, length.max(600_000_000));
            let lasts = Duration::from_millis(self.rng.log_size(1, 20_000) as u64);
            self.faults.push(Struck { fault, lasts, begun: None, ended: false, target: 0 });
            self.at(Instant::from_nanos(begins), Event::FaultBegins(index));
        }
    }

    pub(super) fn fault_begins(&mut self, index: usize) {
        if self.phase != Phase::Faults {
            return;
        }
        let fault = self.faults[index].fault;
        let client = self.rng.size(0, self.plan.scenario.clients.len() - 1);
        let tunnel = self.rng.size(0, self.plan.scenario.tunnels.len() - 1);
        self.faults[index].begun = Some(self.now());
        self.faults[index].target = client;
        let now = self.now();
        self.kernel.trace.remark(now, None, || fault.to_string());
        self.coverage.struck(fault);
        match fault {
            KernelFault::Sim(fault) => {
                if self.strike(index, fault, client, tunnel)
                    && let Some(what) = fault.counts_as()
                {
                    self.coverage.saw(what);
                }
            }
            KernelFault::CutOneWay => {
                let (a, b) = (self.client_hosts[client], self.server_host);
                let (a, b) = if self.rng.chance(50) { (a, b) } else { (b, a) };
                self.kernel.cut_one_way(a, b);
                self.coverage.saw(Sometimes::CutOneWay);
            }
            KernelFault::FreezeServer => self.freeze(self.server, Sometimes::FreezeServer),
            KernelFault::FreezeClient => self.freeze(self.clients[client], Sometimes::FreezeClient),
            KernelFault::ServiceBlackholed => {
                if self.client_hosts[client] != self.service_hosts[client] {
                    self.kernel.cut(self.client_hosts[client], self.service_hosts[client]);
                    self.coverage.saw(Sometimes::ServiceBlackholed);
                }
            }
            KernelFault::Nudge => self.nudge(),
            KernelFault::CloseTunnel => self.close_tunnel(index, tunnel),
            KernelFault::Kick => self.order(Order::Kick(client_name(client))),
            KernelFault::ClosePort => self.close_port(index, tunnel),
            KernelFault::NoLocalPort => self.use_up_ports(client),
            KernelFault::Examine => self.faults[index].target = self.examine(client),
            KernelFault::DeadLine => self.lines.set_dead(client, true),
        }
        self.later(self.faults[index].lasts, Event::FaultEnds(index));
    }

    /// A fault that the other ring knows too strikes. `false`: there is nothing that it could hit now.
    fn strike(&mut self, index: usize, fault: SimFault, client: usize, tunnel: usize) -> bool {
        match fault {
            SimFault::ResetCtl => self.reset(CTL),
            // One of five waits for a `Start` that its client has seen and not answered: by chance that is rare.
            SimFault::ResetProxy if self.faults[index].lasts.as_millis().is_multiple_of(5) => {
                self.watch.ambush = true;
                true
            }
            SimFault::ResetProxy => self.reset_proxy(self.faults[index].lasts.as_millis().is_multiple_of(2)),
            SimFault::ResetPublic => self.reset_public(),
            SimFault::ResetLocal => self.reset_local(client),
            SimFault::BlackholeCtl => {
                let among = self.server_socks(|at| at == CTL);
                self.blackhole_one_of(&among)
            }
            SimFault::BlackholeProxy => self.blackhole_proxy(self.faults[index].lasts.as_millis().is_multiple_of(2)),
            SimFault::Cut => {
                self.kernel.cut(self.client_hosts[client], self.server_host);
                true
            }
            SimFault::KillClient => {
                let alive = self.is_alive(self.clients[client]);
                if alive {
                    self.kill(self.clients[client]);
                }
                alive
            }
            SimFault::KillServer => {
                self.kill(self.server);
                true
            }
            SimFault::PowerOffClient => self.power_off(self.client_hosts[client]),
            SimFault::PowerOffServer => self.power_off(self.server_host),
            SimFault::ServiceDown => {
                self.faults[index].target = tunnel;
                self.actors.unserve(&mut self.kernel, tunnel);
                true
            }
            SimFault::ServiceAcceptsNothing => {
                self.faults[index].target = tunnel;
                self.actors.services[tunnel].accepts = false;
                self.coverage.saw(Sometimes::BacklogFull);
                true
            }
            SimFault::FewDescriptors => self.few_descriptors(index, client),
            SimFault::NoMemory => self.starve(client),
            SimFault::StopClient => self.stop_for_a_while(self.clients[client]),
            SimFault::StopServer => self.stop_for_a_while(self.server),
            SimFault::Rival => {
                let rival = self.spawn_client(client, true);
                self.rivals.push(rival);
                self.faults[index].target = rival;
                true
            }
            SimFault::Stranger => {
                let port = if self.rng.chance(50) { CTL } else { PROXY };
                // From no generator, so that what a seed draws stays the same.
                let port = if index % 3 == 2 { HOSTS[index % 2] } else { port };
                let to = SocketAddr::new(self.kernel.ip(self.server_host), port);
                self.actors.intrude(&mut self.kernel, &self.plan, self.visitors, to);
                self.coverage.saw(Sometimes::Stranger);
                true
            }
            SimFault::Impostor => {
                let server = self.kernel.ip(self.server_host);
                self.actors.impersonate(&mut self.kernel, &self.plan, self.visitors, server, &self.overheard);
                true
            }
            SimFault::Holder => {
                let server = self.kernel.ip(self.server_host);
                self.actors.abuse(&mut self.kernel, &self.plan, self.visitors, server);
                true
            }
            SimFault::ReloadClient => self.reload_client(client),
            SimFault::ReloadServer => self.reload_server(),
            SimFault::Upgrade => {
                self.begin_upgrade();
                true
            }
        }
    }

    /// Undoes a fault that lasts.
    pub(super) fn fault_ends(&mut self, index: usize) {
        let Struck { fault, begun: Some(begun), ended: false, target, .. } = self.faults[index] else { return };
        self.faults[index].ended = true;
        self.reap();
        let now = self.now();
        self.kernel.trace.remark(now, None, || format!("{fault} ends"));
        match fault {
            KernelFault::Sim(fault) => self.undo(fault, target, begun),
            KernelFault::CutOneWay => self.kernel.heal(self.client_hosts[target], self.server_host),
            KernelFault::FreezeServer | KernelFault::FreezeClient => self.thaw(),
            KernelFault::ServiceBlackholed => {
                self.kernel.heal(self.client_hosts[target], self.service_hosts[target]);
            }
            KernelFault::Examine => self.kill(target),
            KernelFault::DeadLine => self.lines.set_dead(target, false),
            KernelFault::Nudge | KernelFault::Kick => {}
            KernelFault::CloseTunnel => self.reopen_tunnels(target),
            // The client's next session has its ports again.
            KernelFault::ClosePort => self.order(Order::Kick(client_name(target))),
            KernelFault::NoLocalPort => {
                self.processes.iter().for_each(|process| self.kernel.set_no_port(process.proc, 0))
            }
        }
    }

    fn undo(&mut self, fault: SimFault, target: usize, begun: Instant) {
        match fault {
            SimFault::Cut => self.kernel.heal(self.client_hosts[target], self.server_host),
            SimFault::KillClient | SimFault::StopClient => self.return_client(target),
            SimFault::KillServer | SimFault::StopServer => self.return_server(),
            SimFault::PowerOffClient => self.power_on(self.client_hosts[target], begun),
            SimFault::PowerOffServer => self.power_on(self.server_host, begun),
            SimFault::ServiceDown => self.actors.serve(&mut self.kernel, &self.plan, target),
            SimFault::ServiceAcceptsNothing => {
                self.actors.services[target].accepts = true;
                let found = self.actors.accept(&mut self.kernel, &self.plan, target, &mut self.coverage);
                self.after_actor(found);
            }
            SimFault::FewDescriptors => self.enough_descriptors(),
            SimFault::NoMemory => self.enough_memory(),
            SimFault::Rival => self.kill(target),
            SimFault::ReloadClient => self.restore_client(target),
            SimFault::ReloadServer => self.restore_server(),
            SimFault::ResetCtl
            | SimFault::ResetProxy
            | SimFault::ResetPublic
            | SimFault::ResetLocal
            | SimFault::BlackholeCtl
            | SimFault::BlackholeProxy
            | SimFault::Stranger
            | SimFault::Impostor
            | SimFault::Holder
            | SimFault::Upgrade => {}
        }
    }

    /// Ends every fault: what comes now must converge.
    pub(super) fn heal(&mut self) {
        self.watch.ambush = false;
        for index in 0..self.faults.len() {
            self.fault_ends(index);
        }
        self.kernel.heal_all();
        self.thaw();
        self.enough_descriptors();
        self.enough_memory();
        for rival in std::mem::take(&mut self.rivals) {
            self.kill(rival);
        }
        self.return_server();
        for client in 0..self.plan.scenario.clients.len() {
            self.return_client(client);
        }
        for tunnel in 0..self.plan.scenario.tunnels.len() {
            self.actors.serve(&mut self.kernel, &self.plan, tunnel);
            self.actors.services[tunnel].accepts = true;
            let found = self.actors.accept(&mut self.kernel, &self.plan, tunnel, &mut self.coverage);
            self.after_actor(found);
        }
        self.actors.hurry = true;
        for index in 0..self.actors.all.len() {
            self.actors.all[index].hurry(self.kernel.now());
            self.drive_actor(index);
        }
    }

    /// Whether something that is no client has connected to the server's ports.
    pub(super) fn strangers_came(&self) -> bool {
        self.faults.iter().any(|struck| struck.fault == KernelFault::Sim(SimFault::Stranger) && struck.begun.is_some())
    }

    /// Whether tunnels may have been moved to and fro: a program was told its settings anew, or a client taken over.
    pub(super) fn may_have_moved(&self) -> bool {
        let moves = [SimFault::ReloadClient, SimFault::ReloadServer, SimFault::Rival].map(KernelFault::Sim);
        self.faults.iter().any(|struck| moves.contains(&struck.fault) && struck.begun.is_some())
    }

    /// Whether no fault so far takes a connection between client and server away.
    pub(super) fn nothing_breaks(&self) -> bool {
        self.faults.iter().all(|struck| struck.begun.is_none() || struck.fault.spares_conns(struck.ended))
    }

    /// The server's connections on one of its own ports; for any other: its visitors.
    fn server_socks(&self, choose: impl Fn(u16) -> bool) -> Vec<SockId> {
        let proc = self.processes[self.server].proc;
        let socks = self.kernel.open_socks(proc);
        socks.filter(|&sock| choose(self.kernel.local(sock).port()) && !self.kernel.is_listening(sock)).collect()
    }

    fn pick(&mut self, among: &[SockId]) -> Option<SockId> {
        (!among.is_empty()).then(|| self.rng.pick(among))
    }

    fn reset(&mut self, port: u16) -> bool {
        let among = self.server_socks(|at| at == port);
        self.reset_one_of(&among)
    }

    /// Resets a proxy_conn.
    fn reset_proxy(&mut self, serving: bool) -> bool {
        let among = self.proxy_conns(serving);
        self.reset_one_of(&among)
    }

    fn blackhole_proxy(&mut self, serving: bool) -> bool {
        let among = self.proxy_conns(serving);
        self.blackhole_one_of(&among)
    }

    /// The proxy_conns; those that carry a transfer now, if there is one and they are to be `serving`.
    fn proxy_conns(&self, serving: bool) -> Vec<SockId> {
        let mut among = self.server_socks(|at| at == PROXY);
        if serving && among.iter().any(|&sock| self.watch.is_serving(&self.kernel, sock)) {
            among.retain(|&sock| self.watch.is_serving(&self.kernel, sock));
        }
        among
    }

    fn reset_one_of(&mut self, among: &[SockId]) -> bool {
        let Some(sock) = self.pick(among) else { return false };
        let (here, there) = self.kernel.ends(sock);
        match self.rng.below(3) {
            _ if here == there => self.kernel.reset_both_ends(sock),
            0 => self.kernel.reset_both_ends(sock),
            1 => self.kernel.reset_one_end(sock),
            _ => self.kernel.peer(sock).is_some_and(|peer| self.kernel.reset_one_end(peer)),
        }
    }

    fn reset_public(&mut self) -> bool {
        let among = self.server_socks(|at| at != CTL && at != PROXY);
        self.pick(&among).is_some_and(|sock| self.kernel.reset_both_ends(sock))
    }

    fn reset_local(&mut self, client: usize) -> bool {
        let process = self.clients[client];
        if !self.is_alive(process) {
            return false;
        }
        let proc: ProcId = self.processes[process].proc;
        let local = |port| port != CTL && port != PROXY;
        let among: Vec<_> =
            self.kernel.open_socks(proc).filter(|&sock| local(self.kernel.remote(sock).port())).collect();
        self.pick(&among).is_some_and(|sock| self.kernel.reset_both_ends(sock))
    }

    fn blackhole_one_of(&mut self, among: &[SockId]) -> bool {
        // Nothing vanishes within a machine.
        let leaves = |kernel: &Kernel, sock| kernel.ends(sock).0 != kernel.ends(sock).1;
        self.pick(among).is_some_and(|sock| leaves(&self.kernel, sock) && self.kernel.blackhole(sock))
    }

    pub(super) fn is_alive(&self, process: usize) -> bool {
        self.processes.get(process).is_some_and(|process| process.alive)
    }

    fn freeze(&mut self, process: usize, what: Sometimes) {
        if self.is_alive(process) {
            self.processes[process].frozen = true;
            self.coverage.saw(what);
        }
    }

    fn thaw(&mut self) {
        for index in 0..self.processes.len() {
            if std::mem::take(&mut self.processes[index].frozen) {
                self.processes[index].awake = self.kernel.now();
                for thread in self.processes[index].threads.clone() {
                    self.wake(thread);
                }
            }
        }
    }

    fn power_off(&mut self, host: HostId) -> bool {
        if self.kernel.is_down(host) {
            return false;
        }
        for index in 0..self.processes.len() {
            if self.kernel.host_of(self.processes[index].proc) == host {
                self.processes[index].alive = false;
                self.processes[index].killed = Some(self.kernel.now());
            }
        }
        for service in &mut self.actors.services {
            if self.kernel.host_of(service.proc) == host {
                service.listener = None;
            }
        }
        self.actors.forget(&self.kernel, host);
        self.kernel.power_off(host);
        true
    }

    fn power_on(&mut self, host: HostId, since: Instant) {
        if !self.kernel.is_down(host) {
            return;
        }
        self.kernel.power_on(host, since);
        for tunnel in 0..self.plan.scenario.tunnels.len() {
            if self.kernel.host_of(self.actors.services[tunnel].proc) == host {
                let proc = self.kernel.spawn(host, 10_000);
                let poll = self.kernel.epoll(proc);
                self.kernel.trace.name(proc, format!("service{tunnel}"));
                let service = &mut self.actors.services[tunnel];
                (service.proc, service.poll) = (proc, poll);
                self.actors.serve(&mut self.kernel, &self.plan, tunnel);
            }
        }
        self.return_flows();
        if host == self.server_host {
            self.return_server();
        }
        for client in 0..self.plan.scenario.clients.len() {
            self.return_client(client);
        }
    }

    fn return_server(&mut self) {
        if !self.is_alive(self.server) && !self.kernel.is_down(self.server_host) {
            self.start_server();
        }
    }

    fn return_client(&mut self, client: usize) {
        if !self.is_alive(self.clients[client]) && !self.kernel.is_down(self.client_hosts[client]) {
            self.start_client(client);
        }
    }

    /// Leaves a process hardly more descriptors than it has open.
    fn few_descriptors(&mut self, index: usize, client: usize) -> bool {
        let process = if self.rng.chance(50) { self.server } else { self.clients[client] };
        let alive = self.is_alive(process);
        if alive {
            let proc = self.processes[process].proc;
            let limit = self.kernel.open_fds(proc) + self.rng.size(0, 4);
            self.kernel.set_fd_limit(proc, limit);
            self.faults[index].target = process;
        }
        alive
    }

    fn enough_descriptors(&mut self) {
        for process in &self.processes {
            self.kernel.set_fd_limit(process.proc, 10_000);
        }
    }

    fn starve(&mut self, client: usize) -> bool {
        let process = if self.rng.chance(30) { self.server } else { self.clients[client] };
        let chance = self.rng.pick(&[20, 100, 100]);
        self.kernel.set_no_memory(self.processes[process].proc, chance);
        true
    }

    fn enough_memory(&mut self) {
        for process in &self.processes {
            self.kernel.set_no_memory(process.proc, 0);
        }
    }

    fn use_up_ports(&mut self, client: usize) {
        let chance = self.rng.pick(&[20, 90, 100]);
        self.kernel.set_no_port(self.processes[self.clients[client]].proc, chance);
    }

    /// An orderly stop; the process starts again when the fault ends.
    fn stop_for_a_while(&mut self, process: usize) -> bool {
        if !self.is_alive(process) || self.processes[process].stopping.is_some() {
            return false;
        }
        if self.transfers_in_flight() > 0 {
            self.coverage.saw(Sometimes::DrainedWithTransfers);
        }
        self.ask_to_stop(process);
        true
    }

    /// A client closes one of its tunnels for good, whoever visits it.
    fn close_tunnel(&mut self, index: usize, tunnel: usize) {
        let client = self.plan.scenario.tunnels[tunnel].client;
        let process = self.clients[client];
        self.faults[index].target = process;
        if !self.is_alive(process) {
            return;
        }
        if self.transfers_of(tunnel) > 0 {
            self.coverage.saw(Sometimes::TunnelClosedWithTransfers);
        }
        let among = &self.plan.scenario.clients[client].tunnels;
        let id = among.iter().position(|&other| other == tunnel).expect("it is one of the client's");
        self.ask_to_close(process, TunnelId(u32::try_from(id).expect("few tunnels")));
    }

    /// The server's operator closes a public port.
    fn close_port(&mut self, index: usize, tunnel: usize) {
        self.faults[index].target = self.plan.scenario.tunnels[tunnel].client;
        // What others share is not closed: they would not come back for it.
        let is_own = |at: &SocketAddr| self.plan.scenario.tunnels[tunnel].site.is_none() && at.port() != SHARED;
        if let Some(public) = self.publics[tunnel].filter(is_own) {
            let live = self.transfers_of(tunnel) > 0;
            self.coverage.saw(if live { Sometimes::PortClosedWithTransfers } else { Sometimes::PortClosed });
            self.order(Order::Close(public.port()));
        }
    }

    /// The client that has closed a tunnel starts again with all of them.
    fn reopen_tunnels(&mut self, process: usize) {
        if self.is_alive(process)
            && let Role::Client { client, .. } = self.processes[process].role
        {
            self.kill(process);
            self.return_client(client);
        }
    }

    fn nudge(&mut self) {
        let socks = self.server_socks(|_| true);
        for sock in socks {
            if self.rng.chance(50) {
                self.kernel.nudge(sock);
            }
        }
    }
}
