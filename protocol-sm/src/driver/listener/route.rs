//! What a public port leads to: the tunnels behind it, each with the gate that its client asked for.

use super::super::messages::ControlKey;
use crate::gate::Gate;
use crate::ids::Registration;
use crate::report::Counted;
use alloc::vec;
use alloc::vec::Vec;

/// The tunnels behind one public port; it closes with the last of them. Today there is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Route {
    members: Vec<Member>,
}

/// A tunnel, and who may visit it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub(super) control: ControlKey,
    pub(super) registration: Registration,
    pub(super) gate: Gate,
    /// Visitors that were turned away.
    pub(super) turned_away: Counted<u64>,
}

impl Route {
    /// A route that leads to this tunnel.
    pub(super) fn to(member: Member) -> Self {
        Self { members: vec![member] }
    }

    /// The tunnel that the next visitor gets.
    pub(super) fn resolve(&mut self) -> &mut Member {
        self.members.first_mut().expect("a route leads to a tunnel")
    }

    /// A tunnel behind it.
    pub(super) fn member(&mut self, control: ControlKey, registration: Registration) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| (member.control, member.registration) == (control, registration))
    }

    /// Another session's tunnel takes the place of one that is behind it, and judges visitors by what is known of them.
    pub(super) fn pass_on(&mut self, from: (ControlKey, Registration), mut to: Member) {
        let former = self.member(from.0, from.1).expect("it is behind this port");
        to.gate.follow(&mut former.gate);
        *former = to;
    }

    /// A tunnel was closed. Whether none is left.
    #[must_use]
    pub(super) fn remove(&mut self, control: ControlKey, registration: Registration) -> bool {
        self.members.retain(|member| (member.control, member.registration) != (control, registration));
        self.members.is_empty()
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }
}
