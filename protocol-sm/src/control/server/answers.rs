//! What a session asks of the server's main thread.

use crate::codes::TunnelRefusal;
use crate::gate::Gate;
use crate::ids::{Registration, TunnelId};
use crate::routes::Site;
use crate::wire::{ClientBody, ServerMsg, TransferMsg};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// A tunnel that a client has registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelView<'a> {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// Its name.
    pub name: &'a str,
    /// The public port that its client wants; 0: any, or it has a host.
    pub wanted: u16,
    /// The address where its client wants it; none: the server's choice.
    pub bind_addr: Option<IpAddr>,
    /// Whether that is one of UDP.
    pub udp: bool,
    /// Its host, if it has one instead of a port.
    pub site: Option<&'a Site>,
    /// Its public address, if it is open.
    pub public: Option<SocketAddr>,
}

/// Where a tunnel's visitors are to come in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At a public port of its own: ports to try in this order, at least one.
    Ports(VecDeque<u16>),
    /// The same, of UDP.
    Udp(VecDeque<u16>),
    /// At the port of hosts, those of this one.
    Site(Site),
}

/// A public port that is to be opened, or a host that is to be led to its tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bind {
    /// What was registered.
    pub registration: Registration,
    /// Where.
    pub place: Place,
    /// The address of the port; none: the server's choice.
    pub bind_addr: Option<IpAddr>,
    /// Who may visit.
    pub gate: Box<Gate>,
    /// It is closed at once: its client only wants to know whether it could have it.
    pub examined: bool,
}

/// A tunnel whose visitors are judged anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Admitted {
    /// What was registered.
    pub registration: Registration,
    /// Who may visit.
    pub gate: Box<Gate>,
}

/// A tunnel that was taken from its client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Withdrawn {
    /// Which.
    pub tunnel: TunnelId,
    /// What its client has asked for.
    pub asked: Asked,
    /// Its registration, if its client was told that it is ready: if a public port is open for it, that is to be closed.
    /// If not, its registration is still to be answered.
    pub open: Option<Registration>,
}

/// What a client has asked for with a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Its name.
    pub name: String,
    /// The public port; 0: any, or it has a host.
    pub wanted: u16,
    /// The address where that is to be; none: the server's choice.
    pub bind_addr: Option<IpAddr>,
    /// Whether that is one of UDP.
    pub udp: bool,
    /// The host, if it has one instead of a port.
    pub site: Option<Site>,
}

/// What follows from the listener's answer to a [`Bind`].
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bound {
    /// What to send to the client. Nothing if it has closed the tunnel meanwhile.
    pub reply: Option<ServerMsg>,
    /// The port that was opened is to be closed again.
    pub close: bool,
    /// What to open next.
    pub next: Option<Bind>,
}

/// What a client's message asks of the main thread.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reaction {
    /// Nothing.
    Nothing,
    /// Say that a tunnel is refused, with which the client has asked for this.
    Refuse(TunnelId, Asked, TunnelRefusal),
    /// Open a public port.
    Bind(Bind),
    /// Judge a tunnel's visitors anew.
    Admit(Admitted),
    /// Close these public ports; their waiting visitors are reset.
    Unbind(Vec<Registration>),
    /// Pass the message to this event loop.
    Pass(usize, TransferMsg<ClientBody>),
    /// Tell these event loops that so many of the conns they asked for will not come.
    Failed(Vec<(usize, u32)>),
}
