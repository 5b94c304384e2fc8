//! Out of descriptors. Alone in its process, because the limit is the process's.

mod common;

use common::Bench;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocol_sm::driver::{Listen, Role, Splice, Streams, SysError};
use protocol_sm::settings::Origin;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

#[test]
fn everything_says_exhausted_pipes_are_done_without_and_all_is_well_afterwards() {
    let mut bench = Bench::new();
    let (listener, listening, at) = bench.listen();
    let waiting = TcpStream::connect(at).unwrap();
    bench.wait_ready(listening, |ready| ready.readable);
    let spare = bench.linux.pipe().expect("a pipe while there are descriptors");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // No descriptor above those that are open.
    let open = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, open as u64, hard).unwrap();

    assert!(bench.linux.pipe().is_none());
    let token = bench.token();
    assert_eq!(bench.linux.connect(&Origin::default(), at, Role::Local, token).err(), Some(SysError::Exhausted));
    assert_eq!(bench.linux.listen("127.0.0.1:0".parse().unwrap(), token).err(), Some(SysError::Exhausted));
    assert_eq!(bench.linux.accept(&listener, Role::Public).err(), Some(SysError::Exhausted));
    bench.linux.recycle(spare.0, true);
    let spare = bench.linux.pipe();
    assert!(spare.is_some(), "a pipe that was kept needs no descriptor");

    // Room for one.
    setrlimit(Resource::RLIMIT_NOFILE, open as u64 + 1, hard).unwrap();
    let (_accepted, from) = bench.linux.accept(&listener, Role::Public).expect("it waited in the backlog");
    assert_eq!(from, waiting.local_addr().unwrap());
    let none = bench.linux.accept(&listener, Role::Public).err();
    assert_eq!(none, Some(SysError::WouldBlock), "nobody waits: there is nothing to be out of descriptors for");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let again = (0..1000).find_map(|_| bench.linux.pipe());
    assert!(again.is_some(), "after a rest the system is asked again");
}
