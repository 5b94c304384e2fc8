//! What running programs tell of themselves: `status`, and the socket behind it, whatever comes there.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use tests::limit::arm;
use tests::programs::{Client, Options, Server, Successors, directory, options};
use tests::services::Service;
use tests::sockets::{connect, free_port};
use tests::visits::{ping, short_visit};
use tests::wait::{eventually, until};

/// A folder in which programs put their sockets, and others find them.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().expect("a temporary directory"))
    }

    fn path(&self) -> &str {
        self.0.path().to_str().expect("a path in UTF-8")
    }

    /// A program puts its socket here.
    fn of(&self, options: Options) -> Options {
        options.env("RUNTIME_DIRECTORY", self.path())
    }

    /// A command that looks here.
    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(directory().join(program));
        command.args(words).env("RUNTIME_DIRECTORY", self.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, words: &[&str]) -> Output {
        self.command(program, words).output().expect("it runs")
    }

    /// `status --json`.
    fn status(&self, program: &str) -> Value {
        json(&self.run(program, &["status", "--json"]))
    }

    fn socket_of(&self, server: &Server) -> PathBuf {
        self.0.path().join(format!("cproxy-server-{}.sock", server.ctl().port()))
    }
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Asks as no program of ours would.
fn ask(socket: &Path, bytes: &[u8]) -> Value {
    let mut stream = UnixStream::connect(socket).expect("connect");
    stream.write_all(bytes).expect("write");
    stream.shutdown(Shutdown::Write).expect("shut");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    serde_json::from_str(&line).expect("JSON")
}

const QUESTION: &[u8] = b"{\"version\":1,\"do\":\"status\"}\n";

#[test]
fn both_sides_tell_the_same_of_their_visitors() {
    arm();
    let (folder, service) = (Folder::new(), Service::echo());
    let server = Server::start(folder.of(options()));
    let client = Client::start(&server, folder.of(options().tunnel(service.addr())));
    short_visit(client.public(), 5);
    let mut long = connect(client.public());
    ping(&mut long, b"0123456789");
    let through = |program| {
        eventually("five visits are through, and one is there", || {
            let status = folder.status(program);
            let visitors = &status["visitors"];
            let right = visitors["finished"] == 1 && visitors["active"] == 1 && visitors["total"] == 2;
            right.then_some(()).ok_or_else(|| status.to_string())
        });
        folder.status(program)
    };
    let (of_server, of_client) = (through("cproxy-server"), through("cproxy-client"));
    for (status, pid) in [(&of_server, server.pid()), (&of_client, client.pid())] {
        assert_eq!(status["pid"], pid);
        assert_eq!(status["sessions"].as_array().unwrap().len(), 1);
        let session = &status["sessions"][0];
        assert_eq!(session["state"], "up");
        assert_eq!(session["client"], of_server["sessions"][0]["client"], "both name the client alike");
        assert_eq!(session["conns"]["active"], 1);
        let tunnel = &session["tunnels"][0];
        assert_eq!((&tunnel["name"], &tunnel["state"]), (&"tunnel-0".into(), &"open".into()));
        assert_eq!(tunnel["public"].as_str().unwrap().rsplit(':').next().unwrap(), client.public().port().to_string());
        for key in ["visitors", "total", "finished", "failed", "bytes_in", "bytes_out"] {
            assert_eq!(tunnel[key], of_server["sessions"][0]["tunnels"][0][key], "{key}");
        }
        assert_eq!((&tunnel["visitors"], &tunnel["total"]), (&1.into(), &2.into()));
        assert!(tunnel["bytes_in"].as_u64() >= Some(10) && status["bytes_in"] == tunnel["bytes_in"]);
        assert_eq!(status["dials"]["buckets"].as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>(), 2);
        let (open, limit) = (&status["descriptors"]["open"], &status["descriptors"]["limit"]);
        assert!(open.as_u64() > Some(5) && open.as_u64() < limit.as_u64(), "{status}");
    }
    let table = text(&folder.run("cproxy-server", &["status"]).stdout);
    assert!(table.contains("\ntunnel-0  ") && table.contains("\nvisitors    1 served, 0 waiting; 2 so far"), "{table}");
    let table = text(&folder.run("cproxy-client", &["status"]).stdout);
    assert!(table.contains(&service.addr().to_string()), "{table}");
}

/// What a holder of one token has of the server is what its process has more than before.
#[test]
fn what_a_credential_has_is_summed_over_its_sessions() {
    let folder = Folder::new();
    let service = Service::echo();
    let credential = |name: &str| format!("[[clients]]\nname = \"{name}\"\ntoken = \"of {name}\"\n");
    let tables = [credential("one"), credential("other")].concat();
    let server = Server::start(folder.of(options().brisk().tables(&tables)));
    let open = |status: &Value| status["descriptors"]["open"].as_u64().expect("a number");
    let before = open(&folder.status("cproxy-server"));
    let client = |of: &str| {
        let tunnels = options().brisk().env("CPROXY_TOKEN", of).tunnel(service.addr());
        Client::start(&server, tunnels)
    };
    let clients = [client("of one"), client("of one"), client("of other")];
    let mut visitors: Vec<_> = clients.iter().flat_map(|client| [client.visit(), client.visit()]).collect();
    visitors.iter_mut().for_each(|visitor| ping(visitor, b"hello"));
    let counts = |credential: &Value| {
        ["sessions", "tunnels", "visitors"].map(|what| credential[what].as_u64().expect("a number"))
    };
    let taken = |credential: &Value| credential["descriptors"].as_u64().expect("a number");
    until("both credentials have what their clients have", || {
        let status = folder.status("cproxy-server");
        let [one, other] = [0, 1].map(|index| &status["credentials"][index]);
        assert_eq!([&one["credential"], &other["credential"]], ["one", "other"]);
        (counts(one), counts(other)) == ([2, 2, 4], [1, 1, 2])
            && open(&status) - before == taken(one) + taken(other)
            && taken(one) > taken(other)
    });
    let table = text(&folder.run("cproxy-server", &["status"]).stdout);
    assert!(table.contains("\none         2         2        4 "), "{table}");
    drop((visitors, clients));
    until("nothing is left of them", || {
        let status = folder.status("cproxy-server");
        let gone = [0, 1].iter().all(|&index| taken(&status["credentials"][index]) == 0);
        gone && open(&status) == before
    });
}

#[test]
fn a_service_that_refuses_is_the_last_error_of_its_tunnel() {
    arm();
    let folder = Folder::new();
    let server = Server::start(folder.of(options()));
    let client = Client::start(&server, folder.of(options().tunnel("127.0.0.1:1")));
    let mut visitor = connect(client.public());
    let _reset = visitor.read(&mut [0]);
    for program in ["cproxy-server", "cproxy-client"] {
        eventually("the refusal is told", || {
            let status = folder.status(program);
            let right = status["visitors"]["refused"]["connection_refused"] == 1
                && status["sessions"][0]["tunnels"][0]["last_error"]["reason"] == "connection_refused"
                && status["sessions"][0]["tunnels"][0]["failed"] == 1;
            right.then_some(()).ok_or_else(|| status.to_string())
        });
    }
    let table = text(&folder.run("cproxy-client", &["status"]).stdout);
    assert!(table.contains("ago: a visitor was refused: the local service refuses connections"), "{table}");
}

#[test]
fn of_several_programs_one_must_be_chosen_and_dead_ones_do_not_count() {
    arm();
    let (folder, service) = (Folder::new(), Service::echo());
    let none = folder.run("cproxy-server", &["status"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(
        text(&none.stderr).contains(&format!("no running cproxy-server is found in {}", folder.path())),
        "{none:?}"
    );

    let killed = Server::start(folder.of(options()));
    let left_behind = folder.socket_of(&killed);
    killed.kill();
    assert!(left_behind.exists());
    let server = Server::start(folder.of(options()));
    assert!(!left_behind.exists(), "the next one takes it away");
    let client = |id: &str| Client::start(&server, folder.of(options().flag("client-id", id).tunnel(service.addr())));
    let (first, second) = (client("first"), client("second"));
    let several = folder.run("cproxy-client", &["status"]);
    assert_eq!(several.status.code(), Some(1));
    let choices = text(&several.stderr);
    assert!(choices.contains("several are running; choose one:"), "{choices}");
    for client in [&first, &second] {
        let socket = format!("{}/cproxy-client-{}.sock", folder.path(), client.pid());
        assert!(choices.contains(&format!("  --socket {socket}\n")), "{choices}");
        let status = json(&folder.run("cproxy-client", &["status", "--json", "--socket", &socket]));
        assert_eq!(status["pid"], client.pid());
    }
    assert_eq!(folder.status("cproxy-server")["sessions"].as_array().unwrap().len(), 2);
    first.stop();
    assert_eq!(folder.status("cproxy-client")["pid"], second.pid(), "whoever has ended is no choice");
}

#[test]
fn a_client_that_reaches_nobody_says_why() {
    arm();
    let folder = Folder::new();
    let server = Server::start(folder.of(options()));
    let client = Client::start(&server, folder.of(options().tunnel("127.0.0.1:9")));
    server.kill();
    until("the client has noticed", || folder.status("cproxy-client")["sessions"][0]["state"] == "detached");
    let session = &folder.status("cproxy-client")["sessions"][0];
    assert!(session["error"].as_str().unwrap().contains(&server.ctl().to_string()), "{session}");
    let table = text(&folder.run("cproxy-client", &["status"]).stdout);
    assert!(table.contains("\nnot connected: "), "{table}");
    client.kill();
}

#[test]
fn a_session_that_only_finishes_its_transfers_is_said_to_be_leaving() {
    arm();
    let (folder, service) = (Folder::new(), Service::echo());
    let server = Server::start(folder.of(options().flag("drain-timeout", 60)));
    let process = |folder: &Folder| {
        let options = options().flag("client-id", "me").flag("drain-timeout", 60);
        Client::start(&server, folder.of(options.tunnel(service.addr())))
    };
    let [of_old, of_new] = [Folder::new(), Folder::new()];
    let old = process(&of_old);
    let mut long = old.visit();
    ping(&mut long, b"it stays");
    let new = process(&of_new);
    old.log_line("took over");
    let states = |folder: &Folder, program| {
        let status = folder.status(program);
        let of = |session: &Value| (session["state"].clone(), session["conns"]["active"].clone());
        status["sessions"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let [leaving, up] = [("leaving", 1), ("up", 0)].map(|(state, active)| (Value::from(state), Value::from(active)));
    until("the old session leaves", || states(&folder, "cproxy-server") == [leaving.clone(), up.clone()]);
    assert_eq!(states(&of_old, "cproxy-client"), [leaving.clone()].as_slice());
    assert_eq!(states(&of_new, "cproxy-client"), [up.clone()].as_slice());
    let mut other = new.visit();
    ping(&mut other, b"it stays, too");
    // The server's next process has the session of the new client alone; that has left one.
    let mut successors = Successors::default();
    successors.take(&server.upgrade());
    new.log_line("the server was upgraded");
    until("the session is left", || states(&of_new, "cproxy-client") == [up.clone(), leaving.clone()]);
    until("the next process says so", || states(&folder, "cproxy-server") == [up.clone()]);
    assert!(of_new.run("cproxy-client", &["health"]).status.success(), "it is as reachable as before");
    for visitor in [&mut long, &mut other] {
        ping(visitor, b"to its end");
    }
}

#[test]
fn health_is_that_of_what_a_program_is_for() {
    arm();
    let (folder, service) = (Folder::new(), Service::echo());
    let health = |program| {
        let output = folder.run(program, &["health"]);
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let server = Server::start(folder.of(options().flag("allow-ports", "20000-60000").brisk()));
    let tunnels = options().tunnel(service.addr()).tunnel_at("127.0.0.1:9", 19_999).brisk();
    let client = Client::spawn(&server, folder.of(tunnels));
    client.log_line("not reachable");
    let good = (Some(0), "ok\n".to_owned());
    assert_eq!(health("cproxy-server"), good);
    let (code, why) = health("cproxy-client");
    assert!(
        code == Some(1) && why.contains("tunnel \"tunnel-1\" is not reachable: the server does not allow"),
        "{why}"
    );
    client.kill();
    let (code, why) = health("cproxy-client");
    assert!(code == Some(1) && why.contains("no running cproxy-client is found"), "{why}");
    let client = Client::start(&server, folder.of(options().tunnel(service.addr()).brisk()));
    assert_eq!(health("cproxy-client"), good);
    server.kill();
    until("the client has noticed", || health("cproxy-client").0 == Some(1));
    assert!(client.is_running());
}

#[test]
fn a_client_that_is_kicked_loses_everything_and_says_so() {
    arm();
    let (folder, service) = (Folder::new(), Service::echo());
    let server = Server::start(folder.of(options()));
    let (one, other) = (options().flag("client-id", "one"), options().flag("client-id", "other"));
    let one = Client::start(&server, folder.of(one.tunnel(service.addr())));
    let other = Client::start(&server, folder.of(other.tunnel(service.addr())));
    let [mut of_one, mut of_other] = [&one, &other].map(|client| client.visit());
    ping(&mut of_one, b"served");
    ping(&mut of_other, b"served");
    let wrong = folder.run("cproxy-server", &["kick", "nobody"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("there is no client \"nobody\""), "{wrong:?}");
    let socket = format!("{}/cproxy-client-{}.sock", folder.path(), one.pid());
    let status = json(&folder.run("cproxy-client", &["status", "--json", "--socket", &socket]));
    let name = status["sessions"][0]["client"].as_str().expect("a name");
    assert!(folder.run("cproxy-server", &["kick", name]).status.success());
    assert!(of_one.read(&mut [0]).is_err(), "cut short, and never a clean end");
    let line = one.log_line("the server's operator has ended it");
    assert!(line.contains("ERROR") && line.contains("trying again after a pause"), "{line}");
    ping(&mut of_other, b"the other one goes on");
    let left = folder.status("cproxy-server");
    assert_eq!(left["sessions"].as_array().unwrap().len(), 1, "it comes back after a while, and not at once");
    assert!(one.is_running() && other.is_running());
}

#[test]
fn a_port_that_is_closed_takes_no_more_visitors_until_the_clients_next_session() {
    arm();
    let (folder, service) = (Folder::new(), Service::echo());
    let port = free_port();
    let server = Server::start(folder.of(options().brisk()));
    let tunnel = || folder.of(options().tunnel_at(service.addr(), port).brisk());
    let client = Client::start(&server, tunnel());
    let mut visitor = client.visit();
    ping(&mut visitor, b"served");
    let order = |port: u16| folder.run("cproxy-server", &["close", &port.to_string()]);
    assert!(order(port).status.success());
    let line = client.log_line("not reachable");
    assert!(line.contains("ERROR") && line.contains("the server's operator has closed it"), "{line}");
    assert!(TcpStream::connect(client.public()).is_err(), "no more visitors");
    ping(&mut visitor, b"whoever is there goes on");
    let again = order(port);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains(&format!("no tunnel has the public port {port}")), "{again:?}");
    let tunnel_of = |program| folder.status(program)["sessions"][0]["tunnels"][0].clone();
    assert_eq!(tunnel_of("cproxy-client")["state"], "refused");
    client.stop();
    let client = Client::start(&server, tunnel());
    short_visit(client.public(), 1);
}

#[test]
fn watch_goes_on_until_nobody_reads_it_or_the_program_ends() {
    arm();
    let folder = Folder::new();
    let server = Server::start(folder.of(options()));
    let watch = |words: &[&str]| {
        let mut child = folder.command("cproxy-server", words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let out = child.as_mut().expect("it runs").stdout.take().expect("a pipe");
        (child.expect("it runs"), BufReader::new(out).lines())
    };
    let (mut unread, mut lines) = watch(&["status", "--watch"]);
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("cproxy-server"), "no escape codes in a pipe: {first:?}");
    assert!(lines.any(|line| line.unwrap() == first), "it comes again");
    drop(lines);
    assert!(unread.wait().unwrap().success());
    let (mut of_json, mut lines) = watch(&["status", "--watch", "--json"]);
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["pid"], server.pid());
    }
    server.stop();
    drop(lines);
    assert!(of_json.wait().is_ok());
}

#[test]
fn garbage_and_endless_questions_are_answered_and_cost_nobody_anything() {
    arm();
    let (folder, service) = (Folder::new(), Service::echo());
    let server = Server::start(folder.of(options()));
    let client = Client::start(&server, folder.of(options().tunnel(service.addr())));
    let socket = folder.socket_of(&server);
    let error = |bytes: &[u8]| ask(&socket, bytes)["error"].as_str().expect("an error").to_owned();
    assert!(error(b"\xff\0garbage\n").starts_with("the question is no JSON"));
    assert!(error(b"GET / HTTP/1.1\r\n\r\n").starts_with("the question is no JSON"));
    assert!(error(b"{\"version\":9,\"do\":\"status\"}\n").contains("answers version 1, and was asked in version 9"));
    assert!(error(b"{\"version\":1,\"do\":\"dance\"}\n").contains("unknown variant `dance`"));
    assert_eq!(error(&[b'x'; 5000]), "the question is too long");
    // Several questions on one connection, and after a bad one.
    let mut stream = UnixStream::connect(&socket).expect("connect");
    stream.write_all(&[b"?\n", QUESTION, QUESTION].concat()).expect("write");
    let answers: Vec<Value> =
        BufReader::new(&stream).lines().take(3).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert!(answers[0]["error"].is_string() && answers[1]["status"].is_object() && answers[2]["status"].is_object());
    // Those who say nothing leave no room for others, who are told, until they are put out.
    let silent: Vec<_> = (0..16).map(|_| UnixStream::connect(&socket).expect("connect")).collect();
    drop(stream);
    eventually("it is full", || {
        let mut line = String::new();
        let mut stream = UnixStream::connect(&socket).map_err(|error| error.to_string())?;
        let _late = stream.write_all(QUESTION);
        BufReader::new(stream).read_line(&mut line).map_err(|error| error.to_string())?;
        line.contains("too many ask at once; try again").then_some(()).ok_or(line)
    });
    short_visit(client.public(), 1);
    drop(silent);
    until("there is room again", || folder.run("cproxy-server", &["status"]).status.success());
    assert!(server.is_running());
}

#[test]
fn another_user_is_told_to_leave() {
    arm();
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIPPED: another user's question, which needs root");
        return;
    }
    let folder = Folder::new();
    let server = Server::start(folder.of(options()));
    let socket = folder.socket_of(&server);
    let ask_as_nobody = || {
        let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ntry:\n s.connect(sys.argv[1])\nexcept \
                      PermissionError:\n print('no way in')\n sys.exit()\nprint(s.recv(1000).decode())";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(&socket).uid(65_534).gid(65_534);
        text(&command.output().expect("python3").stdout)
    };
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a folder of this test");
    assert_eq!(ask_as_nobody(), "no way in\n", "the file is its user's alone");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("this test is root");
    let told = ask_as_nobody();
    assert!(told.contains("only this program's user and root may ask") && !told.contains("sessions"), "{told}");
}

#[test]
fn what_is_in_the_way_of_the_socket_is_named_and_the_program_runs_without() {
    arm();
    let (folder, service) = (Folder::new(), Service::echo());
    let at = |path: &Path| options().key("admin_socket", format!("{:?}", path.display().to_string()));
    let living = folder.0.path().join("admin");
    let first = Server::start(at(&living));
    assert_eq!(
        json(&folder.run("cproxy-server", &["status", "--json", "--socket", living.to_str().unwrap()]))["pid"],
        first.pid()
    );
    for (path, why) in [
        (living.as_path(), "another program answers at"),
        (folder.0.path(), "is a folder; name another path"),
        (Path::new("/no/such/folder/admin"), "name a path in a folder where"),
    ] {
        let server = Server::start(at(path));
        let line = server.log_line("no admin socket");
        assert!(line.contains(why), "{line}");
        let client = Client::start(&server, options().key("admin_socket", "\"off\"").tunnel(service.addr()));
        short_visit(client.public(), 1);
        assert!(!client.log().contains("admin socket"));
    }
    assert!(ask(&living, QUESTION)["status"].is_object(), "the living one goes on");
}
