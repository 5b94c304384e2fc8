//! PROTOCOL.md, rule by rule, over real sockets: peers that are written here by hand, message by message, honest
//! or not, against the real server and the real client. Each test names the rules that it shows; `citations`
//! sees to it that every rule is shown somewhere.

// What a test does not expect fails it, whatever it is.
#![allow(clippy::wildcard_enum_match_arm)]

mod citations;
mod client;
mod holder;
mod hostile;
mod near_misses;
mod peer;
mod periods;
mod refusals;
mod server;
