//! Chromium as a visitor, if it is installed: uploads that a service rejects, and downloads that are cancelled, as at each
//! seek of a video. What its page sees through the tunnel is what it sees without it, and none of it costs a conn.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;
use tests::gate::Between;
use tests::programs::{Client, Server, options};
use tests::services::Service;
use tests::wait::until;

/// Uploads of 50 MB, and downloads.
const UPLOADS: usize = 20;
const DOWNLOADS: usize = 60;
/// A browser takes its time to start.
const BROWSER: Duration = Duration::from_secs(140);

/// What the page does: it tells how many uploads saw their answer's status, and how many downloads began.
const SCRIPT: &str = r#"<!DOCTYPE html><script>
const run = async () => {
    const body = new Blob([new Uint8Array(50_000_000)]);
    let statuses = 0, begun = 0;
    for (let i = 0; i < UPLOADS; i++) {
        try {
            const answer = await fetch("/upload", { method: "POST", body });
            statuses += answer.status === 401;
        } catch { }
    }
    for (let i = 0; i < DOWNLOADS; i++) {
        const cancel = new AbortController();
        const answer = await fetch("/video?" + i, { signal: cancel.signal, headers: { Range: "bytes=0-" } });
        begun += (await answer.body.getReader().read()).value.length > 0;
        cancel.abort();
    }
    await fetch("/result", { method: "POST", body: statuses + " " + begun });
};
run();
</script>"#;

/// The browser and all its processes; dropped, they end.
struct Chromium(Child);

impl Drop for Chromium {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Lets it show a page. If it is not installed, says so past the test runner's capture.
fn show(page: SocketAddr, profile: &TempDir) -> Option<Chromium> {
    let profile = format!("--user-data-dir={}", profile.path().display());
    let quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"];
    let mut command = Command::new("chromium");
    command.args(quiet).args(["--disable-dev-shm-usage", &profile, &format!("http://{page}/")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    match command.spawn() {
        Ok(process) => Some(Chromium(process)),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED browser: needs chromium: {error}");
            None
        }
    }
}

/// A service that has the page, rejects uploads unread, and has a video without an end.
fn site() -> (Service, Receiver<[usize; 2]>) {
    let (results, told) = channel();
    let service = Service::start(move |mut stream| {
        let Some((path, length)) = request(&stream) else { return };
        let _ = match path.split('?').next() {
            Some("/upload") => {
                // Closed with bytes unread: its kernel resets.
                stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            }
            Some("/video") => {
                let head = "Content-Type: video/mp4\r\nContent-Range: bytes 0-999999999/1000000000\r\n";
                let head = format!("HTTP/1.1 206 Partial Content\r\n{head}Content-Length: 1000000000\r\n\r\n");
                stream.write_all(head.as_bytes()).and_then(|()| {
                    loop {
                        stream.write_all(&[7; 64 << 10])?;
                    }
                })
            }
            Some("/result") => {
                let mut body = vec![0; length];
                stream.read_exact(&mut body).expect("the figures");
                let figures = String::from_utf8(body).expect("text");
                let figures: Vec<usize> = figures.split(' ').map(|figure| figure.parse().expect("a number")).collect();
                let _ = results.send([figures[0], figures[1]]);
                stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            }
            _ => {
                let page = SCRIPT.replace("UPLOADS", &UPLOADS.to_string()).replace("DOWNLOADS", &DOWNLOADS.to_string());
                let head = format!("Content-Type: text/html\r\nContent-Length: {}\r\nConnection: close", page.len());
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{page}").as_bytes())
            }
        };
    });
    (service, told)
}

/// The path of a request, and the length of its body, of which nothing is read. `None`: nobody asks.
fn request(stream: &TcpStream) -> Option<(String, usize)> {
    let mut head = BufReader::with_capacity(1, stream);
    let mut line = String::new();
    head.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        head.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            return Some((path, length));
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
}

#[test]
fn a_browser_sees_what_it_sees_without_a_tunnel_and_costs_no_conn() {
    let (service, told) = site();
    let profile = TempDir::with_prefix("cproxy-browser-").expect("a directory");
    let Some(browser) = show(service.addr(), &profile) else { return };
    let direct = told.recv_timeout(BROWSER).expect("the page comes to its end directly");
    drop(browser);
    let server = Server::start(options().key("idle_conns", 8));
    let between = Between::new(server.ctl(), server.proxy());
    let client = Client::start(&server, options().tunnel(service.addr()).via(between.ctl.addr()));
    until("conns are idle", || between.proxy.accepted() >= 8);
    let before = between.proxy.accepted();
    let profile = TempDir::with_prefix("cproxy-browser-").expect("a directory");
    let Some(browser) = show(client.public(), &profile) else { return };
    let through = told.recv_timeout(BROWSER).expect("the page comes to its end through the tunnel");
    drop(browser);
    let opened = between.proxy.accepted() - before;
    println!("[statuses of {UPLOADS}, downloads of {DOWNLOADS}]: {direct:?} directly, {through:?} through the tunnel");
    println!("conns opened meanwhile: {opened}");
    assert_eq!(direct, [UPLOADS, DOWNLOADS]);
    assert_eq!(through, direct);
    assert!(opened <= 10, "{opened} conns were opened for {} visitors who left", UPLOADS + DOWNLOADS);
}
