//! `cargo fuzz run head`; without cargo-fuzz, replays the files it is given. See [`fuzz::head`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::head(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::head);
}
