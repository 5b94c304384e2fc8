//! PROTOCOL.md's tables are those of the code: numbers of messages and codes, which refusals are final, timers and limits.
//! Each of its rules says what it asks for, and its lines can be read in any editor.

use protocol_sm::codes::{AbortCode, CloseCode, HandshakeRefusal, LeaveCode, RefuseCode, TunnelRefusal};
use protocol_sm::settings::{Scope, ServerSettings, Timings};
use protocol_sm::transfer::How;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

const DOCUMENT: &str = include_str!("../PROTOCOL.md");
const VECTORS: &str = include_str!("../vectors.json");

/// The rows of the first table behind `leads`, each of which is looked for behind the one before.
fn table(leads: &[&str]) -> Vec<Vec<String>> {
    let mut text = DOCUMENT;
    for lead in leads {
        let at = text.find(lead).unwrap_or_else(|| panic!("PROTOCOL.md has no {lead:?}"));
        text = &text[at + lead.len()..];
    }
    let lines = text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    let rows: Vec<_> = lines.skip(2).map(cells).collect();
    assert!(!rows.is_empty(), "a table behind {leads:?}");
    rows
}

fn decode<C: DeserializeOwned>(number: usize) -> Option<C> {
    let number = u8::try_from(number).ok()?;
    postcard::from_bytes(&[number]).ok()
}

fn codes<C: DeserializeOwned + Debug>(name: &str) -> Vec<(C, Vec<String>)> {
    let rows = table(&["## Codes", &format!("`{name}`")]);
    assert!(decode::<C>(rows.len()).is_none(), "PROTOCOL.md leaves out a {name}");
    let known = rows.into_iter().enumerate().map(|(number, row)| {
        let code = decode::<C>(number).unwrap_or_else(|| panic!("there is no {name} {number}"));
        assert_eq!(row[..2], [number.to_string(), format!("{code:?}")], "{name}");
        (code, row)
    });
    known.collect()
}

#[test]
fn codes_have_the_numbers_that_are_written() {
    codes::<How>("How");
    codes::<AbortCode>("AbortCode");
    codes::<RefuseCode>("RefuseCode");
    codes::<CloseCode>("CloseCode");
    codes::<LeaveCode>("LeaveCode");
    for (code, row) in codes::<HandshakeRefusal>("HandshakeRefusal") {
        assert_eq!(row[2], if code.is_final() { "yes" } else { "no" }, "{code:?}");
    }
    for (code, row) in codes::<TunnelRefusal>("TunnelRefusal") {
        assert_eq!(row[2], if code.is_final() { "yes" } else { "no" }, "{code:?}");
    }
}

/// The name of a message in the vectors, and what is inside it.
fn named(message: &Value) -> (String, &Value) {
    if let Some(name) = message.as_str() {
        return (name.into(), &Value::Null);
    }
    let one = message.as_object().and_then(|one| one.iter().next());
    one.map(|(name, inner)| (name.clone(), inner)).unwrap_or_else(|| panic!("no message: {message}"))
}

/// Which messages the vectors have in `direction` with these numbers, `wrapped` in another or not.
fn in_vectors(direction: &str, wrapped: Option<&str>) -> BTreeSet<(String, String)> {
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    let mut found = BTreeSet::new();
    for vector in vectors["messages"].as_array().expect("a list") {
        if vector["direction"] != direction {
            continue;
        }
        let frame = vector["frame"].as_str().expect("hex");
        let byte = |at: usize| u8::from_str_radix(&frame[2 * at..2 * at + 2], 16).expect("hex");
        let (outer, inner) = named(&vector["message"]);
        // Two bytes of length, then the number; inside `Numbered`, which has one byte of `seq` in the vectors, another.
        let (name, at) = match wrapped {
            None => (outer, 2),
            Some("Handshake") if outer == "Handshake" => (named(inner).0, 3),
            Some("Numbered") if outer == "Numbered" => {
                assert!(inner["seq"].as_u64().expect("a number") < 128, "one byte");
                (named(&inner["msg"]).0, 4)
            }
            Some(_) => continue,
        };
        found.insert((byte(at).to_string(), name));
    }
    found
}

#[test]
fn messages_have_the_numbers_that_are_written() {
    let ctl = ["## Messages on the ctl_conn"];
    let client = ["### The client's messages", "Handshake messages:"];
    let client_session = ["### The client's messages", "Session messages:"];
    let server = ["### The server's messages", "Handshake messages:"];
    let server_session = ["### The server's messages", "Session messages:"];
    let proxy_client = ["## Messages on a proxy_conn", "From the client:"];
    let proxy_server = ["## Messages on a proxy_conn", "From the server:"];
    let written: [(&[&str], &str, Option<&str>); 8] = [
        (&ctl, "ctl_to_server", None),
        (&ctl, "ctl_to_client", None),
        (&client, "ctl_to_server", Some("Handshake")),
        (&client_session, "ctl_to_server", Some("Numbered")),
        (&server, "ctl_to_client", Some("Handshake")),
        (&server_session, "ctl_to_client", Some("Numbered")),
        (&proxy_client, "proxy_to_server", None),
        (&proxy_server, "proxy_to_client", None),
    ];
    for (leads, direction, wrapped) in written {
        let rows: BTreeSet<_> = table(leads).into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
        assert_eq!(rows, in_vectors(direction, wrapped), "{leads:?}");
    }
}

#[test]
fn defaults_are_those_that_are_written() {
    let timings = Timings::default();
    let timers = [
        ("heartbeat_interval", timings.heartbeat_interval),
        ("heartbeat_timeout", timings.heartbeat_timeout),
        ("handshake_timeout", timings.handshake_timeout),
        ("route_timeout", timings.route_timeout),
        ("session_grace", timings.session_grace),
        ("wait_timeout", timings.wait_timeout),
        ("dial_timeout", timings.dial_timeout),
        ("idle_ping_interval", timings.idle_ping_interval),
        ("idle_ping_timeout", timings.idle_ping_timeout),
        ("idle_conn_lifetime", timings.idle_conn_lifetime),
        ("half_open_timeout", timings.half_open_timeout),
        ("reset_linger", timings.reset_linger),
        ("visitor_keepalive", timings.visitor_keepalive),
        ("drain_timeout", timings.drain_timeout),
    ];
    let rows = table(&["## Timers and limits"]);
    for (name, default) in timers {
        let mut written = rows.iter().filter(|row| row[0] == name).peekable();
        assert!(written.peek().is_some(), "PROTOCOL.md has no timer {name}");
        written.for_each(|row| assert_eq!(row[1], format!("{} s", default.as_secs()), "{name}"));
    }
    assert_eq!((timings.reconnect_min, timings.reconnect_max), (Duration::from_millis(250), Duration::from_secs(15)));
    let fixed = [("start_patience", timings.start_patience, "1 s"), ("answer_delay", timings.answer_delay, "20 ms")];
    for (name, default, written) in fixed {
        assert!(rows.iter().any(|row| row[0] == name && row[1] == written), "PROTOCOL.md has no timer {name}");
        assert_eq!(format!("{default:?}").replace(|c: char| c.is_alphabetic(), ""), written.split(' ').next().unwrap());
    }
    assert!(rows.iter().any(|row| row[0] == "reconnect_min, reconnect_max" && row[1] == "0.25 s, 15 s"));

    let (server, scope) = (ServerSettings::default(), Scope::default());
    let limits = [
        ("max_handshakes", server.max_handshakes),
        ("max_sessions", server.max_sessions),
        ("max_tunnels", scope.max_tunnels),
        ("max_connections", scope.max_connections),
        ("max_waiting", scope.max_waiting),
    ];
    assert!(DOCUMENT.contains(&format!("`idle_conns` conns ({} by default)", server.idle_conns)));
    let rows = table(&["## Timers and limits", "**P-LIM-1**"]);
    for (name, default) in limits {
        let row = rows.iter().find(|row| row[0].trim_end_matches(" (3)").ends_with(&format!(", {name}")));
        assert_eq!(row.map(|row| row[1].clone()), Some(default.to_string()), "{name}");
    }
}

/// The rules, each with its whole text.
fn rules() -> Vec<(String, String)> {
    let mut rules: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in DOCUMENT.lines() {
        if let Some((number, text)) = line.strip_prefix("- **P-").and_then(|rest| rest.split_once("**")) {
            rules.push((format!("P-{number}"), text.into()));
            inside = true;
        } else if inside && line.starts_with("  ") {
            rules.last_mut().expect("inside of one").1.extend([" ", line.trim()]);
        } else {
            inside = false;
        }
    }
    rules
}

#[test]
fn every_rule_says_how_strict_it_is() {
    let rules = rules();
    assert!(rules.len() > 140, "only {} rules found", rules.len());
    for (number, text) in &rules {
        let words: Vec<_> = text.split(|c: char| !c.is_alphanumeric()).collect();
        let strict = words.iter().any(|word| ["MUST", "SHOULD", "MAY"].contains(word));
        assert!(strict, "{number} says neither MUST nor SHOULD nor MAY: {text}");
    }
}

#[test]
fn rules_of_a_group_are_numbered_in_order() {
    let mut last: Option<(String, u32)> = None;
    for (rule, _) in rules() {
        let (group, number) = rule.rsplit_once('-').expect("a number at its end");
        let number: u32 = number.parse().unwrap_or_else(|error| panic!("{rule}: {error}"));
        let expected = last.filter(|(before, _)| before == group).map_or(1, |(_, before)| before + 1);
        assert_eq!(number, expected, "{rule}");
        last = Some((group.into(), number));
    }
}

#[test]
fn lines_have_at_most_120_columns() {
    for (number, line) in (1..).zip(DOCUMENT.lines()) {
        assert!(line.chars().count() <= 120, "PROTOCOL.md:{number}: {line}");
    }
}

#[test]
fn links_lead_to_headings() {
    let anchor = |heading: &str| -> String {
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    let headings = DOCUMENT.lines().filter_map(|line| line.strip_prefix('#'));
    let anchors: BTreeSet<_> = headings.map(|heading| anchor(heading.trim_start_matches('#').trim())).collect();
    for (at, _) in DOCUMENT.match_indices("](#") {
        let link = DOCUMENT[at + 3..].split(')').next().expect("a closing bracket");
        assert!(anchors.contains(link), "no heading for #{link}");
    }
}
