//! A client's file: what is read, and what is said of what is wrong.

use super::super::settings::{Topic, settings_of};
use super::*;
use crate::token::TokenSource;
use protocol_sm::routes::{Service, Speaks};
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

fn parse(text: &str) -> Result<ClientFile, ConfigError> {
    parse_client(text, Path::new("client.toml"), &Environment::default())
}

/// The one problem of `text`, without the file's name.
fn problem(text: &str) -> String {
    let error = parse(text).unwrap_err();
    let [problem] = error.problems() else { panic!("expected one problem: {error}") };
    problem.to_string().strip_prefix("client.toml:").unwrap().to_owned()
}

#[test]
fn a_udp_port_and_its_twin_of_tcp_are_two() {
    let tunnel =
        |name: &str, more: &str| format!("[[tunnels]]\nname = \"{name}\"\nlocal = \"a:1\"\npublic_port = 53\n{more}\n");
    let file = parse(&(tunnel("a", "protocol = 'udp'") + &tunnel("b", ""))).unwrap();
    let kinds: Vec<_> = file.tunnels.iter().map(|tunnel| tunnel.serving.datagrams).collect();
    assert_eq!(kinds, [Some(Datagrams::Connected), None]);
    let follows = parse(&tunnel("a", "protocol = 'udp'\nudp_follow = true")).unwrap();
    assert_eq!(follows.tunnels[0].serving.datagrams, Some(Datagrams::Follow));
    let twice = tunnel("a", "protocol = 'udp'") + &tunnel("b", "protocol = 'udp'");
    assert!(problem(&twice).contains("which tunnel \"a\" has"), "{}", problem(&twice));
}

#[test]
fn every_key_is_read() {
    let text = r#"
        server = "tunnel.example.com:8080"
        client_id = "laptop"
        token_file = "/etc/token"
        work_thread_nums = 2
        # Instead of proxy_port:
        proxy_addr = "192.0.2.1:18090"
        frugal = true
        datagram_transport = "udp"
        max_proxy_conns = 7
        source_addr = "192.0.2.9"
        bind_interface = "wg0"
        outbound_proxy = "socks5://proxy.example"
        # Instead of outbound_proxy_file.
        reconnect_min = 0.5
        reconnect_max = 0.5

        [[tunnels]]
        name = "ssh"
        local = "127.0.0.1:22"
        local_sources = ["127.0.0.2", "127.0.0.3"]
        public_port = 6022
        bind_addr = "192.0.2.1"
        allow_sources = ["192.0.2.0/24"]
        deny_sources = ["192.0.2.7", "::/0"]
        max_connections = 3
        max_connection_rate = 4
        max_bandwidth = 1_000_000
        proxy_protocol = "v2"

        [[tunnels]]
        name = "site"
        local = "127.0.0.1:8443"
        protocol = "https"
        hosts = ["App.Example.com.", "*.dev.example.com"]
        proxy_protocol = "v2"
        proxy_protocol_tlvs = true

        [[tunnels]]
        name = "web"
        local = "[::1]:8000"
        protocol = "udp"
        proxy_protocol = "v2"
        proxy_protocol_first = true
        udp_follow = true
    "#;
    let own = settings_of(Of::Client, Home::Top).filter(|setting| setting.of == Of::Client);
    for setting in own.chain(settings_of(Of::Client, Home::Tunnels)) {
        let elsewhere = matches!(setting.topic, Topic::Tls | Topic::Services);
        assert!(elsewhere || text.contains(setting.key), "`{}` is not in this test's file", setting.key);
    }
    let file = parse(text).unwrap();
    assert_eq!(file.server.unwrap().to_string(), "tunnel.example.com:8080");
    assert_eq!(file.client_id.as_deref(), Some("laptop"));
    let token = TokenSource::File { path: "/etc/token".into(), named_by: "client.toml:4: `token_file`".into() };
    assert_eq!(file.common.tokens, [token]);
    assert_eq!(file.common.work_threads, NonZeroUsize::new(2));
    assert_eq!((file.frugal, file.max_proxy_conns), (true, 7));
    assert_eq!(file.datagram_transport, DatagramTransport::Udp);
    assert_eq!(file.proxy, ProxyAt::Address("192.0.2.1:18090".parse().unwrap()));
    let uplink = Origin { address: "192.0.2.9".parse().ok(), interface: Some("wg0".to_owned()) };
    assert_eq!(file.uplink, uplink);
    assert_eq!(file.outbound, OutboundSource::parse("socks5://proxy.example:1080").ok());
    assert_eq!([file.timings.reconnect_min, file.timings.reconnect_max], [Duration::from_millis(500); 2]);
    let tunnels: Vec<_> =
        file.tunnels.iter().map(|t| (t.name.as_str(), t.local.to_string(), t.public_ports.first)).collect();
    assert_eq!(file.tunnels[0].local_sources, ["127.0.0.2", "127.0.0.3"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(file.tunnels[0].bind_addr, "192.0.2.1".parse().ok());
    let limits = &file.tunnels[0].limits;
    assert_eq!((limits.max_connections, limits.max_connection_rate), (3, 4));
    let (max_bandwidth, proxy_protocol) = (NonZeroU64::new(1_000_000), Some(ProxyProtocol::V2));
    let serving = Serving { max_bandwidth, proxy_protocol, ..Serving::default() };
    let datagrams = Some(Datagrams::Follow);
    let follows = Serving { datagrams, proxy_protocol, proxy_protocol_first: true, ..Serving::default() };
    let site = Serving { proxy_protocol, proxy_protocol_tlvs: true, ..Serving::default() };
    let all = [serving, site, follows];
    assert_eq!(file.tunnels.iter().map(|t| t.serving).collect::<Vec<_>>(), all);
    let parts = file.tunnels[1].parts();
    let parts: Vec<_> = parts.iter().map(|part| format!("{} {}", part.name, part.site.as_ref().unwrap())).collect();
    assert_eq!(parts, ["site-0 https://app.example.com", "site-1 https://*.dev.example.com"]);
    let shown: Vec<_> = limits.sources.allow.iter().chain(&limits.sources.deny).map(ToString::to_string).collect();
    assert_eq!(shown, ["192.0.2.0/24", "192.0.2.7/32", "::/0"]);
    assert_eq!(file.tunnels[2].limits, TunnelLimits::default());
    let [ssh, site] = [("ssh", "127.0.0.1:22".into(), 6022), ("site", "127.0.0.1:8443".into(), 0)];
    assert_eq!(tunnels, [ssh, site, ("web", "[::1]:8000".into(), 0)]);
}

#[test]
fn a_port_at_two_addresses_is_two() {
    let tunnel = |name: &str, address: &str| {
        let at = if address.is_empty() { String::new() } else { format!("bind_addr = '{address}'\n") };
        format!("[[tunnels]]\nname = '{name}'\nlocal = 'a:1'\npublic_port = 53\n{at}")
    };
    let file = parse(&(tunnel("a", "127.0.0.1") + &tunnel("b", "::ffff:192.0.2.1"))).unwrap();
    let addresses: Vec<_> = file.tunnels.iter().map(|tunnel| tunnel.bind_addr.unwrap().to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1", "192.0.2.1"]);
    for (one, other) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", ""), ("::", "127.0.0.1")] {
        let both = tunnel("a", one) + &tunnel("b", other);
        assert!(problem(&both).contains("which tunnel \"a\" has"), "{one} {other}");
    }
}

#[test]
fn hosts_are_each_one_tunnels() {
    let tunnel = |name: &str, more: &str| format!("[[tunnels]]\nname = '{name}'\nlocal = 'a:1'\n{more}\n");
    let both = tunnel("a", "hosts = ['a.b']\nprotocol = 'http'") + &tunnel("b", "hosts = ['a.b']\nprotocol = 'https'");
    assert_eq!(parse(&both).unwrap().tunnels.len(), 2, "they have a port each");
    let twice = tunnel("a", "hosts = ['A.b.']") + &tunnel("b", "hosts = ['c', 'a.b']");
    assert!(problem(&twice).contains("has http://a.b twice"), "{}", problem(&twice));
    assert!(problem(&tunnel("a", "hosts = ['c', 'c']")).contains("has http://c twice"));
    for (more, said) in [
        ("hosts = []", "is an empty list"),
        ("hosts = ['a b']", "\"a b\" is not a host of at most 120 bytes; write it like"),
        ("hosts = ['münchen.example']", "other letters than a to z as DNS has them (\"xn--mnchen-3ya.example\")"),
        ("hosts = ['a:80']", "without a port"),
        ("hosts = [1]", "expected a list of hosts in quotes"),
        ("protocol = 'http'", "needs `hosts"),
        ("protocol = 'ftp'", "is no protocol of a tunnel"),
        ("protocol = 'tcp'\nhosts = ['a']", "stands beside `protocol = \"tcp\"`"),
        ("public_port = 1\nhosts = ['a']", "stands beside `hosts`"),
        ("bind_addr = '::1'\nhosts = ['a']", "`bind_addr` in [[tunnels]] stands beside `hosts`"),
        ("bind_addr = 'localhost'", "is no IP address; write one of the server's"),
        ("protocol = 'udp'\nhosts = ['a']", "stands beside `protocol = \"udp\"`"),
        ("protocol = 'udp'\nproxy_protocol = 'v1'", "a datagram needs \"v2\""),
        ("protocol = 'udp'\nproxy_protocol_first = true", "is for tunnels with `protocol = \"udp\"` and"),
        ("proxy_protocol = 'v2'\nproxy_protocol_first = true", "is for tunnels with `protocol = \"udp\"` and"),
        ("hosts = ['a']\nproxy_protocol = 'v1'\nproxy_protocol_tlvs = true", "is for tunnels with `hosts` and"),
        ("proxy_protocol = 'v2'\nproxy_protocol_tlvs = true", "is for tunnels with `hosts` and"),
        ("udp_follow = true", "is for tunnels with `protocol = \"udp\"`"),
    ] {
        assert!(problem(&tunnel("a", more)).contains(said), "{more}: {}", problem(&tunnel("a", more)));
    }
    let numbered = tunnel("a", "hosts = ['c', 'd']") + &tunnel("a-1", "");
    assert!(problem(&numbered).contains("\"a-1\" is there twice"));
}

#[test]
fn data_connections_go_to_one_place() {
    assert_eq!(parse("proxy_port = 9").unwrap().proxy, ProxyAt::Port(9));
    assert!(problem("proxy_port = 0").starts_with("1: `proxy_port` is 0; write the port"));
    assert!(problem("proxy_addr = 'relay'").contains("is not an IP address and a port"));
    assert!(problem("proxy_port = 9\nproxy_addr = '192.0.2.1:9'").starts_with("2: `proxy_addr` stands beside"));
}

#[test]
fn connections_begin_at_an_address_and_an_interface() {
    for bad in ["office", "0.0.0.0", "192.0.2.0/24", "::", "224.0.0.1", ""] {
        let said = problem(&format!("source_addr = '{bad}'"));
        assert!(said.contains("is not one IP address of this machine"), "{said}");
    }
    for bad in ["", "a b", "a/b", "sixteen-letters-"] {
        let said = problem(&format!("bind_interface = '{bad}'"));
        assert!(said.contains("is not the name of a network interface"), "{said}");
    }
}

#[test]
fn a_proxy_is_named_once_and_what_is_wrong_with_it_shows_no_password() {
    assert_eq!(parse("outbound_proxy = 'environment'").unwrap().outbound, Some(OutboundSource::Environment));
    let named_by = "client.toml:1: `outbound_proxy_file`".to_owned();
    let file = Some(OutboundSource::File { path: "proxy".into(), named_by });
    assert_eq!(parse("outbound_proxy_file = 'proxy'").unwrap().outbound, file);
    let both = "outbound_proxy = 'environment'\noutbound_proxy_file = 'proxy'";
    assert_eq!(problem(both), "2: `outbound_proxy_file` stands beside `outbound_proxy`; keep one of the two");
    let wrong = problem("outbound_proxy = 'ftp://me:s3cret@host'");
    assert!(wrong.starts_with("1: `outbound_proxy` has a scheme that is neither") && !wrong.contains("s3cret"));
    assert!(problem("outbound_proxy = 3128").contains("a text in quotes"));
    assert!(problem("outbound_proxy_file = ''").contains("is empty; write the path"));
}

#[test]
fn local_sources_are_addresses_each_once() {
    let sources = |list: &str| problem(&format!("[[tunnels]]\nname = 'a'\nlocal = 'a:1'\nlocal_sources = {list}"));
    assert!(sources("['127.0.0.2',\n'lo']").starts_with("5: `local_sources` in [[tunnels]]: \"lo\": expected a list"));
    assert!(sources("['0.0.0.0']").contains("\"0.0.0.0\": expected a list of addresses of this machine"));
    assert!(sources("['::1', '::1']").contains("\"::1\" is there twice"));
    assert!(sources("[1]").contains("expected a list of addresses"));
    let many = (2..=66).map(|last| format!("'127.0.0.{last}',")).collect::<String>();
    assert!(sources(&format!("[{many}]")).contains("names 65 addresses; 64 are enough"));
}

#[test]
fn tunnels_must_be_whole_and_distinct() {
    assert!(problem("[[tunnels]]\nname = 'a'").starts_with("1: `local` in [[tunnels]] is missing"));
    assert!(problem("\n[[tunnels]]\nlocal = 'a:1'").starts_with("2: `name` in [[tunnels]] is missing"));
    assert!(problem("[tunnels]\nname = 'a'").starts_with("1: `tunnels` is a table; write [[tunnels]] above"));
    let tunnel = |name: &str, port: u16| format!("[[tunnels]]\nname = '{name}'\nlocal = 'a:1'\npublic_port = {port}\n");
    assert_eq!(
        problem(&(tunnel("a", 1) + &tunnel("a", 2))),
        "6: `name` in [[tunnels]] = \"a\" is there twice; give each of the [[tunnels]] its own name"
    );
    assert_eq!(
        problem(&(tunnel("a", 9) + &tunnel("b", 9))),
        "8: `public_port` in [[tunnels]] is 9, which tunnel \"a\" has; give each tunnel its own"
    );
    assert!(parse(&(tunnel("a", 0) + &tunnel("b", 0))).is_ok());
    assert!(problem(&tunnel(&"x".repeat(65), 1)).contains("longer than 64 bytes"));
}

#[test]
fn ranges_of_ports_are_a_tunnel_for_each() {
    let tunnel = |name: &str, local: &str, public: &str| {
        format!("[[tunnels]]\nname = '{name}'\nlocal = '{local}'\npublic_port = {public}\n")
    };
    let parts = |local: &str, public: &str| {
        let file = parse(&tunnel("ftp", local, public)).unwrap();
        let parts = file.tunnels[0].parts().into_iter();
        parts.map(|part| format!("{} {} {}", part.name, part.public_port, part.local)).collect::<Vec<_>>()
    };
    assert_eq!(parts("[::1]:8-9", "'18-19'"), ["ftp-0 18 [::1]:8", "ftp-1 19 [::1]:9"]);
    assert_eq!(parts("65534-65535", "'1-2'"), ["ftp-0 1 127.0.0.1:65534", "ftp-1 2 127.0.0.1:65535"]);
    assert_eq!(parts("a-b.c:8-8", "'18-18'"), ["ftp 18 a-b.c:8"], "one is as without a range");
    assert_eq!(parts("a:8-8", "0"), ["ftp 0 a:8"]);
    let wrong = "a range of ports is two numbers from 1 to 65535";
    let backwards = "the range's first port is larger than its last";
    for (local, public, said) in [
        ("a:1-3", "'11-12'", "4: `public_port` in [[tunnels]] has 2 ports, and `local` 3; each leads to the one"),
        ("a:1", "'11-12'", "4: `public_port` in [[tunnels]] has 2 ports, and `local` 1; each leads to the one"),
        ("a:1-3", "11", "3: `local` in [[tunnels]] has 3 ports, and `public_port` none for each; write a range"),
        ("a:1-3", "0", "and `public_port` none for each; write a range"),
        ("a:1-2", "'12-11'", backwards),
        ("a:2-1", "'11-12'", backwards),
        ("a:0-1", "'11-12'", wrong),
        ("a:1-2", "'0-1'", wrong),
        ("a:1-2", "'65535-65536'", wrong),
        ("a:1-2", "'+1-2'", wrong),
        ("a:1-2", "'1-2-3'", wrong),
        ("a:1-2", "'1-2,5'", wrong),
        ("a:1-", "'11-12'", wrong),
        ("a:1", "'11'", "one port has no quotes"),
        ("1-host", "11", "it has no port; write `1-host:8080`"),
        ("::1:1-2", "'11-12'", "without brackets"),
        ("a:1-65535", "'1-65535'", "makes 65535 tunnels of one client; it has 10000 at most"),
    ] {
        let text = tunnel("ftp", local, public);
        assert!(problem(&text).contains(said), "{local} {public}: {}", problem(&text));
    }
    let hosts = "[[tunnels]]\nname = 'a'\nlocal = 'a:1-2'\nhosts = ['a']";
    assert!(problem(hosts).contains("`local` in [[tunnels]] has 2 ports beside `hosts`"), "{}", problem(hosts));
    let hosts = "[[tunnels]]\nname = 'a'\nlocal = 'a:1'\npublic_port = '1-2'\nhosts = ['a']";
    assert!(problem(hosts).contains("`public_port` in [[tunnels]] stands beside `hosts`"), "{}", problem(hosts));
    let missing = "[[tunnels]]\nname = 'a'\nlocal = 'a:1-2'";
    assert!(problem(missing).contains("and `public_port` none for each"));
    let ftp = tunnel("ftp", "a:1-9", "'11-19'");
    assert!(problem(&(ftp.clone() + &tunnel("ftp-1", "a:1", "0"))).contains("\"ftp-1\" is there twice"));
    let said = problem(&(tunnel("b", "a:1", "15") + &ftp));
    assert!(said.contains("is 11-19, and 15 of them is what tunnel \"b\" has; give each"), "{said}");
    let said = problem(&(ftp.clone() + &tunnel("b", "a:1", "15")));
    assert!(said.contains("is 15, which tunnel \"ftp-4\" has; give each"), "{said}");
    assert!(problem(&tunnel(&"x".repeat(63), "a:1-2", "'11-12'")).contains("longer than 64 bytes"));
    let half = tunnel("a", "a:1-5000", "'1-5000'") + &tunnel("b", "a:1-5000", "'5001-10000'");
    assert!(parse(&half).is_ok());
    let more = problem(&(half + &tunnel("c", "a:1", "0")));
    assert!(more.contains("makes 10001 tunnels of one client"), "{more}");
}

#[test]
fn bandwidth_is_none_or_enough() {
    let tunnel = "[[tunnels]]\nname = 'a'\nlocal = 'a:1'\nmax_bandwidth = ";
    let read = |value: &str| parse(&format!("{tunnel}{value}")).unwrap().tunnels[0].serving.max_bandwidth;
    assert_eq!((read("4096"), read("0")), (NonZeroU64::new(4096), None));
    for wrong in ["1", "4095"] {
        assert!(problem(&format!("{tunnel}{wrong}")).starts_with("4: `max_bandwidth` in [[tunnels]] is too small"));
    }
    assert!(problem(&format!("{tunnel}'10MiB'")).contains("write a whole number"));
}

#[test]
fn the_proxy_protocol_has_two_versions() {
    let tunnel = "[[tunnels]]\nname = 'a'\nlocal = 'a:1'\nproxy_protocol = ";
    let read = |value: &str| parse(&format!("{tunnel}{value}")).unwrap().tunnels[0].serving.proxy_protocol;
    assert_eq!((read("'v1'"), read("'v2'")), (Some(ProxyProtocol::V1), Some(ProxyProtocol::V2)));
    let udp = format!("{tunnel}'v2'\nprotocol = 'udp'\nproxy_protocol_first = ");
    let first = |value| parse(&format!("{udp}{value}")).unwrap().tunnels[0].serving.proxy_protocol_first;
    assert_eq!((first("true"), first("false")), (true, false));
    for wrong in ["''", "'v3'", "'V1'"] {
        assert!(problem(&format!("{tunnel}{wrong}")).contains("is no version of the PROXY protocol; write"));
    }
    assert!(problem(&format!("{tunnel}1")).contains("a text in quotes"));
}

#[test]
fn a_tunnel_asks_for_no_more_networks_than_one_message_holds() {
    let lists = |allow: usize, deny: usize| {
        let list = |count| ["'192.0.2.0/24',"].repeat(count).concat();
        let tunnel = "[[tunnels]]\nname = 'a'\nlocal = 'a:1'\n";
        format!("{tunnel}allow_sources = [{}]\ndeny_sources = [{}]", list(allow), list(deny))
    };
    assert!(parse(&lists(8, 8)).is_ok());
    assert!(problem(&lists(8, 9)).starts_with("4: `allow_sources` in [[tunnels]] makes 17 networks"));
    assert!(problem("token_files = ['a']").contains("it belongs in a file for cproxy-server"));
    assert!(problem("max_connections = 1").contains("it belongs in a [[tunnels]] section"));
}

#[test]
fn wrong_values_say_what_to_write() {
    assert_eq!(
        problem("server = 'localhost:'"),
        "1: `server` = \"localhost:\": its port `` is not a number from 1 to 65535"
    );
    assert_eq!(problem("ctl_port = 1"), "1: unknown key `ctl_port`: it belongs in a file for cproxy-server");
    assert_eq!(problem("local = 'a:1'"), "1: unknown key `local`: it belongs in a [[tunnels]] section");
    assert!(problem("client_id = ''").starts_with("1: `client_id` is empty"));
    assert_eq!(
        problem("reconnect_min = 16"),
        "1: `reconnect_max` (15 s, the default) must not be shorter than `reconnect_min` (16 s); raise the one or lower \
         the other"
    );
}

#[test]
fn what_a_service_is_like_is_said_of_hosts_in_the_clear() {
    let tunnel = |more: &str| {
        format!("[[tunnels]]\nname = 'a'\nlocal = '127.0.0.1:1'\nhosts = ['a.example']\nprotocol = 'http'\n{more}")
    };
    let read = |more: &str| parse(&tunnel(more)).unwrap().tunnels[0].serving.service;
    assert_eq!(read(""), Service::default());
    let all = "redirect_to_https = true\nforwarded_headers = true\none_request_per_connection = true";
    assert_eq!(read(all), Service { speaks: Speaks::Http1, redirect: true, forwarded: true });
    for (alpn, speaks) in
        [("['http/1.1']", Speaks::Http1), ("['h2']", Speaks::Http2), ("['http/1.1', 'h2']", Speaks::Both)]
    {
        assert_eq!(read(&format!("alpn = {alpn}")), Service { speaks, ..Service::default() });
    }
    for (more, what) in [
        ("forwarded_headers = true", "6: `forwarded_headers` in [[tunnels]] needs `one_request_per_connection = true`"),
        ("one_request_per_connection = true", "6: `one_request_per_connection` in [[tunnels]] stands without"),
        (
            "alpn = ['h2']\nforwarded_headers = true\none_request_per_connection = true",
            "7: `forwarded_headers` in [[tunnels]] cannot be had with HTTP/2",
        ),
        ("alpn = ['h3']", "6: `alpn` in [[tunnels]]: \"h3\" is not known here"),
        ("alpn = []", "6: `alpn` in [[tunnels]] is an empty list"),
    ] {
        assert!(problem(&tunnel(more)).starts_with(what), "{}", problem(&tunnel(more)));
    }
    let port = "[[tunnels]]\nname = 'a'\nlocal = '127.0.0.1:1'\nredirect_to_https = true";
    assert!(problem(port).starts_with("4: `redirect_to_https` in [[tunnels]] is for tunnels with `hosts`"));
}

#[test]
fn a_unix_socket_is_for_streams_and_has_no_port() {
    let text = "[[tunnels]]\nname = \"app\"\nlocal = \"unix:run/app-1.sock\"";
    let file = parse_client(text, Path::new("etc/client.toml"), &Environment::default()).unwrap();
    assert_eq!(file.tunnels[0].parts()[0].local, "unix:etc/run/app-1.sock", "it starts at the file's directory");
    let said = |more: &str| problem(&format!("[[tunnels]]\nname = \"app\"\nlocal = \"unix:/run/app.sock\"\n{more}"));
    assert!(
        said("protocol = \"udp\"").contains("4: `protocol` in [[tunnels]] is \"udp\": a Unix socket is for streams")
    );
    assert!(said("local_sources = [\"127.0.0.2\"]").contains("is for services at a port"));
    assert!(said("public_port = \"7000-7001\"").contains("has 2 ports, and `local` 1"));
    assert!(problem("[[tunnels]]\nname = \"app\"\nlocal = \"unix:\"").contains("names no socket"));
}
