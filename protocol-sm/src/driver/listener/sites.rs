//! Which tunnel a host leads to. Each host of each of the two ports has one.

use super::super::messages::ControlKey;
use super::route::Member;
use crate::ids::{Registration, TunnelId};
use crate::routes::{Named, Site, Speaks, Web};
use crate::sys_error::SysError;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Sites {
    /// Of the two ports, by the hosts' keys.
    members: [BTreeMap<String, Member>; 2],
    site_of: BTreeMap<(ControlKey, Registration), Site>,
}

impl Sites {
    /// Leads a host to a tunnel.
    ///
    /// # Errors
    /// [`SysError::InUse`]: it leads to another one.
    // PROTOCOL.md: P-HOST-4.
    pub(super) fn insert(&mut self, site: Site, member: Member) -> Result<(), SysError> {
        let members = &mut self.members[site.web as usize];
        if members.contains_key(site.host.key()) {
            return Err(SysError::InUse);
        }
        let key = (member.control, member.registration);
        members.insert(String::from(site.host.key()), member);
        self.site_of.insert(key, site);
        Ok(())
    }

    /// The tunnel of a visitor who has named a host: the one that has the nearest.
    // PROTOCOL.md: P-HOST-5.
    pub(super) fn find(&mut self, web: Web, named: &Named) -> Option<&mut Member> {
        let members = &mut self.members[web as usize];
        let key = named.keys().find(|&key| members.contains_key(key))?;
        members.get_mut(key)
    }

    /// What the service of a visitor speaks who has named a host over TLS that is to end here, if there is one: no tunnel
    /// takes TLS as it is for a host as near.
    // PROTOCOL.md: P-HOST-8.
    pub(super) fn behind_tls(&self, named: &Named) -> Option<Speaks> {
        let [plain, sealed] = &self.members;
        let key = named.keys().find(|&key| plain.contains_key(key) || sealed.contains_key(key));
        match key {
            Some(key) if sealed.contains_key(key) => None,
            Some(key) => Some(plain[key].gate.service.speaks),
            // Which one is said inside.
            None => named.name().is_none().then_some(Speaks::Http1).filter(|_| !plain.is_empty()),
        }
    }

    /// Whether the tunnel of whoever has named this host inside of TLS may be that of another one than TLS has named.
    // PROTOCOL.md: P-HOST-9.
    pub(super) fn are_of_one_holder(&self, outside: &Named, inside: &Named) -> bool {
        let holder = |named: &Named| {
            let [plain, _] = &self.members;
            named.keys().find_map(|key| plain.get(key)).map(|member| member.gate.holder)
        };
        outside.name().is_none() || holder(outside) == holder(inside)
    }

    pub(super) fn member(&mut self, control: ControlKey, registration: Registration) -> Option<&mut Member> {
        let site = self.site_of.get(&(control, registration))?;
        self.members[site.web as usize].get_mut(site.host.key())
    }

    /// Another session's tunnel takes the place of one that is there.
    pub(super) fn pass_on(&mut self, from: (ControlKey, Registration), mut to: Member) {
        let former = self.member(from.0, from.1).expect("an open tunnel has its port or its host");
        to.gate.follow(&mut former.gate);
        let key = (to.control, to.registration);
        *former = to;
        let site = self.site_of.remove(&from).expect("it was found");
        self.site_of.insert(key, site);
    }

    /// A tunnel was closed, if it had a host.
    pub(super) fn remove(&mut self, control: ControlKey, registration: Registration) {
        if let Some(site) = self.site_of.remove(&(control, registration)) {
            self.members[site.web as usize].remove(site.host.key());
        }
    }

    /// The tunnels of a session that have hosts.
    pub(super) fn of(&self, control: ControlKey) -> Vec<Registration> {
        let first = Registration { tunnel: TunnelId(0), serial: 0 };
        let of_session = self.site_of.range((control, first)..).take_while(|((of, _), _)| *of == control);
        of_session.map(|(&(_, registration), _)| registration).collect()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().flat_map(BTreeMap::values)
    }

    pub(super) fn registrations(&self) -> impl Iterator<Item = (ControlKey, Registration)> {
        self.site_of.keys().copied()
    }

    /// Whether a tunnel takes a visitor who has named a host.
    pub(super) fn takes(&self, web: Web, named: &Named) -> bool {
        named.keys().any(|key| self.members[web as usize].contains_key(key))
    }

    pub(super) fn has(&self, control: ControlKey, registration: Registration) -> bool {
        self.site_of.contains_key(&(control, registration))
    }

    pub(super) fn leads(&self, site: &Site) -> bool {
        self.members[site.web as usize].contains_key(site.host.key())
    }

    pub(super) fn assert_consistent(&self) {
        let count: usize = self.members.iter().map(BTreeMap::len).sum();
        assert_eq!(count, self.site_of.len(), "a tunnel has its host, and a host its tunnel");
        for (key, site) in &self.site_of {
            let member = &self.members[site.web as usize][site.host.key()];
            assert_eq!((member.control, member.registration), *key, "a host leads to the tunnel that has it");
        }
    }
}
