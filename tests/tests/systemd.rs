//! The shipped units under a real systemd, sandboxing and journal included. Needs root and systemd-nspawn; says so where
//! it is skipped.

use tests::limit::arm;
use tests::systemd::Machine;
use tests::wait::until;

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

/// Visits public port 6000 one after the other, until /run/enough is there, and says how many were served; or why one was not.
const VISITS: &str = r#"
import os, socket
served = 0
while not os.path.exists("/run/enough"):
    visitor = socket.create_connection(("127.0.0.1", 6000), 60)
    visitor.sendall(b"GET /who HTTP/1.0\r\n\r\n")
    answer = b"".join(iter(lambda: visitor.recv(4096), b""))
    assert b"through a real systemd" in answer, answer
    served += 1
    open("/run/served", "w").write(str(served))
"#;

/// Visitors that come one after the other while something else happens.
struct Visits<'a>(&'a Machine);

impl<'a> Visits<'a> {
    fn begin(machine: &'a Machine) -> Self {
        machine.must(&format!("cat > /run/visits.py << 'END'{VISITS}END"));
        machine.must("rm -f /run/enough /run/served && systemd-run -q --unit=visits python3 /run/visits.py");
        let visits = Self(machine);
        visits.more();
        visits
    }

    fn served(&self) -> u32 {
        self.0.run("cat /run/served").said.trim().parse().unwrap_or(0)
    }

    /// Waits until there were some more.
    fn more(&self) {
        let before = self.served();
        until("visits are served", || self.served() >= before + 20 || self.state() == "failed");
    }

    fn state(&self) -> String {
        property(self.0, "visits", "ActiveState")
    }

    #[track_caller]
    fn expect_none_failed(self) {
        self.more();
        self.0.must("touch /run/enough");
        until("the last one is through", || self.state() != "active");
        let said = self.0.must("journalctl -o cat --no-pager -u visits");
        assert_eq!(self.state(), "inactive", "after {}: {said}\n{}", self.served(), self.0.journal());
    }
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

const LOCAL_SERVER: &str = "bind_addr = \"127.0.0.1\"\n";

/// A machine with a server and a client whose tunnel is at port 6000, both running.
fn with_a_tunnel() -> Option<Machine> {
    let client = CLIENT.to_owned() + "public_port = 6000\n";
    let machine = Machine::boot(&[("token", TOKEN), ("server.toml", LOCAL_SERVER), ("client.toml", &client)])?;
    serve(&machine);
    machine.must("systemctl start cproxy-server cproxy-client");
    machine.until_says("journalctl -o cat -u cproxy-client", "Forwarding tcp://127.0.0.1:6000");
    Some(machine)
}

/// P-LEAVE-5: systemd keeps the listening sockets from one process to the next, whatever ended the first.
#[test]
fn a_plain_restart_refuses_no_visitor() {
    arm();
    let Some(machine) = with_a_tunnel() else { return };
    let visits = Visits::begin(&machine);
    for _ in 0..3 {
        let before = property(&machine, "cproxy-server", "MainPID");
        machine.must("systemctl restart cproxy-server");
        assert_ne!(property(&machine, "cproxy-server", "MainPID"), before);
        visits.more();
    }
    visits.expect_none_failed();
    assert_eq!(property(&machine, "cproxy-server", "NFileDescriptorStore"), "0", "whoever serves has them alone");
    // What was kept is nobody's once the service is stopped for good.
    machine.must("systemctl stop cproxy-server");
    assert!(!machine.run(&visit("127.0.0.1", 6000)).succeeded);
    assert!(!machine.journal().contains("cannot tell systemd"), "{}", machine.journal());
}

#[test]
fn an_upgrade_makes_the_new_process_the_main_one() {
    arm();
    let Some(machine) = with_a_tunnel() else { return };
    machine.must("systemctl reload cproxy-server cproxy-client");
    let visits = Visits::begin(&machine);
    let mut before = property(&machine, "cproxy-server", "MainPID");
    for _ in 0..3 {
        machine.must("cd /usr/local/bin && cp cproxy-server new && mv new cproxy-server");
        let said = machine.must("cproxy-server upgrade");
        let pid = property(&machine, "cproxy-server", "MainPID");
        assert!(pid != before && said.contains(&format!("process {pid} serves now")), "{pid} after {before}: {said}");
        visits.more();
        machine.must("systemctl reload cproxy-server");
        before = pid;
    }
    assert_eq!(property(&machine, "cproxy-server", "NRestarts"), "0", "{}", machine.journal());
    // systemd stops it as it would have stopped the first: with time to end.
    machine.must("systemctl restart cproxy-server");
    visits.more();
    visits.expect_none_failed();
    let said = machine.journal();
    assert!(!said.contains("not our child") && !said.contains("SIGKILL"), "{said}");
    // A crash is noticed, too.
    machine.must("cproxy-server upgrade && systemctl kill --kill-who=main --signal=KILL cproxy-server");
    machine.until_says("systemctl show -P NRestarts cproxy-server", "1");
    machine.until_says(&visit("127.0.0.1", 6000), "through a real systemd");
    machine.must("systemctl stop cproxy-server");
    assert!(!machine.run("pgrep -x cproxy-server").succeeded, "nobody is left behind");
}

/// The two units of docs/operating.md.
#[test]
fn the_first_client_starts_a_server_whose_sockets_systemd_opens() {
    arm();
    let client = CLIENT.to_owned() + "public_port = 6000\n";
    let files = [("token", TOKEN), ("server.toml", LOCAL_SERVER), ("client.toml", &client)];
    let Some(machine) = Machine::boot(&files) else { return };
    serve(&machine);
    for (name, port) in [("ctl", 8080), ("proxy", 8090)] {
        let unit = format!(
            "[Socket]\nListenStream=127.0.0.1:{port}\nFileDescriptorName={name}\nService=cproxy-server.service\n"
        );
        machine.must(&format!("printf '{unit}' > /etc/systemd/system/cproxy-{name}.socket"));
    }
    machine.must("systemctl daemon-reload && systemctl start cproxy-ctl.socket cproxy-proxy.socket");
    assert_eq!(property(&machine, "cproxy-server", "ActiveState"), "inactive");
    machine.must("systemctl start cproxy-client");
    machine.until_says(&visit("127.0.0.1", 6000), "through a real systemd");
    assert_eq!(property(&machine, "cproxy-server", "ActiveState"), "active");
    // They are systemd's, and outlast the server; the next connection starts it again.
    let visits = Visits::begin(&machine);
    machine.must("systemctl restart cproxy-server");
    visits.expect_none_failed();
    machine.must("systemctl stop cproxy-server");
    machine.until_says("systemctl show -P ActiveState cproxy-server", "active");
    machine.until_says(&visit("127.0.0.1", 6000), "through a real systemd");
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
