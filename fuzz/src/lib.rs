//! What the fuzz targets check, as plain functions: an ordinary test replays the committed corpora on
//! any toolchain, and a fuzzer drives the same code.
//!
//! ```text
//! cargo fuzz run ctl_codec                                # nightly, address sanitizer
//! RUSTC_BOOTSTRAP=1 cargo fuzz run -s none ctl_codec      # stable
//! cargo run -p fuzz --bin ctl_codec -- FILE...            # replay inputs, no fuzzer needed
//! ```
//! The package is a member of the workspace although a fuzzer needs a C++ compiler and sanitizers:
//! `libfuzzer-sys` is a dependency only under `--cfg fuzzing`, which cargo-fuzz sets, and with the feature `fuzzer`, for
//! `.ci/fuzz`. So the targets are compiled, linted and replayed with everything else and cannot rot, and `cargo test
//! --workspace` needs nothing but Rust.
#![forbid(unsafe_code)]

mod client;
mod codec;
mod config;
mod datagrams;
mod head;
mod model;
mod net;
mod passage;
mod path;
mod preface;
mod proxy_header;
mod server;
mod tape;

pub use client::client;
pub use codec::{ctl_codec, every_split, proxy_codec};
pub use config::config;
pub use datagrams::datagrams;
pub use head::head;
pub use model::tape;
pub use passage::passage;
pub use path::path;
pub use preface::preface;
pub use proxy_header::proxy_header;
pub use server::server;

/// A fuzz target: panics if the code under test does anything wrong with `data`.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 12] = [
    ("ctl_codec", ctl_codec),
    ("proxy_codec", proxy_codec),
    ("preface", preface),
    ("passage", passage),
    ("datagrams", datagrams),
    ("path", path),
    ("proxy_header", proxy_header),
    ("head", head),
    ("server", server),
    ("client", client),
    ("config", config),
    ("tape", tape),
];

/// Runs `target` on the files named on the command line: a fuzz target's `main` where no fuzzer runs it.
///
/// # Panics
/// If a file cannot be read, or the target finds fault with one.
pub fn replay(target: Target) {
    for path in std::env::args_os().skip(1) {
        let shown = path.display();
        let data = std::fs::read(&path).unwrap_or_else(|error| panic!("{shown}: {error}"));
        target(&data);
        println!("{shown}: fine");
    }
}
