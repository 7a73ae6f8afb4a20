// SPDX-License-Identifier: Apache-2.0
//! The plugin's half of the agent's socket: a question that never takes longer than a second, and a report that never
//! blocks.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::messages::{Answer, MAX_ANSWER, Report, Request, is_off};
use crate::metadata::{Annotations, PodRef};

/// Time limit for an answer, from the first call to the last byte; a fifth of the 5 s in which ADD answers.
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// A question that the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The conflist switches the socket off.
    #[error("agentSocket is empty in the conflist")]
    Off,
    /// No process listens on the socket, or the connection broke.
    #[error("the node agent at {socket}: {source}")]
    Socket {
        /// Path from the conflist.
        socket: String,
        /// Error of the system call.
        source: io::Error,
    },
    /// The whole answer was not there within [`ANSWERS_WITHIN`].
    #[error("the node agent at {0} did not answer within {ANSWERS_WITHIN:?}")]
    TimedOut(String),
    /// The socket belongs to a process that is not root.
    #[error("the process that listens at {socket} has uid {uid}: the node agent is root")]
    Impostor {
        /// Path from the conflist.
        socket: String,
        /// Uid of the process that listens there.
        uid: u32,
    },
    /// The answer is too long or does not parse.
    #[error("the node agent's answer cannot be read: {0}")]
    Garbled(String),
    /// The agent does not know the pod.
    #[error("the node agent does not know the pod's annotations: {0}")]
    Unknown(String),
}

/// Ask the agent for the annotations of `pod`.
pub fn annotations(path: &Path, pod: &PodRef) -> Result<Annotations, AskError> {
    match ask(path, &Request::Annotations(pod.clone()), ANSWERS_WITHIN)? {
        Answer::Annotations(annotations) => Ok(annotations),
        Answer::Unknown(why) | Answer::Error(why) => Err(AskError::Unknown(why)),
        Answer::Status(_) => Err(AskError::Garbled("it answers another question".to_owned())),
    }
}

/// Send `request` and wait for the whole answer, at most for `limit`.
pub fn ask(path: &Path, request: &Request, limit: Duration) -> Result<Answer, AskError> {
    if is_off(path) {
        return Err(AskError::Off);
    }
    let deadline = Instant::now() + limit;
    let name = path.display().to_string();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::TimedOut(name.clone()),
        _ => AskError::Socket { socket: name.clone(), source },
    };
    let mut stream = connected(path, limit).map_err(|errno| failed(errno.into()))?;
    let listener = getsockopt(&stream, sockopt::PeerCredentials).map_err(|errno| failed(errno.into()))?;
    if listener.uid() != 0 {
        return Err(AskError::Impostor { socket: name.clone(), uid: listener.uid() });
    }
    // A timeout of zero would mean no limit at all, so at least a microsecond is left.
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
    stream.set_write_timeout(Some(left())).map_err(failed)?;
    stream.write_all(&line(request)).map_err(failed)?;

    let mut bytes = Vec::new();
    let mut chunk = [0; 8 << 10];
    loop {
        if Instant::now() >= deadline {
            return Err(AskError::TimedOut(name));
        }
        stream.set_read_timeout(Some(left())).map_err(failed)?;
        let read = match stream.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(failed)?,
        };
        bytes.extend_from_slice(&chunk[..read]);
        if read == 0 || chunk[..read].contains(&b'\n') {
            return serde_json::from_slice(&bytes).map_err(|error| AskError::Garbled(error.to_string()));
        }
        if bytes.len() > MAX_ANSWER {
            return Err(AskError::Garbled(format!("it is longer than {} KiB", MAX_ANSWER >> 10)));
        }
    }
}

/// Send a report without waiting: four system calls on a non-blocking socket. A report is lost if the agent's queue is full
/// or the agent is not running; the agent then finds the pod by its own scan.
pub fn report(path: &Path, report: Report) {
    if is_off(path) {
        return;
    }
    let Ok(address) = UnixAddr::new(path) else { return };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let Ok(fd) = socket(AddressFamily::Unix, SockType::Stream, flags, None) else { return };
    if connect(fd.as_raw_fd(), &address).is_ok() {
        let line = line(&Request::Report(Box::new(report)));
        let _ = send(fd.as_raw_fd(), &line, MsgFlags::MSG_NOSIGNAL);
    }
}

/// Connect; where the agent's queue is full, wait at most `limit` for a place in it.
fn connected(path: &Path, limit: Duration) -> Result<UnixStream, Errno> {
    let address = UnixAddr::new(path)?;
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let deadline = Instant::now() + limit;
    loop {
        // Zero would mean no limit.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
        let micros = i64::try_from(left.as_micros()).unwrap_or(i64::MAX);
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::microseconds(micros))?;
        match connect(fd.as_raw_fd(), &address) {
            // A wait with a limit ends so when the process is stopped and goes on, as with its cgroup or machine.
            Err(Errno::EINTR) if Instant::now() < deadline => {}
            Err(Errno::EINTR) => return Err(Errno::EAGAIN),
            connected => return connected.map(|()| fd.into()),
        }
    }
}

fn line(request: &Request) -> Vec<u8> {
    let mut line = serde_json::to_vec(request).expect("strings and numbers only");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::thread::{self, JoinHandle};

    use super::*;

    /// A stand-in for the agent that does one thing with the first connection.
    struct Stand {
        path: PathBuf,
        thread: Option<JoinHandle<()>>,
    }

    impl Stand {
        fn doing(name: &str, work: impl FnOnce(UnixStream) + Send + 'static) -> Self {
            let path = std::env::temp_dir().join(format!("culvert-agent-{}-{name}.sock", std::process::id()));
            let listener = UnixListener::bind(&path).unwrap();
            let thread = thread::spawn(move || work(listener.accept().unwrap().0));
            Self { path, thread: Some(thread) }
        }
    }

    impl Drop for Stand {
        fn drop(&mut self) {
            drop(std::fs::remove_file(&self.path));
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }

    fn pod() -> PodRef {
        PodRef { namespace: "shop".into(), name: "web-0".into(), uid: Some("1".into()) }
    }

    /// Reads the request, answers, and waits until the other side is gone.
    fn answers(text: &'static [u8]) -> impl FnOnce(UnixStream) + Send + 'static {
        move |mut stream| {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(text);
            let _ = stream.read(&mut request);
        }
    }

    #[test]
    fn an_answer_is_read() {
        let stand = Stand::doing("good", answers(b"{\"annotations\":{\"a\":\"b\"}}\n"));
        let found = annotations(&stand.path, &pod()).unwrap();
        assert_eq!(found, Annotations::from([("a".to_owned(), "b".to_owned())]));
    }

    #[test]
    fn a_bad_answer_is_named_in_the_error() {
        for (name, text, expected) in [
            ("unknown", &b"{\"unknown\":\"no such pod\"}\n"[..], "no such pod"),
            ("garbage", b"\xff\xfe\n", "cannot be read"),
            ("other", b"{\"status\":{}}\n", "another question"),
            ("two", b"{}\n", "cannot be read"),
        ] {
            let stand = Stand::doing(name, answers(text));
            let error = annotations(&stand.path, &pod()).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let closes = Stand::doing("closes", drop);
        assert!(annotations(&closes.path, &pod()).is_err());
        let endless = Stand::doing("endless", |mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
        let error = annotations(&endless.path, &pod()).unwrap_err().to_string();
        assert!(error.contains("longer than 2048 KiB"), "{error}");
    }

    #[test]
    fn a_missing_agent_and_a_path_too_long_fail_at_once() {
        for path in ["/nonexistent/agent.sock", "/dev/null", &format!("/{}", "x".repeat(200)), ""] {
            let started = Instant::now();
            assert!(annotations(Path::new(path), &pod()).is_err(), "{path}");
            report(Path::new(path), Report::default());
            assert!(started.elapsed() < ANSWERS_WITHIN, "{path}");
        }
    }

    #[test]
    fn silence_costs_a_second_and_trickling_no_more() {
        let silent = Stand::doing("silent", |mut stream| drop(io::copy(&mut stream, &mut io::sink())));
        let trickles = Stand::doing("trickles", |mut stream| {
            let (_keep, never) = std::sync::mpsc::channel::<()>();
            while stream.write_all(b" ").is_ok() {
                let _ = never.recv_timeout(Duration::from_millis(50));
            }
        });
        for stand in [silent, trickles] {
            let started = Instant::now();
            let error = annotations(&stand.path, &pod()).unwrap_err();
            let took = started.elapsed();
            assert!(matches!(error, AskError::TimedOut(_)), "{error}");
            assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(3), "{took:?}");
        }
    }

    /// An agent that accepts no connection: its queue fills, and a report must not wait for a place in it.
    #[test]
    fn a_report_never_waits() {
        let path = std::env::temp_dir().join(format!("culvert-agent-{}-full.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let started = Instant::now();
        for _ in 0..6000 {
            report(&path, Report::default());
        }
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        drop(listener);
        drop(std::fs::remove_file(&path));
    }
}
