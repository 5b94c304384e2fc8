//! More than 4 GiB on one stream, in both directions at once: byte counts do not wrap.

use std::io::{Read, Write};
use std::net::TcpStream;
use tests::payload::Flow;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::finish;
use tests::wait::until;

/// A little beyond the wrap.
const TOTAL: u64 = (1 << 32) + 12_345_678;
/// The content repeats after this many bytes, so that making it costs nothing.
const PERIOD: usize = (1 << 20) + 8;
const SAMPLE: usize = 64;

fn period(flow: Flow) -> Vec<u8> {
    // What is read at the end of a period continues at its beginning.
    let once = flow.bytes(0, PERIOD);
    [&once[..], &once[..SAMPLE]].concat()
}

fn send(stream: &mut TcpStream, flow: Flow) {
    let period = &period(flow)[..PERIOD];
    let mut left = TOTAL;
    while left > 0 {
        let n = left.min(PERIOD as u64) as usize;
        stream.write_all(&period[..n]).expect("send");
        left -= n as u64;
    }
    finish(stream);
}

/// Reads to the end; the first bytes of every piece are compared, and the sum.
fn receive(stream: &mut TcpStream, flow: Flow) {
    let period = period(flow);
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0u64;
    loop {
        let n = stream.read(&mut buffer).expect("more, or the end");
        if n == 0 {
            break;
        }
        let (sample, at) = (n.min(SAMPLE), (total % PERIOD as u64) as usize);
        assert_eq!(buffer[..sample], period[at..at + sample], "{flow} at offset {total}");
        total += n as u64;
    }
    assert_eq!(total, TOTAL, "{flow}: bytes until the end");
}

#[test]
fn counts_do_not_wrap_at_32_bits() {
    let service = Service::start(|mut stream| {
        let mut writer = stream.try_clone().expect("clone");
        std::thread::scope(|scope| {
            scope.spawn(|| send(&mut writer, Flow::down(1)));
            receive(&mut stream, Flow::up(1));
        });
    });
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(service.addr()));
    let mut visitor = client.visit();
    let mut writer = visitor.try_clone().expect("clone");
    std::thread::scope(|scope| {
        scope.spawn(|| send(&mut writer, Flow::up(1)));
        receive(&mut visitor, Flow::down(1));
    });
    until("the service has seen the end too", || service.open() == 0);
    assert_eq!(service.panicked(), 0, "see above for what the service saw");
    client.stop();
    let stopped = server.stop();
    assert_eq!((stopped.finished, stopped.aborted), (1, 0));
}
