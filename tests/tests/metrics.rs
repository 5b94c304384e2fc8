//! `metrics_addr`: what Prometheus, a browser and a load balancer get there, and what nobody gets.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tests::limit::arm;
use tests::programs::{Client, Options, Program, Server, options};
use tests::scrape::{ask, code, get};
use tests::services::Service;
use tests::sockets::connect;
use tests::visits::{ping, short_visit};
use tests::wait::{eventually, until};

fn with_metrics(options: Options) -> Options {
    options.key("metrics_addr", "\"0\"")
}

/// Where a program answers.
fn address(program: &Program) -> SocketAddr {
    let line = program.log_line("metrics and a page at http://");
    let rest = line.split("http://").nth(1).expect("an address");
    rest.split('/').next().expect("before the path").parse().expect("an address")
}

/// The value of a series.
fn value(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bins/dist").join(name)
}

/// What `program` makes of `input`; `None`, said aloud: it is not installed.
fn run(program: &str, words: &[&str], input: &str) -> Option<Output> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("SKIPPED: {program} {}, which is not installed", words.join(" "));
        return None;
    };
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    Some(child.wait_with_output().expect("it ends"))
}

fn expect_success(output: Option<Output>) {
    if let Some(output) = output {
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
    }
}

#[test]
fn metrics_tell_what_happens_and_are_what_prometheus_reads() {
    arm();
    let service = Service::echo();
    let server = Server::start(with_metrics(options()));
    let client = Client::start(&server, with_metrics(options().tunnel(service.addr())));
    let places = [address(&server), address(&client)];
    assert!(places.iter().all(|at| at.ip().is_loopback()), "a port alone is of this machine itself");
    let begun = places.map(|at| get(at, "/metrics").1);
    for text in &begun {
        assert_eq!(value(text, "cproxy_visitors_ended_total{outcome=\"finished\",reason=\"\"}"), Some(0.0), "{text}");
    }
    for visit in 0..3 {
        short_visit(client.public(), visit);
    }
    let mut long = connect(client.public());
    ping(&mut long, b"0123456789");
    for at in places {
        eventually("all visits are told", || {
            let (code, text) = get(at, "/metrics");
            assert_eq!(code, 200);
            let right = value(&text, "cproxy_visitors_ended_total{outcome=\"finished\",reason=\"\"}") == Some(3.0)
                && value(&text, "cproxy_visitors{state=\"active\"}") == Some(1.0)
                && value(&text, "cproxy_visitors_accepted_total") == Some(4.0)
                && value(&text, "cproxy_dial_seconds_count") == Some(4.0);
            right.then_some(()).ok_or(text)
        });
    }
    let [of_server, of_client] = places.map(|at| get(at, "/metrics").1);
    let visitor = long.local_addr().expect("an address").to_string();
    for (before, text) in begun.iter().zip([&of_server, &of_client]) {
        assert!(value(text, "cproxy_payload_bytes_total{direction=\"in\"}") >= Some(202.0), "{text}");
        assert!(!text.contains(&visitor), "no visitor's address");
        let series = |text: &str| -> BTreeSet<String> {
            text.lines()
                .filter(|line| !line.contains("cproxy_tunnel"))
                .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
                .collect()
        };
        assert_eq!(series(before), series(text), "all series are there from the start");
        expect_success(run("promtool", &["check", "metrics"], text));
    }
    let head = ask(places[0], "HEAD /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let status: Value = serde_json::from_str(&get(places[0], "/status.json").1).expect("JSON");
    assert_eq!(status["pid"], server.pid());
}

#[test]
fn a_client_is_ready_when_every_tunnel_is_and_well_as_long_as_it_answers() {
    arm();
    let service = Service::echo();
    let server = Server::start(with_metrics(options().brisk()));
    let client = Client::start(&server, with_metrics(options().tunnel(service.addr()).brisk()));
    let (of_server, of_client) = (address(&server), address(&client));
    for at in [of_server, of_client] {
        assert_eq!(get(at, "/readyz"), (200, "ok\n".to_owned()));
        assert_eq!(get(at, "/healthz"), (200, "ok\n".to_owned()));
    }
    server.kill();
    until("the client is not ready", || get(of_client, "/readyz").0 == 503);
    assert!(get(of_client, "/readyz").1.contains(&server.ctl().to_string()), "it says why");
    assert_eq!(get(of_client, "/healthz").0, 200, "it is well, and comes back by itself");
}

#[test]
fn other_sites_other_methods_and_garbage_get_nothing() {
    arm();
    let server = Server::start(with_metrics(options()));
    let at = address(&server);
    let refused =
        |fields: &str| code(&ask(at, &format!("GET /status.json HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")));
    assert_eq!(refused(&format!("Host: {at}\r\n")), 200);
    assert_eq!(refused("Host: rebound.example\r\n"), 403);
    assert_eq!(refused(&format!("Host: {at}\r\nOrigin: https://evil.example\r\n")), 403);
    assert_eq!(refused(&format!("Host: {at}\r\nSec-Fetch-Site: cross-site\r\n")), 403);
    let answer = ask(at, &format!("GET / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"));
    assert!(answer.contains("content-security-policy: default-src 'none'") && !answer.contains("access-control"));
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let head = format!("{method} / HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert_eq!(code(&ask(at, &head)), 405, "{method}");
    }
    assert_eq!(get(at, "/../../etc/passwd").0, 404);
    assert_eq!(code(&ask(at, "\x16\x03\x01garbage\r\n\r\n")), 400);
    assert!(matches!(code(&ask(at, &format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)))), 400 | 431));
    // Who does not finish his question is put out.
    let mut slow = connect(at);
    slow.write_all(b"GET / HTTP/1.1\r\nHo").expect("send");
    let mut rest = Vec::new();
    let _reset = slow.read_to_end(&mut rest);
    assert!(server.is_running() && get(at, "/healthz").0 == 200);
}

#[test]
fn a_thousand_scrapers_and_those_who_never_read_disturb_nobody() {
    arm();
    let service = Service::echo();
    let server = Server::start(with_metrics(options()));
    let client = Client::start(&server, options().tunnel(service.addr()));
    let at = address(&server);
    short_visit(client.public(), 0);
    let before = server.process().descriptors().total();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\n\r\n");
    // Each asks again and again, and reads nothing.
    let deaf: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect(at);
            stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            while stream.write_all(request.repeat(20).as_bytes()).is_ok() {}
            stream
        })
        .collect();
    short_visit(client.public(), 1);
    let scrapers: Vec<_> = (0..1000)
        .filter_map(|_| {
            let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5)).ok()?;
            stream.write_all(request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
            Some(stream)
        })
        .collect();
    short_visit(client.public(), 2);
    let served = scrapers.into_iter().filter_map(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(40))).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    let served = served.count();
    assert!(served > 900, "{served} of 1000 scrapers were served");
    drop(deaf);
    short_visit(client.public(), 3);
    assert_eq!(get(at, "/readyz").0, 200);
    until("their connections are closed", || server.process().descriptors().total() < before + 5);
}

#[test]
fn an_address_that_is_taken_is_named_and_the_program_runs_without() {
    arm();
    let first = Server::start(with_metrics(options()));
    let taken = address(&first);
    let second = Server::start(options().key("metrics_addr", format!("\"{taken}\"")));
    let line = second.log_line("no metrics at");
    assert!(line.contains(&taken.to_string()) && line.contains("choose another `metrics_addr`"), "{line}");
    let service = Service::echo();
    short_visit(Client::start(&second, options().tunnel(service.addr())).public(), 1);
}

#[test]
fn a_browser_shows_sessions_and_tunnels() {
    arm();
    let service = Service::echo();
    let server = Server::start(with_metrics(options()));
    let client = Client::start(&server, options().tunnel(service.addr()));
    short_visit(client.public(), 1);
    let profile = tempfile::TempDir::new().expect("a folder");
    let browse = |url: &str| {
        let data = format!("--user-data-dir={}", profile.path().display());
        let words =
            ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=6000", &data, "--dump-dom", url];
        let output = run("chromium", &words, "")?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(page) = browse(&format!("http://{}/", address(&server))) else { return };
    let told = |text: &str| assert!(page.contains(text), "{text} is not in {page}");
    told("<td data-head=\"tunnel\">tunnel-0</td>");
    told(&format!("<td data-head=\"port\">{}</td>", client.public().port()));
    told("<title>cproxy-server ");
    assert!(page.contains("role=\"alert\" hidden"), "no trouble: {page}");
    assert!(page.contains("<polyline points="), "a chart: {page}");
}

#[test]
fn the_rules_and_the_dashboard_ask_for_what_there_is() {
    arm();
    let rules = dist("prometheus-alerts.yml");
    expect_success(run("promtool", &["check", "rules", rules.to_str().expect("a path in UTF-8")], ""));
    let rules = fs::read_to_string(rules).expect("the rules");
    let dashboard = fs::read_to_string(dist("grafana-dashboard.json")).expect("the dashboard");
    let parsed: Value = serde_json::from_str(&dashboard).expect("JSON");
    assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() > 10));
    let service = Service::echo();
    let server = Server::start(with_metrics(options()));
    let _client = Client::start(&server, options().tunnel(service.addr()));
    let metrics = get(address(&server), "/metrics").1;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let asked = [rules, dashboard].concat();
    let asked: BTreeSet<_> = asked
        .split(|c| !is_name(c))
        .filter(|word| word.starts_with("cproxy_") || word.starts_with("process_"))
        .collect();
    assert!(asked.len() > 15, "{asked:?}");
    for name in asked {
        assert!(
            metrics.contains(&format!("\n{name}{{")) || metrics.contains(&format!("\n{name} ")),
            "no series {name}"
        );
    }
}
