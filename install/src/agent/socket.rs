// SPDX-License-Identifier: Apache-2.0
//! The agent's half of its socket; what is said over it is documented in [`culvert_cni::agent`].
//!
//! Only root can connect: the file is 0600 from its first moment. All the same nobody can hold the agent up: a request has a
//! second and 16 KiB, an answer another second, and at most 64 are under way. A socket that somebody took away, or that a
//! killed agent left behind, is put in place anew.

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

/// How long a request may take to be there whole.
const ASKED_WITHIN: Duration = Duration::from_secs(1);
/// How long the other side may take to read its answer.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);
/// Requests at a time: as many pods may start at once and ask. More wait in the kernel's queue.
const AT_ONCE: usize = 64;
/// The kernel's queue; it is cut to net.core.somaxconn, mostly 4096.
const QUEUE: i32 = 4096;
/// After an accept or a bind that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often is looked whether the socket is still in its place.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A socket in its place. Dropped, it goes, unless another took the place.
#[derive(Debug)]
struct Listening {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listening {
    /// Listens at `path`; whatever was there is replaced in one step.
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
        // The file takes its mode from the socket's own: there is no moment at which others could connect.
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
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut told = false;
    loop {
        let listening = match Listening::at(path) {
            Ok(listening) => listening,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%error, socket = %path.display(), "cannot listen: runtimes that pass no annotations get onUnknown");
                }
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
        };
        told = false;
        tracing::info!(socket = %path.display(), "listening for the plugin");
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while listening.is_in_place() {
            tokio::select! {
                _ = looks.tick() => {}
                accepted = listening.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        // Waits for a place; those who come meanwhile wait in the kernel.
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
        tracing::warn!(socket = %path.display(), "somebody took the agent's socket away: it is put back");
    }
}

/// One connection: one request, at most one answer.
async fn answer(mut stream: UnixStream, context: &Context, shared: &Shared) {
    let request = match timeout(ASKED_WITHIN, request(&mut stream)).await {
        Ok(Ok(Some(request))) => request,
        // Nobody is left to be told.
        Ok(Ok(None)) => return,
        Ok(Err(problem)) => return refuse(&mut stream, problem).await,
        Err(_) => {
            let problem =
                format!("no request: none was there, and closed by a line feed, within {ASKED_WITHIN:?}");
            return refuse(&mut stream, problem).await;
        }
    };
    let answer = match request {
        Request::Report(report) => return take(&report, context, shared),
        Request::Annotations(pod) => match shared.annotations(&pod).await {
            Ok(annotations) => Answer::Annotations(annotations),
            Err(why) => Answer::Unknown(why),
        },
        Request::Status {} => match serde_json::to_value(shared.status(context)) {
            Ok(status) => Answer::Status(status),
            Err(error) => Answer::Error(error.to_string()),
        },
    };
    say(&mut stream, &answer).await;
}

/// The request; `None` where the other side went away without one. The error is for the other side.
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

async fn say(stream: &mut UnixStream, answer: &Answer) {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    if line.len() >= MAX_ANSWER {
        line = br#"{"error":"the answer would be too long"}"#.to_vec();
    }
    line.push(b'\n');
    // Errors are the other side's: it went away.
    let _ = timeout(TAKEN_WITHIN, stream.write_all(&line)).await;
}

/// Says why there is no answer. Who finds its words unread is reset, perhaps before it has read ours: so the rest is read, and
/// forgotten.
async fn refuse(stream: &mut UnixStream, problem: String) {
    say(stream, &Answer::Error(problem)).await;
    let _ = stream.shutdown().await;
    let mut chunk = [0; 2048];
    let rest = async { while matches!(stream.read(&mut chunk).await, Ok(1..)) {} };
    let _ = timeout(TAKEN_WITHIN, rest).await;
}

/// Counts what the plugin did; what it did to a pod is looked at soon.
fn take(report: &Report, context: &Context, shared: &Shared) {
    let Report { verb, container_id, decision, reason, code, took_us, .. } = report;
    if verb == "DEL" {
        shared.end(container_id);
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
