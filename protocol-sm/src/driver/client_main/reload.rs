//! The user says anew what this client is to do: what differs is carried out, and everything else goes on.

use super::super::messages::{ToClientLoop, ToLoop};
use super::super::thread::Cx;
use super::{ClientMain, MainSys, Stage, dialled};
use crate::canary::{PlantedBug, planted};
use crate::control::tunnels::Orders;
use crate::ids::TunnelId;
use crate::names::{LocalAt, Name, is_address};
use crate::notes::Note;
use crate::outbound::Target;
use crate::reload::{ClientReload, client_settings};
use crate::settings::{ClientSettings, Timings};
use crate::wire::ClientMsg;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

impl<T> ClientMain<T> {
    /// Takes what differs over. A client that stops changes nothing any more.
    pub(super) fn reload<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, new: ClientReload) {
        if self.stopping.is_some() {
            return cx.sys.note(Note::Reloaded { changes: None });
        }
        let ClientReload { server, settings: ClientSettings { tunnels, .. }, reconnect } = &new;
        let wanted_path = self.wants_path();
        let (orders, mut changes) = self.tunnels.change(tunnels.clone(), &new.settings.timings);
        changes.settings = client_settings(&self.settings, &new.settings);
        let moves = self.server != *server;
        if moves {
            changes.settings.push("server");
        }
        let detours = self.settings.outbound != new.settings.outbound;
        let says = |settings: &ClientSettings| {
            (settings.token.clone(), settings.tls_relay, settings.frugal, settings.datagram_transport)
        };
        let differs = says(&self.settings) != says(&new.settings) || self.settings.uplink != new.settings.uplink;
        let anew = moves || detours || *reconnect || differs;
        if self.settings.timings != new.settings.timings {
            self.keep_to(cx, &new.settings.timings);
        }
        let ClientSettings { client_id, access_log, examines, .. } = self.settings;
        let Timings { reconnect_min, reconnect_max, .. } = new.settings.timings;
        self.settings = ClientSettings { client_id, access_log, examines, tunnels: Vec::new(), ..new.settings };
        if let Some(control) = &mut self.control {
            control.open_at_most(self.settings.max_proxy_conns);
        }
        cx.sys.note(Note::Reloaded { changes: Some(Box::new(changes)) });
        self.carry_out(cx, orders);
        self.reconnect.on_changed(reconnect_min, reconnect_max);
        self.tunnels.hurry(cx.now);
        self.look_up_locals_anew(cx);
        if moves || detours {
            self.move_to(new.server);
        }
        let wants_path = self.wants_path();
        if !wants_path {
            self.shut_path(cx);
        }
        if anew || wants_path != wanted_path {
            self.connect_anew(cx);
        } else if let Stage::Pausing(Some(_)) = self.stage {
            self.begin(cx);
        }
        self.register(cx);
    }

    fn carry_out<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, orders: Orders) {
        let Orders { close, tell, relocate, serve } = orders;
        for tunnel in close {
            self.forget_tunnel(cx, tunnel);
        }
        for tunnel in tell {
            self.tell_of(cx, tunnel);
            // The event loops are told its name with the answer.
            self.look_up_local(cx, tunnel);
        }
        for tunnel in serve {
            let serving = self.tunnels.spec(tunnel).map(|spec| spec.serving).unwrap_or_default();
            for loop_index in 0..self.loop_count {
                cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::Serve { tunnel, serving } });
            }
        }
        for tunnel in relocate {
            let Some(place) = self.tunnels.spec(tunnel).map(|spec| LocalAt::of(&spec.local)) else { continue };
            for loop_index in 0..self.loop_count {
                let message = ToClientLoop::Relocated { tunnel, place: place.clone() };
                cx.sys.tell(ToLoop { loop_index, message });
            }
        }
        if planted(PlantedBug::ReloadCutsSession) {
            self.end_session(cx);
            self.hang_up(cx);
        }
    }

    /// The server is told a registered tunnel's name and limits.
    fn tell_of<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, tunnel: TunnelId) {
        if let Some(spec) = self.tunnels.spec(tunnel) {
            let (name, limits) = (spec.name.clone(), spec.limits.clone());
            self.send(cx, ClientMsg::ChangeTunnel { tunnel, name, limits });
        }
    }

    /// Looks up the LocalServers that are new, and those that did not resolve.
    fn look_up_locals_anew<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        for tunnel in self.tunnels.unlocated().collect::<Vec<_>>() {
            self.look_up_local(cx, tunnel);
        }
        self.look_up_again(cx);
    }

    fn keep_to<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, timings: &Timings) {
        cx.sys.keep_to(timings);
        for loop_index in 0..self.loop_count {
            let message = ToClientLoop::KeepTo(Box::new(timings.clone()));
            cx.sys.tell(ToLoop { loop_index, message });
        }
    }

    /// The server is another one, has another name, or is reached through another proxy.
    fn move_to(&mut self, server: String) {
        self.server_name = Name::new(is_address(dialled(&self.settings, &server)));
        self.target = Target::new(&server);
        self.server = server;
        self.servers += 1;
    }

    /// Leaves the ctl_conn, or what was to become one, for a new one. The session goes on if the server knows it.
    // PROTOCOL.md: P-RES-9.
    fn connect_anew<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        if self.is_up() {
            self.lost = Some(cx.now);
        }
        self.hang_up(cx);
        self.begin(cx);
    }
}
