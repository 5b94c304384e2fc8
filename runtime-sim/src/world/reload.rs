//! Programs are told their settings anew, whatever goes on; and what that may do to whom.

use super::sys::{Mail, Stream};
use super::tasks::Task;
use super::{Role, World};
use crate::oracle::{Kind, Property, Sometimes};
use crate::scenario::{CTL, Reach, client_token, draw_client, draw_server};
use protocol_sm::driver::messages::{ControlKey, ToClientLoop, ToClientMain, ToListener, ToServerLoop, ToServerMain};
use protocol_sm::ids::TunnelId;
use protocol_sm::outbound::OutboundProxy;
use protocol_sm::reload::{Changes, ClientReload};
use protocol_sm::settings::{ClientSettings, Credential, DatagramTransport, ServerSettings, Timings, TunnelSpec};
use std::collections::BTreeSet;
use std::time::Duration;

/// A driver carries out what it was told anew: what it may do to those that were there before.
#[derive(Debug)]
pub(super) enum Reloading {
    /// A client keeps these tunnels.
    Client { stays: BTreeSet<TunnelId> },
    /// The server takes all tokens as before; its clients may use what they might.
    Server { same_tokens: bool, same_scopes: bool },
}

impl World {
    /// What a client is told at its start.
    pub(super) fn client_settings(&self, client: usize) -> ClientReload {
        let place = self.plan.places[client];
        let local = |tunnel: usize| {
            let port = self.plan.scenario.tunnels[tunnel].service_port;
            if self.plan.unix[tunnel] {
                format!("unix:{port}")
            } else if place.remote_services {
                self.address(self.service_hosts[client], port)
            } else {
                format!("127.0.0.1:{port}")
            }
        };
        let tunnel = |&tunnel: &usize| TunnelSpec {
            name: format!("tunnel{tunnel}"),
            public_port: self.plan.scenario.tunnels[tunnel].public_port,
            bind_addr: self.plan.scenario.tunnels[tunnel].bind_addr,
            site: self.plan.scenario.tunnels[tunnel].site.clone(),
            local: local(tunnel),
            local_sources: Vec::new(),
            limits: self.plan.scenario.limits(tunnel),
            serving: self.plan.scenario.tunnels[tunnel].serving,
        };
        let server = if place.on_server { format!("127.0.0.1:{CTL}") } else { self.address(self.server_host, CTL) };
        let outbound = |scheme| OutboundProxy { scheme, at: server.clone(), credentials: None };
        let flow = self.plan.flows.then(|| self.flow_spec(client));
        let scenario = &self.plan.scenario;
        let settings = ClientSettings {
            token: self.plan.token.then(|| client_token(client)),
            outbound: self.plan.outbound().map(outbound),
            frugal: self.plan.scenario.clients[client].frugal,
            access_log: true,
            timings: self.plan.scenario.timings_of(client),
            ..ClientSettings::new(
                [u8::try_from(client + 1).expect("few clients"); 16],
                scenario.clients[client].tunnels.iter().map(tunnel).chain(flow).collect(),
            )
        };
        ClientReload { server, settings, reconnect: false }
    }

    /// What the server is told at its start.
    pub(super) fn server_settings(&self) -> ServerSettings {
        let settings = self.plan.scenario.server(self.plan.token);
        if !self.plan.flows {
            return settings;
        }
        let timings = Timings { udp_idle_timeout: Duration::from_secs(20), ..settings.timings };
        ServerSettings { timings, ..settings }
    }

    /// A client is told something else than at its start, and perhaps something else again at once.
    pub(super) fn reload_client(&mut self, client: usize) -> bool {
        let process = self.clients[client];
        if !self.is_alive(process) {
            return false;
        }
        if self.transfers_in_flight() > 0 {
            self.coverage.saw(Sometimes::ReloadedWithTransfers);
        }
        let host = self.service_hosts[client];
        for _ in 0..self.rng.size(1, 2) {
            let before = self.client_settings(client);
            let mut rng = self.rng.fork();
            let elsewhere = |tunnel: &TunnelSpec| {
                let (place, port) = tunnel.local.rsplit_once(':').expect("HOST:PORT");
                if place == "unix" {
                    // The same one by another path.
                    return format!("unix:./{port}");
                }
                self.address(host, port.parse().expect("a port"))
            };
            let mut new = draw_client(&mut rng, self.reach(), before, elsewhere);
            if self.plan.flows && self.lines.draw(0, 3) == 0 {
                new.settings.datagram_transport = DatagramTransport::Tcp;
            }
            self.tell_client(process, new);
        }
        true
    }

    fn reach(&self) -> Reach {
        if self.plan.scenario.calm { Reach::Calm } else { Reach::Far }
    }

    /// A client is told what it was told at its start.
    pub(super) fn restore_client(&mut self, client: usize) {
        let process = self.clients[client];
        if self.is_alive(process) {
            let before = self.client_settings(client);
            self.tell_client(process, before);
        }
    }

    fn tell_client(&mut self, process: usize, new: ClientReload) {
        let main = self.processes[process].threads[0];
        self.post(main, Mail::ClientMain(ToClientMain::Reload(Box::new(new))));
    }

    /// The server is told something else than at its start.
    pub(super) fn reload_server(&mut self) -> bool {
        if !self.is_alive(self.server) {
            return false;
        }
        if self.transfers_in_flight() > 0 {
            self.coverage.saw(Sometimes::ReloadedWithTransfers);
        }
        let before = self.server_settings();
        let (clients, reach) = (self.plan.scenario.clients.len(), self.reach());
        let mut new = draw_server(&mut self.rng, reach, clients, before);
        if self.plan.flows && self.lines.draw(0, 3) == 0 {
            new.datagram_transport = DatagramTransport::Tcp;
        }
        let main = self.processes[self.server].threads[0];
        self.post(main, Mail::ServerMain(ToServerMain::Reload(Box::new(new))));
        true
    }

    /// The server is told what it was told at its start; so are all clients, who ask at once for what they were refused.
    pub(super) fn restore_server(&mut self) {
        if self.is_alive(self.server) {
            let before = self.server_settings();
            let main = self.processes[self.server].threads[0];
            self.post(main, Mail::ServerMain(ToServerMain::Reload(Box::new(before))));
        }
        for client in 0..self.plan.scenario.clients.len() {
            self.restore_client(client);
        }
    }

    /// A message is about to be handled by a thread: what it may do if it is a reload.
    pub(super) fn begin_reload(&mut self, thread: usize, mail: &Mail) {
        self.watch.reloading = match (mail, &self.threads[thread].task) {
            (Mail::ClientMain(ToClientMain::Reload(new)), Task::ClientMain(task)) => {
                if !task.is_up() {
                    self.coverage.saw(Sometimes::ReloadedDetached);
                }
                let is_same = |spec: &TunnelSpec| {
                    let same = |new: &TunnelSpec| (&new.name, new.public_port) == (&spec.name, spec.public_port);
                    new.settings.tunnels.iter().any(same)
                };
                let ids = (0..100).map(TunnelId);
                Some(Reloading::Client { stays: ids.filter(|&id| task.tunnel(id).is_some_and(is_same)).collect() })
            }
            (Mail::ServerMain(ToServerMain::Reload(new)), Task::ServerMain(_)) => {
                let before = self.server_settings();
                let tokens = |all: &[Credential]| all.iter().map(|one| one.tokens.clone()).collect::<Vec<_>>();
                let ports = |all: &[Credential]| {
                    all.iter().map(|one| (one.scope.allow_ports.clone(), one.scope.max_tunnels)).collect::<Vec<_>>()
                };
                let open = |scope: &protocol_sm::settings::Scope| (scope.allow_ports.clone(), scope.max_tunnels);
                Some(Reloading::Server {
                    same_tokens: tokens(&before.credentials) == tokens(&new.credentials),
                    same_scopes: ports(&before.credentials) == ports(&new.credentials)
                        && open(&before.open_scope) == open(&new.open_scope),
                })
            }
            _ => None,
        };
    }

    /// A driver that carries out what it was told anew says something to another.
    pub(super) fn see_said_at_reload(&mut self, mail: &Mail) {
        let harm = match (&self.watch.reloading, mail) {
            (
                Some(Reloading::Client { .. }),
                Mail::ClientLoop(ToClientLoop::End { .. } | ToClientLoop::Session { .. }),
            ) => true,
            (Some(Reloading::Client { stays }), Mail::ClientLoop(ToClientLoop::CloseTunnel { tunnel })) => {
                stays.contains(tunnel)
            }
            (Some(Reloading::Server { same_tokens, .. }), Mail::ServerLoop(ToServerLoop::Close { .. })) => *same_tokens,
            (
                Some(Reloading::Server { same_tokens, same_scopes }),
                Mail::Listener(ToListener::Close { .. } | ToListener::CloseAll { .. }),
            ) => *same_tokens && *same_scopes,
            _ => false,
        };
        if harm {
            self.fail(Kind::Safety, Property::ReloadsSpareOthers, format!("{mail:?}"));
        }
    }

    /// The listener takes a message: which tunnels are closed there from now on.
    pub(super) fn see_listener_told(&mut self, process: usize, message: &ToListener<Stream>) {
        match message {
            ToListener::Close { control, registration } => {
                self.watch.closed.insert((process, *control, registration.tunnel));
            }
            ToListener::Bind { control, registration, .. } => {
                self.watch.closed.remove(&(process, *control, registration.tunnel));
            }
            ToListener::HandOver { former, control, registration, .. } => {
                self.watch.closed.insert((process, former.control, former.registration.tunnel));
                self.watch.closed.remove(&(process, *control, registration.tunnel));
            }
            ToListener::CloseAll { .. }
            | ToListener::Retire { .. }
            | ToListener::Visitor { .. }
            | ToListener::Challenge { .. }
            | ToListener::Admit { .. }
            | ToListener::KeepTo(..)
            | ToListener::Trust(_)
            | ToListener::Report
            | ToListener::Upgrade(_)
            | ToListener::Moved { .. }
            | ToListener::Left { .. }
            | ToListener::PortClosed => {}
        }
    }

    /// The listener gives a visitor to an event loop.
    pub(super) fn see_arrival(&mut self, process: usize, control: ControlKey, tunnel: TunnelId) {
        if self.watch.closed.contains(&(process, control, tunnel)) {
            let what = format!("{control:?} {tunnel:?}");
            self.fail(Kind::Safety, Property::ClosedTakesNobody, what);
        }
    }

    pub(super) fn see_reloaded(&mut self, process: usize, changes: Option<&Changes>) {
        let Some(changes) = changes else { return self.coverage.saw(Sometimes::ReloadedStopping) };
        match self.processes[process].role {
            Role::Server => self.coverage.saw(Sometimes::ReloadedServer),
            Role::Client { .. } => self.coverage.saw(Sometimes::ReloadedClient),
        }
        for (happened, what) in [
            (!changes.moved.is_empty(), Sometimes::TunnelMoved),
            (changes.sessions_ended > 0, Sometimes::TokenRevoked),
            (changes.tunnels_closed > 0, Sometimes::ScopeShrunk),
        ] {
            if happened {
                self.coverage.saw(what);
            }
        }
    }

    /// Where tunnels were moved to and fro, visitors go where their clients say that they are.
    pub(super) fn find_publics(&mut self) {
        for tunnel in 0..self.plan.scenario.tunnels.len() {
            let client = self.clients[self.plan.scenario.tunnels[tunnel].client];
            if let Some(&told) = self.forwarding.get(&(client, tunnel)) {
                self.publics[tunnel] = Some(told);
            }
        }
    }
}
