//! A visit with bytes both ways, checked byte for byte at both ends: the visitor says in its first bytes
//! what will be sent in which order, so that the service knows what to expect of every stream.

use crate::payload::{Arrival, Flow};
use crate::services::Service;
use crate::sockets::{End, LOOPBACK, connect, finish, read_each, reset, small_receive_buffer};
use crate::wait::until;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Who sends and ends when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Both at once; each ends its half after its last byte.
    Together,
    /// The visitor sends and ends; only then does the service send.
    VisitorFirst,
    /// The service sends and ends; only then does the visitor send.
    ServiceFirst,
}

/// One visit to an [`Exchanges`] service.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    stream: u32,
    up: u64,
    down: u64,
    order: Order,
    slow_visitor: bool,
    slow_service: bool,
}

const HEADER: usize = 24;

impl Exchange {
    /// A visit whose payload is that of stream `stream`; nothing is sent yet.
    #[must_use]
    pub fn new(stream: u32) -> Self {
        let order = Order::Together;
        Self { stream, up: 0, down: 0, order, slow_visitor: false, slow_service: false }
    }

    /// The visitor sends `bytes`.
    #[must_use]
    pub fn up(self, bytes: u64) -> Self {
        Self { up: bytes, ..self }
    }

    /// The service sends `bytes`.
    #[must_use]
    pub fn down(self, bytes: u64) -> Self {
        Self { down: bytes, ..self }
    }

    /// Who ends first.
    #[must_use]
    pub fn order(self, order: Order) -> Self {
        Self { order, ..self }
    }

    /// The visitor reads slowly, with a small receive buffer.
    #[must_use]
    pub fn slow_visitor(self) -> Self {
        Self { slow_visitor: true, ..self }
    }

    /// The service reads slowly, with a small receive buffer.
    #[must_use]
    pub fn slow_service(self) -> Self {
        Self { slow_service: true, ..self }
    }

    /// Makes the visit.
    ///
    /// # Panics
    /// If a byte is lost, extra, out of place or foreign, or the stream is reset or hangs.
    #[track_caller]
    pub fn run(self, addr: SocketAddr) {
        if let Err(error) = self.try_run(connect(addr)) {
            panic!("visitor, {self:?}: {error}");
        }
    }

    /// Makes the visit over `stream`.
    ///
    /// # Errors
    /// What went wrong: a byte lost, extra, out of place or foreign, or a reset.
    pub fn try_run(self, mut stream: TcpStream) -> Result<(), String> {
        stream.write_all(&self.header()).map_err(|error| format!("header: {error}"))?;
        let (up, down) = (Flow::up(self.stream), Flow::down(self.stream));
        let (sent, got) = ((up, self.up), (down, self.down));
        play(stream, sent, got, self.slow_visitor, self.order, Order::VisitorFirst)
    }

    fn serve(mut stream: TcpStream) -> Result<(), String> {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).map_err(|error| format!("header: {error}"))?;
        let this = Self::parse(header)?;
        let (up, down) = (Flow::up(this.stream), Flow::down(this.stream));
        let (sent, got) = ((down, this.down), (up, this.up));
        play(stream, sent, got, this.slow_service, this.order, Order::ServiceFirst)
            .map_err(|error| format!("{this:?}: {error}"))
    }

    fn header(self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&self.stream.to_le_bytes());
        header[4..7].copy_from_slice(&[self.order as u8, self.slow_visitor.into(), self.slow_service.into()]);
        header[7] = b'E';
        header[8..16].copy_from_slice(&self.up.to_le_bytes());
        header[16..].copy_from_slice(&self.down.to_le_bytes());
        header
    }

    fn parse(header: [u8; HEADER]) -> Result<Self, String> {
        let [_, _, _, _, order, slow_visitor, slow_service, b'E', ..] = header else {
            return Err(format!("not a header: {}", String::from_utf8_lossy(&header)));
        };
        let order = [Order::Together, Order::VisitorFirst, Order::ServiceFirst]
            .into_iter()
            .find(|&known| known as u8 == order)
            .ok_or_else(|| format!("no such order: {order}"))?;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        Ok(Self {
            stream: number(0) as u32,
            up: number(8),
            down: number(16),
            order,
            slow_visitor: slow_visitor != 0,
            slow_service: slow_service != 0,
        })
    }
}

/// One end's part of an exchange; `mine` is the order in which this end goes first.
fn play(
    mut stream: TcpStream,
    sent: (Flow, u64),
    got: (Flow, u64),
    slow: bool,
    order: Order,
    mine: Order,
) -> Result<(), String> {
    let mut writer = stream.try_clone().map_err(|error| error.to_string())?;
    let played = match order {
        Order::Together => std::thread::scope(|scope| {
            let sender = scope.spawn(|| send(&mut writer, sent));
            let received = receive(&mut stream, got, slow);
            // A receiver that gave up must not leave the sender blocked.
            if received.is_err() {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            received.and(sender.join().expect("the sender ends by itself"))
        }),
        order if order == mine => send(&mut writer, sent).and_then(|()| receive(&mut stream, got, slow)),
        Order::VisitorFirst | Order::ServiceFirst => {
            receive(&mut stream, got, slow).and_then(|()| send(&mut writer, sent))
        }
    };
    if played.is_err() {
        drop(writer);
        reset(stream);
    }
    played
}

/// Sends all of a flow and ends this half.
///
/// # Errors
/// The stream broke.
fn send(stream: &mut TcpStream, (flow, total): (Flow, u64)) -> Result<(), String> {
    send_part(stream, flow, 0, total)?;
    finish(stream);
    Ok(())
}

/// Sends the bytes `from..to` of a flow.
///
/// # Errors
/// The stream broke.
pub fn send_part(stream: &mut TcpStream, flow: Flow, from: u64, to: u64) -> Result<(), String> {
    let mut buffer = vec![0; 64 << 10];
    let mut at = from;
    while at < to {
        let chunk = buffer.len().min((to - at) as usize);
        flow.fill(at, &mut buffer[..chunk]);
        let sent = stream.write_all(&buffer[..chunk]);
        sent.map_err(|error| format!("{flow}: sending at {at} of {to}: {error}"))?;
        at += chunk as u64;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, (flow, total): (Flow, u64), slow: bool) -> Result<(), String> {
    if slow {
        small_receive_buffer(stream);
    }
    let mut arrival = Arrival::of(flow);
    let mut damage = None;
    let end = read_each(stream, |bytes| {
        if damage.is_none() {
            damage = arrival.take(bytes).err();
        }
        if slow {
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    match (damage, end) {
        (Some(damage), _) => Err(damage),
        (None, End::Reset) => Err(format!("{flow}: reset after {} of {total} bytes", arrival.offset())),
        (None, End::Clean) => arrival.end(total),
    }
}

/// The service's side: serves any number of [`Exchange`]s and remembers what went wrong.
#[derive(Debug)]
pub struct Exchanges {
    service: Service,
    results: Arc<Mutex<Results>>,
}

#[derive(Debug, Default)]
struct Results {
    well: u64,
    failures: Vec<String>,
}

impl Exchanges {
    /// Starts the service on 127.0.0.1.
    #[must_use]
    pub fn start() -> Self {
        Self::start_on(LOOPBACK)
    }

    /// Starts the service on another address of this machine.
    #[must_use]
    pub fn start_on(ip: IpAddr) -> Self {
        let results = Arc::new(Mutex::new(Results::default()));
        let shared = Arc::clone(&results);
        let service = Service::start_at((ip, 0).into(), move |stream| {
            let result = Exchange::serve(stream);
            let mut results = shared.lock().expect("no panic while locked");
            match result {
                Ok(()) => results.well += 1,
                Err(failure) => results.failures.push(failure),
            }
        });
        Self { service, results }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.service.addr()
    }

    /// Waits until `count` exchanges have ended well.
    ///
    /// # Panics
    /// If any ended otherwise, with what the service saw.
    #[track_caller]
    pub fn expect(&self, count: u64) {
        until(&format!("{count} exchanges ended well at the service too"), || {
            let results = self.results.lock().expect("no panic while locked");
            assert!(results.failures.is_empty(), "at the service: {:#?}", results.failures);
            results.well >= count
        });
    }

    /// Waits until `count` exchanges have ended well, whatever became of others.
    #[track_caller]
    pub fn expect_among_others(&self, count: u64) {
        until(&format!("{count} exchanges ended well at the service too"), || {
            self.results.lock().expect("no panic while locked").well >= count
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Gate;

    #[test]
    fn every_order_and_pace_ends_well_without_a_tunnel() {
        let service = Exchanges::start();
        let sizes = [(0, 0), (0, 1), (1, 0), (100_000, 300_000)];
        let mut stream = 0;
        for order in [Order::Together, Order::VisitorFirst, Order::ServiceFirst] {
            for (up, down) in sizes {
                stream += 1;
                let exchange = Exchange::new(stream).up(up).down(down).order(order);
                exchange.run(service.addr());
                exchange.slow_visitor().slow_service().run(service.addr());
            }
        }
        service.expect(24);
    }

    #[test]
    fn a_stream_cut_on_the_way_is_an_error_at_both_ends() {
        let service = Exchanges::start();
        let gate = Gate::before(service.addr());
        let mut visitor = connect(gate.addr());
        visitor.write_all(&Exchange::new(1).down(1 << 30).header()).unwrap();
        visitor.read_exact(&mut [0; 100]).unwrap();
        gate.cut();
        assert_eq!(read_each(&mut visitor, |_| {}), End::Reset);
        until("the service noticed", || {
            let failures = &service.results.lock().unwrap().failures;
            failures.first().is_some_and(|failure| failure.contains("stream 1"))
        });
    }

    #[test]
    fn what_is_no_exchange_is_shown_as_it_came() {
        let service = Exchanges::start();
        let mut visitor = connect(service.addr());
        visitor.write_all(b"Start, as the old program sent it").unwrap();
        until("the service noticed", || {
            let failures = &service.results.lock().unwrap().failures;
            failures.first().is_some_and(|failure| failure.contains("Start, as the old"))
        });
    }
}
