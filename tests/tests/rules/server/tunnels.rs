//! Tunnels and conns of clients made by hand.

use super::*;

/// P-TUN-5: a tunnel registered twice, a name above 64 bytes, and more than 16 networks.
#[test]
fn a_tunnel_is_registered_once_and_has_a_short_name() {
    let server = server();
    let register = |name: &str| registration(name, TunnelLimits::default());
    let mut client = RawClient::start(server.ctl());
    client.send(register(&"n".repeat(64)));
    client.expect_alive();
    client.send(register("again"));
    client.expect_close(CloseCode::Violation);
    let mut client = RawClient::start(server.ctl());
    client.send(register(&"n".repeat(65)));
    client.expect_close(CloseCode::Violation);
    let lists = |allow, deny| {
        let networks = |count| vec!["192.0.2.0/24".parse().expect("a network"); count];
        let sources = SourceLists { allow: networks(allow), deny: networks(deny) };
        registration("lists", TunnelLimits { sources, ..TunnelLimits::default() })
    };
    let mut client = RawClient::start(server.ctl());
    client.send(lists(8, 8));
    client.expect_alive();
    let mut client = RawClient::start(server.ctl());
    client.send(lists(8, 9));
    client.expect_close(CloseCode::Violation);
}

/// P-TUN-3, P-TUN-6: a closed tunnel takes no visitors, lets transfers go on and resets those who wait.
#[test]
fn a_closed_tunnel_keeps_its_transfers() {
    let mut stage = Stage::set();
    let mut served = stage.visitor(b"served");
    let mut waits = connect(stage.public);
    waits.write_all(b"waits").expect("send");
    let other = stage.client.tunnel(2);
    assert_ne!(other, stage.public);
    stage.client.send(ClientMsg::CloseTunnel { tunnel: TunnelId(1) });
    stage.client.send(ClientMsg::CloseTunnel { tunnel: TunnelId(77) });
    assert_eq!(read_end(&mut waits), (0, End::Reset));
    until("its port is closed", || TcpStream::connect(stage.public).is_err());
    stage.conn.wire.send(&ProxyToServer::Started { epoch: E1 });
    stage.conn.wire.send_raw(b"answer");
    served.read_exact(&mut [0; 6]).expect("it goes on");
    drop(connect(other));
    stage.client.expect_alive();
}

/// P-POOL-2, P-POOL-3: failures are asked for again, and more of them than conns that were asked for are borne.
#[test]
fn failures_are_believed_within_reason() {
    let server = server();
    let mut client = RawClient::start(server.ctl());
    client.tunnel(1);
    client.send(ClientMsg::ConnFailed { count: u32::MAX });
    let again = client.find("NeedConn", |msg| match msg {
        ServerMsg::NeedConn { count } => Some(*count),
        _ => None,
    });
    assert_eq!(again, 1);
    client.expect_alive();
}
