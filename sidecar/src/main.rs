// SPDX-License-Identifier: Apache-2.0
//! The program: options in, exit code out.

use clap::error::ErrorKind;
use culvert_sidecar::observe::logging;
use culvert_sidecar::observe::one_line::one_line;
use culvert_sidecar::options::{Command, Options};
use culvert_sidecar::process::{inspect, resolve, run, validate, wait};
use culvert_sidecar::{EXIT_NOT_FOUND, EXIT_NOT_IN_TIME, EXIT_USAGE};
use std::process::ExitCode;
use std::time::Duration;

/// Time to write out the log at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(error) => {
            // A closed stdout or stderr leaves no other place to report it.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(EXIT_USAGE),
            };
        }
    };
    match &options.command {
        None => {}
        Some(Command::Validate { paths }) => {
            let paths = paths.clone();
            return told(validate::validate(options, &paths));
        }
        Some(Command::Inspect { caller, paths }) => {
            let (caller, paths) = (caller.clone(), paths.clone());
            return told(inspect::inspect(options, caller.as_deref(), &paths));
        }
        Some(Command::Resolve { format, name, paths }) => {
            let (json, name, paths) = (format == "json", name.clone(), paths.clone());
            return match resolve::resolve(options, &name, json, &paths) {
                Ok((words, exists)) => {
                    println!("{words}");
                    ExitCode::from(if exists { 0 } else { EXIT_NOT_FOUND })
                }
                Err(errors) => usage(errors),
            };
        }
        Some(Command::Wait { condition: _, timeout }) => {
            let timeout = (!timeout.is_zero()).then_some(*timeout);
            return match wait::wait_ready(options.status_address(), timeout) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("culvert-sidecar: {error}");
                    ExitCode::from(EXIT_NOT_IN_TIME)
                }
            };
        }
    }
    let config = match options.check() {
        Ok(config) => config,
        Err(errors) => return usage(errors),
    };
    let log = logging::start(config.log_level, config.log_format);
    let ended = run::run(config, log.clone());
    log.finish(FLUSH_DEADLINE);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => usage(errors),
    }
}

fn told(said: Result<String, Vec<String>>) -> ExitCode {
    match said {
        Ok(words) => {
            println!("{words}");
            ExitCode::SUCCESS
        }
        Err(errors) => usage(errors),
    }
}

fn usage<E: std::fmt::Display>(errors: impl IntoIterator<Item = E>) -> ExitCode {
    for error in errors {
        eprintln!("culvert-sidecar: {}", one_line(&error.to_string()));
    }
    ExitCode::from(EXIT_USAGE)
}
