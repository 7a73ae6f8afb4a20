//! Waiting for what comes true by itself, never longer than said.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// The longest that a read, a write or a connect of a test may take: no test hangs.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Between two looks at a condition that nothing announces.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looks until `look` finds something, at most for `within`.
pub fn until_some<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::park_timeout(INTERVAL);
    }
}

/// Makes a call again, for [`DEADLINE`] at most, that finds its address in use.
///
/// A child that another test starts has the sockets of the whole process until it executes its program: also those that were closed
/// here since.
pub fn once_free<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let in_use = || io::Error::from(io::ErrorKind::AddrInUse);
    let free = until_some(DEADLINE, || match call() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
        done => Some(done),
    });
    free.unwrap_or_else(|| Err(in_use()))
}

/// Makes a call again that was interrupted. A read with a deadline is, where the machine of the tests is stopped and goes on
/// (signal(7), "socket interfaces"); its deadline begins anew.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Panics unless the condition comes true within the duration (2 s if none is given).
///
/// ```
/// use std::time::{Duration, Instant};
/// use culvert_tests::eventually;
/// let start = Instant::now();
/// eventually!(start.elapsed() > Duration::from_millis(10));
/// eventually!(start.elapsed() > Duration::from_millis(20), Duration::from_secs(1));
/// ```
#[macro_export]
macro_rules! eventually {
    ($condition:expr $(,)?) => {
        $crate::eventually!($condition, ::std::time::Duration::from_secs(2))
    };
    ($condition:expr, $within:expr $(,)?) => {{
        let within: ::std::time::Duration = $within;
        if $crate::until::until_some(within, || ($condition).then_some(())).is_none() {
            panic!("not true within {within:?}: {}", stringify!($condition));
        }
    }};
}
