//! The soak; see [`tests::soak`].

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::soak::main()
}
