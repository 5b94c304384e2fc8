//! Configuration files: no panic, and whatever is wrong is said in sentences.

use bins::config::{ConfigError, Environment, parse_client, parse_server};
use std::path::Path;

/// Any bytes as the server's file and as the client's.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    explained(parse_server(&text, Path::new("server.toml"), &Environment::default()).err());
    explained(parse_client(&text, Path::new("client.toml"), &Environment::default()).err());
}

/// Each problem is one line that names the file.
fn explained(error: Option<ConfigError>) {
    let Some(error) = error else { return };
    assert!(!error.problems().is_empty(), "an error without a problem");
    for problem in error.problems() {
        let sentence = problem.to_string();
        assert!(sentence.contains(".toml"), "does not name the file: {sentence:?}");
        assert!(!sentence.contains(char::is_control), "would disturb a terminal: {sentence:?}");
    }
}
