//! `cargo fuzz run passage`; without cargo-fuzz, replays the files it is given. See [`fuzz::passage`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::passage(data));

#[cfg(not(fuzzing))]
fn main() {
    fuzz::replay(fuzz::passage);
}
