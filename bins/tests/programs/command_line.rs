//! Flags: what they accept, and what a user reads when they are wrong.

use crate::program::{Files, client, local_server, run, server};

#[test]
fn help_and_version_go_to_standard_output() {
    for (command, name) in [(server as fn(&str) -> _, "cproxy-server"), (client, "cproxy-client")] {
        let help = run(command("--help"));
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
        for part in ["--config <FILE>", "CPROXY_TOKEN", "Exit codes: 0", "check-config", "--drain-timeout <SECONDS>"] {
            assert!(help.out.contains(part), "`{part}` is missing in: {}", help.out);
        }
        let version = run(command("--version"));
        assert_eq!((version.code, version.out), (Some(0), format!("{name} {}", env!("CARGO_PKG_VERSION"))));
    }
}

/// Standard error of a program that must refuse to start.
fn refusal(command: std::process::Command) -> String {
    let ended = run(command);
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{}", ended.err);
    ended.err
}

#[test]
fn bad_flags_are_named_with_the_way_out() {
    let unknown = refusal(server("--ctl_prt 1"));
    assert!(unknown.contains("'--ctl-prt'") && unknown.contains("'--ctl-port'"), "{unknown}");
    let port = refusal(server("--proxy_port=70000"));
    assert!(port.contains("'70000'") && port.contains("--proxy-port") && port.contains("0..=65535"), "{port}");
    let ports = refusal(server("--allow-ports 7000-6000"));
    assert!(ports.contains("the range's first port is larger than its last"), "{ports}");
    let threads = refusal(server("--work_thread_nums 0"));
    assert!(threads.contains("write a whole number from 1 to 1024"), "{threads}");
    let bind = refusal(server("--bind-addr example.com"));
    assert!(bind.contains("not an IP address; write 0.0.0.0"), "{bind}");
    let level = refusal(server("--log-level loud"));
    assert!(level.contains("possible values: error, warn, info, debug, trace"), "{level}");
    let bracket = refusal(client("--cproxy-server ::1:8080 --local-server a:1"));
    assert!(bracket.contains("write [::1:8080]:8080") || bracket.contains("brackets"), "{bracket}");
    let port_alone = refusal(client("--public-port 80"));
    assert!(port_alone.contains("--local-server <HOST:PORT>"), "{port_alone}");
}

#[test]
fn a_client_without_server_and_tunnel_says_both() {
    let error = refusal(client(""));
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].starts_with("error: no server to connect to; give --cproxy-server HOST:PORT"), "{error}");
    assert!(lines[1].starts_with("error: no tunnel, so nothing to expose; give --local-server HOST:PORT"), "{error}");
}

#[test]
fn an_empty_token_is_refused_wherever_it_comes_from() {
    let mut variable = local_server("");
    variable.env("CPROXY_TOKEN", " \n");
    assert!(refusal(variable).starts_with("error: the environment variable CPROXY_TOKEN holds an empty token"));
    let files = Files::new(&[("token", "\n")]);
    let file = refusal(local_server(&format!("--token-file {}", files.path("token"))));
    assert!(file.starts_with("error: --token-file: the file `") && file.contains("holds an empty token"), "{file}");
}
