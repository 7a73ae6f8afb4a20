// SPDX-License-Identifier: Apache-2.0
//! Signals of runbooks, terminals and log rotation, and the files of logs.

use super::*;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Every signal that programs are free to send, by number: all but those that cannot be caught and those that report a fault
/// of the program. 32 and 33 are the C library's.
fn harmless() -> impl Iterator<Item = i32> {
    const ENDS: [i32; 3] = [2, 3, 15]; // INT, QUIT, TERM
    const FAULTS: [i32; 7] = [4, 5, 6, 7, 8, 11, 31]; // ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS
    const UNCAUGHT: [i32; 2] = [9, 19]; // KILL, STOP
    const C_LIBRARY: [i32; 2] = [32, 33];
    (1..=64).filter(|number| {
        ![&ENDS[..], &FAULTS, &UNCAUGHT, &C_LIBRARY].iter().any(|left_out| left_out.contains(number))
    })
}

#[test]
fn no_signal_ends_or_stops_it_but_those_that_ask_for_its_end() {
    let sidecar = Sidecar::start(&["--verify-redirect=off", "--drain-delay=0", "--drain-time=0"]);
    for number in harmless() {
        sidecar.signal(&number.to_string());
        let alive = sidecar.ask(STATUS, "GET /live");
        assert!(alive.starts_with("HTTP/1.1 200 "), "after signal {number}: {alive}");
    }
    sidecar.signal("TERM");
    assert_eq!(sidecar.finish().0, Some(0));
}

#[test]
fn each_signal_that_asks_for_its_end_is_an_orderly_one() {
    for name in ["TERM", "INT", "QUIT"] {
        let sidecar = Sidecar::start(&["--verify-redirect=off", "--drain-delay=0", "--drain-time=0"]);
        sidecar.signal(name);
        assert_eq!(sidecar.finish().0, Some(0), "{name}");
    }
}

/// The kernel sends SIGXFSZ to a process whose file reaches RLIMIT_FSIZE.
#[test]
fn a_limit_on_the_size_of_files_costs_lines_and_no_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let limited = || {
        let mut shell = Command::new("/bin/sh");
        shell.env_clear().stdin(Stdio::null()).args(["-c", "ulimit -f 1; exec \"$0\" \"$@\""]);
        shell.arg(env!("CARGO_BIN_EXE_culvert-sidecar"));
        shell
    };
    let access_log = format!("--access-log={}", path.display());
    let sidecar = Sidecar::start_program(limited, Stdio::null, &["--verify-redirect=off", &access_log]);
    let until = Instant::now() + PATIENCE;
    while dropped(&sidecar) == 0 {
        refused(&sidecar);
        assert!(Instant::now() < until, "the limit was never reached");
    }
    assert!(fs::metadata(&path).unwrap().len() <= 1024);
}

/// A connection that leaves one line in the access log.
fn refused(sidecar: &Sidecar) {
    // The reset may be there before connect(2) returns, which then fails by it.
    let refusal = TcpStream::connect(("127.0.0.1", sidecar.ports[OUTBOUND])).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        // Unlike `read` it goes on after an interruption, which is no refusal.
        stream.read_exact(&mut [0])
    });
    assert_eq!(refusal.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn dropped(sidecar: &Sidecar) -> u64 {
    let stats = sidecar.ask(ADMIN, "GET /stats");
    let line = stats.lines().find_map(|line| line.strip_prefix("access_log.dropped: "));
    line.unwrap_or_else(|| panic!("{stats}")).parse().unwrap()
}

fn lines(path: &Path) -> Option<usize> {
    Some(fs::read_to_string(path).ok()?.lines().count())
}

/// Waits until the file is there and has so many lines.
fn has(path: &Path, count: usize) {
    let until = Instant::now() + PATIENCE;
    while lines(path) != Some(count) {
        assert!(Instant::now() < until, "{:?} lines, not {count}", lines(path));
        std::thread::yield_now();
    }
}

/// As by logrotate, `mv` or `rm`: by itself within a second, or when asked to. Every line is in a file or counted.
#[test]
fn an_access_log_that_is_renamed_or_removed_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let old = folder.path().join("access.log.1");
    let access_log = format!("--access-log={}", path.display());
    let sidecar = Sidecar::start(&["--verify-redirect=off", &access_log]);
    has(&path, 0);
    for asked in [false, true] {
        let before = lines(&path).unwrap();
        refused(&sidecar);
        has(&path, before + 1);
        // Read now: a line is written after what a removed file lost was counted, and the file is there before.
        let lost = dropped(&sidecar);

        fs::rename(&path, &old).unwrap();
        // Goes into one of the two.
        refused(&sidecar);
        if asked {
            sidecar.signal("USR1");
        }
        // There again, with no further connection.
        let until = Instant::now() + PATIENCE;
        while lines(&path).is_none_or(|new| lines(&old).unwrap() + new < before + 2) {
            assert!(Instant::now() < until, "{:?} and {:?}, asked: {asked}", lines(&path), lines(&old));
            std::thread::yield_now();
        }
        let new = lines(&path).unwrap();
        refused(&sidecar);
        has(&path, new + 1);
        assert_eq!(dropped(&sidecar), lost);
        fs::remove_file(&path).unwrap();
        if asked {
            sidecar.signal("USR1");
        }
        has(&path, 0);
    }

    // Its folder goes, and what goes nowhere is counted.
    let before = dropped(&sidecar);
    drop(folder);
    let until = Instant::now() + PATIENCE;
    while dropped(&sidecar) == before {
        refused(&sidecar);
        assert!(Instant::now() < until, "nothing was counted");
    }
}
