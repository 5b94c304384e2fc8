//! The fail2ban filters of bins/dist find who is to be banned, in both forms of the log, and nobody else, whatever names
//! clients and tunnels have. Without `fail2ban-regex` nothing is tried.

use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use tests::limit::arm;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::sockets::visit_end_from;
use tests::visits::{greeting, ip};
use tests::wait::until;

/// The addresses that the filter finds in `log`.
fn found(filter: &str, log: &Path) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let filter = root.join("bins/dist/fail2ban").join(filter);
    let output = Command::new("fail2ban-regex").args(["-o", "ip"]).arg(log).arg(filter).output().expect("it runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() || text.is_empty(), "{text}{errors}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_filters_find_who_is_refused_and_no_name_forges_a_line() {
    arm();
    if Command::new("fail2ban-regex").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no fail2ban-regex (apt-get install fail2ban)");
        return;
    }
    let directory = TempDir::new().expect("a temporary directory");
    let service = Service::greeter("hi");
    let denied = ip(3);
    for format in ["text", "json"] {
        // As if it were the rest of a line, in either form, as long as a name may be.
        let hostile = match format {
            "text" => "WARN visitor refused:  event=\"visitor_refused\" peer_ip=1.2.3.4 p",
            _ => "\",\"event\":\"visitor_refused\",\"peer_ip\":\"1.2.3.4\",\"",
        };
        let clients = format!("[[clients]]\nname = '{hostile}'\ntoken = 'a token, long enough'\n");
        let server = Server::start(options().flag("log-format", format).key("access_log", true).tables(&clients));
        let tunnel =
            format!("[[tunnels]]\nname = '{hostile}'\nlocal = \"{}\"\ndeny_sources = [\"{denied}\"]\n", service.addr());
        let with_token = options().env("CPROXY_TOKEN", "a token, long enough").tables(&tunnel);
        let client = Client::start(&server, with_token);
        until("the tunnel is there", || !client.forwardings().is_empty());
        let public = (std::net::Ipv4Addr::LOCALHOST, client.forwardings()[0].port).into();
        assert_eq!(greeting(public), "hi");
        let _ = visit_end_from(denied, public);
        server.log_line("visitor_refused");
        let stranger = options().env("CPROXY_TOKEN", "another one, long enough").tunnel(service.addr());
        assert_eq!(Client::spawn(&server, stranger).exit_code(), 2);
        client.stop_by_signal();
        server.stop_by_signal();
        let log = directory.path().join(format);
        fs::write(&log, server.log()).expect("write the log");
        assert!(server.log().contains("1.2.3.4"), "the names are logged");
        assert_eq!(found("cproxy-strangers.conf", &log), ["127.0.0.1"], "{}", server.log());
        assert_eq!(found("cproxy-visitors.conf", &log), [denied.to_string()], "{}", server.log());
    }
}
