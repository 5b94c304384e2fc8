//! The server answers an authority that asks whose a name is (ACME, `http-01`).

use super::{ask, client, named_echo, request, server, table};
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;
use tests::programs::options;

/// P-HOST-12: what certbot and lego write there is given to whoever asks for it, and all else goes on as ever.
#[test]
fn challenges_are_answered_from_the_webroot() {
    let webroot = TempDir::new().expect("a directory");
    let folder = webroot.path().join(".well-known/acme-challenge");
    fs::create_dir_all(&folder).expect("a directory");
    fs::write(folder.join("aZ09-_"), "aZ09-_.thumbprint").expect("written");
    fs::write(folder.join("large"), "x".repeat(1025)).expect("written");
    fs::write(webroot.path().join("secret"), "secret").expect("written");
    symlink(webroot.path().join("secret"), folder.join("link")).expect("a link");
    let app = named_echo("app");
    let server = server(options().key("acme_webroot", format!("{:?}", webroot.path())));
    let redirected = table("app", "http", &["app.example"], app.addr()) + "redirect_to_https = true\n";
    let tables = [redirected, table("own", "http", &["own.example"], app.addr())];
    let _client = client(&server, options(), &tables);
    let at = server.hosts("http");
    let get = |host: &str, target: &str| {
        let words = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        String::from_utf8(ask(at, words)).expect("text")
    };
    let challenge = |name: &str| format!("/.well-known/acme-challenge/{name}");
    for host in ["app.example", "own.example", "nobody.example"] {
        let answer = get(host, &challenge("aZ09-_"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\naZ09-_.thumbprint"), "{answer}");
    }
    for name in ["gone", "large", "link", "../../secret", "..%2f..%2fsecret", "aZ09-_/", "aZ09-_?x", "", "a.b"] {
        let answer = get("own.example", &challenge(name));
        assert!(
            answer.starts_with("appGET /.well-known/acme-challenge/"),
            "a service may answer itself: {name} {answer}"
        );
        assert!(get("nobody.example", &challenge(name)).starts_with("HTTP/1.1 404"), "{name}");
    }
    assert!(get("app.example", "/").starts_with("HTTP/1.1 308"));
    // It may come while the server runs, and go again.
    fs::write(folder.join("gone"), "is here").expect("written");
    assert!(get("own.example", &challenge("gone")).ends_with("is here"));
    assert!(ask(at, request("own.example")).starts_with(b"app"));
}
