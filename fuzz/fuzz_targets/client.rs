//! `cargo fuzz run client`; without cargo-fuzz, replays the files it is given. See [`fuzz::client`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::client(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::client);
}
