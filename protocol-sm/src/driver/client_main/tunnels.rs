//! What the main thread does about tunnels: look-ups, registrations, and their end.

use super::super::messages::{ToClientLoop, ToLoop};
use super::super::sys::{Lookup, random_u32};
use super::super::thread::Cx;
use super::{ClientMain, MainSys};
use crate::bandwidth::Slice;
use crate::canary::{PlantedBug, planted};
use crate::codes::{TunnelRefusal, Violation};
use crate::control::tunnels::AfterRefusal;
use crate::ids::{ClientId, TunnelId};
use crate::names::LocalAt;
use crate::notes::Note;
use crate::visit::Label;
use crate::wire::{ClientMsg, EXAMINE, HOSTS, UDP};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;

impl<T> ClientMain<T> {
    /// Looks up every LocalServer.
    pub(super) fn look_up_locals<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        for tunnel in self.tunnels.ids().collect::<Vec<_>>() {
            self.look_up_local(cx, tunnel);
        }
    }

    pub(super) fn look_up_local<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, tunnel: TunnelId) {
        let Some((which, name)) = self.tunnels.begin_lookup(tunnel) else { return };
        if LocalAt::of(name).unix().is_some() {
            self.on_located(cx, tunnel, which, Vec::new());
        } else {
            cx.sys.resolve(Lookup::Local(tunnel, which), name);
        }
    }

    /// Looks up again the names that did not resolve, so that they are known when a visitor comes.
    pub(super) fn look_up_again<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        while let Some(tunnel) = self.tunnels.due_lookup(cx.now) {
            self.look_up_local(cx, tunnel);
        }
    }

    pub(super) fn on_located<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        tunnel: TunnelId,
        which: u32,
        addresses: Vec<SocketAddr>,
    ) {
        let spec = self.tunnels.spec(tunnel);
        let name = spec.filter(|_| self.settings.access_log).map(|spec| spec.name.clone());
        let serving = spec.map(|spec| spec.serving).unwrap_or_default();
        let sources = spec.map(|spec| spec.local_sources.clone()).unwrap_or_default();
        let client = ClientId(self.settings.client_id);
        let label = name.map(|tunnel| Arc::new(Label { tunnel, client, credential: None }));
        let place = spec.map_or(LocalAt::Name, |spec| LocalAt::of(&spec.local));
        let Some(locals) = self.tunnels.on_located(tunnel, which, addresses, cx.now) else { return };
        for loop_index in 0..self.loop_count {
            let (locals, place) = (locals.to_vec(), place.clone());
            let (sources, label) = (sources.clone(), label.clone());
            let message = ToClientLoop::Tunnel { tunnel, locals, place, sources, serving, label };
            cx.sys.tell(ToLoop { loop_index, message });
        }
        self.register(cx);
    }

    /// Registers what is due.
    pub(super) fn register<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        while self.is_up()
            && self.stopping.is_none()
            && let Some(msg) = self.tunnels.register(cx.now)
        {
            // PROTOCOL.md: P-EVO-1.
            if let ClientMsg::RegisterHost { tunnel, .. } = msg
                && self.features & HOSTS == 0
            {
                self.refuse(cx, tunnel, TunnelRefusal::NoHosts).expect("it was asked for");
            } else if let ClientMsg::RegisterUdp { tunnel, .. } = msg
                && self.features & UDP == 0
            {
                self.refuse(cx, tunnel, TunnelRefusal::NoUdp).expect("it was asked for");
            } else if self.settings.examines
                && self.features & EXAMINE == 0
                && let ClientMsg::RegisterTunnel { tunnel, .. }
                | ClientMsg::RegisterUdp { tunnel, .. }
                | ClientMsg::RegisterHost { tunnel, .. } = msg
            {
                // PROTOCOL.md: P-EXAM-1.
                self.refuse(cx, tunnel, TunnelRefusal::NoExamine).expect("it was asked for");
            } else {
                self.send(cx, msg);
            }
        }
    }

    pub(super) fn on_tunnel_ready<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        tunnel: TunnelId,
        public: SocketAddr,
    ) -> Result<(), Violation> {
        self.tunnels.on_ready(tunnel, public)?;
        self.carriage.on_open(cx.now);
        self.announce(cx);
        self.retire(cx);
        Ok(())
    }

    /// Closes the tunnels that have moved, once those that take their places are open.
    fn retire<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        while let Some(tunnel) = self.tunnels.retired().filter(|_| !planted(PlantedBug::MovedTunnelKept)) {
            self.forget_tunnel(cx, tunnel);
        }
    }

    /// Forgets the tunnels that have moved: a new session does not know them.
    pub(super) fn forget_moved<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        for tunnel in self.tunnels.moved().collect::<Vec<_>>() {
            let _there = self.tunnels.close(tunnel);
            self.tell_loops_closed(cx, tunnel);
        }
    }

    pub(super) fn on_tunnel_closed<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        tunnel: TunnelId,
        code: TunnelRefusal,
    ) -> Result<(), Violation> {
        let random = random_u32(cx.sys);
        match self.tunnels.on_closed(tunnel, code, cx.now, random)? {
            AfterRefusal::Gone => self.tell_loops_closed(cx, tunnel),
            AfterRefusal::RetryAtOnce => self.register(cx),
            AfterRefusal::RetryLater { pause, .. } => cx.sys.note(Note::NotForwarding { tunnel, code, pause }),
        }
        Ok(())
    }

    /// Tells people which tunnels are reachable, once visitors can be carried.
    pub(super) fn announce<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        while self.is_up()
            && self.carriage.carries()
            && let Some((tunnel, public)) = self.tunnels.announce()
        {
            cx.sys.note(Note::Forwarding { tunnel, public });
        }
    }

    pub(super) fn on_tunnel_refused<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        tunnel: TunnelId,
        code: TunnelRefusal,
    ) -> Result<(), Violation> {
        self.refuse(cx, tunnel, code)?;
        self.register(cx);
        Ok(())
    }

    fn refuse<S: MainSys<T>>(
        &mut self,
        cx: &mut Cx<'_, S>,
        tunnel: TunnelId,
        code: TunnelRefusal,
    ) -> Result<(), Violation> {
        let random = random_u32(cx.sys);
        let after = self.tunnels.on_refused(tunnel, code, cx.now, random)?;
        if let Some(refused) = self.tunnels.hopeless().filter(|_| !self.settings.examines) {
            let each = refused.iter().map(|(spec, code)| match &spec.site {
                Some(site) => format!("tunnel {:?}, {site}: {code}", spec.name),
                None => format!("tunnel {:?}, public port {}: {code}", spec.name, spec.public_port),
            });
            let sentence = each.collect::<Vec<_>>().join("; ");
            self.refused_for_good(cx, sentence);
            return Ok(());
        }
        if let AfterRefusal::RetryLater { pause, is_news: true } = after {
            cx.sys.note(Note::NotForwarding { tunnel, code, pause });
        }
        Ok(())
    }

    /// Gives the event loops what their tunnels may move by now.
    pub(super) fn deal_bandwidth<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>) {
        while let Some(Slice { tunnel, direction, loop_index, bytes }) = self.buckets.next(cx.now) {
            let message = ToClientLoop::Bandwidth { tunnel, direction, bytes };
            cx.sys.tell(ToLoop { loop_index, message });
        }
    }

    /// Forgets a tunnel, and tells the event loops and the server.
    pub(super) fn forget_tunnel<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, tunnel: TunnelId) {
        if !self.tunnels.close(tunnel) {
            return;
        }
        self.tell_loops_closed(cx, tunnel);
        self.send(cx, ClientMsg::CloseTunnel { tunnel });
        self.retire(cx);
    }

    fn tell_loops_closed<S: MainSys<T>>(&mut self, cx: &mut Cx<'_, S>, tunnel: TunnelId) {
        for loop_index in 0..self.loop_count {
            cx.sys.tell(ToLoop { loop_index, message: ToClientLoop::CloseTunnel { tunnel } });
        }
    }
}
