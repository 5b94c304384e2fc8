//! The CProxy protocol as pure state machines.
//!
//! **What is absent:** sockets, clocks, threads, locks, randomness, logging. Time comes in as an
//! argument, randomness too; every decision goes out as a value. The crate is `no_std` with `alloc`.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod auth;
pub mod backoff;
pub mod canary;
pub mod cells;
pub mod codes;
pub mod conn;
pub mod control;
pub mod driver;
pub mod gate;
pub mod ids;
pub mod liveness;
pub mod notes;
pub mod pool;
pub mod ports;
pub mod rate;
pub mod session;
pub mod settings;
pub mod sources;
pub mod sys_error;
pub mod time;
pub mod transfer;
pub mod wire;
