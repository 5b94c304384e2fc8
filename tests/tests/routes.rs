//! Routes by name: many tunnels behind one port, told apart by the host that a visitor names.

mod acme;
mod authorities;
mod bad_input;
mod real_clients;
mod tls_ends;
mod told;
mod tunnels;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use tests::programs::{Client, Options, Server};
use tests::services::Service;
use tests::sockets::{connect, finish, read_all};

/// A server with both ports of hosts.
fn server(options: Options) -> Server {
    Server::start(options.key("http_port", 0).key("https_port", 0))
}

/// A tunnel to `local`, as it stands in a client's file.
fn table(name: &str, protocol: &str, hosts: &[&str], local: SocketAddr) -> String {
    format!("[[tunnels]]\nname = \"{name}\"\nlocal = \"{local}\"\nprotocol = \"{protocol}\"\nhosts = {hosts:?}\n")
}

/// A client with these tunnels, each of which is reachable.
#[track_caller]
fn client(server: &Server, more: Options, tables: &[String]) -> Client {
    let client = Client::spawn(server, more.tables(&tables.concat()));
    for table in tables {
        let [protocol, hosts] = ["protocol = ", "hosts = "].map(|key| {
            let line = table.lines().find_map(|line| line.strip_prefix(key)).expect("it is in the table");
            serde_json::from_str::<serde_json::Value>(line).expect("a value of both languages")
        });
        for host in hosts.as_array().expect("a list") {
            let (protocol, host) = (protocol.as_str().expect("a text"), host.as_str().expect("a text"));
            client.output_line(&format!("Forwarding {protocol}://{host}:"));
        }
    }
    client
}

/// Echoes what comes, behind its name.
fn named_echo(name: &'static str) -> Service {
    Service::start(move |mut stream| {
        let all = read_all(&mut stream);
        // A visitor who has gone already is the visitor's business.
        let _ = stream.write_all(name.as_bytes()).and_then(|()| stream.write_all(&all));
    })
}

/// A request for `host`.
fn request(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Says `words`, and returns all that comes back.
#[track_caller]
fn ask(at: SocketAddr, words: impl AsRef<[u8]>) -> Vec<u8> {
    let mut visitor = connect(at);
    say(&mut visitor, words);
    read_all(&mut visitor)
}

/// Says `words` and nothing more.
#[track_caller]
fn say(visitor: &mut TcpStream, words: impl AsRef<[u8]>) {
    visitor.write_all(words.as_ref()).expect("said");
    finish(visitor);
}
