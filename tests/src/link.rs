//! A network of two: two network namespaces whose only road to each other is a thread of the test, which
//! delays, loses or stops packets as it is told. Needs root.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// Packets on the road in one direction; more are dropped, as a router would.
const ROAD: usize = 4096;
/// How long a packet may stand in line before a thin line; who comes later is dropped.
const QUEUE: Duration = Duration::from_secs(20);

/// A network namespace with a loopback device, and one end of the road if it belongs to a [`Link`].
#[derive(Debug)]
pub struct Namespace {
    file: File,
    ip: IpAddr,
}

impl Namespace {
    /// A namespace with nothing but its own loopback device.
    ///
    /// # Panics
    /// Without the right to make one; see [`crate::root_only`].
    #[must_use]
    pub fn alone() -> Self {
        crate::limit::arm();
        let file = std::thread::spawn(|| {
            let file = new_namespace();
            bring_up(&[b"lo"]);
            file
        });
        Self { file: file.join().expect("a network namespace"), ip: Ipv4Addr::LOCALHOST.into() }
    }

    /// Its address on the road; the loopback address where there is no road.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// A path by which any process can enter it while this value lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `body` inside, on a thread of its own: sockets and threads made there stay there.
    ///
    /// # Panics
    /// If `body` does.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                body()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Two namespaces and the road between them, until dropped.
#[derive(Debug)]
pub struct Link {
    /// Where the server and its visitors are.
    pub near: Namespace,
    /// Where the client and the LocalServers are.
    pub far: Namespace,
    orders: Arc<Orders>,
    carrier: Option<JoinHandle<()>>,
}

/// What a router does with packets of a connection that it has forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// It drops them, and tells nobody.
    Dropped,
    /// It answers with a reset.
    Reset,
}

#[derive(Debug, Default)]
struct Orders {
    stop: AtomicBool,
    cut: AtomicBool,
    /// How many packets of a thousand are lost.
    loss: AtomicU32,
    /// Bytes that pass in a second, in each direction; 0: as many as come.
    rate: AtomicU32,
    /// Longer packets of UDP are lost; 0: none is.
    longest: AtomicU32,
    /// So much is added to the port from which the far end sends UDP.
    mapped: AtomicU32,
    /// For how many milliseconds of that packets stand in line, towards the far and towards the near end.
    late: [AtomicU32; 2],
    router: Mutex<Router>,
}

impl Orders {
    fn router(&self) -> MutexGuard<'_, Router> {
        self.router.lock().expect("nobody panics with it")
    }
}

/// A TCP connection, by the addresses of its ends in order.
type Pair = [(Ipv4Addr, u16); 2];

/// The connections that the road has seen begin; what has become of those that it has forgotten.
#[derive(Debug, Default)]
struct Router {
    known: HashMap<Pair, Option<Forgotten>>,
}

impl Router {
    /// What to do with a packet of a connection that was forgotten; one that begins a connection makes it known.
    fn look(&mut self, packet: &Tcp<'_>) -> Option<Forgotten> {
        let mut pair = [packet.from, packet.to];
        pair.sort_unstable();
        if packet.begins() {
            self.known.insert(pair, None);
        }
        self.known.get(&pair).copied().flatten()
    }
}

/// A TCP packet over IPv4.
struct Tcp<'a> {
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    segment: &'a [u8],
}

impl<'a> Tcp<'a> {
    const RST: u8 = 4;
    const SYN: u8 = 2;
    const ACK: u8 = 16;

    fn parse(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 15) * 4;
        let segment = packet.get(header..).filter(|segment| segment.len() >= 20)?;
        if packet[0] >> 4 != 4 || packet[9] != 6 {
            return None;
        }
        let ip = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
        let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        Some(Self { from: (ip(12), port(0)), to: (ip(16), port(2)), segment })
    }

    fn flags(&self) -> u8 {
        self.segment[13]
    }

    fn begins(&self) -> bool {
        self.flags() & (Self::SYN | Self::ACK) == Self::SYN
    }

    /// The reset that answers it, as if its receiver had no such connection. A reset is not answered.
    fn reset(&self) -> Option<Vec<u8>> {
        if self.flags() & Self::RST != 0 {
            return None;
        }
        let mut segment = [0; 20];
        segment[..2].copy_from_slice(&self.to.1.to_be_bytes());
        segment[2..4].copy_from_slice(&self.from.1.to_be_bytes());
        // What its sender expects next.
        segment[4..8].copy_from_slice(&self.segment[8..12]);
        segment[12] = 5 << 4;
        segment[13] = Self::RST;
        let mut pseudo = [&self.to.0.octets()[..], &self.from.0.octets(), &[0, 6, 0, 20]].concat();
        pseudo.extend_from_slice(&segment);
        segment[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        let mut header = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header[12..16].copy_from_slice(&self.to.0.octets());
        header[16..20].copy_from_slice(&self.from.0.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        Some([header, segment].concat())
    }
}

/// Where the port that a NAT changes stands in a packet of UDP over IPv4: the far end's, in a packet from there or to it.
fn far_port(packet: &[u8], from_far: bool) -> Option<usize> {
    let header = usize::from(packet.first()? & 15) * 4;
    let fragment = u16::from_be_bytes([*packet.get(6)?, packet[7]]) & 0x1fff;
    let is_udp = packet[0] >> 4 == 4 && packet.get(9) == Some(&17) && fragment == 0 && packet.len() >= header + 8;
    is_udp.then_some(if from_far { header } else { header + 2 })
}

/// Changes the far end's port by `mapped`; UDP over IPv4 may go without a checksum.
fn translate(packet: &mut [u8], from_far: bool, mapped: u16) {
    if let Some(at) = far_port(packet, from_far).filter(|_| mapped > 0) {
        let port = u16::from_be_bytes([packet[at], packet[at + 1]]);
        let port = if from_far { port.wrapping_add(mapped) } else { port.wrapping_sub(mapped) };
        packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
        let checksum = if from_far { at + 6 } else { at + 4 };
        packet[checksum..checksum + 2].fill(0);
    }
}

/// The checksum of the internet's protocols over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

impl Link {
    /// Makes both namespaces; every packet takes `one_way` from one to the other.
    ///
    /// # Panics
    /// Without the right to make namespaces; see [`crate::root_only`].
    #[must_use]
    pub fn new(one_way: Duration) -> Self {
        let (near, near_end) = end_of_road(Ipv4Addr::new(10, 98, 0, 1));
        let (far, far_end) = end_of_road(Ipv4Addr::new(10, 98, 0, 2));
        let orders = Arc::new(Orders::default());
        let shared = Arc::clone(&orders);
        let carrier = std::thread::spawn(move || carry([near_end, far_end], one_way, &shared));
        Self { near, far, orders, carrier: Some(carrier) }
    }

    /// Loses every packet from now on, without a word to either side.
    pub fn cut(&self) {
        self.orders.cut.store(true, Ordering::SeqCst);
    }

    /// Lets packets pass again.
    pub fn heal(&self) {
        self.orders.cut.store(false, Ordering::SeqCst);
    }

    /// Forgets every connection to `port` that there is, as a router does with those that are silent for too long.
    pub fn forget(&self, port: u16, packets: Forgotten) {
        for (pair, forgotten) in &mut self.orders.router().known {
            if pair.iter().any(|end| end.1 == port) {
                *forgotten = Some(packets);
            }
        }
    }

    /// Loses this many packets of a thousand.
    pub fn lose(&self, per_mille: u32) {
        self.orders.loss.store(per_mille, Ordering::SeqCst);
    }

    /// From now on so many bytes pass in a second, in each direction; others stand in line, for 20 s at most.
    pub fn narrow(&self, rate: u32) {
        self.orders.rate.store(rate, Ordering::SeqCst);
    }

    /// Loses UDP packets of more than so many bytes, with their headers, and tells nobody.
    pub fn shorten(&self, longest: u32) {
        self.orders.longest.store(longest, Ordering::SeqCst);
    }

    /// From now on the far end's packets of UDP come from other ports, as behind a NAT that has forgotten them; what is sent
    /// to the former ones arrives nowhere.
    pub fn rebind(&self) {
        self.orders.mapped.fetch_add(1, Ordering::SeqCst);
    }

    /// How long a packet towards the near end stands in line.
    #[must_use]
    pub fn late(&self) -> Duration {
        Duration::from_millis(self.orders.late[1].load(Ordering::SeqCst).into())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.orders.stop.store(true, Ordering::SeqCst);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

/// A namespace whose device `tun0` has the address `ip`, and what the kernel sends out there.
fn end_of_road(ip: Ipv4Addr) -> (Namespace, File) {
    let made = std::thread::spawn(move || {
        let file = new_namespace();
        let tun = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .expect("/dev/net/tun");
        let mut device = Device::named(b"tun0");
        device.0.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        device.ioctl(tun.as_raw_fd(), libc::TUNSETIFF);
        let any = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        device.0.ifr_ifru.ifru_addr = socket_address(ip);
        device.ioctl(any.as_raw_fd(), libc::SIOCSIFADDR);
        device.0.ifr_ifru.ifru_netmask = socket_address(MASK);
        device.ioctl(any.as_raw_fd(), libc::SIOCSIFNETMASK);
        bring_up(&[b"tun0", b"lo"]);
        (Namespace { file, ip: ip.into() }, tun)
    });
    made.join().expect("a network namespace with a TUN device")
}

/// Moves the calling thread to a new namespace.
fn new_namespace() -> File {
    unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
    File::open("/proc/thread-self/ns/net").expect("the thread's network namespace")
}

fn bring_up(devices: &[&[u8]]) {
    let any = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    for name in devices {
        let mut device = Device::named(name);
        device.0.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        device.ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS);
    }
}

/// The argument of the ioctls on network devices.
struct Device(libc::ifreq);

impl Device {
    fn named(name: &[u8]) -> Self {
        // SAFETY: ifreq is plain old data, for which all zeros is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        Self(request)
    }

    fn ioctl(&mut self, fd: RawFd, request: libc::Ioctl) {
        // SAFETY: the requests used here all take a pointer to an ifreq, which lives across the call.
        let result = unsafe { libc::ioctl(fd, request, &raw mut self.0) };
        Errno::result(result).expect("set up a network device");
    }
}

/// An address as the ioctls read it: family, port 0, four octets.
fn socket_address(ip: Ipv4Addr) -> libc::sockaddr {
    let mut sa_data = [0; 14];
    for (to, from) in sa_data[2..].iter_mut().zip(ip.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data }
}

/// Carries packets between the two devices until told to stop.
fn carry(mut ends: [File; 2], one_way: Duration, orders: &Orders) {
    const NOTICE: Duration = Duration::from_millis(50);
    let mut roads: [VecDeque<(Instant, Vec<u8>)>; 2] = [VecDeque::new(), VecDeque::new()];
    let mut packet = vec![0; 65_536];
    let mut dice = 0x2545_f491_u32;
    // When what was sent last is out.
    let mut free = [Instant::now(); 2];
    while !orders.stop.load(Ordering::SeqCst) {
        let due = roads.iter().filter_map(|road| road.front()).map(|(due, _)| *due).min();
        let wait = due.map_or(NOTICE, |due| due.saturating_duration_since(Instant::now())).min(NOTICE);
        let mut polled = ends.each_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
        // Rounded up: a wait of 0 while a packet is a fraction of a millisecond away would spin.
        let timeout = PollTimeout::try_from(wait.as_micros().div_ceil(1000) as i32).expect("a short wait");
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("poll the TUN devices: {error}"),
        }
        for end in 0..2 {
            loop {
                match ends[end].read(&mut packet) {
                    Ok(n) => {
                        let tcp = Tcp::parse(&packet[..n]);
                        match tcp.as_ref().and_then(|tcp| orders.router().look(tcp)) {
                            None => {}
                            Some(Forgotten::Dropped) => continue,
                            Some(Forgotten::Reset) => {
                                if let Some(reset) = tcp.and_then(|tcp| tcp.reset()) {
                                    let _ = ends[end].write(&reset);
                                }
                                continue;
                            }
                        }
                        let from_far = end == 1;
                        let is_udp = far_port(&packet[..n], from_far).is_some();
                        translate(&mut packet[..n], from_far, orders.mapped.load(Ordering::SeqCst) as u16);
                        let longest = orders.longest.load(Ordering::SeqCst) as usize;
                        if is_udp && longest > 0 && n > longest {
                            continue;
                        }
                        dice ^= dice << 13;
                        dice ^= dice >> 17;
                        dice ^= dice << 5;
                        let now = Instant::now();
                        let late = free[end].saturating_duration_since(now);
                        let lost = orders.cut.load(Ordering::SeqCst)
                            || dice % 1000 < orders.loss.load(Ordering::SeqCst)
                            || roads[end].len() == ROAD
                            || late > QUEUE;
                        if !lost {
                            let rate = orders.rate.load(Ordering::SeqCst);
                            let takes = if rate == 0 { 0.0 } else { n as f64 / f64::from(rate) };
                            free[end] = now + late + Duration::from_secs_f64(takes);
                            orders.late[end].store(late.as_millis() as u32, Ordering::SeqCst);
                            roads[end].push_back((free[end] + one_way, packet[..n].to_vec()));
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            while roads[end].front().is_some_and(|(due, _)| *due <= Instant::now()) {
                let (_, bytes) = roads[end].pop_front().expect("the front is there");
                // A device that takes nothing loses the packet; TCP sends it again.
                let _ = ends[1 - end].write(&bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{Exchange, Exchanges};
    use crate::sockets::connect;
    use std::net::TcpStream;

    #[test]
    fn the_road_delays_loses_and_can_be_cut() {
        crate::root_only!();
        let link = Link::new(Duration::from_millis(2));
        let service = link.far.run(|| Exchanges::start_on(link.far.ip()));
        link.near.run(|| {
            let began = Instant::now();
            let _visitor = connect(service.addr());
            assert!(began.elapsed() >= Duration::from_millis(4), "a round trip takes twice the delay");
            link.lose(10);
            Exchange::new(1).up(300_000).down(300_000).run(service.addr());
            service.expect(1);
            link.cut();
            assert!(TcpStream::connect_timeout(&service.addr(), Duration::from_millis(300)).is_err());
            link.heal();
            drop(connect(service.addr()));
        });
    }

    #[test]
    fn a_connection_that_the_road_forgets_is_dead_and_the_next_one_lives() {
        crate::root_only!();
        let link = Link::new(Duration::ZERO);
        let service = link.far.run(|| crate::services::Service::echo_at((link.far.ip(), 0).into()));
        link.near.run(|| {
            for packets in [Forgotten::Reset, Forgotten::Dropped] {
                let mut visitor = connect(service.addr());
                crate::visits::ping(&mut visitor, b"before");
                link.forget(service.addr().port(), packets);
                visitor.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
                visitor.write_all(b"behind").expect("the kernel takes it");
                let kind = visitor.read(&mut [0]).expect_err("nothing comes back").kind();
                let expected = match packets {
                    Forgotten::Reset => ErrorKind::ConnectionReset,
                    Forgotten::Dropped => ErrorKind::WouldBlock,
                };
                assert_eq!(kind, expected);
                crate::visits::ping(&mut connect(service.addr()), b"another");
            }
        });
    }

    #[test]
    fn namespaces_do_not_see_each_others_ports() {
        crate::root_only!();
        let (one, other) = (Namespace::alone(), Namespace::alone());
        let service = one.run(crate::services::Service::echo);
        one.run(|| drop(connect(service.addr())));
        other.run(|| assert!(TcpStream::connect(service.addr()).is_err()));
    }
}
