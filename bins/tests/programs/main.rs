//! The programs as a user meets them: command lines, configuration files, exit codes, streams, signals.
//! What needs much traffic is tested in the workspace's `tests` crate.
// A step that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod check_config;
mod command_line;
mod doctor;
mod documents;
mod exit_codes;
mod pages;
mod program;
mod readme;
mod streams;
