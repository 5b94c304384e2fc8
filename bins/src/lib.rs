//! What `cproxy-server` and `cproxy-client` share: from the command line, the configuration file and
//! the environment to the settings that [`runtime_epoll`] runs with, and the ends of a program's life
//! (logs, signals, limits, exit codes).
//!
//! The way through:
//! 1. [`flags`] reads the command line, [`config`] the file. Neither touches anything but text.
//! 2. [`assemble`] puts flag over environment over file over default, reads the token files and checks
//!    the whole. Whatever is wrong comes back as one [`config::ConfigError`] that lists every problem.
//! 3. The programs in `src/bin` start [`logging`] (what they write goes through [`output`]), raise the [`limits`], catch [`signals`] and run.
//!
//! Nothing here decides anything about connections: that is `protocol-sm`, run by `runtime-epoll`.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod address;
pub mod admin;
pub mod assemble;
pub mod certificates;
pub mod check;
pub mod config;
pub mod doctor;
pub mod exit;
pub mod flags;
mod habits;
pub mod identity;
pub mod init;
pub mod invitation;
pub mod journal;
pub mod limits;
pub mod logging;
pub mod notify;
pub mod operate;
pub mod outbound;
pub mod output;
pub mod problem;
pub mod reload;
pub mod signals;
pub mod tls;
pub mod token;
pub mod upgrade;
