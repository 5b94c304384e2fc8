//! Precedence, tokens and what is missing: the rules of `assemble`.

mod precedence;

use super::*;
use crate::flags::{ClientLine, ServerLine};
use clap::Parser;
use protocol_sm::ports::PortSet;
use protocol_sm::settings::TunnelSpec;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A directory with files that nobody else may read.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

fn run_server(args: &[&str], variable: Option<&str>) -> Result<Assembled<server::Config>, ConfigError> {
    let flags = ServerLine::try_parse_from([&["cproxy-server"], args].concat()).unwrap().flags;
    server(&flags, variable.map(OsString::from))
}

fn run_client(args: &[&str], variable: Option<&str>) -> Result<Assembled<client::Config>, ConfigError> {
    let flags = ClientLine::try_parse_from([&["cproxy-client"], args].concat()).unwrap().flags;
    client(&flags, variable.map(OsString::from))
}

fn token(text: &str) -> Option<Token> {
    Some(Token::new(text.as_bytes().to_vec()))
}

#[test]
fn a_server_without_flags_and_file_has_the_defaults_and_says_whom_it_takes() {
    let assembled = run_server(&[], None).unwrap();
    let config = assembled.config;
    assert_eq!((config.bind_addr, config.ctl_port, config.proxy_port), (None, 8080, 8090));
    assert!((1..=4).contains(&config.work_threads.get()));
    assert_eq!(config.settings, protocol_sm::settings::ServerSettings::default());
    let [warning] = &assembled.warnings[..] else { panic!("{:?}", assembled.warnings) };
    assert!(warning.contains("only clients on this machine (loopback)") && warning.contains("--token-file FILE"));
}

#[test]
fn a_flag_beats_the_file() {
    let text = "ctl_port = 1\nproxy_port = 2\nwork_thread_nums = 3\ndrain_timeout = 4\nallow_ports = [5]\n\
                log_level = 'error'\nbind_addr = '::1'";
    let files = Files::new(&[("s.toml", text)]);
    let config = &files.path("s.toml");
    let from_file = run_server(&["--config", config], None).unwrap();
    assert_eq!((from_file.config.ctl_port, from_file.config.proxy_port), (1, 2));
    assert_eq!(from_file.config.work_threads.get(), 3);
    let flags = ["--ctl-port=11", "--proxy-port=12", "--work-thread-nums=13", "--drain-timeout=0.5"];
    let more = ["--allow-ports=15", "--log-level=trace", "--bind-addr=127.0.0.1", "--config", config];
    let Assembled { config, logs, .. } = run_server(&[&flags[..], &more].concat(), None).unwrap();
    assert_eq!((config.ctl_port, config.proxy_port, config.work_threads.get()), (11, 12, 13));
    assert_eq!(config.settings.timings.drain_timeout.as_millis(), 500);
    assert_eq!(config.settings.open_scope.allow_ports, "15".parse::<PortSet>().unwrap());
    assert_eq!(config.bind_addr.unwrap().to_string(), "127.0.0.1");
    assert_eq!(logs.level, crate::logging::LogLevel::Trace);
}

#[test]
fn the_token_comes_from_the_flag_then_the_environment_then_the_file() {
    let text = "server = 'a:1'\ntoken_file = 'file'\n[[tunnels]]\nname = 't'\nlocal = 'b:2'";
    let files = Files::new(&[("c.toml", text), ("flag", "from the flag\n"), ("file", "from the file\n")]);
    let (config, flag) = (&files.path("c.toml"), &files.path("flag"));
    let take = |args: &[&str], variable| run_client(args, variable).unwrap().config.settings.token;
    assert_eq!(take(&["--config", config, "--token-file", flag], Some("from outside")), token("from the flag"));
    assert_eq!(take(&["--config", config], Some("from outside")), token("from outside"));
    assert_eq!(take(&["--config", config], None), token("from the file"));
    assert_eq!(take(&["--config", config], Some("")), token("from the file"), "an empty variable is none");
    // What is not used need not be in order.
    assert_eq!(take(&["--config", config, "--token-file", flag], Some("x")), token("from the flag"));
    fs::remove_file(files.path("file")).unwrap();
    assert_eq!(take(&["--config", config], Some("from outside")), token("from outside"));
}

#[test]
fn each_client_of_a_server_is_known_by_its_own_token() {
    let client = |name: &str, token: &str| format!("[[clients]]\nname = '{name}'\ntoken = '{token}'\n");
    let text = format!("token = 'the server'\nallow_ports = [7]\n{}", client("office", "the office"));
    let files = Files::new(&[("s.toml", &text)]);
    let assembled = run_server(&["--config", &files.path("s.toml")], None).unwrap();
    assert_eq!(assembled.warnings, Vec::<String>::new());
    let credentials = assembled.config.settings.credentials;
    let names: Vec<_> = credentials.iter().map(|c| (c.name.as_str(), c.tokens.first().cloned())).collect();
    assert_eq!(names, [("default", token("the server")), ("office", token("the office"))]);
    assert!(credentials.iter().all(|c| c.scope.allow_ports.to_string() == "7"));

    // A flag beats the file's top level also for those who inherit it.
    let assembled = run_server(&["--config", &files.path("s.toml"), "--allow-ports=8"], None).unwrap();
    assert!(assembled.config.settings.credentials.iter().all(|c| c.scope.allow_ports.to_string() == "8"));

    let text = client("a", "same token") + &client("b", "same token") + &client("default", "other token");
    let files = Files::new(&[("s.toml", &text)]);
    let error = run_server(&["--config", &files.path("s.toml")], None).unwrap_err().to_string();
    assert!(error.contains("s.toml: [[clients]] \"b\" has the same token as \"a\"; give each its own"), "{error}");
    assert!(error.contains("s.toml: [[clients]] \"default\": this is what the log calls"), "{error}");
}

#[test]
fn several_tokens_of_one_holder_are_valid_at_once_and_all_different() {
    let text = "token_files = ['new', 'old']\n[[clients]]\nname = 'office'\ntoken_files = ['office', 'old office']";
    let mut held =
        [("new", "the new one"), ("old", "the old one"), ("office", "office new"), ("old office", "office old")];
    let load = |held: &[(&str, &str)]| {
        let files = Files::new(&[&[("s.toml", text)], held].concat());
        run_server(&["--config", &files.path("s.toml")], None).map(|assembled| assembled.config.settings.credentials)
    };
    let credentials = load(&held).unwrap();
    let tokens: Vec<_> = credentials.iter().map(|c| (c.name.as_str(), c.tokens.clone())).collect();
    let pair = |a, b| [token(a), token(b)].into_iter().flatten().collect::<Vec<_>>();
    assert_eq!(tokens, [("default", pair("the new one", "the old one")), ("office", pair("office new", "office old"))]);

    held[3].1 = "office new";
    let error = load(&held).unwrap_err().to_string();
    assert!(error.contains("two of the `token_files` of \"office\" hold the same token"), "{error}");
    held[3].1 = "the old one";
    let error = load(&held).unwrap_err().to_string();
    assert!(error.contains("[[clients]] \"office\" has the same token as \"default\""), "{error}");
}

#[test]
fn a_configuration_file_with_a_secret_should_be_private() {
    let files = Files::new(&[("s.toml", "token = 'long enough'")]);
    let config = files.path("s.toml");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = run_server(&["--config", &config], None).unwrap().warnings;
    let expected =
        format!("`{config}` holds a secret and is open to other users (mode 0644); close it with: chmod 600 {config}");
    assert_eq!(warnings, [expected]);
}

#[test]
fn a_pin_given_as_a_flag_encrypts_whatever_the_file_says() {
    let text = "tls = false\nserver = 'h:1'\n[[tunnels]]\nname = 'a'\nlocal = 'h:2'";
    let files = Files::new(&[("c.toml", text)]);
    let pin = format!("sha256:{}", "0".repeat(64));
    let config = files.path("c.toml");
    let encrypts = |more: &[&str]| {
        let args = [&["--config", &config], more].concat();
        run_client(&args, None).unwrap().config.tls.is_some()
    };
    assert!(!encrypts(&[]));
    assert!(encrypts(&["--tls-pin", &pin]));
    assert!(!encrypts(&["--tls-pin", &pin, "--tls=false"]), "said in so many words");
}

#[test]
fn keys_of_tls_that_are_not_looked_at_are_reported() {
    let pin = format!("tls_pin = 'sha256:{}'", "0".repeat(64));
    let client = format!("tls = false\n{pin}\nserver = 'h:1'\n[[tunnels]]\nname = 'a'\nlocal = 'h:2'");
    let files = Files::new(&[("c.toml", &client), ("s.toml", "tls = false\ntls_client_ca = 'ca.pem'")]);
    let client = run_client(&["--config", &files.path("c.toml")], None).unwrap().warnings;
    let server = run_server(&["--config", &files.path("s.toml")], None).unwrap().warnings;
    for (warnings, key) in [(client, "tls_pin"), (server, "tls_client_ca")] {
        assert!(
            warnings.iter().any(|warning| warning.contains(key) && warning.contains("in the clear")),
            "{warnings:?}"
        );
    }
}

#[test]
fn the_flags_tunnel_replaces_those_of_the_file() {
    let text = "server = 'a:1'\n[[tunnels]]\nname = 't'\nlocal = 'b:2'\n[[tunnels]]\nname = 'u'\nlocal = 'c:3'";
    let files = Files::new(&[("c.toml", text)]);
    let config = &files.path("c.toml");
    let both = run_client(&["--config", config], None).unwrap().config;
    let locals: Vec<_> = both.settings.tunnels.iter().map(|tunnel| tunnel.local.as_str()).collect();
    assert_eq!((both.server.as_str(), locals), ("a:1", vec!["b:2", "c:3"]));
    let one = ["--config", config, "--local-server", "[::1]:4", "--public-port=5", "--tunnel-name=v"];
    let one = run_client(&[&one[..], &["--cproxy-server=d:6"]].concat(), None).unwrap().config;
    assert_eq!(one.server, "d:6");
    assert_eq!(
        one.settings.tunnels,
        [TunnelSpec {
            name: "v".into(),
            public_port: 5,
            bind_addr: None,
            site: None,
            local: "[::1]:4".into(),
            local_sources: Vec::new(),
            limits: TunnelLimits::default(),
            serving: Serving::default()
        }]
    );
}

#[test]
fn what_is_missing_is_named_all_at_once() {
    let error = run_client(&["--token-file=/no/such/file"], None).unwrap_err();
    let problems: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
    let [server, tunnel, token] = &problems[..] else { panic!("{problems:?}") };
    assert!(server.starts_with("no server to connect to; give --cproxy-server HOST:PORT"), "{server}");
    assert!(tunnel.starts_with("no tunnel, so nothing to expose; give --local-server HOST:PORT"), "{tunnel}");
    assert!(token.starts_with("--token-file: cannot read `/no/such/file`"), "{token}");
}
