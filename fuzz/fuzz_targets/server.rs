//! `cargo fuzz run server`; without cargo-fuzz, replays the files it is given. See [`fuzz::server`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::server(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::server);
}
