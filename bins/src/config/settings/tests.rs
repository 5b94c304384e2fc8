//! That the table and the code agree, and the document with both.

use super::*;
use crate::config::{Environment, parse_client, parse_server};
use crate::flags::{self, ClientLine, ServerLine};
use std::ffi::OsString;
use std::path::Path;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

const TOPICS: [Topic; 9] = [
    Topic::Places,
    Topic::Tokens,
    Topic::Use,
    Topic::Visitors,
    Topic::Tls,
    Topic::Times,
    Topic::Tunnels,
    Topic::Services,
    Topic::Certificates,
];

/// The rows of a topic's table.
fn table(topic: Topic) -> String {
    let mut out = "| key | program | what stands there | default | meaning |\n|---|---|---|---|---|\n".to_owned();
    for setting in SETTINGS.iter().filter(|setting| setting.topic == topic) {
        let marks = [(setting.scoped, " °"), (setting.at_start, " †")];
        let marks: String = marks.into_iter().filter_map(|(is, mark)| is.then_some(mark)).collect();
        let of = match setting.of {
            Of::Server => "server",
            Of::Client => "client",
            Of::Both => "both",
        };
        let default = match setting.default {
            ByItself::Value(value) => value,
            ByItself::Words(words) => words,
            ByItself::Required => "required",
        };
        out += &format!("| `{}`{marks} | {of} | {} | {default} | {} |\n", setting.key, setting.kind, setting.what);
    }
    out
}

/// `UPDATE_SETTINGS=1` writes the tables of the document anew.
#[test]
fn the_document_has_all_settings_as_they_are() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let mut made = document.clone();
    for topic in TOPICS {
        let begin = format!("<!-- settings: {topic:?} -->\n");
        let (before, rest) = made.split_once(&begin).unwrap_or_else(|| panic!("the document lacks {begin}"));
        let (_, after) = rest.split_once("<!-- end -->").expect("an end");
        made = format!("{before}{begin}{}<!-- end -->{after}", table(topic));
    }
    if std::env::var_os("UPDATE_SETTINGS").is_some() {
        std::fs::write(DOCUMENT, &made).unwrap();
    } else {
        assert!(made == document, "docs/configuration.md is not what the table says: UPDATE_SETTINGS=1 writes it anew");
    }
}

/// Every flag but the service and those that ask for a version or help is in the table, and the table names no other.
#[test]
fn flags_are_in_the_table() {
    let ids = |command: clap::Command, program: Of| {
        let mut ids: Vec<_> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
        ids.retain(|id| !["service", "help", "version"].contains(&id.as_str()));
        ids.sort();
        let listed = settings_of(program, Home::Top).chain(settings_of(program, Home::Flag));
        let mut listed: Vec<_> = listed.filter_map(|setting| setting.flag).collect();
        listed.sort_unstable();
        assert_eq!(ids, listed);
    };
    ids(flags::command::<ServerLine>(Of::Server), Of::Server);
    ids(flags::command::<ClientLine>(Of::Client), Of::Client);
}

/// No two settings of one program share a name, at one place.
#[test]
fn names_are_nobody_elses() {
    for program in [Of::Server, Of::Client] {
        for place in [Home::Top, Home::Tunnels, Home::Clients, Home::Certificates] {
            let mut keys = keys_of(program, place);
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), count, "{program:?} {place:?}");
        }
    }
}

fn parse(program: Of, text: &str, environment: &Environment) -> Result<String, String> {
    let path = Path::new("file");
    match program {
        Of::Client => parse_client(text, path, environment).map(|file| format!("{file:?}")),
        Of::Server | Of::Both => parse_server(text, path, environment).map(|file| format!("{file:?}")),
    }
    .map_err(|error| error.to_string())
}

fn said(program: Of, setting: &Setting, value: &str) -> Environment {
    let variable = setting.variable().unwrap();
    Environment::of(program, |name| (name == variable).then(|| OsString::from(value)))
}

/// What is called a default is what counts where nothing is said; and it can be said in the environment.
#[test]
fn defaults_are_those_of_the_code() {
    for program in [Of::Server, Of::Client] {
        let nothing = parse(program, "", &Environment::default()).unwrap();
        for setting in settings_of(program, Home::Top) {
            if let ByItself::Value(value) = setting.default {
                assert_eq!(parse(program, "", &said(program, setting, value)), Ok(nothing.clone()), "{}", setting.key);
            }
        }
    }
}

/// The first and the last number are taken, and what lies beyond is not.
#[test]
fn ranges_are_those_of_the_code() {
    for program in [Of::Server, Of::Client] {
        for setting in settings_of(program, Home::Top) {
            let (least, most) = if let Kind::Number(_, least, most) = setting.kind {
                (least, most)
            } else if let Kind::Seconds(zero) = setting.kind {
                (u64::from(!zero), 31_536_000)
            } else {
                continue;
            };
            // What two settings may not be together is another matter.
            let fits = |value: u64| {
                let said = parse(program, "", &said(program, setting, &value.to_string()));
                said.err().is_none_or(|error| !error.contains("; write "))
            };
            assert!(fits(least) && fits(most) && !fits(most + 1), "{}", setting.key);
            assert!(least == 0 || matches!(setting.kind, Kind::Seconds(_)) || !fits(least - 1), "{}", setting.key);
        }
    }
    let zero = |key: &str| {
        let setting = settings_of(Of::Server, Home::Top).find(|setting| setting.key == key).unwrap();
        parse(Of::Server, "", &said(Of::Server, setting, "0")).is_ok()
    };
    assert!(zero("drain_timeout") && zero("visitor_keepalive") && !zero("wait_timeout"));
}

#[test]
fn every_setting_can_be_said_in_the_environment_and_beats_the_file() {
    for program in [Of::Server, Of::Client] {
        let nothing = parse(program, "", &Environment::default()).unwrap();
        for setting in settings_of(program, Home::Top) {
            let Some(example) =
                setting.example.filter(|_| setting.variable().is_some() && setting.kind != Kind::Secret)
            else {
                continue;
            };
            let bare = example.trim_matches('"');
            let by_variable = parse(program, "", &said(program, setting, bare));
            let by_file = parse(program, &format!("{} = {example}", setting.key), &Environment::default());
            match (by_variable, by_file) {
                (Ok(variable), Ok(file)) => {
                    assert_ne!(variable, nothing, "{}", setting.key);
                    // Where a path starts, and who says it, differs.
                    let same = |text: &str| {
                        text.replace(&setting.variable().unwrap(), "").replace("the environment variable ", "file:1")
                    };
                    assert_eq!(same(&variable).replace(": ", ""), same(&file).replace(": ", ""), "{}", setting.key);
                }
                (Err(variable), Err(_)) => {
                    assert!(variable.contains(&setting.variable().unwrap()), "{variable}");
                }
                (variable, file) => panic!("{}: {variable:?} {file:?}", setting.key),
            }
        }
    }
}

#[test]
fn the_environment_beats_the_file_and_what_is_wrong_with_it_is_said_of_the_variable() {
    let environment = |pairs: &'static [(&str, &str)]| {
        Environment::of(Of::Server, move |name| pairs.iter().find(|(it, _)| *it == name).map(|(_, value)| value.into()))
    };
    let parse = |text: &str, pairs| parse_server(text, Path::new("etc/server.toml"), &environment(pairs));
    let file = parse("ctl_port = 1\nproxy_port = 2", &[("CPROXY_CTL_PORT", "3"), ("CPROXY_PROXY_PORT", "")]).unwrap();
    assert_eq!((file.ctl_port, file.proxy_port), (3, 2), "an empty one says nothing");
    let ports = parse("", &[("CPROXY_ALLOW_PORTS", "6000-6001, 9000"), ("CPROXY_TLS", "true")]).unwrap();
    assert_eq!(ports.settings.open_scope.allow_ports.to_string(), "6000-6001,9000");
    assert_eq!(ports.tls.on, Some(true));
    // It takes the place of what cannot stand beside it, and starts where the program does.
    let token = parse("token_files = [\"a\", \"b\"]", &[("CPROXY_TOKEN_FILE", "c")]).unwrap();
    let named_by = "the environment variable CPROXY_TOKEN_FILE: `token_file`".to_owned();
    let source = crate::token::TokenSource::File { path: "c".into(), named_by };
    assert_eq!(token.common.tokens, [source]);
    let wrong = parse("", &[("CPROXY_CTL_PORT", "x"), ("CPROXY_ALLOW_PORTS", "1,y")]).unwrap_err().to_string();
    let said: Vec<_> = wrong.lines().collect();
    assert!(said[0].starts_with("the environment variable CPROXY_ALLOW_PORTS: `allow_ports`: \"y\""), "{wrong}");
    assert!(said[1].starts_with("the environment variable CPROXY_CTL_PORT: `ctl_port` is a text"), "{wrong}");
}

#[test]
fn links_are_taken_out_of_a_sentence() {
    for (markdown, plain_text) in [
        ("a [b](#c) d [`e`](f.md#g).", "a b d `e`."),
        ("`[[tunnels]]`: [x](#y)", "`[[tunnels]]`: x"),
        ("`[\"a\", 1]`", "`[\"a\", 1]`"),
    ] {
        assert_eq!(plain(markdown), plain_text);
    }
}
