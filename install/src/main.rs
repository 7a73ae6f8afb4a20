// SPDX-License-Identifier: Apache-2.0
//! The `culvert-install` program: hands arguments and streams to the library, and its answer to the caller.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use culvert_install::{Colour, Streams, run};

fn main() -> ExitCode {
    let colour = if io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        Colour::Terminal
    } else {
        Colour::Plain
    };
    // Not locked: a thread of the agent that logs would wait for the lock until the agent ends.
    let streams = Streams { out: &mut io::stdout(), err: &mut io::stderr(), colour };
    run(std::env::args_os(), streams).into()
}
