//! PROTOCOL.md, rule by rule, over real sockets: peers that are written here by hand, message by message, honest
//! or not, against the real server and the real client. Each test names the rules that it shows; `citations`
//! sees to it that every rule is shown somewhere.

mod citations;
mod client;
mod peer;
mod server;
