//! A simulated long line: two network namespaces whose only road to each other is a pair of TUN devices, with a thread
//! between them that holds each packet back, and loses some if it is told to. Needs the right to make namespaces (root).

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, setns, unshare};

use super::peers::Site;

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// Packets on the line in one direction; more are dropped, as a router would.
const LINE: usize = 4096;

/// The line, until dropped.
pub(super) struct Link {
    near: File,
    far: File,
    orders: Arc<Orders>,
    carrier: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    /// Packets of a thousand that are lost.
    lost: AtomicU32,
}

impl Link {
    /// Two namespaces with a line between them that takes each packet `one_way` to pass.
    pub(super) fn open(one_way: Duration) -> Result<Self, String> {
        let (near, near_tun) = namespace(NEAR)?;
        let (far, far_tun) = namespace(FAR)?;
        let orders = Arc::new(Orders::default());
        let told = Arc::clone(&orders);
        let carrier = std::thread::spawn(move || carry([near_tun, far_tun], one_way, &told));
        Ok(Self { near, far, orders, carrier: Some(carrier) })
    }

    /// From now on so many packets of a thousand are lost, in either direction.
    pub(super) fn lose(&self, per_mille: u32) {
        self.orders.lost.store(per_mille, Relaxed);
    }

    /// The two ends.
    pub(super) fn site(&self) -> Site<'_> {
        Site {
            near: IpAddr::V4(NEAR),
            far: IpAddr::V4(FAR),
            near_namespace: Some(&self.near),
            far_namespace: Some(&self.far),
        }
    }

    /// What `load` measures where the visitors stand. It has a thread of its own: the rest of this program stays where it is.
    pub(super) fn visit<T: Send>(&self, load: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
        let enter_and_load = || {
            setns(&self.near, CloneFlags::CLONE_NEWNET).map_err(|e| format!("setns: {e}"))?;
            load()
        };
        std::thread::scope(|s| s.spawn(enter_and_load).join()).map_err(|_| "the visitor panicked".to_owned())?
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.orders.stop.store(true, Relaxed);
        if let Some(carrier) = self.carrier.take() {
            // It only panics if a queue's memory cannot be had.
            let _ = carrier.join();
        }
    }
}

/// A new network namespace with loopback and a TUN device of this address.
fn namespace(address: Ipv4Addr) -> Result<(File, File), String> {
    let make = move || -> Result<(File, File), String> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| format!("cannot make a network namespace: {e}"))?;
        let io = |e: std::io::Error| format!("cannot set up a network namespace: {e}");
        let namespace = File::open("/proc/thread-self/ns/net").map_err(io)?;
        let tun = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(io)?;
        let errno = |e: Errno| format!("cannot set up a network namespace: {e}");
        let mut device = Device::named(b"tun0");
        device.0.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        device.ioctl(tun.as_raw_fd(), libc::TUNSETIFF).map_err(errno)?;
        let any = UdpSocket::bind("0.0.0.0:0").map_err(io)?;
        let mut device = Device::named(b"tun0");
        device.0.ifr_ifru.ifru_addr = socket_address(address);
        device.ioctl(any.as_raw_fd(), libc::SIOCSIFADDR).map_err(errno)?;
        device.0.ifr_ifru.ifru_netmask = socket_address(MASK);
        device.ioctl(any.as_raw_fd(), libc::SIOCSIFNETMASK).map_err(errno)?;
        for name in [b"tun0".as_slice(), b"lo"] {
            let mut device = Device::named(name);
            device.0.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
            device.ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS).map_err(errno)?;
        }
        Ok((namespace, tun))
    };
    // In a thread of its own: the rest of this program stays where it is.
    std::thread::spawn(make).join().map_err(|_| "the set-up of a namespace panicked".to_owned())?
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

    fn ioctl(&mut self, fd: RawFd, request: libc::Ioctl) -> Result<(), Errno> {
        // SAFETY: the requests used here all take a pointer to an ifreq, which lives across the call.
        Errno::result(unsafe { libc::ioctl(fd, request, &raw mut self.0) }).map(drop)
    }
}

/// An address with the layout that the ioctls read: family (native order), port 0, four octets.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut sa_data = [0; 14];
    for (to, from) in sa_data[2..].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data }
}

/// Carries packets between the two devices until told to stop.
fn carry(mut tuns: [File; 2], one_way: Duration, orders: &Orders) {
    /// How soon a stop is noticed on a silent line.
    const NOTICE: Duration = Duration::from_millis(100);
    let mut lines: [VecDeque<(Instant, Vec<u8>)>; 2] = [VecDeque::new(), VecDeque::new()];
    let mut packet = [0; 65_536];
    let mut dice = 0x2545_f491_u32;
    while !orders.stop.load(Relaxed) {
        let now = Instant::now();
        let next = lines.iter().filter_map(|line| line.front()).map(|(due, _)| due.saturating_duration_since(now));
        let wait = next.min().unwrap_or(NOTICE).min(NOTICE);
        let mut ends = tuns.each_ref().map(|tun| PollFd::new(tun.as_fd(), PollFlags::POLLIN));
        if ppoll(&mut ends, Some(wait.into()), None).is_err_and(|e| e != Errno::EINTR) {
            return;
        }
        for end in 0..2 {
            loop {
                match tuns[end].read(&mut packet) {
                    Ok(n) => {
                        dice ^= dice << 13;
                        dice ^= dice >> 17;
                        dice ^= dice << 5;
                        if lines[end].len() < LINE && dice % 1000 >= orders.lost.load(Relaxed) {
                            lines[end].push_back((Instant::now() + one_way, packet[..n].to_vec()));
                        }
                    }
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            while let Some((due, bytes)) = lines[end].front()
                && *due <= Instant::now()
            {
                // A device that takes nothing drops the packet; TCP sends it again.
                let _ = tuns[1 - end].write(bytes);
                lines[end].pop_front();
            }
        }
    }
}
