//! One rule of the conformance suite in a process of its own, because it takes all descriptors of the process.

#![allow(clippy::unwrap_used)] // a rule that cannot be set up fails

#[allow(dead_code)] // the other rules use the rest
mod net;

use net::{Linux, Net, Simulated, token};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocol_sm::driver::SysError;

/// Without descriptors neither connect nor accept work, the connection goes on waiting, and what is open goes on.
fn out_of_descriptors<N: Net>() {
    let (near, far, door, other) = (token(1), token(2), token(3), token(4));
    let mut net = N::new();
    let (listener, at) = net.listen(door);
    let stream = net.connect(at, near).unwrap();
    net.until(door, |ready| ready.readable);
    net.exhaust(true);
    assert_eq!(net.accept(&listener).map(drop), Err(SysError::Exhausted));
    assert_eq!(net.connect(at, other).map(drop), Err(SysError::Exhausted));
    assert_eq!(net.send(&stream, b"hello"), Ok(5));
    assert_eq!(net.accept(&listener).map(drop), Err(SysError::Exhausted), "again and again");
    net.exhaust(false);
    let accepted = net.accept(&listener).unwrap();
    net.watch(&accepted, far);
    net.until(far, |ready| ready.readable);
    assert_eq!(net.recv(&accepted, &mut [0; 10]), Ok(5));
}

#[test]
fn out_of_descriptors_is_an_error_that_passes() {
    // So that few are enough to fill it.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 200.min(hard), hard).unwrap();
    out_of_descriptors::<Simulated>();
    out_of_descriptors::<Linux>();
}
