//! End-to-end tests of `cproxy-server` and `cproxy-client`: the real programs, real sockets, loopback only.
pub mod exchange;
pub mod gate;
pub mod leaks;
pub mod payload;
pub mod process;
pub mod programs;
pub mod services;
pub mod sockets;
pub mod visits;
pub mod wait;
pub mod bench;
