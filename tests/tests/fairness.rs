//! Bulk streams share an event loop with small ones: while four of them run without a pause, a small
//! request is still answered and a new visitor still served.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::connect;
use tests::visits::{ping, short_visit};
use tests::wait::until;

#[test]
fn bulk_streams_leave_room_for_small_ones() {
    let bulk = Service::start(|mut stream| while stream.write_all(&[7; 64 << 10]).is_ok() {});
    let echo = Service::echo();
    let server = Server::start(options().threads(1));
    let tunnels = options().threads(1).tunnel(bulk.addr()).tunnel(echo.addr());
    let client = Client::start(&server, tunnels);
    let public = client.public_of(echo.addr());
    let (done, moved) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 4]);
    std::thread::scope(|scope| {
        for counter in &moved {
            let (mut visitor, done) = (client.visit(), &done);
            scope.spawn(move || {
                let mut buffer = vec![0; 256 << 10];
                while !done.load(Ordering::SeqCst) {
                    let n = visitor.read(&mut buffer).expect("the bulk stream goes on");
                    counter.fetch_add(n as u64, Ordering::SeqCst);
                }
            });
        }
        // Also on failure: the scope waits for its threads.
        let _done = OnDrop(|| done.store(true, Ordering::SeqCst));
        let running = |more: u64| {
            let before: Vec<_> = moved.iter().map(|counter| counter.load(Ordering::SeqCst)).collect();
            until("every bulk stream moves", || {
                moved.iter().zip(&before).all(|(now, before)| now.load(Ordering::SeqCst) > before + more)
            });
        };
        running(4 << 20);
        let mut small = connect(public);
        for number in 0..100 {
            ping(&mut small, b"a small request");
            short_visit(public, number);
        }
        running(1 << 20);
    });
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
