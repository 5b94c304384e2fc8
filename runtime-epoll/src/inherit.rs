//! Listening sockets that go from one process to another: by the LISTEN_FDS protocol, which systemd speaks, too.
#![expect(unsafe_code, reason = "descriptors that come by number, and calls between fork and exec")]

use crate::parts::{Arc, Mutex, PoisonError};
use crate::sys::Listener;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use protocol_sm::driver::Given;
use protocol_sm::driver::listener::HeldPort;
use protocol_sm::purposes::{Purpose, Purposes};
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;

/// The first of the descriptors.
const FIRST: RawFd = 3;
/// The name under which a process that is being upgraded talks with the next one.
const TALK: &str = "upgrade";
/// Says which process has set the variables of the protocol, if one that is being upgraded has: it cannot know the number
/// that the next one will have.
const BY: &str = "CPROXY_UPGRADED_BY";

/// Listeners that a running server has put aside for another process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lent(Arc<Mutex<Vec<(String, OwnedFd)>>>);

impl Lent {
    pub(crate) fn add(&self, listener: impl AsFd, given: &Given) {
        // Out of descriptors, it is missing there: then the port is bound anew, once it is free here.
        match listener.as_fd().try_clone_to_owned() {
            Ok(copy) => self.0.lock().unwrap_or_else(PoisonError::into_inner).push((given.name(), copy)),
            Err(error) => {
                tracing::warn!(event = "listener_not_given", listener = given.name(), "not given on: {error}")
            }
        }
    }

    pub(crate) fn take(&self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What another process has left to this one.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The server's own ports, under the names that they came with.
    doors: Vec<(Purpose, SocketAddr, Listener)>,
    pub(crate) public: Vec<HeldPort<Listener>>,
    talk: Option<UnixStream>,
    names: Vec<String>,
}

impl Inherited {
    /// Takes what this process was given, once; whoever asks again gets nothing.
    #[must_use]
    pub fn take() -> Self {
        static TAKEN: Once = Once::new();
        let mut inherited = Self::default();
        TAKEN.call_once(|| {
            for (name, fd) in given().unwrap_or_default() {
                inherited.add(&name, fd);
                inherited.names.push(name);
            }
        });
        inherited
    }

    /// The way to talk with the process that is being upgraded, if there is one.
    #[must_use]
    pub fn talk(&mut self) -> Option<UnixStream> {
        self.talk.take()
    }

    /// The names of all that this process was given.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn add(&mut self, name: &str, fd: OwnedFd) {
        if name == TALK {
            self.talk = Some(fd.into());
            return;
        }
        let given = Given::of(name);
        let udp = matches!(given, Some(Given::Public { udp: true, .. }));
        let listener = Listener::inherited(fd, udp).and_then(|listener| listener.address().map(|at| (at, listener)));
        match (given, listener) {
            (Some(Given::Door(purpose)), Ok((at, listener))) => self.doors.push((purpose, at, listener)),
            (Some(Given::Public { udp, owner, .. }), Ok((at, listener))) => {
                self.public.push(HeldPort { udp, at, owner, listener });
            }
            (None, _) => {
                tracing::warn!(event = "listener_unknown", listener = name, "a socket that nobody here knows is closed")
            }
            (Some(_), Err(error)) => {
                tracing::warn!(
                    event = "listener_unknown",
                    listener = name,
                    "a socket that does not listen is closed: {error}"
                );
            }
        }
    }

    /// The port that is wanted at `at` for `purposes`: the one there, else by its number, whatever it was there for before;
    /// where any will do, by its name.
    pub(crate) fn door(&mut self, purposes: Purposes, at: SocketAddr) -> Option<Listener> {
        let is_it = |&(purpose, left, _): &(Purpose, SocketAddr, _)| match at.port() {
            0 => purposes.has(purpose),
            port => left.port() == port,
        };
        let there = self.doors.iter().rposition(|&(_, left, _)| left == at);
        let found = there.or_else(|| self.doors.iter().rposition(is_it))?;
        Some(self.doors.remove(found).2)
    }

    /// Closes the ports that are not wanted.
    pub(crate) fn close_doors(&mut self) {
        self.doors.clear();
    }
}

/// The descriptors that this process was given, with their names: by systemd, or by its parent.
fn given() -> Option<Vec<(String, OwnedFd)>> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let pid = number("LISTEN_PID")?;
    if !is_for_us(pid, number(BY)) {
        return None;
    }
    let count = RawFd::try_from(number("LISTEN_FDS")?).ok()?;
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let take = |fd| {
        // SAFETY: the protocol says that these are open and ours, and they are taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // One that is not open is refused here.
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok().map(|_| fd)
    };
    Some((FIRST..FIRST + count).filter_map(|fd| Some((names.next().unwrap_or_default(), take(fd)?))).collect())
}

/// Whether descriptors for the process `pid` are this one's: that number is its own, or of the process that has upgraded
/// itself to this one. What a parent has left in the environment of all its children is not.
fn is_for_us(pid: u32, upgraded_by: Option<u32>) -> bool {
    pid == std::process::id() || Some(pid) == upgraded_by
}

/// A process that was started as the child of a go-between: a fork of this process that does nothing but wait for it, and
/// ends as it does. With the go-between gone it is a child of the system's first process. That matters where this is
/// systemd: a main process that is not its own child it kills at a stop at once, and does not notice when it ends.
#[derive(Debug)]
pub struct Successor {
    between: Child,
    pid: u32,
}

impl Successor {
    /// The number of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.between.try_wait().ok().flatten()
    }

    /// Ends it.
    pub fn kill(mut self) {
        // As long as the go-between waits, the number is nobody else's.
        if self.ended().is_none() {
            let _gone = i32::try_from(self.pid).map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
            let _status = self.between.wait();
        }
    }

    /// From now on it is the child of the system's first process.
    pub fn let_go(mut self) {
        let _gone = self.between.kill();
        let _status = self.between.wait();
    }
}

/// Starts `program` with `fds` under their names, and with a way to talk with it, the other end of which is returned.
/// Standard output and standard error are this process's.
///
/// # Errors
/// The program cannot be started, or this process is out of descriptors.
pub fn start(
    program: &Path,
    arguments: impl IntoIterator<Item = OsString>,
    mut fds: Vec<(String, OwnedFd)>,
) -> io::Result<(Successor, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    fds.push((TALK.to_owned(), theirs.into()));
    let count = RawFd::try_from(fds.len()).map_err(io::Error::other)?;
    let names: Vec<_> = fds.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(":");
    // Out of the way of where they are to be.
    let copies = fds.iter().map(|(_, fd)| {
        let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST + count))?;
        // SAFETY: it was made just now, for nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(copy) })
    });
    let copies = copies.collect::<io::Result<Vec<_>>>()?;
    let numbers: Vec<_> = copies.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LISTEN_PID", std::process::id().to_string())
        .env(BY, std::process::id().to_string())
        .env("LISTEN_FDS", count.to_string())
        .env("LISTEN_FDNAMES", names)
        .stdin(Stdio::null());
    let (told, tells) = pipe2(OFlag::O_CLOEXEC)?;
    let tell = tells.as_raw_fd();
    let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let place = move || {
        // SAFETY: this is a fork already, with a single thread.
        if let ForkResult::Parent { child } = unsafe { fork() }? {
            go_between(child, tell, descriptors);
        }
        for (fd, &copy) in (FIRST..).zip(&numbers) {
            // SAFETY: dup2 is a plain system call, and nobody in this process needs what is at `fd` any more.
            if unsafe { libc::dup2(copy, fd) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec nothing is allocated or locked, only system calls are made.
    unsafe { command.pre_exec(place) };
    let between = command.spawn()?;
    drop((copies, tells));
    let mut pid = [0; size_of::<u32>()];
    File::from(told).read_exact(&mut pid)?;
    Ok((Successor { between, pid: u32::from_ne_bytes(pid) }, ours))
}

/// Tells the number of `child`, waits until it has ended, and ends in the same way. Between fork and exec: nothing is
/// allocated or locked.
fn go_between(child: Pid, tell: RawFd, descriptors: u64) -> ! {
    let pid = child.as_raw().to_ne_bytes();
    // SAFETY: plain system calls. Nobody in this process needs its descriptors, and others wait until their last copy is
    // closed.
    unsafe {
        libc::write(tell, pid.as_ptr().cast(), pid.len());
        if libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) < 0 {
            (0..RawFd::try_from(descriptors).unwrap_or(RawFd::MAX)).for_each(|fd| _ = libc::close(fd));
        }
        let mut status = 0;
        while libc::waitpid(child.as_raw(), &raw mut status, 0) < 0 && Errno::last() == Errno::EINTR {}
        libc::_exit(if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Who is given the ports "ctl" and "proxy", and wants these: which of them are found.
    fn taken(wanted: impl Fn(u16, u16) -> Vec<(Vec<Purpose>, u16)>) -> Vec<Option<&'static str>> {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut inherited = Inherited::default();
        let ports = ["ctl", "proxy"].map(|name| {
            let listener = TcpListener::bind(at(0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            inherited.add(name, listener.into());
            port
        });
        let name = |door: Listener| if door.address().unwrap().port() == ports[0] { "ctl" } else { "proxy" };
        let wanted = wanted(ports[0], ports[1]).into_iter();
        let doors = wanted.map(|(purposes, port)| inherited.door(purposes.into_iter().collect(), at(port)));
        doors.map(|door| door.map(name)).collect()
    }

    #[test]
    fn descriptors_for_another_process_are_left_alone() {
        let (own, other) = (std::process::id(), std::process::id() ^ 1);
        assert!(is_for_us(own, None) && is_for_us(own, Some(other)) && is_for_us(other, Some(other)));
        assert!(!is_for_us(other, None) && !is_for_us(other, Some(own)) && !is_for_us(0, None));
    }

    #[test]
    fn of_two_doors_with_one_number_the_one_at_the_wanted_address_is_taken() {
        let mut inherited = Inherited::default();
        let ctl = TcpListener::bind("127.0.0.1:0").unwrap();
        let ctl_at = ctl.local_addr().unwrap();
        let http_at = SocketAddr::from(([127, 0, 0, 5], ctl_at.port()));
        inherited.add("ctl", ctl.into());
        inherited.add("http", TcpListener::bind(http_at).unwrap().into());
        let mut taken = |purpose, at| inherited.door([purpose].into_iter().collect(), at).unwrap().address().unwrap();
        assert_eq!([taken(Purpose::Ctl, ctl_at), taken(Purpose::Http, http_at)], [ctl_at, http_at]);
    }

    #[test]
    fn a_door_is_taken_where_its_port_is_the_one_that_is_wanted() {
        let [ctl, proxy, http] = [Purpose::Ctl, Purpose::Proxy, Purpose::Http].map(|purpose| vec![purpose]);
        let both = vec![Purpose::Ctl, Purpose::Proxy];
        let two = |a: u16, b: u16| vec![(ctl.clone(), a), (proxy.clone(), b)];
        assert_eq!(taken(two), [Some("ctl"), Some("proxy")]);
        assert_eq!(taken(|_, _| two(0, 0)), [Some("ctl"), Some("proxy")], "any port will do");
        assert_eq!(taken(|ctl, proxy| two(ctl ^ 1, proxy)), [None, Some("proxy")]);
        assert_eq!(taken(|ctl, proxy| two(proxy, ctl)), [Some("proxy"), Some("ctl")], "the address is there already");
        assert_eq!(taken(|_, proxy| vec![(both.clone(), proxy)]), [Some("proxy")], "one port from now on");
        assert_eq!(taken(|ctl, _| vec![(http.clone(), 0), (http.clone(), ctl)]), [None, Some("ctl")]);
    }
}
