//! `cargo fuzz run config`; without cargo-fuzz, replays the files it is given. See [`fuzz::config`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::config(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::config);
}
