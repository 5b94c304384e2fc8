//! Every test of this package has a time limit: it uses something of the harness that sets one, or sets it itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use tests::limit::arm;

/// What sets the limit of the test that calls it.
const ARMS: [&str; 17] = [
    "arm",
    "options",
    "until",
    "until_still",
    "eventually",
    "connect",
    "connect_unless_reset",
    "connect_without_asking",
    "bounded",
    "Service",
    "Exchanges",
    "Gate",
    "Between",
    "Namespace",
    "Program",
    "Server",
    "Player",
];

/// One function: whether it is a test, and the words in it.
#[derive(Debug, Default, PartialEq)]
struct Function {
    is_test: bool,
    words: BTreeSet<String>,
}

/// The functions of a source file by their names. Words of comments count: a comment names what the code uses.
fn functions(text: &str, into: &mut BTreeMap<String, Function>) {
    let mut is_test = false;
    let mut current: Option<String> = None;
    for line in text.lines() {
        if line.trim() == "#[test]" {
            is_test = true;
        }
        let words = || line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        if let Some(rest) = line.trim_start().trim_start_matches("pub ").strip_prefix("fn ") {
            let name: String = rest.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
            into.entry(name.clone()).or_default().is_test |= is_test;
            (is_test, current) = (false, Some(name));
        }
        if let Some(function) = current.as_ref().and_then(|name| into.get_mut(name)) {
            function.words.extend(words().map(str::to_owned));
        }
    }
}

/// The tests among `functions` from which nothing is called, directly or not, that sets a limit.
fn without_limit(functions: &BTreeMap<String, Function>) -> Vec<&str> {
    let mut arming: BTreeSet<&str> = ARMS.into();
    loop {
        let more = functions.iter().filter(|(_, function)| function.words.iter().any(|word| arming.contains(&**word)));
        let more: Vec<&str> = more.map(|(name, _)| &**name).filter(|name| !arming.contains(name)).collect();
        if more.is_empty() {
            break;
        }
        arming.extend(more);
    }
    let tests = functions.iter().filter(|(name, function)| function.is_test && !arming.contains(&***name));
    tests.map(|(name, _)| &**name).collect()
}

/// The sources of each test program: a file, or all files of a folder.
fn programs() -> Vec<Vec<PathBuf>> {
    fn below(path: &Path, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            fs::read_dir(path).expect("a folder").for_each(|entry| below(&entry.expect("readable").path(), found));
        } else {
            found.push(path.to_owned());
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let programs = fs::read_dir(folder).expect("a folder").map(|entry| {
        let mut found = Vec::new();
        below(&entry.expect("readable").path(), &mut found);
        found
    });
    programs.collect()
}

#[test]
fn every_test_has_a_time_limit() {
    arm();
    let mut tests = 0;
    for program in programs() {
        let mut found = BTreeMap::new();
        for file in &program {
            functions(&fs::read_to_string(file).expect("a source"), &mut found);
        }
        tests += found.values().filter(|function| function.is_test).count();
        let without = without_limit(&found);
        assert!(without.is_empty(), "{program:?}: call tests::limit::arm() first in {without:?}");
    }
    assert!(tests > 150, "only {tests} tests found");
}

#[test]
fn a_test_that_uses_nothing_of_the_harness_is_found() {
    arm();
    let text = "#[test]\nfn one() {\n    helper();\n}\n\nfn helper() {\n    connect(addr);\n}\n\n\
                #[test]\nfn two() {\n    lonely.join();\n}\n";
    let mut found = BTreeMap::new();
    functions(text, &mut found);
    assert_eq!(without_limit(&found), ["two"]);
}
