//! The kernel is short of memory for the programs' sockets, because a container may have no more: visitors wait, and
//! none is reset. Needs root and a memory controller.

use std::io::{Read, Write};
use std::time::Duration;
use tests::group::Group;
use tests::payload::{Arrival, Flow};
use tests::programs::{Client, Server, options};
use tests::root_only;
use tests::services::Service;
use tests::sockets::{End, bounded, connect, finish, read_each, read_end};
use tests::wait::PATIENCE;

const VISITORS: u32 = 150;
/// What each visitor asks for.
const BYTES: u64 = 1 << 20;
/// So much for the sockets of both programs: a third of what would be on the way.
const MEMORY: u64 = 48 << 20;
/// Longer than the kernel tries by itself with two seconds between retransmissions.
const PAUSE: Duration = Duration::from_secs(35);

#[test]
fn visitors_who_pause_while_socket_memory_is_short_are_not_reset() {
    root_only!();
    let Some(group) = Group::with_socket_memory(MEMORY) else { return };
    let service = Service::start(|mut stream| {
        bounded(&stream, 8 * PATIENCE);
        let mut number = [0; 4];
        stream.read_exact(&mut number).expect("who asks");
        let flow = Flow::down(u32::from_le_bytes(number));
        tests::exchange::send_part(&mut stream, flow, 0, BYTES).expect("send all of it");
        finish(&stream);
        // One that is closed has its own kernel's patience, which is 8 retransmissions: less than a visitor's, and what
        // is left is lost as over a direct connection to a peer that is short of memory.
        assert_eq!(read_end(&mut stream), (0, End::Clean));
    });
    let server = Server::start(options().group(&group));
    let client = Client::start(&server, options().group(&group).tunnel(service.addr()));
    let visitors: Vec<_> = (0..VISITORS)
        .map(|number| {
            let mut visitor = connect(client.public());
            bounded(&visitor, 8 * PATIENCE);
            visitor.write_all(&number.to_le_bytes()).expect("ask");
            (number, visitor)
        })
        .collect();
    std::thread::sleep(PAUSE);
    std::thread::scope(|scope| {
        for (number, mut visitor) in visitors {
            scope.spawn(move || {
                let mut arrival = Arrival::of(Flow::down(number));
                let end = read_each(&mut visitor, |bytes| arrival.take(bytes).expect("byte for byte"));
                assert_eq!((end, arrival.end(BYTES)), (End::Clean, Ok(())), "visitor {number}");
            });
        }
    });
    assert_eq!(service.panicked(), 0);
    // The client first: the server would tell it to try again.
    client.stop_by_signal();
    server.stop_by_signal();
}
