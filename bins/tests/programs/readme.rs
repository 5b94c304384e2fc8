//! README's configuration files: pasted as they stand, they pass `check-config`.

use crate::program::{Files, client, run, server};
use std::process::Command;

const README: &str = include_str!("../../../README.md");

/// The block of TOML in README that begins with the comment `# NAME`.
fn block(name: &str) -> &'static str {
    let blocks = README.split("```toml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let mut named = blocks.filter(|block| block.lines().next() == Some(&format!("# {name}")));
    let block = named.next().unwrap_or_else(|| panic!("README has no block for {name}"));
    assert_eq!(named.next(), None, "README has one block for {name}");
    block
}

#[test]
fn both_files_pass_check_config() {
    let files = Files::new(&[
        ("server.toml", block("server.toml")),
        ("client.toml", block("client.toml")),
        ("token", "a token for all\n"),
        ("office.token", "a token for the office\n"),
    ]);
    for (command, name) in [(server as fn(&str) -> Command, "server.toml"), (client, "client.toml")] {
        let file = files.path(name);
        let ended = run(command(&format!("check-config {file}")));
        assert_eq!((ended.err.as_str(), ended.out.lines().next()), ("", Some(&*format!("{file}: ok"))));
        assert_eq!(ended.code, Some(0));
    }
}
