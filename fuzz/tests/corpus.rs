//! Replays the committed corpora: every input that once reached new code, and every one that once found
//! a fault, on any toolchain.

use std::fs;
use std::path::{Path, PathBuf};

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "{} holds a corpus", folder.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
}

#[test]
fn every_committed_input_passes_its_target() {
    for (name, target) in fuzz::TARGETS {
        for (path, data) in inputs(name) {
            let passed = std::panic::catch_unwind(|| target(&data));
            assert!(passed.is_ok(), "replay: cargo run -p fuzz --bin {name} -- {}", path.display());
        }
    }
}

#[test]
fn every_committed_stream_reads_alike_at_every_cut() {
    for name in ["ctl_codec", "proxy_codec"] {
        for (_, data) in inputs(name) {
            fuzz::every_split(&data);
        }
    }
}
