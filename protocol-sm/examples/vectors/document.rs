//! The test vectors as one JSON text: built by the codec, so that the file cannot say anything else.

use hmac::{Hmac, Mac};
use protocol_sm::auth::{Channel, Prover, Transcript};
use protocol_sm::codes::{AbortCode, CloseCode, HandshakeRefusal, LeaveCode, RefuseCode, TunnelRefusal};
use protocol_sm::datagrams::{self, PathDatagram};
use protocol_sm::ids::{ClientId, ConnId, Epoch, SessionId, TunnelId};
use protocol_sm::routes::{Agreed, Host, Secured, Service, Site, Speaks, Web};
use protocol_sm::settings::{Token, TunnelLimits};
use protocol_sm::sources::{Network, SourceLists};
use protocol_sm::transfer::How;
use protocol_sm::wire::{
    CHANNEL, ClientHandshake, ClientHello, ClientMsg, ConnHello, ConnKind, Ctl, Greeting, Message, Preface,
    PrefaceReader, ProxyToClient, ProxyToServer, Reply, ReplyReader, Resume, ServerHandshake, ServerHello, ServerMsg,
    ToClient, ToServer, Welcome, WireError,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

const ABOUT: &str = "Test vectors of the CProxy protocol, version 1. PROTOCOL.md, section 'Test vectors', \
    tells how to read them. Written by: cargo run -p protocol-sm --example vectors";

/// The whole file.
pub(crate) fn document() -> String {
    let sections = [
        ("varints", varints()),
        ("invalid_varints", invalid_varints()),
        ("prefaces", prefaces()),
        ("invalid_prefaces", invalid_prefaces()),
        ("replies", replies()),
        ("invalid_replies", invalid_replies()),
        ("messages", messages()),
        ("invalid_frames", invalid_frames()),
        ("streams", streams()),
        ("flows", flows()),
        ("path_datagrams", path_datagrams()),
        ("handshakes", handshakes()),
    ];
    let mut text = format!("{{\n\"about\": {},\n\"version\": 1", json(ABOUT));
    for (name, rows) in sections {
        let rows: Vec<_> = rows.iter().map(|row| format!("  {row}")).collect();
        let _ = write!(text, ",\n\"{name}\": [\n{}\n]", rows.join(",\n"));
    }
    text.push_str("\n}\n");
    text
}

/// One JSON object on one line, its values being JSON already.
fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
    format!("{{{}}}", fields.join(", "))
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

/// `value` as JSON in the order of its fields, with byte arrays as hex.
fn json(value: &(impl Serialize + ?Sized)) -> String {
    let text = serde_json::to_string(value).expect("messages are plain data");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        let (list, after) = after.split_once(']').expect("brackets come in pairs");
        // The other brackets are those of an IPv6 address.
        match list.split(',').map(str::parse).collect::<Result<Vec<u8>, _>>() {
            Ok(bytes) => out.push_str(&hex(&bytes)),
            Err(_) => out = out + "[" + list + "]",
        }
        rest = after;
    }
    out + rest
}

fn frame(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode_to(&mut out);
    out
}

/// A frame around any body.
fn framed(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("bodies are short");
    [&length.to_le_bytes()[..], body].concat()
}

fn varints() -> Vec<String> {
    let mut rows = Vec::new();
    let values = [0, 1, 127, 128, 255, 300, 16_383, 16_384, 65_535, 65_536, 1 << 31, u64::MAX];
    for value in values {
        // The body of `Ping` is its tag and one varint.
        let ping = frame(&ToServer::Ping { received: value });
        rows.push(object(&[("value", value.to_string()), ("hex", hex(&ping[3..]))]));
    }
    rows
}

fn invalid_varints() -> Vec<String> {
    let row = |why: &str, bits: u32, bytes: &[u8]| {
        object(&[("why", json(why)), ("bits", bits.to_string()), ("hex", hex(bytes))])
    };
    vec![
        row("not the shortest", 64, &[0x80, 0x00]),
        row("not the shortest", 32, &[0xff, 0x80, 0x00]),
        row("ends too early", 64, &[0x80]),
        row("above 65535", 16, &[0x80, 0x80, 0x04]),
        row("above 4294967295", 32, &[0x80, 0x80, 0x80, 0x80, 0x10]),
        row("above 2^64-1", 64, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02]),
        row("longer than 3 bytes", 16, &[0x80, 0x80, 0x80, 0x00]),
        row("longer than 10 bytes", 64, &[0x80; 11]),
    ]
}

fn kind(port: ConnKind) -> String {
    json(match port {
        ConnKind::Ctl => "ctl",
        ConnKind::Proxy => "proxy",
    })
}

fn prefaces() -> Vec<String> {
    let all = [
        Preface::ours(ConnKind::Ctl),
        Preface::ours(ConnKind::Proxy),
        Preface { port: ConnKind::Ctl, min: 1, max: 3 },
        Preface { port: ConnKind::Proxy, min: 2, max: 255 },
    ];
    let row = |preface: Preface| {
        object(&[
            ("kind", kind(preface.port)),
            ("min", preface.min.to_string()),
            ("max", preface.max.to_string()),
            ("hex", hex(&preface.encode())),
        ])
    };
    all.map(row).into()
}

/// How many bytes a receiver reads before it knows that they are not ours.
fn refused_after(bytes: &[u8], mut next: impl FnMut(&mut &[u8]) -> Result<bool, WireError>) -> usize {
    for (i, byte) in bytes.iter().enumerate() {
        match next(&mut [*byte].as_slice()) {
            Ok(false) => {}
            Ok(true) => panic!("a valid preface among the invalid ones"),
            Err(error) => {
                assert_eq!(error, WireError::NotCproxy);
                return i + 1;
            }
        }
    }
    panic!("an unfinished preface among the invalid ones")
}

fn invalid_prefaces() -> Vec<String> {
    let row = |why: &str, bytes: &[u8]| {
        let mut reader = PrefaceReader::default();
        let after = refused_after(bytes, |input| reader.next(input).map(|got| got.is_some()));
        // A server that does not look for the name of P-TLS-5 has seen enough when it has seen no magic.
        let magic = b"CPXY".iter().zip(bytes).take_while(|(magic, byte)| magic == byte).count();
        let without_p_tls_5 = if magic < 4 { magic + 1 } else { after };
        object(&[
            ("why", json(why)),
            ("hex", hex(bytes)),
            ("refused_after", after.to_string()),
            ("without_p_tls_5", without_p_tls_5.to_string()),
        ])
    };
    vec![
        row("a web browser", b"GET / HTTP/1.1\r\n"),
        row("a TLS client of something else, whose first record ends here", &[0x16, 3, 1, 0, 3, 1, 0, 0]),
        row("an SSH client", b"SSH-2.0-"),
        row("the magic's last byte is wrong", b"CPXX"),
        row("no such kind", b"CPXYX\x01\x01\x00"),
        row("version 0", b"CPXYC\x00\x01\x00"),
        row("an empty range", b"CPXYC\x02\x01\x00"),
        row("the last byte is not 0", b"CPXYC\x01\x01\x01"),
    ]
}

fn replies() -> Vec<String> {
    let known = Preface::ours(ConnKind::Ctl);
    let newer = Preface { port: ConnKind::Proxy, min: 2, max: 3 };
    let range = Preface { port: ConnKind::Proxy, min: 1, max: 3 };
    let row = |(to, reply): (Preface, Reply)| {
        let bytes = reply.encode();
        object(&[
            ("to", hex(&to.encode())),
            ("version", bytes[5].to_string()),
            ("min", bytes[6].to_string()),
            ("max", bytes[7].to_string()),
            ("hex", hex(&bytes)),
        ])
    };
    let ours = [known, range, newer].map(|to| (to, Reply::to(to)));
    // A newer server, which must be answered by proofs over these very bytes.
    let greeting = Greeting::Version { version: 1, min: 1, max: 3 };
    let theirs = (known, Reply { port: known.port, greeting });
    ours.into_iter().chain([theirs]).map(row).collect()
}

fn invalid_replies() -> Vec<String> {
    let to = Preface::ours(ConnKind::Ctl);
    let row = |why: &str, bytes: &[u8]| {
        let mut reader = ReplyReader::default();
        let after = refused_after(bytes, |input| reader.next(to, input).map(|got| got.is_some()));
        object(&[
            ("to", hex(&to.encode())),
            ("why", json(why)),
            ("hex", hex(bytes)),
            ("refused_after", after.to_string()),
        ])
    };
    vec![
        row("a web server", b"HTTP/1.1 400 Bad Request\r\n"),
        row("the other kind of connection", b"CPXYP\x01\x01\x01"),
        row("a version that was not offered", b"CPXYC\x02\x01\x02"),
    ]
}

const HIGH: u64 = u64::MAX;
const SESSION: SessionId = SessionId([0x5e; 16]);

fn visitors() -> [SocketAddr; 2] {
    [(Ipv4Addr::new(192, 0, 2, 7), 50_000).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), 443).into()]
}

fn publics() -> [SocketAddr; 2] {
    [(Ipv4Addr::new(192, 0, 2, 1), 6000).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 6000).into()]
}

fn register(tunnel: u32, public_port: u16, name: &str, limits: TunnelLimits) -> ClientMsg {
    let (tunnel, bind_addr) = (TunnelId(tunnel), None);
    ClientMsg::RegisterTunnel { tunnel, public_port, bind_addr, name: name.into(), limits }
}

fn register_at(public: SocketAddr) -> ClientMsg {
    let (tunnel, public_port, bind_addr) = (TunnelId(3), public.port(), Some(public.ip()));
    ClientMsg::RegisterTunnel { tunnel, public_port, bind_addr, name: "db".into(), limits: TunnelLimits::default() }
}

fn udp(tunnel: u32, public_port: u16, name: &str, limits: TunnelLimits) -> ClientMsg {
    let (tunnel, bind_addr) = (TunnelId(tunnel), None);
    ClientMsg::RegisterUdp { tunnel, public_port, bind_addr, name: name.into(), limits }
}

fn host(tunnel: u32, web: Web, host: &str, limits: TunnelLimits) -> ClientMsg {
    let site = Box::new(Site { web, host: host.parse().expect("a host") });
    let (tunnel, service) = (TunnelId(tunnel), Service::default());
    ClientMsg::RegisterHost { tunnel, site, service, name: "web".into(), limits }
}

fn site(tunnel: u32, host: &str, service: Service) -> ClientMsg {
    let site = Box::new(Site { web: Web::Http, host: host.parse().expect("a host") });
    let (tunnel, limits) = (TunnelId(tunnel), TunnelLimits::default());
    ClientMsg::RegisterHost { tunnel, site, service, name: "web".into(), limits }
}

/// No message is longer.
fn longest_site() -> ClientMsg {
    let host = format!("{}.{}", "a".repeat(60), "b".repeat(Host::MAX - 61)).parse().expect("a host");
    let (site, tunnel) = (Box::new(Site { web: Web::Http, host }), TunnelId(u32::MAX));
    let service = Service { speaks: Speaks::Http2, redirect: true, forwarded: true };
    ClientMsg::RegisterHost { tunnel, site, service, name: "é".repeat(32), limits: longest_limits() }
}

fn office_limits() -> TunnelLimits {
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network")).collect();
    let allow = networks(&["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "::/0"]);
    let deny = networks(&["192.0.2.7/32", "2001:db8::7/128"]);
    TunnelLimits { sources: SourceLists { allow, deny }, max_connections: 300, max_connection_rate: 60 }
}

/// As many of the longest networks as one message may hold.
fn longest_limits() -> TunnelLimits {
    let longest = |n: u128| Network::new(Ipv6Addr::from_bits(u128::MAX - n).into(), 128).expect("a network");
    let deny = (0..).map(longest).take(SourceLists::MAX_SENT).collect();
    let sources = SourceLists { allow: Vec::new(), deny };
    TunnelLimits { sources, max_connections: u32::MAX, max_connection_rate: u32::MAX }
}

fn from_clients() -> Vec<ToServer> {
    let hello = |token, resume| {
        let client = ClientId([0xc1; 16]);
        let hello = ClientHello { nonce: [0x11; 32], client, token, features: 0, resume };
        ToServer::Handshake(ClientHandshake::Hello(hello))
    };
    let resume = Resume { session: SESSION, received: 300 };
    let mut all = vec![
        hello(false, None),
        hello(true, Some(resume)),
        ToServer::Handshake(ClientHandshake::Proof([0xab; 32])),
        ToServer::Ping { received: 0 },
        ToServer::Pong { received: 5 },
        ToServer::Ack { received: 64 },
    ];
    all.extend(CLOSE.map(|code| ToServer::Close { code }));
    let (conn, epoch) = (ConnId(3), Epoch(2));
    let mut numbered = vec![
        register(1, 6022, "ssh", TunnelLimits::default()),
        register(u32::MAX, 0, &"é".repeat(32), longest_limits()),
        register(2, 443, "web", office_limits()),
        register_at(publics()[0]),
        register_at(publics()[1]),
        ClientMsg::CloseTunnel { tunnel: TunnelId(1) },
        ClientMsg::ConnFailed { count: 4 },
        ClientMsg::Fin { conn, epoch, total: 0, how: How::Shut },
        ClientMsg::Fin { conn: ConnId(HIGH), epoch: Epoch(u32::MAX), total: HIGH, how: How::Reset },
        ClientMsg::Done { conn, epoch },
        ClientMsg::Drain,
        ClientMsg::StartSeen { conn, epoch, seen: false },
        ClientMsg::StartSeen { conn: ConnId(HIGH), epoch: Epoch(u32::MAX), seen: true },
        ClientMsg::ChangeTunnel { tunnel: TunnelId(1), name: "web".into(), limits: office_limits() },
        udp(1, 0, "game", TunnelLimits::default()),
        udp(2, 53, "dns", office_limits()),
        host(1, Web::Http, "app.example.com", TunnelLimits::default()),
        host(2, Web::Https, "*.dev.example.com", office_limits()),
        host(3, Web::Https, "*", TunnelLimits::default()),
        site(4, "app.example.com", Service { speaks: Speaks::Both, redirect: true, forwarded: false }),
        longest_site(),
    ];
    numbered.extend(ABORT.map(|code| ClientMsg::Abort { conn, epoch, code }));
    all.extend((1..).zip(numbered).map(|(seq, msg)| Ctl::Numbered { seq, msg }));
    all
}

fn from_servers() -> Vec<ToClient> {
    let hello = ServerHello { nonce: [0x22; 32], features: 0 };
    let welcome =
        |resumed, received| Welcome { session: SESSION, resumed, received, proxy_port: 8090, proof: [0xcd; 32] };
    let mut all = vec![
        ToClient::Handshake(ServerHandshake::Hello(hello)),
        ToClient::Handshake(ServerHandshake::Welcome(welcome(false, 0))),
        ToClient::Handshake(ServerHandshake::Welcome(welcome(true, 128))),
        ToClient::Ping { received: 0 },
        ToClient::Pong { received: 5 },
        ToClient::Ack { received: 64 },
    ];
    all.extend(HANDSHAKE.map(|code| ToClient::Handshake(ServerHandshake::Refused(code))));
    all.extend(CLOSE.map(|code| ToClient::Close { code }));
    let (conn, epoch, tunnel) = (ConnId(3), Epoch(2), TunnelId(1));
    let mut numbered: Vec<_> = visitors().map(|public| ServerMsg::TunnelReady { tunnel, public }).into();
    numbered.extend(TUNNEL.map(|code| ServerMsg::TunnelRefused { tunnel, code }));
    numbered.push(ServerMsg::NeedConn { count: 4 });
    numbered.extend(HOW.map(|how| ServerMsg::Fin { conn, epoch, total: 5, how }));
    numbered.push(ServerMsg::Drain);
    numbered.push(ServerMsg::AskStart { conn, epoch });
    numbered.extend(ABORT.map(|code| ServerMsg::Abort { conn, epoch, code }));
    numbered.extend(TUNNEL.map(|code| ServerMsg::TunnelClosed { tunnel, code }));
    numbered.extend(LEAVE.map(|code| ServerMsg::Leave { code }));
    numbered.push(ServerMsg::DatagramPath { pin: [0xa5; 32] });
    all.extend((1..).zip(numbered).map(|(seq, msg)| Ctl::Numbered { seq, msg }));
    all
}

fn from_clients_on_proxy() -> Vec<ProxyToServer> {
    let mut all = vec![
        ProxyToServer::Hello(ConnHello { session: SESSION, conn: ConnId(3), proof: [0xef; 32] }),
        ProxyToServer::Pong,
        ProxyToServer::Started { epoch: Epoch(2) },
    ];
    all.extend(REFUSE.map(|code| ProxyToServer::Refused { epoch: Epoch(2), code }));
    all
}

fn from_servers_on_proxy() -> Vec<ProxyToClient> {
    let mut all = vec![ProxyToClient::Accepted { proof: [0x99; 32] }, ProxyToClient::Ping];
    all.extend(HANDSHAKE.map(ProxyToClient::Refused));
    let start = |(visitor, public)| ProxyToClient::Start { epoch: Epoch(2), tunnel: TunnelId(1), visitor, public };
    all.extend(visitors().into_iter().zip(publics()).map(start));
    let host: Host = "app.example.com".parse().expect("a host");
    for (host, agreed) in [(Some(host.clone()), None), (None, Some(Agreed::Http1)), (Some(host), Some(Agreed::Http2))] {
        all.push(ProxyToClient::Secured(Box::new(Secured { host, agreed })));
    }
    all
}

const HOW: [How; 2] = [How::Shut, How::Reset];
const ABORT: [AbortCode; 6] = [
    AbortCode::OuterReset,
    AbortCode::ConnLost,
    AbortCode::Deadline,
    AbortCode::SessionOver,
    AbortCode::Resources,
    AbortCode::Stopping,
];
const REFUSE: [RefuseCode; 5] = [
    RefuseCode::ConnectionRefused,
    RefuseCode::Unreachable,
    RefuseCode::TimedOut,
    RefuseCode::UnknownTunnel,
    RefuseCode::Resources,
];
const HANDSHAKE: [HandshakeRefusal; 12] = [
    HandshakeRefusal::Version,
    HandshakeRefusal::TokenRequired,
    HandshakeRefusal::TokenUnexpected,
    HandshakeRefusal::WrongToken,
    HandshakeRefusal::LoopbackOnly,
    HandshakeRefusal::IdentityInUse,
    HandshakeRefusal::Full,
    HandshakeRefusal::Stopping,
    HandshakeRefusal::UnknownSession,
    HandshakeRefusal::ReplayedConn,
    HandshakeRefusal::TooManyFailures,
    HandshakeRefusal::TlsRequired,
];
const TUNNEL: [TunnelRefusal; 16] = [
    TunnelRefusal::PortInUse,
    TunnelRefusal::PortNotAllowed,
    TunnelRefusal::PortDenied,
    TunnelRefusal::NoFreePort,
    TunnelRefusal::TooManyTunnels,
    TunnelRefusal::Resources,
    TunnelRefusal::Released,
    TunnelRefusal::Closed,
    TunnelRefusal::HostInUse,
    TunnelRefusal::HostNotAllowed,
    TunnelRefusal::NoHosts,
    TunnelRefusal::NoUdp,
    TunnelRefusal::AddressNotAllowed,
    TunnelRefusal::NoAddress,
    TunnelRefusal::HeldByHolder,
    TunnelRefusal::NoExamine,
];
const CLOSE: [CloseCode; 6] = [
    CloseCode::Bye,
    CloseCode::Replaced,
    CloseCode::Violation,
    CloseCode::Stopping,
    CloseCode::Revoked,
    CloseCode::Kicked,
];
const LEAVE: [LeaveCode; 2] = [LeaveCode::Upgraded, LeaveCode::TakenOver];

fn messages() -> Vec<String> {
    fn rows<M: Message>(direction: &str, all: &[M]) -> Vec<String> {
        let row = |message: &M| {
            object(&[("direction", json(direction)), ("message", json(message)), ("frame", hex(&frame(message)))])
        };
        all.iter().map(row).collect()
    }
    [
        rows("ctl_to_server", &from_clients()),
        rows("ctl_to_client", &from_servers()),
        rows("proxy_to_server", &from_clients_on_proxy()),
        rows("proxy_to_client", &from_servers_on_proxy()),
    ]
    .concat()
}

fn invalid_frames() -> Vec<String> {
    fn row(direction: &str, why: &str, error: &str, frame: &[u8]) -> String {
        object(&[("direction", json(direction)), ("why", json(why)), ("error", json(error)), ("frame", hex(frame))])
    }
    let length = |direction: &str, why: &str, length: u16| row(direction, why, "Length", &length.to_le_bytes());
    let malformed = |direction: &str, why: &str, body: &[u8]| row(direction, why, "Malformed", &framed(body));
    let mut rows = Vec::new();
    for (direction, max) in [
        ("ctl_to_server", ToServer::MAX),
        ("ctl_to_client", ToClient::MAX),
        ("proxy_to_server", ProxyToServer::MAX),
        ("proxy_to_client", ProxyToClient::MAX),
    ] {
        let max = u16::try_from(max).expect("frames are short");
        rows.push(length(direction, "an empty frame", 0));
        rows.push(length(direction, "a length just above the maximum", max + 1));
        rows.push(length(direction, "the largest length", u16::MAX));
    }
    // One past the last number of each list: these move when something is added.
    let past = |list: usize| u8::try_from(list).expect("lists are short");
    let ctl = ["ctl_to_server", "ctl_to_client"];
    for direction in ctl {
        rows.push(malformed(direction, "the first unknown message", &[6]));
        rows.push(malformed(direction, "the first unknown close code", &[5, past(CLOSE.len())]));
    }
    rows.extend([
        malformed("ctl_to_server", "the first unknown numbered message", &[1, 1, 12]),
        malformed("ctl_to_server", "the first unknown protocol of a host", &[1, 1, 9, 1, 2]),
        malformed("ctl_to_client", "the first unknown numbered message", &[1, 1, 10]),
        malformed("ctl_to_server", "the first unknown handshake message", &[0, 2]),
        malformed("ctl_to_client", "the first unknown handshake message", &[0, 3]),
        malformed("proxy_to_server", "the first unknown message", &[4]),
        malformed("proxy_to_client", "the first unknown message", &[5]),
        malformed("ctl_to_server", "the first unknown abort code", &[1, 1, 5, 3, 2, past(ABORT.len())]),
        malformed("ctl_to_client", "the first unknown abort code", &[1, 1, 4, 3, 2, past(ABORT.len())]),
        malformed("ctl_to_server", "the first unknown manner of an end", &[1, 1, 3, 3, 2, 5, past(HOW.len())]),
        malformed("ctl_to_client", "the first unknown manner of an end", &[1, 1, 3, 3, 2, 5, past(HOW.len())]),
        malformed("ctl_to_server", "an end without its manner", &[1, 1, 3, 3, 2, 5]),
        malformed("ctl_to_client", "the first unknown refusal", &[0, 2, past(HANDSHAKE.len())]),
        malformed("ctl_to_client", "the first unknown tunnel refusal", &[1, 1, 1, 1, past(TUNNEL.len())]),
        malformed("ctl_to_client", "the first unknown reason to leave", &[1, 1, 8, past(LEAVE.len())]),
        malformed("proxy_to_client", "the first unknown refusal", &[1, past(HANDSHAKE.len())]),
        malformed("proxy_to_client", "the first unknown protocol inside of TLS", &[4, 0, 1, 2]),
        malformed("proxy_to_server", "the first unknown refusal of a visitor", &[3, 2, past(REFUSE.len())]),
        malformed("ctl_to_server", "a byte is missing: Ping without its number", &[2]),
        malformed("ctl_to_server", "a byte too many: Drain and 0", &[1, 1, 6, 0]),
        malformed("ctl_to_server", "a number that is not the shortest: Ping", &[2, 0x80, 0x00]),
        malformed("ctl_to_server", "a tag that is not the shortest: Ping", &[0x82, 0x00, 0x05]),
        malformed("ctl_to_server", "a number above 2^32-1: ConnFailed", &[1, 1, 2, 255, 255, 255, 255, 16]),
        malformed("ctl_to_server", "a port above 65535: RegisterTunnel", &[1, 1, 0, 1, 128, 128, 4, 0, 0]),
        malformed(
            "ctl_to_server",
            "a host in capitals: RegisterHost",
            &[1, 1, 9, 1, 0, 1, b'A', 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        malformed(
            "ctl_to_server",
            "a host with a port: RegisterHost",
            &[1, 1, 9, 1, 0, 3, b'a', b':', b'1', 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        malformed(
            "ctl_to_server",
            "a dot and no host: RegisterHost",
            &[1, 1, 9, 1, 0, 1, b'.', 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        malformed("ctl_to_server", "a name longer than the frame", &[1, 1, 0, 1, 0, 0, 4, b's', b's', b'h']),
        malformed("ctl_to_server", "a name that is not UTF-8", &[1, 1, 0, 1, 0, 0, 2, 0xc3, 0x28]),
        malformed("ctl_to_server", "a network of more bits than an IPv4 address has", &{
            [&[1, 1, 0, 1, 0, 0, 0, 1, 0][..], &[192, 0, 2, 0, 33], &[0, 0, 0]].concat()
        }),
        malformed("ctl_to_server", "a network with bits set behind its length", &{
            [&[1, 1, 0, 1, 0, 0, 0, 1, 0][..], &[192, 0, 2, 7, 24], &[0, 0, 0]].concat()
        }),
        malformed("ctl_to_server", "an IPv4-mapped IPv6 network", &{
            let mapped = [[0; 10].as_slice(), &[255, 255, 192, 0, 2, 0, 120]].concat();
            [&[1, 1, 0, 1, 0, 0, 1, 1][..], &mapped, &[0, 0, 0]].concat()
        }),
        malformed("ctl_to_server", "a list of 17 networks", &{
            [&[1, 1, 0, 1, 0, 0, 17][..], &[0, 0, 0, 0, 0, 0].repeat(17), &[0, 0, 0]].concat()
        }),
        malformed("ctl_to_server", "a flag that is neither 0 nor 1: Hello.token", &{
            let mut body = from_clients()[0].clone_body();
            body[50] = 2;
            body
        }),
        malformed("ctl_to_server", "an option that is neither 0 nor 1: Hello.resume", &{
            let mut body = from_clients()[0].clone_body();
            body[52] = 2;
            body
        }),
        malformed("proxy_to_client", "an address that is neither IPv4 nor IPv6", &[3, 2, 1, 2, 0, 0, 0, 0, 0]),
        malformed("proxy_to_client", "an IPv4 address cut short", &[3, 2, 1, 0, 192, 0, 2]),
    ]);
    rows
}

/// A message's body, to be spoilt.
trait CloneBody {
    fn clone_body(&self) -> Vec<u8>;
}

impl CloneBody for ToServer {
    fn clone_body(&self) -> Vec<u8> {
        frame(self)[2..].to_vec()
    }
}

fn streams() -> Vec<String> {
    fn row<M: Message>(name: &str, direction: &str, messages: &[M], rest: &[u8]) -> String {
        let mut bytes: Vec<u8> = messages.iter().flat_map(frame).collect();
        bytes.extend_from_slice(rest);
        object(&[
            ("name", json(name)),
            ("direction", json(direction)),
            ("hex", hex(&bytes)),
            ("messages", format!("[{}]", messages.iter().map(json).collect::<Vec<_>>().join(", "))),
            ("rest", hex(rest)),
        ])
    }
    let epoch = Epoch(1);
    let ([visitor, _], [public, _]) = (visitors(), publics());
    let start = ProxyToClient::Start { epoch, tunnel: TunnelId(1), visitor, public };
    let fin = |how| ClientMsg::Fin { conn: ConnId(1), epoch, total: 5, how };
    let done = ClientMsg::Done { conn: ConnId(1), epoch };
    vec![
        row("a ping, then a visitor with its first bytes", "proxy_to_client", &[ProxyToClient::Ping, start], b"GET /"),
        row(
            "the pong, then the answer with the first bytes",
            "proxy_to_server",
            &[ProxyToServer::Pong, ProxyToServer::Started { epoch }],
            b"hello",
        ),
        row(
            "the end of a transfer",
            "ctl_to_server",
            &[
                ToServer::Numbered { seq: 2, msg: fin(How::Shut) },
                ToServer::Pong { received: 3 },
                ToServer::Numbered { seq: 3, msg: done.clone() },
            ],
            b"",
        ),
        row(
            "the end of a transfer whose LocalServer was reset behind its end",
            "ctl_to_server",
            &[
                ToServer::Numbered { seq: 4, msg: fin(How::Shut) },
                ToServer::Numbered { seq: 5, msg: fin(How::Reset) },
                ToServer::Numbered { seq: 6, msg: done },
            ],
            b"",
        ),
        row(
            "a frame of which two bytes are missing",
            "ctl_to_client",
            &[ToClient::Ack { received: 1 }],
            &[5, 0, 1, 9, 2],
        ),
    ]
}

fn flows() -> Vec<String> {
    fn row(name: &str, datagrams: &[&[u8]], rest: Option<&[u8]>, behind: &[u8]) -> String {
        let framed = datagrams.iter().flat_map(|datagram| [&datagrams::frame(datagram.len())[..], datagram].concat());
        let bytes: Vec<u8> = framed.chain(rest.unwrap_or(behind).iter().copied()).collect();
        let datagrams: Vec<_> = datagrams.iter().map(|datagram| hex(datagram)).collect();
        object(&[
            ("name", json(name)),
            ("hex", hex(&bytes)),
            ("datagrams", format!("[{}]", datagrams.join(", "))),
            ("rest", rest.map_or("null".to_owned(), hex)),
        ])
    }
    let longest = u16::try_from(datagrams::MAX_DATAGRAM).expect("two bytes");
    vec![
        row("three datagrams, one of them empty", &[b"one", b"", b"two"], Some(b""), b""),
        row("the low byte of a length is first", &[&[7; 258]], Some(b""), b""),
        row("half a length", &[b"one"], Some(&[3]), b""),
        row("a datagram whose last byte is missing", &[], Some(&[3, 0, b't', b'w']), b""),
        row("the longest length", &[], Some(&longest.to_le_bytes()), b""),
        row("a length that no datagram has: a violation", &[b"one"], None, &(longest + 1).to_le_bytes()),
    ]
}

fn path_datagrams() -> Vec<String> {
    fn row(name: &str, bytes: &[u8], flow: Option<(u64, u32, &[u8])>) -> String {
        let flow = flow.map(|(conn, epoch, datagram)| {
            object(&[("conn", conn.to_string()), ("epoch", epoch.to_string()), ("datagram", hex(datagram))])
        });
        object(&[("name", json(name)), ("hex", hex(bytes)), ("flow", flow.unwrap_or_else(|| "null".to_owned()))])
    }
    let good = |name, conn, epoch, datagram| {
        let bytes = PathDatagram::new(ConnId(conn), Epoch(epoch), datagram).into_bytes();
        row(name, &bytes, Some((conn, epoch, datagram)))
    };
    vec![
        good("a datagram of a conn's first transfer", 1, 1, b"hello"),
        good("an empty one", 3, 2, b""),
        good("numbers of more than one byte", 300, 70_000, &[0xff, 0x80]),
        good("the highest numbers", u64::MAX, u32::MAX, b"x"),
        row("nothing at all: dropped", b"", None),
        row("no epoch: dropped", &[1], None),
        row("a number that is not in its shortest form: dropped", &[0x81, 0x00, 1, b'x'], None),
        row("an epoch above 4294967295: dropped", &[1, 0x80, 0x80, 0x80, 0x80, 0x10, b'x'], None),
    ]
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn counting(from: u8) -> [u8; 32] {
    core::array::from_fn(|i| from.wrapping_add(u8::try_from(i).expect("32 bytes")))
}

/// What one handshake of the vectors says.
struct Said {
    name: &'static str,
    reply: Reply,
    secret: Option<&'static str>,
    resume: Option<Resume>,
    /// The first bytes of the nonces: no two connections draw the same.
    nonces: [u8; 2],
    conns: [u64; 2],
    /// The first byte of the ctl_conn's TLS channel, where the proofs cover it; the conns' have the next ones.
    channel: Option<u8>,
}

fn handshakes() -> Vec<String> {
    let ours = Reply::to(Preface::ours(ConnKind::Ctl));
    let newer = Reply { greeting: Greeting::Version { version: 1, min: 1, max: 3 }, ..ours };
    let secret = Some("correct horse battery staple");
    let first = Said {
        name: "with a token, a new session",
        reply: ours,
        secret,
        resume: None,
        nonces: [0, 0x40],
        conns: [1, 300],
        channel: None,
    };
    let resumed = Said {
        name: "the session of the first handshake, resumed",
        resume: Some(Resume { session: SESSION, received: 7 }),
        nonces: [0xa0, 0xc0],
        conns: [2, 301],
        ..first
    };
    let other = |name, reply, secret| Said { name, reply, secret, ..first };
    let all = [
        (&first, None),
        (&other("without a token", ours, None), None),
        (&resumed, Some(&first)),
        (&other("with a server that speaks later versions too", newer, Some("secret")), None),
        (&other("with a token that is not ASCII", ours, Some("\u{e9}t\u{e9}")), None),
        (&Said { name: "through TLS, whose channel the proofs cover", channel: Some(0x60), ..first }, None),
    ];
    all.map(|(said, begun)| handshake(said, begun.unwrap_or(said))).into()
}

impl Said {
    fn token(&self) -> Option<Token> {
        self.secret.map(|secret| Token::new(secret.into()))
    }

    /// The channel of one of its connections.
    fn channel(&self, number: u8) -> Option<Channel> {
        self.channel.map(|first| Channel(counting(first + number)))
    }

    fn hellos(&self) -> (ToServer, ToClient) {
        let features = if self.channel.is_some() { CHANNEL } else { 0 };
        let hello = ClientHello {
            nonce: counting(self.nonces[0]),
            client: ClientId(counting(0x80)[..16].try_into().expect("16 bytes")),
            token: self.secret.is_some(),
            features,
            resume: self.resume,
        };
        let answer = ServerHello { nonce: counting(self.nonces[1]), features };
        (ToServer::Handshake(ClientHandshake::Hello(hello)), ToClient::Handshake(ServerHandshake::Hello(answer)))
    }

    /// The digest that the proofs are over, computed here, and what the library makes of the same.
    fn transcript(&self) -> ([u8; 32], Transcript) {
        let (preface, (hello, answer)) = (Preface::ours(ConnKind::Ctl), self.hellos());
        let said = [&preface.encode()[..], &self.reply.encode(), &frame(&hello), &frame(&answer)].concat();
        let transcript = Transcript::new(preface.encode(), self.reply.encode(), &hello, &answer);
        let digest: [u8; 32] = Sha256::digest(said).into();
        match self.channel(0) {
            None => (digest, transcript),
            Some(channel) => (Sha256::digest([digest, channel.0].concat()).into(), transcript.over(Some(&channel))),
        }
    }
}

/// One handshake; `begun` is the one that began its session.
fn handshake(said: &Said, begun: &Said) -> String {
    let Said { name, reply, secret, resume, .. } = *said;
    let preface = Preface::ours(ConnKind::Ctl);
    let (client_hello, server_hello) = said.hellos();
    let (digest, transcript) = said.transcript();
    let (session_digest, session_transcript) = begun.transcript();

    let token = said.token();
    let prover = Prover::new(token.as_ref(), transcript);
    let proof = ToServer::Handshake(ClientHandshake::Proof(prover.client()));
    let welcome = prover.welcome(Welcome {
        session: SESSION,
        resumed: resume.is_some(),
        received: if resume.is_some() { 300 } else { 0 },
        proxy_port: 8090,
        proof: [0; 32],
    });
    let welcome = ToClient::Handshake(ServerHandshake::Welcome(welcome));

    // The key's bytes are not to be had from the library. It is that of the handshake that began the session.
    let key = mac(begun.secret.unwrap_or("").as_bytes(), &[b"cproxy session", &session_digest, &SESSION.0]);
    let token = begun.token();
    let session_key = Prover::new(token.as_ref(), session_transcript).session_key(SESSION);
    let mut numbers = 1..;
    let conns = said.conns.map(|n| {
        let conn = ConnId(n);
        let channel = numbers.next().and_then(|number| said.channel(number));
        let session_key = session_key.over(channel.as_ref());
        let hello = ProxyToServer::Hello(session_key.hello(SESSION, conn));
        let accepted = ProxyToClient::Accepted { proof: session_key.accept(SESSION, conn) };
        let accepted = hex(&frame(&accepted));
        object(&[
            ("conn", n.to_string()),
            ("channel", channel_of(channel)),
            ("hello", hex(&frame(&hello))),
            ("accepted", accepted),
        ])
    });
    let path = counting(0xe0);
    let hello = session_key.path_hello(SESSION, &Channel(path));
    let answer = session_key.answer_path(SESSION, &Channel(path), &hello).expect("it is proved");
    let path = object(&[("channel", hex(&path)), ("hello", hex(&hello)), ("answer", hex(&answer))]);
    object(&[
        ("name", json(name)),
        ("token", secret.map_or("null".into(), |secret| hex(secret.as_bytes()))),
        ("preface", hex(&preface.encode())),
        ("reply", hex(&reply.encode())),
        ("client_hello", hex(&frame(&client_hello))),
        ("server_hello", hex(&frame(&server_hello))),
        ("channel", channel_of(said.channel(0))),
        ("transcript", hex(&digest)),
        ("client_proof", hex(&frame(&proof))),
        ("welcome", hex(&frame(&welcome))),
        ("session", hex(&SESSION.0)),
        ("session_transcript", hex(&session_digest)),
        ("session_key", hex(&key)),
        ("conns", format!("[{}]", conns.join(", "))),
        ("path", path),
    ])
}

fn channel_of(channel: Option<Channel>) -> String {
    channel.map_or("null".into(), |channel| hex(&channel.0))
}
