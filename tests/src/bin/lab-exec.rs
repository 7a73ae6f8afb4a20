//! Starts a program in a namespace of the lab, without privileges.

use std::process::ExitCode;

fn main() -> ExitCode {
    culvert_tests::process::lab_exec::play(std::env::args_os().skip(1).collect())
}
