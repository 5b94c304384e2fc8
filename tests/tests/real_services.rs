//! Services that nobody wrote for these tests, from Python's library: one that answers an upload without reading it, one
//! that keeps its connections, one that speaks first, and WebSocket (RFC 6455) on top of it. Each answer must be read, as
//! it is without a tunnel.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use tests::programs::{Client, Server, options};
use tests::sockets::{LOOPBACK, connect, finish, read_each};

const TRIES: usize = 60;

/// Prints the ports of the four, and serves until its standard input ends.
const SCRIPT: &str = r#"
import base64, hashlib, http.server, socketserver, struct, sys, threading

class Rejects(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(401)
        self.send_header("Content-Length", "12")
        self.end_headers()
        self.wfile.write(b"Unauthorized")
    def log_message(self, *args):
        pass

class Keeps(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

class SpeaksFirst(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            self.wfile.write(b"250 " + line)
            if line == b"QUIT\r\n":
                break

class WebSocket(socketserver.StreamRequestHandler):
    def handle(self):
        key = b""
        while (line := self.rfile.readline().strip()):
            if line.lower().startswith(b"sec-websocket-key:"):
                key = line.split(b":", 1)[1].strip()
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.wfile.write(head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
        opcode = 0
        while opcode != 8:
            first, length = self.rfile.read(2)
            opcode, length = first & 15, length & 127
            if length == 126:
                length, = struct.unpack(">H", self.rfile.read(2))
            elif length == 127:
                length, = struct.unpack(">Q", self.rfile.read(8))
            mask = self.rfile.read(4)
            masked = self.rfile.read(length)
            repeated = (mask * (length // 4 + 1))[:length]
            data = (int.from_bytes(masked, "big") ^ int.from_bytes(repeated, "big")).to_bytes(length, "big")
            size = bytes([length]) if length < 126 else (
                b"\x7e" + struct.pack(">H", length) if length < 65536 else b"\x7f" + struct.pack(">Q", length))
            # A ping is answered by a pong, everything else by itself.
            self.wfile.write(bytes([0x80 | (10 if opcode == 9 else opcode)]) + size + data)

class Lines(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

Http = http.server.ThreadingHTTPServer
servers = [Http(("127.0.0.1", 0), Rejects), Http(("127.0.0.1", 0), Keeps), Lines(("127.0.0.1", 0), SpeaksFirst),
           Lines(("127.0.0.1", 0), WebSocket)]
for server in servers:
    threading.Thread(target=server.serve_forever, daemon=True).start()
print(*(server.server_address[1] for server in servers), flush=True)
sys.stdin.read()
"#;

/// The services' process, and where they listen.
struct Python {
    process: Child,
    rejects: SocketAddr,
    keeps: SocketAddr,
    speaks_first: SocketAddr,
    web_socket: SocketAddr,
}

impl Python {
    /// `None`, and says so, where there is no Python.
    fn start() -> Option<Self> {
        let mut python = Command::new("python3");
        python.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = match python.spawn() {
            Ok(process) => process,
            Err(error) => {
                eprintln!("SKIPPED: these tests need python3: {error}");
                return None;
            }
        };
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("the ports");
        let ports: Vec<u16> = line.split_whitespace().map(|port| port.parse().expect("a port")).collect();
        let at = |port: &u16| SocketAddr::new(LOOPBACK, *port);
        let [rejects, keeps, speaks_first, web_socket] = &ports[..] else { panic!("four ports: {line}") };
        let [rejects, keeps, speaks_first, web_socket] = [rejects, keeps, speaks_first, web_socket].map(at);
        Some(Self { process, rejects, keeps, speaks_first, web_socket })
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The programs in front of one service, its public address, and the service's own.
fn both_ways(service: SocketAddr) -> (Server, Client, [SocketAddr; 2]) {
    let server = Server::start(options());
    let client = Client::start(&server, options().tunnel(service));
    let public = client.public();
    (server, client, [service, public])
}

/// An answer's status line and body.
fn answer(from: &mut impl BufRead) -> (String, Vec<u8>) {
    let mut status = String::new();
    from.read_line(&mut status).expect("a status");
    let mut length = 0;
    loop {
        let mut header = String::new();
        from.read_line(&mut header).expect("a header");
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).expect("the body");
    (status.trim().into(), body)
}

#[test]
fn an_upload_that_is_rejected_unread_gets_its_answer() {
    let Some(python) = Python::start() else { return };
    let (_server, _client, ways) = both_ways(python.rejects);
    for at in ways {
        for size in [1_000, 20_000, 200_000] {
            for attempt in 0..TRIES {
                let mut visitor = connect(at);
                let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n");
                // Fails where the service's reset is faster.
                let _ = visitor.write_all(&[head.as_bytes(), &vec![b'x'; size]].concat());
                let mut read = Vec::new();
                read_each(&mut visitor, |bytes| read.extend_from_slice(bytes));
                let (status, body) = answer(&mut &read[..]);
                let which = format!("{at}, {size} bytes, attempt {attempt}");
                assert_eq!((&status[..], &body[..]), ("HTTP/1.0 401 Unauthorized", &b"Unauthorized"[..]), "{which}");
            }
        }
    }
}

#[test]
fn requests_one_after_another_and_in_one_write_are_all_answered() {
    let Some(python) = Python::start() else { return };
    let (_server, _client, ways) = both_ways(python.keeps);
    let request = |n: usize| format!("GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n");
    for at in ways {
        let mut visitor = connect(at);
        let mut answers = BufReader::new(visitor.try_clone().expect("a second handle"));
        let mut expect = |n: usize| {
            let expected = ("HTTP/1.1 200 OK".to_owned(), format!("/{n}").into_bytes());
            assert_eq!(answer(&mut answers), expected, "{at}");
        };
        for n in 0..TRIES {
            visitor.write_all(request(n).as_bytes()).expect("send");
            expect(n);
        }
        let pipelined: String = (0..TRIES).map(request).collect();
        visitor.write_all(pipelined.as_bytes()).expect("send");
        (0..TRIES).for_each(&mut expect);
        // Half-closed behind the last: they are answered all the same.
        visitor.write_all(pipelined.as_bytes()).expect("send");
        finish(&visitor);
        (0..TRIES).for_each(&mut expect);
        assert_eq!(answers.read(&mut [0]).expect("a clean end"), 0, "{at}");
    }
}

#[test]
fn a_service_that_speaks_first_is_heard_first() {
    let Some(python) = Python::start() else { return };
    let (_server, _client, ways) = both_ways(python.speaks_first);
    for at in ways {
        for _ in 0..TRIES {
            let mut visitor: TcpStream = connect(at);
            let mut answers = BufReader::new(visitor.try_clone().expect("a second handle"));
            let mut line = String::new();
            answers.read_line(&mut line).expect("a greeting");
            assert_eq!(line, "220 ready\r\n", "{at}");
            visitor.write_all(b"HELO\r\nQUIT\r\n").expect("send");
            let mut rest = String::new();
            answers.read_to_string(&mut rest).expect("a clean end");
            assert_eq!(rest, "250 HELO\r\n250 QUIT\r\n", "{at}");
        }
    }
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A frame of a client's: masked.
fn frame(opcode: u8, data: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let mut frame = vec![0x80 | opcode];
    match data.len() {
        length @ ..126 => frame.push(0x80 | length as u8),
        length @ ..65_536 => frame.extend([&[0xfe], &(length as u16).to_be_bytes()[..]].concat()),
        length => frame.extend([&[0xff], &(length as u64).to_be_bytes()[..]].concat()),
    }
    frame.extend(MASK);
    frame.extend(data.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A frame of a server's: its kind and what it holds.
fn read_frame(from: &mut impl Read) -> (u8, Vec<u8>) {
    let mut exactly = |length: usize| {
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes).expect("a frame");
        bytes
    };
    let head = exactly(2);
    let number = |bytes: Vec<u8>| bytes.into_iter().fold(0, |number, byte| number << 8 | usize::from(byte));
    let length = match head[1] {
        126 => number(exactly(2)),
        127 => number(exactly(8)),
        length => usize::from(length),
    };
    (head[0] & 15, exactly(length))
}

#[test]
fn web_sockets_carry_messages_of_every_size_both_ways_until_they_are_closed() {
    let Some(python) = Python::start() else { return };
    let (_server, _client, ways) = both_ways(python.web_socket);
    for at in ways {
        let mut visitor = connect(at);
        let request = "GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        // The first message does not wait for the answer.
        visitor.write_all(&[request.as_bytes(), &frame(TEXT, b"at once")].concat()).expect("send");
        let mut answers = BufReader::new(visitor.try_clone().expect("a second handle"));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            answers.read_line(&mut head).expect("a head");
        }
        // As in RFC 6455, section 1.3.
        assert!(head.contains("101 Switching") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{at}: {head}");
        assert_eq!(read_frame(&mut answers), (TEXT, b"at once".to_vec()), "{at}");
        for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
            let message: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let sent = frame(BINARY, &message);
            std::thread::scope(|scope| {
                scope.spawn(|| (&visitor).write_all(&sent).expect("send"));
                assert!(read_frame(&mut answers) == (BINARY, message), "{at}: {size} bytes");
            });
            visitor.write_all(&frame(PING, b"still there?")).expect("send");
            assert_eq!(read_frame(&mut answers), (PONG, b"still there?".to_vec()), "{at}");
        }
        visitor.write_all(&frame(CLOSE, &1000u16.to_be_bytes())).expect("send");
        assert_eq!(read_frame(&mut answers), (CLOSE, 1000u16.to_be_bytes().to_vec()), "{at}");
        assert_eq!(answers.read(&mut [0]).expect("a clean end"), 0, "{at}");
    }
}
