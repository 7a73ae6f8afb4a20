// SPDX-License-Identifier: Apache-2.0
//! The agent's side of the socket between plugin and agent, with the protocol of [`culvert_cni::agent`].
//!
//! Only root can connect, since the file has mode 0600 from its first moment. Even so every peer is bounded: a request has a
//! second and 16 KiB, an answer another second, and at most 64 requests are in flight. A socket that was removed, or that a
//! killed agent left behind, is replaced by a new one.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_cni::agent::{Answer, MAX_ANSWER, MAX_REQUEST, Report, Request};
use culvert_cni::pod::Reason;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::context::Context;
use super::metrics::{Add, AddLabels};
use super::shared::Shared;

/// Deadline for a whole request.
const REQUEST_WITHIN: Duration = Duration::from_secs(1);
/// Deadline for the peer to read its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Requests in flight: so many pods may start at once. More wait in the kernel's queue.
const MAX_IN_FLIGHT: usize = 64;
/// Length of the kernel's accept queue, which the kernel cuts to net.core.somaxconn, mostly 4096.
const QUEUE: i32 = 4096;
/// Pause after an accept that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Interval of the check that the socket is still in its place.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// A socket at its path. Dropping it removes the file, unless another socket has taken the path.
#[derive(Debug)]
struct Listening {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listening {
    /// Listens at `path`. A file that is there is replaced in one step.
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        // The file inherits the socket's mode, so that there is no moment at which others could connect.
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&temporary)?)?;
        fs::set_permissions(&temporary, Permissions::from_mode(0o600))?;
        listen(&fd, Backlog::new(QUEUE)?)?;
        let inode = fs::metadata(&temporary)?.ino();
        fs::rename(&temporary, path)?;
        let listener = UnixListener::from_std(StdListener::from(fd))?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Serves until the agent ends.
pub(crate) async fn run(context: Context, shared: Arc<Shared>) {
    let layout = context.layout();
    let path = layout.at(&layout.agent_socket());
    tokio::select! {
        () = context.shutdown() => {}
        () = serve(&path, &context, &shared) => {}
    }
}

/// Serves at `path` for as long as it is polled.
async fn serve(path: &Path, context: &Context, shared: &Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut is_reported = false;
    loop {
        let listening = match Listening::at(path) {
            Ok(listening) => listening,
            Err(error) => {
                if !std::mem::replace(&mut is_reported, true) {
                    tracing::error!(%error, socket = %path.display(), "cannot listen: runtimes that pass no annotations get onUnknown");
                }
                tokio::time::sleep(CHECK_EVERY).await;
                continue;
            }
        };
        is_reported = false;
        tracing::info!(socket = %path.display(), "listening for the plugin");
        let mut checks = tokio::time::interval(CHECK_EVERY);
        while listening.is_in_place() {
            tokio::select! {
                _ = checks.tick() => {}
                accepted = listening.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        // Blocks the accept loop on purpose: further peers wait in the kernel's queue.
                        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                        let (context, shared) = (context.clone(), Arc::clone(shared));
                        tokio::spawn(async move {
                            answer(stream, &context, &shared).await;
                            drop(slot);
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept from the plugin");
                        tokio::time::sleep(AGAIN_AFTER).await;
                    }
                },
            }
        }
        tracing::warn!(socket = %path.display(), "the agent's socket was removed: it is put back");
    }
}

/// Serves one connection: one request, and at most one answer.
async fn answer(mut stream: UnixStream, context: &Context, shared: &Shared) {
    let request = match timeout(REQUEST_WITHIN, request(&mut stream)).await {
        Ok(Ok(Some(request))) => request,
        // The peer is gone.
        Ok(Ok(None)) => return,
        Ok(Err(problem)) => return refuse(&mut stream, problem).await,
        Err(_) => {
            let problem =
                format!("no request: none was there, and closed by a line feed, within {REQUEST_WITHIN:?}");
            return refuse(&mut stream, problem).await;
        }
    };
    let answer = match request {
        Request::Report(report) => return note_report(&report, context, shared),
        Request::Annotations(pod) => match shared.annotations(&pod).await {
            Ok(annotations) => Answer::Annotations(annotations),
            Err(why) => Answer::Unknown(why),
        },
        Request::Status {} => match serde_json::to_value(shared.status(context)) {
            Ok(status) => Answer::Status(status),
            Err(error) => Answer::Error(error.to_string()),
        },
    };
    send(&mut stream, &answer).await;
}

/// Reads the request; `None` where the peer went away without one. The error is for the peer.
async fn request(stream: &mut UnixStream) -> Result<Option<Request>, String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        let read = match stream.read(&mut chunk).await {
            Ok(read) => read,
            Err(_) => return Ok(None),
        };
        let end = chunk[..read].iter().position(|byte| *byte == b'\n');
        bytes.extend_from_slice(&chunk[..end.unwrap_or(read)]);
        if bytes.len() > MAX_REQUEST {
            return Err(format!("a request has at most {MAX_REQUEST} bytes"));
        }
        if end.is_some() || read == 0 {
            if bytes.is_empty() {
                return Ok(None);
            }
            return serde_json::from_slice(&bytes).map(Some).map_err(|error| format!("no request: {error}"));
        }
    }
}

async fn send(stream: &mut UnixStream, answer: &Answer) {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    if line.len() >= MAX_ANSWER {
        line = br#"{"error":"the answer would be too long"}"#.to_vec();
    }
    line.push(b'\n');
    // An error is the peer's: it went away.
    let _ = timeout(ANSWER_WITHIN, stream.write_all(&line)).await;
}

/// Sends an error, then reads and drops the rest of the request: closing a socket with unread data resets the connection,
/// perhaps before the peer has read the error.
async fn refuse(stream: &mut UnixStream, problem: String) {
    send(stream, &Answer::Error(problem)).await;
    let _ = stream.shutdown().await;
    let mut chunk = [0; 2048];
    let rest = async { while matches!(stream.read(&mut chunk).await, Ok(1..)) {} };
    let _ = timeout(ANSWER_WITHIN, rest).await;
}

/// Counts a call that the plugin reports, and makes `verify` list the pods soon.
fn note_report(report: &Report, context: &Context, shared: &Shared) {
    let Report { verb, container_id, decision, reason, code, took_us, .. } = report;
    if verb == "DEL" {
        shared.note_end(container_id);
    }
    if verb == "ADD" {
        let result = match (code, decision.as_deref(), reason.as_deref()) {
            (0, Some("redirect"), _) => Add::Redirected,
            (0, _, Some(reason)) if reason == Reason::Unknown.as_str() => Add::Unknown,
            (0, ..) => Add::PassedThrough,
            _ => Add::Failed,
        };
        context.metrics.adds.get_or_create(&AddLabels::from(result)).inc();
        let took = Duration::from_micros(*took_us);
        context.metrics.add_seconds.observe(took.as_secs_f64());
    }
    shared.news.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_one_line_of_bounded_length() {
        let too_long = vec![b' '; MAX_REQUEST + 1];
        for (name, bytes, expected) in [
            ("a line", &b"{\"status\":{}}\n"[..], "a request"),
            ("a line, then the end of the stream", b"{\"status\":{}}", "a request"),
            ("only the first line counts", b"{\"status\":{}}\nmore", "a request"),
            ("nothing", b"", "nothing"),
            ("an empty line", b"\n", "nothing"),
            ("another protocol", b"GET / HTTP/1.1\r\n\r\n", "no request: "),
            ("too long", &too_long, "a request has at most 16384 bytes"),
        ] {
            let (mut peer, mut stream) = UnixStream::pair().unwrap();
            peer.write_all(bytes).await.unwrap();
            drop(peer);
            let found = match request(&mut stream).await {
                Ok(Some(_)) => "a request".to_owned(),
                Ok(None) => "nothing".to_owned(),
                Err(problem) => problem,
            };
            assert!(found.starts_with(expected), "{name}: {found}");
        }
    }

    #[tokio::test]
    async fn a_socket_takes_the_path_of_any_file_and_gives_it_up_to_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("culvert/agent.sock");
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "left by another").unwrap();
        let first = Listening::at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let second = Listening::at(&path).unwrap();
        assert!(!first.is_in_place() && second.is_in_place());
        drop(first);
        assert!(second.is_in_place(), "the older one must not remove the newer one's file");
        drop(second);
        assert!(!path.exists());
    }
}
