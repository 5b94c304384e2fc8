//! The shipped units under a real systemd, sandboxing and journal included. Needs root and systemd-nspawn; says so where
//! it is skipped.

use tests::limit::arm;
use tests::systemd::Machine;

const TOKEN: &str = "a token for one machine\n";
const CLIENT: &str = "server = \"127.0.0.1:8080\"\n[[tunnels]]\nname = \"web\"\nlocal = \"127.0.0.1:7777\"\n";

/// A request of the web server that [`serve`] starts, through public port `port`.
fn visit(address: &str, port: u16) -> String {
    format!("bash -c 'exec 3<>/dev/tcp/{address}/{port} && printf \"GET /who HTTP/1.0\\r\\n\\r\\n\" >&3 && cat <&3'")
}

fn serve(machine: &Machine) {
    machine.must("mkdir /srv/web && echo through a real systemd > /srv/web/who");
    machine.must("systemd-run -q python3 -m http.server 7777 --bind 127.0.0.1 --directory /srv/web");
}

/// A property of a unit.
fn property(machine: &Machine, unit: &str, name: &str) -> String {
    machine.must(&format!("systemctl show -P {name} {unit}")).trim().to_owned()
}

#[test]
fn a_server_waits_for_its_address_and_comes_back_whatever_ends_it() {
    arm();
    let server = "bind_addr = \"10.99.0.1\"\n";
    let client = CLIENT.replace("127.0.0.1:8080", "10.99.0.1:8080") + "public_port = 6000\n";
    let files = [("token", TOKEN), ("server.toml", server), ("client.toml", &client)];
    let Some(machine) = Machine::boot(&files) else { return };
    serve(&machine);
    machine.must("systemctl start cproxy-server cproxy-client");
    machine.until_says("journalctl -o cat -u cproxy-server", "10.99.0.1:8080");
    assert_eq!(property(&machine, "cproxy-server", "NRestarts"), "0", "{}", machine.journal());
    let says = machine.journal();
    assert!(says.contains("this machine does not have the address yet; waiting for it"), "{says}");
    machine.must("ip address add 10.99.0.1/32 dev lo");
    machine.until_says("journalctl -o cat -u cproxy-client", "Forwarding tcp://10.99.0.1:6000");
    machine.until_says(&visit("10.99.0.1", 6000), "through a real systemd");

    // Neither a crash nor a clean end keeps it away.
    for (nth, signal) in ["KILL", "TERM"].into_iter().enumerate() {
        machine.must(&format!("systemctl kill --kill-who=main --signal={signal} cproxy-server"));
        machine.until_says("systemctl show -P NRestarts cproxy-server", &(nth + 1).to_string());
        machine.until_says(&visit("10.99.0.1", 6000), "through a real systemd");
    }

    // A stop while it waits is a stop.
    machine.must("ip address del 10.99.0.1/32 dev lo && systemctl restart cproxy-server");
    machine.must("systemctl stop cproxy-server");
    assert_eq!(property(&machine, "cproxy-server", "Result"), "success", "{}", machine.journal());
}

#[test]
fn a_bad_file_fails_the_start_names_the_key_and_is_not_tried_again() {
    arm();
    let files = [("token", TOKEN), ("server.toml", "bind_addr = \"127.0.0.1\"\n"), ("client.toml", CLIENT)];
    let Some(machine) = Machine::boot(&files) else { return };
    machine.must("systemctl start cproxy-server");
    machine.must("echo 'ctl_prt = 1' > /etc/cproxy/server.toml");
    let ran = machine.run("systemctl restart cproxy-server");
    assert!(!ran.succeeded, "{ran:?}: {}", machine.journal());
    assert_eq!(property(&machine, "cproxy-server", "ActiveState"), "failed", "{}", machine.journal());
    assert_eq!(property(&machine, "cproxy-server", "NRestarts"), "0", "{}", machine.journal());
    assert!(machine.journal().contains("unknown key `ctl_prt`"), "{}", machine.journal());
    machine.must("echo 'bind_addr = \"127.0.0.1\"' > /etc/cproxy/server.toml && systemctl restart cproxy-server");

    // A client that never worked is final, too: a wrong token does not heal by itself.
    machine.must("echo another token entirely > /etc/cproxy/token && systemctl start cproxy-client");
    machine.until_says("systemctl show -P ActiveState cproxy-client", "failed");
    assert_eq!(property(&machine, "cproxy-client", "NRestarts"), "0", "{}", machine.journal());
}

#[test]
fn low_ports_open_with_the_shipped_drop_in() {
    arm();
    let files = [
        ("token", TOKEN),
        ("server.toml", "bind_addr = \"127.0.0.1\"\nallow_ports = [80]\n"),
        ("client.toml", &(CLIENT.to_owned() + "public_port = 80\n")),
    ];
    let Some(machine) = Machine::boot(&files) else { return };
    serve(&machine);
    machine.must("sysctl -q net.ipv4.ip_unprivileged_port_start=1024");
    machine.must("install -D -m 644 /units/low-ports.conf -t /etc/systemd/system/cproxy-server.service.d");
    machine.must("systemctl daemon-reload && systemctl start cproxy-server cproxy-client");
    machine.until_says(&visit("127.0.0.1", 80), "through a real systemd");
}

#[test]
fn secrets_of_root_come_as_credentials_and_the_message_says_how() {
    let server = "bind_addr = \"127.0.0.1\"\n[[clients]]\nname = \"office\"\ntoken_file = \"office.token\"\n";
    let files = [
        ("token", TOKEN),
        ("office.token", "a token of the office\n"),
        ("server.toml", server),
        ("client.toml", CLIENT),
    ];
    let Some(machine) = Machine::boot(&files) else { return };
    assert!(!machine.run("systemctl start cproxy-server").succeeded, "{}", machine.journal());
    let said = machine.journal();
    assert!(said.contains("LoadCredential=office.token:/etc/cproxy/office.token"), "{said}");
    assert!(said.contains("/run/credentials/cproxy-server.service/office.token"), "{said}");
    // Word for word.
    machine.must(
        "mkdir -p /etc/systemd/system/cproxy-server.service.d && \
         printf '[Service]\\nLoadCredential=office.token:/etc/cproxy/office.token\\n' \
         > /etc/systemd/system/cproxy-server.service.d/office.conf && systemctl daemon-reload && \
         sed -i 's,\"office.token\",\"/run/credentials/cproxy-server.service/office.token\",' /etc/cproxy/server.toml && \
         systemctl start cproxy-server",
    );
    let warned = machine.journal();
    assert!(!warned.contains("open to other users"), "{warned}");
}

#[test]
fn the_journal_has_priorities_and_one_time_and_the_host_name_tells_machines_apart() {
    arm();
    let files = [
        ("token", "short\n"),
        ("server.toml", "bind_addr = \"127.0.0.1\"\n"),
        ("client.toml", &(CLIENT.to_owned() + "public_port = 6000\n")),
    ];
    let Some(machine) = Machine::boot(&files) else { return };
    machine.must("systemctl start cproxy-server cproxy-client");
    machine.until_says("journalctl -o cat -u cproxy-client", "Forwarding tcp://127.0.0.1:6000");
    let warnings = machine.must("journalctl -o cat --no-pager -u cproxy-server -p warning");
    assert!(warnings.contains("WARN ") && warnings.contains("a token of 5 bytes"), "{warnings}");
    let all = machine.must("journalctl -o cat --no-pager -u cproxy-server");
    let ours = || all.lines().filter(|line| line.contains("session began"));
    assert!(ours().count() == 1 && !warnings.contains("session began"), "{all}");
    assert!(ours().all(|line| line.trim_start().starts_with("INFO session began")), "no time, no prefix: {all}");

    // Machines that were cloned differ in nothing but their name.
    let identity = |nth: usize| {
        let journal = machine.must("journalctl -o cat --no-pager -u cproxy-server");
        let line =
            journal.lines().filter(|line| line.contains("session began")).nth(nth).expect("a session").to_owned();
        line.split("client=").nth(1).expect("an identity").split(' ').next().expect("it").to_owned()
    };
    let first = identity(0);
    machine.must("hostname clone && systemctl restart cproxy-client");
    machine.until_says("journalctl -o cat -u cproxy-server | grep -c 'session began'", "2");
    assert_ne!(identity(1), first, "{}", machine.journal());
}
