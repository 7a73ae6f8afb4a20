//! `cargo demo`: a pod and a peer without a cluster, the plugin, the sidecar, and real HTTP through them.

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;

use culvert_tests::demo::{self, Paper};
use culvert_tests::process::lab_exec;

fn main() -> ExitCode {
    if let Err(code) = lab_exec::play_if_asked() {
        return code;
    }
    let colour = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match demo::run(&mut Paper::new(stdout().lock(), colour)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("cargo demo: {e:#}");
            ExitCode::FAILURE
        }
    }
}
