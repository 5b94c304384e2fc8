//! `cproxy-server upgrade`: the program on disk takes over, and no visitor notices.

use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;
use tests::programs::{Client, Server, Successors, directory, options};
use tests::services::Service;
use tests::sockets::{connect, finish, free_port, read_all};
use tests::visits::{Visits, ping, short_visit};
use tests::wait::{eventually, until};

fn runs(pid: u32) -> bool {
    // One that has ended and was not waited for is a zombie.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// P-LEAVE-1, P-LEAVE-2, P-LEAVE-5: twenty upgrades, one after the other, among visits, and one long transfer more for
/// each: all of them end where they began, each in another process.
#[test]
fn twenty_upgrades_lose_no_visit_and_no_transfer() {
    const UPGRADES: usize = 20;
    let echo = Service::echo();
    let server = Server::start(options().brisk().flag("drain-timeout", 60).threads(2));
    let client = Client::start(&server, options().brisk().tunnel(echo.addr()).threads(2));
    let public = client.public();
    let visits = Visits::begin(public);
    let mut successors = Successors::default();
    let mut long = Vec::new();
    let mut serving = server.pid();
    let mut took = Vec::new();
    for _ in 0..UPGRADES {
        let mut visitor = connect(public);
        ping(&mut visitor, b"one that stays");
        long.push(visitor);
        let asked = Instant::now();
        serving = successors.take(&server.upgrade_of(serving));
        took.push(asked.elapsed());
        visits.more(5);
        long.iter_mut().for_each(|visitor| ping(visitor, b"is still served"));
    }
    let visits = u64::from(visits.expect_none_failed());
    took.sort_unstable();
    println!(
        "from the question until the next process serves: {:?} (median), {:?} (most)",
        took[UPGRADES / 2],
        took[UPGRADES - 1]
    );
    assert!(server.is_running(), "its transfer has not ended");
    for mut visitor in long {
        ping(&mut visitor, b"to its end");
        finish(&visitor);
        assert_eq!(read_all(&mut visitor), b"");
    }
    assert_eq!(server.exit_code(), 0);
    let (last, ended) = successors.0.split_last().expect("there are some");
    until("the processes that have been upgraded end", || !ended.iter().any(|&pid| runs(pid)));
    assert!(runs(*last));
    short_visit(public, 0);
    let stopped = client.stop();
    assert_eq!((stopped.aborted, stopped.finished), (0, visits + 1 + UPGRADES as u64));
}

/// Copies a program by another process: what this one has open for writing any child of its may have for a moment, and
/// nobody can run that.
fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().expect("cp runs").success());
}

/// A folder with the server in it, which a test can replace.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("a temporary directory");
    copy(&directory().join("cproxy-server"), &folder.path().join("cproxy-server"));
    folder
}

fn replace(folder: &Path, script: &str) {
    let (draft, new) = (folder.join("draft"), folder.join("new"));
    fs::write(&draft, script).expect("write the program");
    copy(&draft, &new);
    fs::set_permissions(&new, Permissions::from_mode(0o755)).expect("it may be run");
    fs::rename(&new, folder.join("cproxy-server")).expect("in its place");
}

/// Each new program that cannot take over leaves the running one as it is, and is named.
#[test]
fn a_program_that_does_not_get_ready_changes_nothing() {
    let echo = Service::echo();
    let folder = folder();
    let server = Server::start(options().brisk().programs_in(folder.path()));
    let client = Client::start(&server, options().brisk().tunnel(echo.addr()));
    let mut visitor = connect(client.public());
    let mut expect = |what: &str, why: &str| {
        let said = server.upgrade();
        assert!(said.contains("not upgraded, and this process goes on") && said.contains(why), "{what}: {said}");
        ping(&mut visitor, b"still here");
        short_visit(client.public(), 1);
    };
    let talk = "fd=$((2 + LISTEN_FDS))\n";
    for (what, script, why) in [
        ("it crashes at once", "exit 3", "it has ended (exit status: 3)"),
        ("it is no program", "\0", "it has ended"),
        ("it is older than upgrades", "exec true", "it has ended (exit status: 0)"),
        ("it is another program", "echo hello >&$fd; exec sleep 60", "it says \\\"hello\\\""),
        ("it is of another version", "echo ready 9 >&$fd; exec sleep 60", "speaks version 9 of the protocol"),
        ("it dies when it is to serve", "echo ready 1 >&$fd; read go <&$fd; exit 4", "it does not begin to serve"),
        ("it hangs when it is to serve", "echo ready 1 >&$fd; exec sleep 60", "nothing came for 3s"),
    ] {
        replace(folder.path(), &format!("#!/bin/sh\n{talk}{script}\n"));
        expect(what, why);
    }
    fs::remove_file(folder.path().join("cproxy-server")).expect("it was there");
    expect("it is gone", "it cannot be started: No such file");
    let config = server.config_file();
    let good = fs::read_to_string(&config).expect("its file");
    copy(&directory().join("cproxy-server"), &folder.path().join("cproxy-server"));
    fs::write(&config, "ctl_prt = 1\n").expect("write the configuration");
    expect("its configuration is bad", "it has ended (exit status: 2)");

    fs::write(&config, good).expect("write the configuration");
    let mut successors = Successors::default();
    successors.take(&server.upgrade());
    ping(&mut visitor, b"and to the end");
    short_visit(client.public(), 2);
    let said = server.upgrade();
    assert!(said.contains("another process serves already"), "{said}");
    drop(visitor);
    assert_eq!(server.exit_code(), 0);
    short_visit(client.public(), 3);
}

/// A next program that waits for a file before it begins: an upgrade that is under way for as long as a test wants.
struct HeldUp<'a>(&'a Path);

impl<'a> HeldUp<'a> {
    fn put(folder: &'a Path) -> Self {
        let real = directory().join("cproxy-server");
        let [number, go] = ["number", "go"].map(|name| folder.join(name).display().to_string());
        let wait = format!("echo $$ >{number}.new\nmv {number}.new {number}\nuntil [ -e {go} ]; do sleep 0.02; done");
        replace(folder, &format!("#!/bin/sh\n{wait}\nexec {} \"$@\"\n", real.display()));
        Self(folder)
    }

    /// Its process, once there is one.
    fn begun(&self) -> u32 {
        eventually("the next process has begun", || {
            let number = fs::read_to_string(self.0.join("number")).map_err(|error| error.to_string())?;
            number.trim().parse().map_err(|_| "not written yet".to_owned())
        })
    }

    fn go_on(&self) {
        fs::write(self.0.join("go"), "").expect("a file");
    }
}

/// Another upgrade, or a reload, in the middle of an upgrade.
#[test]
fn what_is_asked_for_in_the_middle_is_refused_or_reaches_the_one_that_serves() {
    let echo = Service::echo();
    let folder = folder();
    let runtime = folder.path().to_str().expect("a path in UTF-8");
    let server = Server::start(options().brisk().programs_in(folder.path()).env("RUNTIME_DIRECTORY", runtime));
    let client = Client::start(&server, options().brisk().tunnel(echo.addr()));
    let mut visitor = connect(client.public());
    ping(&mut visitor, b"before");
    let next = HeldUp::put(folder.path());
    server.signal(Signal::SIGUSR2);
    let mut successors = Successors(vec![next.begun()]);
    let ask = |what: &str| {
        let program = directory().join("cproxy-server");
        let output = Command::new(program).arg(what).env("RUNTIME_DIRECTORY", runtime).output().expect("it runs");
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
    };
    assert_eq!(ask("upgrade"), (Some(1), "error: an upgrade is under way\n".to_owned()));
    fs::write(server.config_file(), "max_connections = 900\n").expect("write the configuration");
    let reload = std::thread::scope(|scope| {
        let reload = scope.spawn(|| ask("reload"));
        short_visit(client.public(), 1);
        next.go_on();
        reload.join().expect("it is answered")
    });
    assert!(reload.0 == Some(0) && reload.1.contains("serves now, and was told to reload"), "{reload:?}");
    successors.take(&server.log_line("serves now; "));
    server.log_line("\"reloaded ");
    // Behind it, the one that was upgraded is still there for its transfer.
    fs::write(server.config_file(), "max_connections = 900\nidle_conns = 7\n").expect("write the configuration");
    let said = server.hang_up();
    assert!(said.contains("settings changed: idle_conns"), "{said}");
    short_visit(client.public(), 2);
    ping(&mut visitor, b"and after");
    drop(visitor);
    assert_eq!(server.exit_code(), 0);
    short_visit(client.public(), 3);
}

/// Twenty times both at once: a client's next process comes while the server's does. Nobody is refused, no transfer lost.
#[test]
fn both_sides_are_upgraded_at_once_and_nobody_notices() {
    const UPGRADES: usize = 20;
    let echo = Service::echo();
    let port = free_port();
    let server = Server::start(options().brisk().flag("drain-timeout", 60).threads(2));
    let start = || {
        let options = options().brisk().flag("drain-timeout", 60).threads(2);
        Client::spawn(&server, options.tunnel_at(echo.addr(), port))
    };
    let mut client = start();
    client.output_line("Forwarding");
    let visits = Visits::begin(client.public());
    let mut successors = Successors::default();
    let mut serving = server.pid();
    let mut left = Vec::new();
    for round in 0..UPGRADES {
        let mut visitor = client.visit();
        ping(&mut visitor, b"one that stays");
        // By turns one is a little earlier than the other.
        let next = (round % 2 == 0).then(start);
        let said = server.upgrade_of(serving);
        let next = next.unwrap_or_else(start);
        serving = successors.take(&said);
        next.output_line("Forwarding");
        left.push((std::mem::replace(&mut client, next), visitor));
        visits.more(5);
        left.iter_mut().for_each(|(_, visitor)| ping(visitor, b"is still served"));
    }
    visits.expect_none_failed();
    for (process, mut visitor) in left {
        ping(&mut visitor, b"to its end");
        finish(&visitor);
        assert_eq!(read_all(&mut visitor), b"");
        process.log_line("took over");
        assert_eq!(process.stopped().aborted, 0);
    }
    assert_eq!(server.exit_code(), 0);
    let ended = |pid: &u32| *pid == serving || !runs(*pid);
    until("the processes that have been upgraded end", || successors.0.iter().all(ended));
    short_visit(client.public(), 0);
    assert_eq!(client.stop().aborted, 0);
}

/// Whoever stops the server stops the one that is to take over, too.
#[test]
fn a_server_that_is_stopped_in_the_middle_leaves_nobody_behind() {
    let folder = folder();
    let server = Server::start(options().brisk().programs_in(folder.path()));
    let next = HeldUp::put(folder.path());
    server.signal(Signal::SIGUSR2);
    let pid = next.begun();
    let _killed_whatever_happens = Successors(vec![pid]);
    server.signal(Signal::SIGTERM);
    next.go_on();
    assert_eq!(server.exit_code(), 0);
    until("it has ended, too", || !runs(pid));
    assert!(server.log().contains("the process before this one has ended, and so does this one"));
}

/// Nothing but what is named goes to the next process, and a client that is away comes back to its port there.
#[test]
fn the_next_process_has_the_listeners_and_nothing_else() {
    let echo = Service::echo();
    let server = Server::start(options().brisk().key("admin_socket", "\"off\""));
    let client = Client::start(&server, options().brisk().tunnel(echo.addr()));
    let public = client.public();
    let visitors: Vec<_> = (0..8).map(|_| connect(public)).collect();
    client.signal(Signal::SIGSTOP);
    let mut successors = Successors::default();
    let pid = successors.take(&server.upgrade());
    // Who comes now waits in the system's queue.
    let mut waiting = connect(public);
    drop(visitors);
    let listens = |pid: u32| {
        let own = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let own: Vec<_> = own.filter_map(|link| fs::read_link(link.path()).ok()).collect();
        let inode = |line: &str| line.split_whitespace().nth(9).map(|inode| format!("socket:[{inode}]"));
        let tcp = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("its sockets");
        let of_it = |line: &&str| inode(line).is_some_and(|inode| own.iter().any(|link| link.to_str() == Some(&inode)));
        let states: Vec<_> =
            tcp.lines().skip(1).filter(of_it).map(|line| line.split_whitespace().nth(3) == Some("0A")).collect();
        states
    };
    assert_eq!(listens(pid), [true; 3], "ctl, proxy, the public port, and no connection");
    client.signal(Signal::SIGCONT);
    ping(&mut waiting, b"it is served");
}
