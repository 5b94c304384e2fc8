//! Several clients with several tunnels each: every visitor reaches the service it asked for, streams do
//! not mix, and neither a client's presence nor its end disturbs another.

use tests::exchange::{Exchange, Exchanges};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::connect;
use tests::visits::{greeting, ping};
use tests::wait::until;

#[test]
fn every_visitor_reaches_its_own_service() {
    const CLIENTS: usize = 4;
    const TUNNELS: usize = 3;
    for threads in [1, 4] {
        let server = Server::start(options().brisk().threads(threads));
        let clients: Vec<(Client, Vec<Service>)> = (0..CLIENTS)
            .map(|client| {
                let services: Vec<_> =
                    (0..TUNNELS).map(|tunnel| Service::greeter(&format!("{client}/{tunnel}"))).collect();
                let tunnels =
                    services.iter().fold(options().brisk().threads(threads), |all, service| all.tunnel(service.addr()));
                (Client::start(&server, tunnels), services)
            })
            .collect();
        for _ in 0..10 {
            for (client, (program, services)) in clients.iter().enumerate() {
                for (tunnel, service) in services.iter().enumerate() {
                    assert_eq!(greeting(program.public_of(service.addr())), format!("{client}/{tunnel}"));
                }
            }
        }
    }
}

#[test]
fn streams_of_several_clients_do_not_mix() {
    const STREAMS: u32 = 6;
    let server = Server::start(options().threads(1));
    let services: Vec<_> = (0..3).map(|_| Exchanges::start()).collect();
    let clients: Vec<_> =
        services.iter().map(|service| Client::start(&server, options().threads(1).tunnel(service.addr()))).collect();
    std::thread::scope(|scope| {
        for (number, client) in (0..).zip(&clients) {
            for stream in 0..STREAMS {
                let exchange = Exchange::new(number * STREAMS + stream).up(2 << 20).down(3 << 20);
                scope.spawn(move || exchange.run(client.public()));
            }
        }
    });
    for service in &services {
        service.expect(STREAMS.into());
    }
}

#[test]
fn a_clients_end_disturbs_no_other() {
    let service = Service::echo();
    let server = Server::start(options().brisk().threads(1));
    let lasting = Client::start(&server, options().brisk().tunnel(service.addr()));
    let mut visitor = lasting.visit();
    for round in 0..6 {
        let passing = Client::start(&server, options().brisk().tunnel(service.addr()));
        let mut other = connect(passing.public());
        ping(&mut other, b"passing");
        if round % 2 == 0 {
            passing.kill();
        } else {
            drop(other);
            passing.stop();
        }
        ping(&mut visitor, b"lasting");
        ping(&mut lasting.visit(), b"a new visitor");
    }
    assert_eq!(lasting.forwardings().len(), 1);
}

/// What is said once of a tunnel is said of each, however many there are.
#[test]
fn no_tunnel_of_three_hundred_is_missing_in_either_log() {
    const TUNNELS: usize = 300;
    let service = Service::echo();
    let server = Server::start(options());
    let all = (0..TUNNELS).fold(options(), |all, _| all.tunnel(service.addr()));
    let client = Client::spawn(&server, all);
    for (program, line) in [(&*client, "tunnel_reachable"), (&*server, "tunnel_open")] {
        until("each of them has its line", || program.log().matches(line).count() == TUNNELS);
    }
}
