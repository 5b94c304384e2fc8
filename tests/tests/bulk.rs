//! Large data arrives byte for byte, in both directions at once, on one stream and on many, with one event
//! loop and with several.

use tests::exchange::{Exchange, Exchanges};
use tests::programs::{Client, Server, options};

const MIB: u64 = 1 << 20;

#[test]
fn large_data_both_ways_at_once() {
    for threads in [1, 4] {
        let service = Exchanges::start();
        let server = Server::start(options().threads(threads));
        let client = Client::start(&server, options().threads(threads).tunnel(service.addr()));
        Exchange::new(1).up(96 * MIB).down(96 * MIB).run(client.public());
        service.expect(1);
    }
}

#[test]
fn many_large_streams_side_by_side() {
    const STREAMS: u32 = 12;
    for threads in [1, 4] {
        let service = Exchanges::start();
        let server = Server::start(options().threads(threads));
        let client = Client::start(&server, options().threads(threads).tunnel(service.addr()));
        std::thread::scope(|scope| {
            for stream in 0..STREAMS {
                let exchange = Exchange::new(stream).up(6 * MIB + u64::from(stream)).down(7 * MIB);
                let public = client.public();
                scope.spawn(move || exchange.run(public));
            }
        });
        service.expect(STREAMS.into());
    }
}
