//! The rules of Unix sockets: what a program sees of a service that listens at one.

use super::net::{Linux, Net, OPTIONS, Simulated, token};
use protocol_sm::driver::{Streams, SysError, Token};
use runtime_sim::kernel::SockId;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU16, Ordering};

const NEAR: Token = token(1);
/// As many may wait to be accepted, and one more.
const BACKLOG: usize = 2;

/// What the rules need of a system besides: services, which no driver sees.
trait UnixNet: Net {
    type Door;
    type Service;

    fn open_door(&mut self, path: u16) -> Self::Door;
    fn call(&mut self, path: u16) -> Result<Self::Stream, SysError>;
    fn answer(&mut self, door: &Self::Door) -> Self::Service;
    fn close_door(&mut self, door: Self::Door);
    /// `None`: there is no room, or nothing to hear.
    fn say(&mut self, service: &mut Self::Service, bytes: &[u8]) -> Option<usize>;
    fn hear(&mut self, service: &mut Self::Service, into: &mut [u8]) -> Option<usize>;
    fn shut(&mut self, service: &Self::Service, half: Shutdown);
    fn leave(&mut self, service: Self::Service);
}

impl UnixNet for Simulated {
    type Door = SockId;
    type Service = SockId;

    fn open_door(&mut self, path: u16) -> SockId {
        self.kernel.listen_unix(self.proc, path, BACKLOG, OPTIONS).unwrap()
    }
    fn call(&mut self, path: u16) -> Result<SockId, SysError> {
        let sock = self.kernel.connect_unix(self.proc, path, OPTIONS)?;
        self.kernel.watch(sock, self.poll, NEAR, true);
        Ok(sock)
    }
    fn answer(&mut self, door: &SockId) -> SockId {
        self.kernel.accept(*door).unwrap().0
    }
    fn close_door(&mut self, door: SockId) {
        self.kernel.close(door, false);
    }
    fn say(&mut self, service: &mut SockId, bytes: &[u8]) -> Option<usize> {
        self.kernel.send(*service, bytes).ok()
    }
    fn hear(&mut self, service: &mut SockId, into: &mut [u8]) -> Option<usize> {
        self.kernel.recv(*service, into).ok()
    }
    fn shut(&mut self, service: &SockId, half: Shutdown) {
        match half {
            Shutdown::Read => self.kernel.shut_read(*service).unwrap(),
            Shutdown::Write => self.kernel.shut_write(*service).unwrap(),
            Shutdown::Both => unreachable!("one by one"),
        }
    }
    fn leave(&mut self, service: SockId) {
        self.kernel.close(service, true);
    }
}

fn name(path: u16) -> String {
    format!("cproxy-conformance-{}-{path}", std::process::id())
}

impl UnixNet for Linux {
    type Door = UnixListener;
    type Service = UnixStream;

    fn open_door(&mut self, path: u16) -> UnixListener {
        let address = SocketAddr::from_abstract_name(name(path)).unwrap();
        let door = UnixListener::bind_addr(&address).unwrap();
        nix::sys::socket::listen(&door, nix::sys::socket::Backlog::new(BACKLOG as i32).unwrap()).unwrap();
        door
    }
    fn call(&mut self, path: u16) -> Result<Self::Stream, SysError> {
        self.sys.connect_unix(&format!("@{}", name(path)), NEAR)
    }
    fn answer(&mut self, door: &UnixListener) -> UnixStream {
        let service = door.accept().unwrap().0;
        service.set_nonblocking(true).unwrap();
        service
    }
    fn close_door(&mut self, door: UnixListener) {
        drop(door);
    }
    fn say(&mut self, service: &mut UnixStream, bytes: &[u8]) -> Option<usize> {
        service.write(bytes).ok()
    }
    fn hear(&mut self, service: &mut UnixStream, into: &mut [u8]) -> Option<usize> {
        match service.read(into) {
            Ok(n) => Some(n),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("a service's read failed: {error}"),
        }
    }
    fn shut(&mut self, service: &UnixStream, half: Shutdown) {
        service.shutdown(half).unwrap();
    }
    fn leave(&mut self, service: UnixStream) {
        drop(service);
    }
}

/// A program's connection to a service.
struct Call<N: UnixNet> {
    net: N,
    near: N::Stream,
    service: N::Service,
}

fn free_path() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl<N: UnixNet> Call<N> {
    fn new() -> Self {
        let (mut net, path) = (N::new(), free_path());
        let door = net.open_door(path);
        let near = net.call(path).unwrap();
        let service = net.answer(&door);
        net.close_door(door);
        net.gather();
        net.seen().clear();
        Self { net, near, service }
    }

    fn read(&mut self) -> Result<usize, SysError> {
        self.net.recv(&self.near, &mut [0; 1000])
    }

    fn write(&mut self) -> Result<usize, SysError> {
        self.net.send(&self.near, b"words")
    }
}

rules! {
    fn one_is_connected_at_once_or_not_at_all<N: UnixNet>() {
        let (mut net, path) = (N::new(), free_path());
        assert_eq!(net.call(path).err(), Some(SysError::Refused));
        let door = net.open_door(path);
        let near = net.call(path).unwrap();
        assert_eq!(net.take_error(&near), Ok(()));
        assert_eq!(net.send(&near, b"words"), Ok(5), "before it is accepted");
        let waiting: Vec<_> = (0..BACKLOG).map(|_| net.call(path).unwrap()).collect();
        assert_eq!(net.call(path).err(), Some(SysError::WouldBlock));
        let mut service = net.answer(&door);
        assert_eq!(net.hear(&mut service, &mut [0; 10]), Some(5));
        assert!(net.call(path).is_ok());
        waiting.into_iter().for_each(|stream| net.close(stream));
        net.close_door(door);
    }

    fn who_was_never_accepted_is_reset<N: UnixNet>() {
        let (mut net, path) = (N::new(), free_path());
        let door = net.open_door(path);
        let near = net.call(path).unwrap();
        net.close_door(door);
        net.until(NEAR, |ready| ready.error);
        assert_eq!(net.recv(&near, &mut [0; 10]), Err(SysError::Reset));
        assert_eq!(net.recv(&near, &mut [0; 10]), Ok(0), "once");
    }

    /// A write fails, and no error is there for anybody: what it says can still be read, up to its end.
    fn a_service_that_reads_no_more_may_speak<N: UnixNet>() {
        let mut call = Call::<N>::new();
        call.net.shut(&call.service, Shutdown::Read);
        assert_eq!(call.write(), Err(SysError::ResetBehindEnd));
        assert_eq!(call.net.take_error(&call.near), Ok(()));
        assert_eq!(call.read(), Err(SysError::WouldBlock));
        call.net.gather();
        let seen = call.net.seen().remove(&NEAR).unwrap_or_default();
        assert!(!seen.hup && !seen.error && !seen.readable, "{seen:?}");
        assert_eq!(call.net.say(&mut call.service, b"go"), Some(2));
        call.net.until(NEAR, |ready| ready.readable);
        assert_eq!(call.read(), Ok(2));
        assert_eq!(call.write(), Err(SysError::ResetBehindEnd));
        call.net.shut(&call.service, Shutdown::Write);
        assert!(!call.net.until(NEAR, |ready| ready.hup).error);
        assert_eq!(call.read(), Ok(0));
    }

    fn by_splice_it_is_the_same<N: UnixNet>() {
        let mut call = Call::<N>::new();
        let pipe = call.net.pipe();
        assert_eq!(call.net.say(&mut call.service, b"go"), Some(2));
        call.net.until(NEAR, |ready| ready.readable);
        assert_eq!(call.net.splice_in(&call.near, &pipe, 100), Ok(2));
        call.net.shut(&call.service, Shutdown::Read);
        assert_eq!(call.net.splice_out(&pipe, &call.near, 2), Err(SysError::ResetBehindEnd));
        let other = call.net.pipe();
        assert_eq!(call.net.splice_in(&call.near, &other, 100), Err(SysError::WouldBlock));
        assert_eq!(call.net.say(&mut call.service, b"on"), Some(2));
        call.net.until(NEAR, |ready| ready.readable);
        assert_eq!(call.net.splice_in(&call.near, &other, 100), Ok(2));
    }

    fn one_that_has_left_is_read_to_its_end<N: UnixNet>() {
        let mut call = Call::<N>::new();
        assert_eq!(call.net.say(&mut call.service, b"last words"), Some(10));
        call.net.leave(call.service);
        assert!(!call.net.until(NEAR, |ready| ready.hup).error);
        assert_eq!(call.net.send(&call.near, b"words"), Err(SysError::ResetBehindEnd));
        assert_eq!(call.net.recv(&call.near, &mut [0; 100]), Ok(10));
        assert_eq!(call.net.recv(&call.near, &mut [0; 100]), Ok(0));
    }

    /// A write does not take the error from the reader, as it does over TCP.
    fn one_that_has_left_something_unread_has_reset_behind_its_words<N: UnixNet>() {
        let mut call = Call::<N>::new();
        assert_eq!(call.write(), Ok(5));
        assert_eq!(call.net.say(&mut call.service, b"last words"), Some(10));
        call.net.leave(call.service);
        call.net.until(NEAR, |ready| ready.hup && ready.error);
        assert_eq!(call.net.send(&call.near, b"words"), Err(SysError::ResetBehindEnd));
        assert_eq!(call.net.recv(&call.near, &mut [0; 100]), Ok(10));
        assert_eq!(call.net.recv(&call.near, &mut [0; 100]), Err(SysError::Reset));
        assert_eq!(call.net.recv(&call.near, &mut [0; 100]), Ok(0), "once");
    }

    fn a_reset_is_an_end_to_a_service_that_is_read<N: UnixNet>() {
        let mut call = Call::<N>::new();
        assert_eq!(call.write(), Ok(5));
        call.net.reset(call.near);
        let mut buffer = [0; 100];
        assert_eq!(call.net.hear(&mut call.service, &mut buffer), Some(5));
        assert_eq!(call.net.hear(&mut call.service, &mut buffer), Some(0));
        assert_eq!(call.net.say(&mut call.service, b"late"), None);
    }

    fn the_halves_end_one_by_one<N: UnixNet>() {
        let mut call = Call::<N>::new();
        call.net.shut_write(&call.near);
        let mut buffer = [0; 100];
        assert_eq!(call.net.hear(&mut call.service, &mut buffer), Some(0));
        assert_eq!(call.net.say(&mut call.service, b"answer"), Some(6));
        call.net.until(NEAR, |ready| ready.readable);
        assert_eq!(call.read(), Ok(6));
        assert_eq!(call.write(), Err(SysError::ResetBehindEnd), "behind the own end");
    }

    fn what_is_unread_takes_room_and_is_sent<N: UnixNet>() {
        let mut call = Call::<N>::new();
        let mut sent = 0;
        let error = loop {
            match call.net.send(&call.near, &[7; 10_000]) {
                Ok(n) => sent += n,
                Err(error) => break error,
            }
        };
        assert_eq!((error, call.net.unsent(&call.near)), (SysError::WouldBlock, 0));
        let mut buffer = [0; 10_000];
        while sent > 0 {
            sent -= call.net.hear(&mut call.service, &mut buffer).expect("it was sent");
        }
        call.net.until(NEAR, |ready| ready.writable);
        assert_eq!(call.write(), Ok(5));
    }
}
