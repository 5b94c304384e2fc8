//! `cargo fuzz run datagrams`; without cargo-fuzz, replays the files it is given. See [`fuzz::datagrams`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::datagrams(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::datagrams);
}
