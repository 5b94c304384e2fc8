//! Placeholder: being written.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod ports;
pub mod settings;
