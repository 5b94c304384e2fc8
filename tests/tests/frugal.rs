//! What an idle tunnel costs on a line where bytes are counted: the programs far from each other, the kernel's own count
//! of the cable between them, and the defaults' times. Needs root.

use std::thread::sleep;
use std::time::Duration;
use tests::cable::Cables;
use tests::link::Link;
use tests::programs::{Client, Options, Server, options};
use tests::root_only;
use tests::services::Service;
use tests::visits::ping;

const TOKEN: (&str, &str) = ("CPROXY_TOKEN", "each byte is paid for");
const PUBLIC: u16 = 7022;
/// Two whole periods of a frugal session, and from when they are counted.
const COUNTED: Duration = Duration::from_secs(100);
const BEGINS: Duration = Duration::from_secs(5);
const DAY: f64 = 86_400.0;
const ETHERNET_HEADER: u64 = 14;

/// A tunnel over a cable of its own.
struct Line {
    cables: Cables,
    _server: Server,
    client: Client,
    _service: Service,
}

impl Line {
    fn new(server: Options, client: Options) -> Option<Self> {
        let cables = Cables::new(1)?;
        let ends = [(&cables.near, "10.97.1.1", &cables.far), (&cables.far, "10.97.1.2", &cables.near)];
        let mac = |end: &tests::link::Namespace| end.must("ip -br link show eth0");
        let macs = ends.map(|(.., other)| mac(other).split_whitespace().nth(2).expect("its address").to_owned());
        for ((end, ip, _), (other, mac)) in ends.iter().zip(["10.97.1.2", "10.97.1.1"].iter().zip(macs)) {
            end.must(&format!("ip addr add {ip}/24 dev eth0"));
            // A line to a provider has no ARP.
            end.must(&format!("ip neigh replace {other} lladdr {mac} nud permanent dev eth0"));
        }
        let server = server.network(&cables.near).env(TOKEN.0, TOKEN.1);
        let server = Server::start(server.flag("bind-addr", "10.97.1.1"));
        let service = cables.far.run(Service::echo);
        let client = client.network(&cables.far).env(TOKEN.0, TOKEN.1).tunnel_at(service.addr(), PUBLIC);
        let client = Client::start(&server, client);
        Some(Self { cables, _server: server, client, _service: service })
    }

    fn visit(&self) {
        self.cables.near.run(|| ping(&mut tests::sockets::connect(self.client.public()), b"through it"));
    }

    /// Bytes of IP that have passed, in both directions.
    fn passed(&self) -> u64 {
        let table = self.cables.near.must("cat /proc/net/dev");
        let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("its line");
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [bytes, packets] = [0, 1].map(|column| numbers[column] + numbers[column + 8]);
        bytes - packets * ETHERNET_HEADER
    }
}

#[test]
fn an_idle_tunnel_costs_what_the_table_says_and_a_frugal_ones_dead_peer_is_found() {
    root_only!();
    let frugal = || options().flag("frugal", true);
    let Some(usual) = Line::new(options(), options()) else { return };
    let lines = [
        ("as shipped", 10.0, usual),
        ("frugal", 1.0, Line::new(options(), frugal()).expect("the first one could be made")),
        ("frugal, TLS", 1.0, Line::new(options().tls(), frugal()).expect("the first one could be made")),
    ];
    let link = Link::new(Duration::from_millis(1));
    let far = |options: Options, namespace| options.network(namespace).env(TOKEN.0, TOKEN.1);
    let server = Server::start(far(options(), &link.near).flag("bind-addr", link.near.ip()));
    let client = Client::start(&server, far(frugal(), &link.far).tunnel_at("127.0.0.1:1", PUBLIC));
    link.cut();

    sleep(BEGINS);
    let before: Vec<_> = lines.iter().map(|(.., line)| line.passed()).collect();
    sleep(COUNTED);
    for ((name, limit, line), before) in lines.iter().zip(before) {
        let bytes = line.passed() - before;
        let day = bytes as f64 / COUNTED.as_secs_f64() * DAY / 1e6;
        println!("{name}: {bytes} bytes in {COUNTED:?}: {day:.2} MB a day");
        assert!(day <= *limit, "{name}: {day:.2} MB a day");
        line.visit();
    }
    // P-LIVE-3: after 110 s, of which most are over by now.
    server.log_line("session lost its ctl_conn");
    client.log_line("does not answer; trying again");
    link.heal();
}
