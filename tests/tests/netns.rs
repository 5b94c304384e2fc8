//! A network of its own, with real distance in it: a link that is cut without a word, packets that are late
//! or lost, a client that does not come from the same machine, the original's fixed ports. Needs root.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;
use tests::exchange::{Exchange, Exchanges, Order, send_part};
use tests::link::{Link, Namespace};
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Options, Program, Server, options};
use tests::root_only;
use tests::services::Service;
use tests::sockets::{End, connect, read_each, read_end};
use tests::visits::{ping, short_visit, until_served};
use tests::wait::until;

const TOKEN: (&str, &str) = ("CPROXY_TOKEN", "far from each other");

/// A server at the near end of a link and a client at the far one.
fn setup(link: &Link, service: SocketAddr, server: Options, client: Options) -> (Server, Client) {
    let server = server.network(&link.near).env(TOKEN.0, TOKEN.1).flag("bind-addr", link.near.ip());
    let server = Server::start(server);
    let client = client.network(&link.far).env(TOKEN.0, TOKEN.1).tunnel_at(service, 6022);
    let client = Client::start(&server, client);
    (server, client)
}

#[test]
fn the_original_commands_work_word_for_word() {
    root_only!();
    let network = Namespace::alone();
    let service = network.run(|| Service::echo_at("127.0.0.1:7777".parse().expect("an address")));
    let server = ["--proxy_port=8090", "--work_thread_nums=4"];
    let server = Server::listening(Program::with_words_in(&network, "cproxy-server", &server));
    assert_eq!((server.ctl().port(), server.proxy().port()), (8080, 8090));
    let client = ["--local_server=127.0.0.1:7777", "--cproxy_server=127.0.0.1:8080"];
    let client = Program::with_words_in(&network, "cproxy-client", &client);
    let line = client.output_line("Forwarding tcp://127.0.0.1:");
    let (public, local) = line["Forwarding tcp://".len()..].split_once(" -> ").expect("an arrow");
    assert_eq!(local, "127.0.0.1:7777");
    let public = public.parse().expect("an address");
    network.run(|| (0..100).for_each(|number| short_visit(public, number)));
    drop(service);
}

#[test]
fn a_stranger_from_another_machine_needs_a_token() {
    root_only!();
    let link = Link::new(Duration::ZERO);
    let server = Server::start(options().network(&link.near).flag("bind-addr", link.near.ip()));
    let client = Client::spawn(&server, options().network(&link.far).tunnel("127.0.0.1:1"));
    assert_eq!(client.exit_code(), 2);
    assert!(client.log().contains("token"), "it says what to do: {}", client.log());
}

#[test]
fn late_and_lost_packets_change_nothing() {
    root_only!();
    let link = Link::new(Duration::from_millis(10));
    let service = link.far.run(|| Exchanges::start_on(link.far.ip()));
    let (_server, client) = setup(&link, service.addr(), options(), options());
    link.lose(10);
    link.near.run(|| {
        let mut stream = 0;
        for order in [Order::Together, Order::VisitorFirst, Order::ServiceFirst] {
            for (up, down) in [(1, 1), (200_000, 500_000)] {
                stream += 1;
                Exchange::new(stream).up(up).down(down).order(order).run(client.public());
            }
        }
    });
    service.expect(6);
}

/// P-XFER-8: the answer to a `Start` waits behind the client's own payload, for longer than it may take else.
#[test]
fn own_bulk_on_a_thin_line_costs_no_visitor() {
    root_only!();
    // With a conn for each visitor, and two seconds for the answer.
    let hasty = || options().key("dial_timeout", 1).threads(1);
    visits_beside_bulk(hasty().key("idle_conns", 12), hasty());
}

/// P-POOL-2, P-POOL-5: and so do the handshakes of the conns that the visitors wait for.
#[test]
fn own_bulk_on_a_thin_line_costs_no_new_conn() {
    root_only!();
    let hasty = || options().key("handshake_timeout", 5).threads(1);
    visits_beside_bulk(hasty().key("wait_timeout", 5), hasty());
}

/// Eight visitors come while four others download more than the line can take. Each is served.
fn visits_beside_bulk(server: Options, client: Options) {
    let link = Link::new(Duration::ZERO);
    let service = link.far.run(|| {
        Service::start_at((link.far.ip(), 0).into(), |mut stream| {
            let mut first = [0];
            stream.read_exact(&mut first).expect("the visitor speaks first");
            while first == *b"!" && stream.write_all(&[b'!'; 1 << 16]).is_ok() {}
            let _gone = stream.write_all(&first);
        })
    });
    let (_server, client) = setup(&link, service.addr(), server, client);
    link.near.run(|| {
        let downloads: Vec<_> = (0..4)
            .map(|_| {
                let mut visitor = connect(client.public());
                visitor.write_all(b"!").expect("asked");
                let reader = visitor.try_clone().expect("a second handle");
                (visitor, std::thread::spawn(move || read_end(&mut { reader })))
            })
            .collect();
        link.narrow(64 << 10);
        until("the line is full", || link.late() > Duration::from_secs(3));
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(|| ping(&mut connect(client.public()), b"?"))));
        });
        for (visitor, reader) in downloads {
            visitor.shutdown(Shutdown::Both).expect("it is open");
            assert_ne!(
                reader.join().expect("no panic").1,
                End::Reset,
                "a download goes on for as long as it is wanted"
            );
        }
    });
}

#[test]
fn a_transfer_survives_a_cut_that_heals_in_time() {
    root_only!();
    const TOTAL: u64 = 32 << 20;
    let link = Link::new(Duration::from_millis(1));
    let service = link.far.run(|| {
        Service::start_at((link.far.ip(), 0).into(), |mut stream| {
            send_part(&mut stream, Flow::down(1), 0, TOTAL).expect("send all of it");
        })
    });
    // The ctl_conn is given up soon, the session and its transfers are not.
    let patient = || options().brisk().key("heartbeat_timeout", 1).key("session_grace", 60);
    let (server, client) = setup(&link, service.addr(), patient(), patient());
    let mut visitor = link.near.run(|| connect(client.public()));
    let mut arrival = Arrival::of(Flow::down(1));
    let mut start = vec![0; 1 << 20];
    visitor.read_exact(&mut start).expect("the download has begun");
    arrival.take(&start).expect("byte for byte");
    link.cut();
    until("both sides have given the ctl_conn up", || client.process().connections_to(server.ctl().port()) == 0);
    link.heal();
    let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
    assert_eq!((end, arrival.end(TOTAL)), (End::Clean, Ok(())));
}

#[test]
fn a_cut_that_lasts_is_a_reset_at_both_ends_and_heals_later() {
    root_only!();
    let link = Link::new(Duration::from_millis(1));
    let service = link.far.run(|| Service::echo_at((link.far.ip(), 0).into()));
    let hasty = || options().brisk().key("heartbeat_timeout", 1).key("session_grace", 1);
    let (_server, client) = setup(&link, service.addr(), hasty(), hasty());
    link.near.run(|| {
        let mut visitor = connect(client.public());
        ping(&mut visitor, b"before");
        link.cut();
        assert_eq!(read_end(&mut visitor), (0, End::Reset));
        until("the service's stream is over", || service.open() == 0);
        until("the public port is released", || TcpStream::connect(client.public()).is_err());
        link.heal();
        until_served(client.public());
    });
}
