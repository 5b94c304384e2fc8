//! `cargo fuzz run preface`; without cargo-fuzz, replays the files it is given. See [`fuzz::preface`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::preface(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::preface);
}
