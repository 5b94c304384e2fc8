//! `cargo fuzz run tape`; without cargo-fuzz, replays the files it is given. See [`fuzz::tape`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tape(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::tape);
}
