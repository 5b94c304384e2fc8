//! A thousand visitors who say nothing cost next to nothing: no processor time, a few KiB each.

use std::time::Duration;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::visits::ping;

#[test]
fn a_thousand_idle_visitors_cost_next_to_nothing() {
    const VISITORS: u64 = 1000;
    const WINDOW: Duration = Duration::from_secs(3);
    let service = Service::echo();
    let server = Server::start(options().threads(2));
    let client = Client::start(&server, options().threads(2).tunnel(service.addr()));
    ping(&mut client.visit(), b"warm");
    let programs = [("server", server.process()), ("client", client.process())];
    let before = programs.map(|(_, process)| process.memory());
    let mut visitors: Vec<_> = (0..VISITORS).map(|_| client.visit()).collect();
    for visitor in &mut visitors {
        ping(visitor, b"served once, then silent");
    }
    for ((name, process), before) in programs.into_iter().zip(before) {
        let each = process.memory().saturating_sub(before) / VISITORS;
        assert!(each <= 8 << 10, "{name}: {each} bytes for each idle visitor");
    }
    let cpu = programs.map(|(_, process)| process.cpu());
    std::thread::sleep(WINDOW);
    for ((name, process), before) in programs.into_iter().zip(cpu) {
        let used = process.cpu() - before;
        assert!(used < WINDOW / 30, "{name}: {used:?} of processor time in {WINDOW:?} of silence");
    }
    for visitor in &mut visitors {
        ping(visitor, b"and served again");
    }
}
