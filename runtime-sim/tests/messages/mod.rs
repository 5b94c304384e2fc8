//! Every message that the wire knows, with every code of it, is sent by some ring, or stands in [`NEVER`].

use protocol_sm::wire::labels;
use runtime_sim::campaign::{self, Ring, Settings};
use runtime_sim::explore::{CATALOG, Topic};
use std::collections::BTreeSet;

/// What no ring sends, and why not.
const NEVER: &[(&str, &[&str])] = &[
    (
        "the side that ends a session cuts its transfers with Close",
        &[
            "ToServer Abort: SessionOver",
            "ToServer Abort: Stopping",
            "ToClient Abort: SessionOver",
            "ToClient Abort: Stopping",
        ],
    ),
    (
        "both sides of a ring have one half_open_timeout, and the client's never ended first",
        &["ToServer Abort: Deadline"],
    ),
    ("only a server replaces a client", &["ToServer Close: Replaced"]),
    ("all peers of a ring are honest; tests/tests/rules and fuzz have others", &["ToServer Close: Violation"]),
    ("the reply to the preface says it", &["ToClient Refused: Version", "ProxyToClient Refused: Version"]),
    ("only a proxy_conn is refused so", &["ToClient Refused: UnknownSession", "ToClient Refused: ReplayedConn"]),
    (
        "only a ctl_conn is refused so",
        &[
            "ProxyToClient Refused: TokenRequired",
            "ProxyToClient Refused: TokenUnexpected",
            "ProxyToClient Refused: LoopbackOnly",
            "ProxyToClient Refused: IdentityInUse",
            "ProxyToClient Refused: Stopping",
            "ProxyToClient Refused: TooManyFailures",
        ],
    ),
    (
        "no server of a ring demands TLS; tests/tests/tls.rs has one that does",
        &["ToClient Refused: TlsRequired", "ProxyToClient Refused: TlsRequired"],
    ),
    (
        "the clients of a ring have the server's token or its machine; tests/tests/rules/server/handshakes.rs has others",
        &["ToClient Refused: TokenUnexpected"],
    ),
    ("the server of a ring has room for all of its clients", &["ToClient Refused: Full"]),
    (
        "the clients of a ring ask for few ports, which are allowed and free; protocol_sm::control::server has a test",
        &["ToClient TunnelRefused: PortDenied", "ToClient TunnelRefused: NoFreePort"],
    ),
    (
        "the clients of a ring ask for hosts that are theirs, at ports that are there; tests/tests/routes has others",
        &[
            "ToClient TunnelRefused: HostInUse",
            "ToClient TunnelRefused: HostNotAllowed",
            "ToClient TunnelRefused: NoHosts",
            "ToClient TunnelRefused: NoUdp",
            "ToClient TunnelRefused: NoExamine",
            "ToClient TunnelClosed: HostInUse",
            "ToClient TunnelClosed: HostNotAllowed",
            "ToClient TunnelClosed: NoHosts",
            "ToClient TunnelClosed: NoUdp",
            "ToClient TunnelClosed: NoExamine",
            "ToClient TunnelClosed: HeldByHolder",
        ],
    ),
    (
        "a tunnel that is open is closed by the operator, or because its client may not have it any more",
        &["ToClient TunnelClosed: PortDenied", "ToClient TunnelClosed: NoFreePort", "ToClient TunnelClosed: Resources"],
    ),
    (
        "no ring's client asks for an address that it may not have; protocol_sm::control::server has a test",
        &[
            "ToClient TunnelRefused: AddressNotAllowed",
            "ToClient TunnelRefused: NoAddress",
            "ToClient TunnelClosed: AddressNotAllowed",
            "ToClient TunnelClosed: NoAddress",
        ],
    ),
    ("only a server ends a session so", &["ToServer Close: Kicked", "ToServer Close: Revoked"]),
    (
        "the programs account for every end; the code is for small clients that cannot (PROTOCOL.md, P-ABORT-7)",
        &["ToClient Abort: OuterReset"],
    ),
    (
        "a tunnel is not registered before its LocalServer's name resolves, and no ring takes a route away",
        &["ProxyToServer Refused: Unreachable"],
    ),
];

/// What so few seeds send only now and then: memory runs out for longer than anybody waits, a port is lost before the
/// answer to who asked for it has come, or one address guesses too often. Tests of `protocol_sm` do all three.
const SELDOM: [&str; 6] = [
    "ToClient Refused: TooManyFailures",
    "ToClient Abort: Resources",
    "ToServer Abort: Resources",
    "ToClient TunnelRefused: Resources",
    "ToClient TunnelRefused: Released",
    "ToClient TunnelClosed: Released",
];

/// Asked behind a whole run of ring 3. What the others alone send is here: a few searches of ring 1, and some of ring 4.
pub(super) fn check() {
    let topics = [Topic::Stopping, Topic::Closing, Topic::Reloading];
    for entry in CATALOG.iter().filter(|entry| topics.contains(&entry.topic) && !entry.large) {
        assert!(entry.search.run().is_ok(), "{}", entry.name);
    }
    let ring = Ring::Turmoil;
    let settings = Settings { ring, first: 0, count: 100, jobs: 2, limit: None, keep_going: false, fault: None };
    let total = campaign::run(&settings, |_| {});
    assert!(total.failures.is_empty(), "{ring:?}: {:?}", total.failures);
    let labels = labels();
    assert!(labels.len() > 80, "{} are known", labels.len());
    let is_known = |seldom: &&str| labels.iter().any(|label| label.to_string() == **seldom);
    assert!(SELDOM.iter().all(is_known), "not there any more");
    let unsent: BTreeSet<_> = labels.iter().filter(|label| !label.was_sent()).map(ToString::to_string).collect();
    let never: BTreeSet<_> = NEVER.iter().flat_map(|(_, labels)| labels.iter().map(ToString::to_string)).collect();
    let missing: Vec<_> = unsent.difference(&never).filter(|label| !SELDOM.contains(&label.as_str())).collect();
    assert!(missing.is_empty(), "no ring has sent {missing:#?}");
    let sent: Vec<_> = never.difference(&unsent).collect();
    assert!(sent.is_empty(), "sent, or not there any more, though NEVER says that no ring does: {sent:#?}");
    println!("{} of {} labels were sent", labels.len() - unsent.len(), labels.len());
}
