//! Who may visit a tunnel: the server's lists, narrowed by the client's. Whoever may not is reset before anything
//! else happens, and the log says why.

use std::net::Ipv4Addr;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::{End, visit_end_from};
use tests::visits::{expect_greeted, greeting, ip};

const TOKEN: &str = "a token that nobody guesses";

#[test]
fn the_servers_lists_decide_who_visits() {
    let service = Service::greeter("hi");
    let lists = options().key("allow_sources", r#"["127.0.0.0/29"]"#).key("deny_sources", r#"["127.0.0.3"]"#);
    let server = Server::start(lists);
    let client = Client::start(&server, options().tunnel(service.addr()));
    for last in [1, 2, 7] {
        expect_greeted(ip(last), &client, service.addr());
    }
    for last in [3, 8, 200] {
        assert_eq!(visit_end_from(ip(last), client.public()), (0, End::Reset), "127.0.0.{last}");
    }
    assert_eq!(service.accepted(), 3, "the service never hears of the others");
    let line = server.log_line("allow_sources");
    assert!(line.contains("\"peer_ip\":\"127.0.0.3\""), "the log names the visitor: {line}");
    client.stop();
    let stopped = server.stop();
    assert_eq!((stopped.visitors, stopped.refused_by_source, stopped.refused_by_rate), (3, 3, 0));
}

#[test]
fn a_client_narrows_one_tunnel_and_no_other() {
    let (private, open) = (Service::greeter("hi"), Service::greeter("hi"));
    let server = Server::start(options());
    let tunnels = options().tunnel(private.addr()).tunnel_key("allow_sources", r#"["127.0.0.2", "::/0"]"#);
    let client = Client::start(&server, tunnels.tunnel(open.addr()));
    expect_greeted(ip(2), &client, private.addr());
    assert_eq!(visit_end_from(ip(1), client.public_of(private.addr())), (0, End::Reset));
    for last in [1, 2] {
        expect_greeted(ip(last), &client, open.addr());
    }
}

#[test]
fn no_client_widens_what_the_server_allows_it() {
    let service = Service::greeter("hi");
    let clients = format!("[[clients]]\nname = \"lab\"\ntoken = \"{TOKEN}\"\nallow_sources = [\"127.0.0.2\"]\n");
    let server = Server::start(options().key("deny_sources", r#"["127.0.0.3"]"#).tables(&clients));
    let wide = options().env("CPROXY_TOKEN", TOKEN).tunnel(service.addr());
    let client = Client::start(&server, wide.tunnel_key("allow_sources", r#"["0.0.0.0/0"]"#));
    expect_greeted(ip(2), &client, service.addr());
    for last in [1, 3] {
        assert_eq!(visit_end_from(ip(last), client.public()), (0, End::Reset), "127.0.0.{last}");
    }
}

#[test]
fn ipv4_visitors_of_an_ipv6_listener_are_ipv4() {
    let service = Service::greeter("hi");
    let server = Server::start(options().flag("bind-addr", "::").key("deny_sources", r#"["127.0.0.3", "::/0"]"#));
    let via = format!("127.0.0.1:{}", server.ctl().port());
    let client = Client::start(&server, options().tunnel(service.addr()).via(via));
    let public = (Ipv4Addr::LOCALHOST, client.public().port()).into();
    assert_eq!(greeting(public), "hi");
    assert_eq!(visit_end_from(ip(3), public), (0, End::Reset));
}
