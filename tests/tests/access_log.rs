//! The access log: one line for each visit, at its end, with the same names on both sides.

use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use tempfile::TempDir;
use tests::programs::{Client, Program, Server, options};
use tests::services::{Refusing, Service};
use tests::sockets::{connect_from, finish, read_all, visit_end_from};
use tests::visits::{greeting, ip};
use tests::wait::{eventually, until};

/// The records among these lines.
fn records(log: &str) -> Vec<Value> {
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    lines.filter(|line| line["event"] == "visit").collect()
}

/// The only record that a program has logged, once it is there.
fn only_record(program: &Program) -> Value {
    eventually("a visit is logged", || match &records(&program.log())[..] {
        [record] => Ok(record.clone()),
        others => Err(format!("{} records", others.len())),
    })
}

#[test]
fn a_visit_is_told_once_on_either_side_with_its_bytes_and_ends() {
    let service = Service::echo();
    let named = "[[clients]]\nname = \"office\"\ntoken = \"a token, long enough\"\n";
    let server = Server::start(options().key("access_log", true).tables(named));
    let with_token = options().key("access_log", true).env("CPROXY_TOKEN", "a token, long enough");
    let client = Client::start(&server, with_token.tunnel(service.addr()));
    let mut visitor = client.visit();
    visitor.write_all(b"hello").unwrap();
    visitor.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(records(&server.log()), [Value::Null; 0], "it is not over");
    finish(&visitor);
    read_all(&mut visitor);
    let port = visitor.local_addr().unwrap().port();
    let (at_server, at_client) = (only_record(&server), only_record(&client));
    for record in [&at_server, &at_client] {
        assert_eq!((&record["peer_ip"], &record["peer_port"]), (&"127.0.0.1".into(), &port.into()), "{record}");
        assert_eq!((&record["bytes_up"], &record["bytes_down"]), (&5.into(), &5.into()), "{record}");
        assert_eq!((&record["end_up"], &record["end_down"]), (&"shut".into(), &"shut".into()), "{record}");
        assert_eq!((&record["outcome"], &record["tunnel"]), (&"served".into(), &"tunnel-0".into()), "{record}");
        assert!(record["why"].is_null() && record["duration"].as_f64().unwrap() > 0.0, "{record}");
    }
    assert_eq!(at_server["client"], at_client["client"]);
    assert_eq!((&at_server["credential"], &at_client["credential"]), (&"office".into(), &Value::Null));
    assert!(at_server["wait"].is_number() && at_server["dial"].is_null(), "{at_server}");
    assert!(at_client["dial"].is_number() && at_client["wait"].is_null(), "{at_client}");
}

#[test]
fn whoever_is_not_served_is_told_with_the_reason() {
    let away = Refusing::reserve();
    let server = Server::start(options().key("access_log", true));
    let denied = ip(3);
    let client =
        Client::start(&server, options().tunnel(away.addr()).tunnel_key("deny_sources", format!("[\"{denied}\"]")));
    let _ = visit_end_from(denied, client.public());
    let record = only_record(&server);
    assert_eq!((&record["outcome"], &record["why"]), (&"dropped".into(), &"source_denied".into()), "{record}");
    assert_eq!(record["peer_ip"], denied.to_string());
    drop(connect_from(ip(4), client.public()));
    let second = eventually("the second is logged", || records(&server.log()).get(1).cloned().ok_or("not yet".into()));
    assert_eq!((&second["outcome"], &second["why"]), (&"refused".into(), &"connection_refused".into()), "{second}");
    assert!(second["wait"].is_number() && second["end_down"] != "shut", "{second}");
    assert!(records(&client.log()).is_empty(), "a client without `access_log` has none");
}

#[test]
fn a_file_has_the_visits_alone_and_is_left_to_whoever_moves_it() {
    let directory = TempDir::new().expect("a temporary directory");
    let (path, moved) = (directory.path().join("visits.log"), directory.path().join("visits.log.1"));
    let service = Service::greeter("hi");
    let server = Server::start(options().key("access_log", format!("{path:?}")).flag("log-level", "error"));
    let client = Client::start(&server, options().tunnel(service.addr()));
    let visits = |path: &std::path::Path| fs::read_to_string(path).map_or(0, |log| records(&log).len());
    assert_eq!(greeting(client.public()), "hi");
    until("the first visit is there", || visits(&path) == 1);
    fs::rename(&path, &moved).unwrap();
    until("a later one is in a new file", || {
        assert_eq!(greeting(client.public()), "hi");
        visits(&path) > 0
    });
    assert!(records(&server.log()).is_empty(), "they are not among the log lines");
    server.stop_by_signal();
    let all = [&path, &moved].map(|path| visits(path) as u64);
    assert_eq!(all.iter().sum::<u64>(), service.accepted());
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let server = Server::spawn(options().key("access_log", "\"/no/such/directory/visits.log\""));
    assert_eq!(server.exit_code(), 1);
    let log = server.log();
    assert!(log.contains("cannot open the access log `/no/such/directory/visits.log`"), "{log}");
}
