//! The rules of UDP sockets: the public one that the listener binds and an event loop reads, and a flow's own.

use super::net::{Linux, Net, OPTIONS, Simulated, token};
use core::net::SocketAddr;
use protocol_sm::driver::{Address, Datagrams, Listen, Streams, SysError, Token};
use protocol_sm::settings::{Datagrams as Kind, Origin};
use runtime_sim::kernel::SockId;

const NEAR: Token = token(1);
const FAR: Token = token(2);
const COPY: Token = token(3);

/// What the rules need of a system besides.
trait UdpNet: Net {
    type Door;

    fn bind(&mut self, at: SocketAddr) -> Result<(Self::Door, SocketAddr), SysError>;
    fn share(&mut self, door: &Self::Door, token: Token) -> Self::Stream;
    fn leave(&mut self, door: Self::Door);
    fn associate(&mut self, to: SocketAddr, token: Token) -> Self::Stream;
    fn hear(&mut self, socket: &Self::Stream) -> Result<(Address, Vec<u8>), SysError>;
    fn say(&mut self, socket: &Self::Stream, to: Option<Address>, datagram: &[u8]) -> Result<(), SysError>;
}

impl UdpNet for Simulated {
    type Door = SockId;

    fn bind(&mut self, at: SocketAddr) -> Result<(SockId, SocketAddr), SysError> {
        Ok(self.kernel.bind_udp(self.proc, at, OPTIONS)?)
    }
    fn share(&mut self, door: &SockId, token: Token) -> SockId {
        let copy = self.kernel.share_udp(*door).unwrap();
        self.kernel.watch(copy, self.poll, token, false);
        copy
    }
    fn leave(&mut self, door: SockId) {
        self.kernel.close(door, false);
    }
    fn associate(&mut self, to: SocketAddr, token: Token) -> SockId {
        let sock = self.kernel.connect_udp(self.proc, to, OPTIONS).unwrap();
        self.kernel.watch(sock, self.poll, token, false);
        sock
    }
    fn hear(&mut self, socket: &SockId) -> Result<(Address, Vec<u8>), SysError> {
        Ok(self.kernel.hear(*socket)?)
    }
    fn say(&mut self, socket: &SockId, to: Option<Address>, datagram: &[u8]) -> Result<(), SysError> {
        Ok(self.kernel.say(*socket, to, datagram)?)
    }
}

impl UdpNet for Linux {
    type Door = <runtime_epoll::Linux<()> as Listen>::Listener;

    fn bind(&mut self, at: SocketAddr) -> Result<(Self::Door, SocketAddr), SysError> {
        self.sys.bind_udp(at)
    }
    fn share(&mut self, door: &Self::Door, token: Token) -> Self::Stream {
        let copy = Listen::share(&mut self.sys, door).unwrap();
        self.sys.watch(&copy, token).unwrap();
        copy
    }
    fn leave(&mut self, door: Self::Door) {
        self.sys.unlisten(door);
    }
    fn associate(&mut self, to: SocketAddr, token: Token) -> Self::Stream {
        Datagrams::associate(&mut self.sys, &Origin::default(), to, Kind::Connected, token).unwrap()
    }
    fn hear(&mut self, socket: &Self::Stream) -> Result<(Address, Vec<u8>), SysError> {
        let mut bytes = Vec::new();
        Ok((Datagrams::hear(&mut self.sys, socket, &mut bytes)?, bytes))
    }
    fn say(&mut self, socket: &Self::Stream, to: Option<Address>, datagram: &[u8]) -> Result<(), SysError> {
        Datagrams::say(&mut self.sys, socket, to, datagram)
    }
}

/// A flow's socket and the public one that it speaks to.
struct Talk<N: UdpNet> {
    net: N,
    door: N::Door,
    at: SocketAddr,
    near: N::Stream,
    far: N::Stream,
}

impl<N: UdpNet> Talk<N> {
    fn new() -> Self {
        let mut net = N::new();
        let (door, at) = net.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let far = net.share(&door, FAR);
        let near = net.associate(at, NEAR);
        Self { net, door, at, near, far }
    }

    fn heard(&mut self) -> (Address, Vec<u8>) {
        loop {
            match self.net.hear(&self.far) {
                Err(SysError::WouldBlock) => drop(self.net.until(FAR, |ready| ready.readable)),
                heard => return heard.unwrap(),
            }
        }
    }

    /// Nobody is there any more.
    fn left() -> (N, N::Stream) {
        let Self { mut net, door, near, far, .. } = Self::new();
        net.close(far);
        net.leave(door);
        net.gather();
        net.seen().clear();
        (net, near)
    }
}

rules! {
    fn a_datagram_is_whole_and_so_is_an_empty_one<N: UdpNet>() {
        let mut talk = Talk::<N>::new();
        for length in [3, 0, 1_200, 65_507, 0] {
            talk.net.say(&talk.near, None, &vec![7; length]).unwrap();
            assert_eq!(talk.heard().1, vec![7; length]);
        }
        assert_eq!(talk.net.hear(&talk.far).err(), Some(SysError::WouldBlock));
    }

    fn an_answer_comes_from_where_was_spoken_to<N: UdpNet>() {
        let mut talk = Talk::<N>::new();
        talk.net.say(&talk.near, None, b"who").unwrap();
        let (from, _) = talk.heard();
        assert_eq!(from.own, talk.at.ip());
        talk.net.say(&talk.far, Some(from), b"you").unwrap();
        talk.net.until(NEAR, |ready| ready.readable);
        assert_eq!(talk.net.hear(&talk.near).unwrap().1, b"you");
    }

    fn a_connected_socket_hears_nobody_else<N: UdpNet>() {
        let mut talk = Talk::<N>::new();
        talk.net.say(&talk.near, None, b"who").unwrap();
        let (from, _) = talk.heard();
        let (other, _) = talk.net.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let stranger = talk.net.share(&other, COPY);
        talk.net.say(&stranger, Some(from), b"hello").unwrap();
        assert!(talk.net.quiet(NEAR));
        assert_eq!(talk.net.hear(&talk.near).err(), Some(SysError::WouldBlock));
    }

    /// What was sent before found nobody: the next call says so, and sends nothing itself.
    fn who_speaks_to_nobody_is_told_by_the_next_call<N: UdpNet>() {
        let (mut net, near) = Talk::<N>::left();
        net.say(&near, None, b"first").unwrap();
        net.until(NEAR, |ready| ready.error);
        assert_eq!(net.say(&near, None, b"second"), Err(SysError::Refused));
        net.gather();
        assert_eq!(net.hear(&near).err(), Some(SysError::WouldBlock), "once");
        net.say(&near, None, b"third").unwrap();
        net.until(NEAR, |ready| ready.error);
        assert_eq!(net.hear(&near).err(), Some(SysError::Refused));
    }

    /// A port is free when all copies of its socket are closed, and a copy has what the others have not read.
    fn copies_share_what_comes_and_the_port<N: UdpNet>() {
        let mut talk = Talk::<N>::new();
        talk.net.say(&talk.near, None, b"one").unwrap();
        talk.net.until(FAR, |ready| ready.readable);
        let copy = talk.net.share(&talk.door, COPY);
        talk.net.until(COPY, |ready| ready.readable);
        assert_eq!(talk.net.hear(&copy).unwrap().1, b"one");
        assert_eq!(talk.net.hear(&talk.far).err(), Some(SysError::WouldBlock));
        talk.net.close(talk.far);
        talk.net.leave(talk.door);
        assert_eq!(talk.net.bind(talk.at).err(), Some(SysError::InUse));
        talk.net.close(copy);
        assert!(talk.net.bind(talk.at).is_ok());
    }

    fn a_port_of_udp_and_its_twin_are_two<N: UdpNet>() {
        let mut talk = Talk::<N>::new();
        let (door, at) = talk.net.listen_at(talk.at, COPY).unwrap();
        assert_eq!(at, talk.at);
        talk.net.unlisten(door);
        assert_eq!(talk.net.bind(SocketAddr::from(([0; 4], talk.at.port()))).err(), Some(SysError::InUse));
    }

    /// Each is reported, however many are unread: production reads until there is none.
    fn each_that_comes_is_an_edge<N: UdpNet>() {
        let mut talk = Talk::<N>::new();
        for _ in 0..2 {
            talk.net.say(&talk.near, None, b"more").unwrap();
            talk.net.until(FAR, |ready| ready.readable);
        }
        assert_eq!([talk.heard().1, talk.heard().1], [b"more", b"more"]);
    }
}
