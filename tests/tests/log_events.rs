//! Every log line has an event, and every event is in docs/logging.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use tests::limit::arm;

/// What tracing's JSON writes by itself: a field of that name would stand there twice, and readers keep one.
const RESERVED: [&str; 5] = ["name", "level", "target", "message", "timestamp"];
/// Fields that are written as they are: nothing that came from outside can hold a newline there.
const PLAIN: [&str; 5] = ["peer_ip", "client", "public", "source", "to"];
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The text between the parenthesis with which `text` begins and its counterpart.
fn arguments(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => {
                depth -= 1;
                if depth == 0 {
                    return &text[1..at];
                }
            }
            _ => {}
        }
    }
    panic!("no end: {text:.60}")
}

/// The arguments of one call, at the commas that are neither quoted nor nested.
fn fields(arguments: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut fields = vec![String::new()];
    for c in arguments.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '{' | '[' if !quoted => depth += 1,
            ')' | '}' | ']' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                fields.push(String::new());
                continue;
            }
            _ => {}
        }
        fields.last_mut().expect("one at least").push(c);
    }
    fields.into_iter().map(|field| field.trim().to_owned()).filter(|field| !field.is_empty()).collect()
}

/// Every call of a log macro below `folder`: where, its level, and its arguments.
fn calls(folder: &Path, found: &mut Vec<(String, &'static str, Vec<String>)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            calls(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("text");
        for level in LEVELS {
            let call = format!("tracing::{level}!");
            for (at, _) in text.match_indices(&call) {
                let line = text[..at].lines().count();
                let place = format!("{}:{line}", path.display());
                found.push((place, level, fields(arguments(&text[at + call.len()..]))));
            }
        }
    }
}

#[test]
fn every_line_has_an_event_that_is_documented_and_fields_that_readers_keep() {
    arm();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut found = Vec::new();
    for folder in ["bins/src", "runtime-epoll/src"] {
        calls(&root.join(folder), &mut found);
    }
    assert!(found.len() > 60, "{} calls", found.len());
    let mut wrong = Vec::new();
    let mut used: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (place, level, fields) in &found {
        let event = fields[0].strip_prefix("event = \"").and_then(|rest| rest.strip_suffix('"'));
        match event {
            Some(event) if event.chars().all(|c| c.is_ascii_lowercase() || c == '_') => {
                used.entry(event.to_owned()).or_default().insert(level);
            }
            _ => wrong.push(format!("{place}: the first field is no `event = \"snake_case\"`: {}", fields[0])),
        }
        for field in &fields[1..] {
            let (name, value) = field.split_once(" = ").unwrap_or((field, field));
            let plain = name.trim_start_matches(['%', '?']);
            if RESERVED.contains(&plain) {
                wrong.push(format!("{place}: `{plain}` is a name of tracing's own"));
            }
            if (field.starts_with('%') || value.starts_with('%')) && !PLAIN.contains(&plain) {
                wrong.push(format!("{place}: `{field}` is written as it is, and may hold a newline"));
            }
            if plain == "peer_ip" && field != &fields[1] {
                wrong.push(format!("{place}: `peer_ip` stands right behind the event"));
            }
        }
    }
    let document = fs::read_to_string(root.join("docs/logging.md")).expect("text");
    let (_, table) = document.split_once("## Events").expect("the table of events");
    let mut documented = BTreeMap::new();
    for row in table.lines().filter_map(|line| line.strip_prefix("| `")) {
        let (event, rest) = row.split_once("` | ").expect("a row");
        let level = rest.split(" | ").next().expect("a level");
        documented.insert(event.to_owned(), BTreeSet::from([level]));
    }
    for (event, levels) in &used {
        if documented.get(event) != Some(levels) {
            wrong.push(format!("docs/logging.md: `{event}` is {:?} there, and {levels:?}", documented.get(event)));
        }
    }
    for event in documented.keys().filter(|event| !used.contains_key(*event)) {
        wrong.push(format!("docs/logging.md: `{event}` is no event"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_call_is_taken_apart_at_its_own_commas() {
    arm();
    let text = "(event = \"a\", %x, y = f(1, 2), \"b, (c) \\\"{}\", d); more()";
    assert_eq!(fields(arguments(text)), ["event = \"a\"", "%x", "y = f(1, 2)", "\"b, (c) \\\"{}\"", "d"]);
}
