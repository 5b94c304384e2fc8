//! `cargo fuzz run ctl_codec`; without cargo-fuzz, replays the files it is given. See [`fuzz::ctl_codec`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::ctl_codec(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::ctl_codec);
}
