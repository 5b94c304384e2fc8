//! `cargo fuzz run proxy_header`; without cargo-fuzz, replays the files it is given. See [`fuzz::proxy_header`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::proxy_header(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::proxy_header);
}
