//! Times the codec on the messages that every transfer sends. Prints nanoseconds per encode and per
//! decode, the median of many rounds.
//!
//! ```text
//! cargo run --release -p protocol-sm --example codec_bench
//! ```

use protocol_sm::ids::{ConnId, Epoch, TunnelId};
use protocol_sm::wire::{ClientMsg, FRAME_HEADER, Framer, Message, ProxyToClient, ToServer};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 101;
const CALLS: u32 = 10_000;

fn main() {
    let (conn, epoch, seq) = (ConnId(70_000), Epoch(300), 1_000_000);
    println!("{:<18}{:>7}{:>12}{:>12}", "message", "bytes", "encode ns", "decode ns");
    for (name, visitor) in [("Start (IPv4)", "192.0.2.7:50000"), ("Start (IPv6)", "[2001:db8::7]:443")] {
        let visitor = visitor.parse().expect("an address");
        bench(name, &ProxyToClient::Start { epoch, tunnel: TunnelId(1), visitor });
    }
    let fin = ClientMsg::Fin { conn, epoch, total: 1 << 33 };
    bench("Fin", &ToServer::Numbered { seq, msg: fin });
    bench("Done", &ToServer::Numbered { seq, msg: ClientMsg::Done { conn, epoch } });
}

fn bench<M: Message>(name: &str, message: &M) {
    let mut frame = [0; FRAME_HEADER + 512];
    let length = message.encode(&mut frame);
    let encode = median(|| {
        black_box(black_box(message).encode(&mut frame));
    });
    let mut framer = Framer::<M>::default();
    let decode = median(|| {
        let _ = black_box(framer.next(&mut black_box(&frame[..length])));
    });
    println!("{name:<18}{length:>7}{encode:>12.1}{decode:>12.1}");
}

/// Nanoseconds per call.
fn median(mut call: impl FnMut()) -> f64 {
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            (0..CALLS).for_each(|_| call());
            start.elapsed().as_nanos()
        })
        .collect();
    rounds.sort_unstable();
    rounds[ROUNDS / 2] as f64 / f64::from(CALLS)
}
