//! Command lines of other tunnels' programs: what they are called here. Whoever comes from ngrok, frp, bore, chisel or rathole
//! types what he knows, and is told the line that does it.

use crate::config::settings::Of;
use std::ffi::OsString;

/// What `words`, behind the name of `program`, are here: a whole command line, if they are another program's.
#[must_use]
pub(crate) fn said_here(program: Of, words: &[OsString]) -> Option<String> {
    let words: Vec<&str> = words.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    let value = |flags: &[&str]| value_of(&words, flags);
    let public_port = |port: Option<&str>| port.map_or(String::new(), |port| format!(" --public-port {port}"));
    Some(match (program, &words[..]) {
        // ngrok http 8000; frpc tcp --local-port 22 --remote-port 6022 --server-addr HOST
        (Of::Client, [kind @ ("tcp" | "http" | "udp"), rest @ ..]) => {
            let first = rest.first().copied().filter(|word| !word.starts_with('-'));
            let service = first.or_else(|| value(&["-l", "--local-port", "--local_port"]))?;
            let protocol = if *kind == "udp" { " --protocol udp" } else { "" };
            let server = value(&["-s", "--server-addr", "--server_addr"]).unwrap_or("HOST");
            let port = public_port(value(&["-r", "--remote-port", "--remote_port"]));
            format!("cproxy-client {service}{protocol}{port} --cproxy-server {}", named(server))
        }
        // bore local 8000 --to HOST --port 6000
        (Of::Client, ["local", service, ..]) => {
            let (server, port) = (value(&["-t", "--to"]).unwrap_or("HOST"), public_port(value(&["-p", "--port"])));
            format!("cproxy-client {service}{port} --cproxy-server {}", named(server))
        }
        // chisel client http://HOST:8080 R:6000:localhost:80
        (Of::Client, ["client", rest @ ..]) => {
            let [.., server, remote] = rest else { return None };
            let parts: Vec<_> = remote.strip_prefix("R:")?.split(':').collect();
            let (service, port) = match parts[..] {
                [port] => (port.to_owned(), port),
                [port, host, local] | [_, port, host, local] => (format!("{host}:{local}"), port),
                _ => return None,
            };
            format!("cproxy-client {service} --public-port {port} --cproxy-server {}", named(server))
        }
        // bore server; chisel server --reverse --port 8080
        (Of::Server, ["server", ..]) => {
            let port = value(&["-p", "--port"]).map_or(String::new(), |port| format!(" --ctl-port {port}"));
            format!("cproxy-server{port}")
        }
        // rathole client.toml; rathole --client client.toml
        (_, [file] | ["--client" | "--server", file]) if file.ends_with(".toml") => {
            let name = if program == Of::Client { "cproxy-client" } else { "cproxy-server" };
            format!("{name} --config {file}")
        }
        _ => return None,
    })
}

/// What follows one of these flags, or stands in it behind `=`.
fn value_of<'a>(words: &[&'a str], flags: &[&str]) -> Option<&'a str> {
    let at = words.iter().position(|word| flags.contains(&word.split_once('=').map_or(*word, |(flag, _)| flag)))?;
    words[at].split_once('=').map(|(_, value)| value).or_else(|| words.get(at + 1).copied())
}

/// A server without the scheme that chisel has in front, and what stands behind it.
fn named(server: &str) -> &str {
    server.split_once("://").map_or(server, |(_, rest)| rest).trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{ClientLine, ServerLine};
    use clap::Parser;

    const CLIENTS: [(&str, Option<&str>); 14] = [
        ("http 8000", Some("cproxy-client 8000 --cproxy-server HOST")),
        ("tcp 22", Some("cproxy-client 22 --cproxy-server HOST")),
        ("udp 53", Some("cproxy-client 53 --protocol udp --cproxy-server HOST")),
        (
            "tcp --local-port 22 --remote-port=6022 -s a.example",
            Some("cproxy-client 22 --public-port 6022 --cproxy-server a.example"),
        ),
        ("local 8000 --to a.example", Some("cproxy-client 8000 --cproxy-server a.example")),
        ("local 8000 -p 6000 --to=a.example", Some("cproxy-client 8000 --public-port 6000 --cproxy-server a.example")),
        (
            "client http://a.example:8080/ R:6000:localhost:80",
            Some("cproxy-client localhost:80 --public-port 6000 --cproxy-server a.example:8080"),
        ),
        ("client --auth a:b a.example R:6000", Some("cproxy-client 6000 --public-port 6000 --cproxy-server a.example")),
        ("client.toml", Some("cproxy-client --config client.toml")),
        ("--client client.toml", Some("cproxy-client --config client.toml")),
        ("client a.example 3000", None),
        ("client", None),
        ("tcp", None),
        ("statsu", None),
    ];
    const SERVERS: [(&str, Option<&str>); 4] = [
        ("server", Some("cproxy-server")),
        ("server --reverse --port 9000", Some("cproxy-server --ctl-port 9000")),
        ("server.toml", Some("cproxy-server --config server.toml")),
        ("--reverse", None),
    ];

    #[test]
    fn a_line_of_another_program_is_said_in_ours() {
        let said = |program, line: &str| {
            let words: Vec<_> = line.split(' ').map(OsString::from).collect();
            said_here(program, &words)
        };
        for (line, ours) in CLIENTS {
            assert_eq!(said(Of::Client, line).as_deref(), ours, "{line}");
            assert!(ours.is_none_or(|ours| ClientLine::try_parse_from(ours.split(' ')).is_ok()), "{ours:?}");
            assert!(
                ClientLine::try_parse_from(["c"].into_iter().chain(line.split(' '))).is_err(),
                "{line} says something"
            );
        }
        for (line, ours) in SERVERS {
            assert_eq!(said(Of::Server, line).as_deref(), ours, "{line}");
            assert!(ours.is_none_or(|ours| ServerLine::try_parse_from(ours.split(' ')).is_ok()), "{ours:?}");
        }
    }

    /// frpc, frps and others.
    #[test]
    fn the_file_may_be_named_in_short() {
        let file = Some("f.toml".into());
        assert_eq!(ClientLine::try_parse_from(["c", "-c", "f.toml"]).unwrap().flags.common.config, file);
        assert_eq!(ServerLine::try_parse_from(["s", "-c", "f.toml"]).unwrap().flags.common.config, file);
    }
}
