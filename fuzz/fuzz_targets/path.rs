//! `cargo fuzz run path`; without cargo-fuzz, replays the files it is given. See [`fuzz::path`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::path(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::path);
}
