// SPDX-License-Identifier: Apache-2.0
//! Calls of gRPC over a connection of HTTP/2. The token goes out with the first byte of a call, so only over a connection
//! whose server was verified: [`Channel`] is made by [`super::transport`] alone.

use bytes::Bytes;
use culvert_control::NAMES;
use culvert_control::frame::{FrameError, Frames, framed};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use hyper::{Method, Request};
use prost::Message;
use std::future::poll_fn;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for the server's first word, and for room in its window.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest token that is read. Projected ones have some 1.2 KiB.
const LONGEST_TOKEN: u64 = 64 * 1024;
/// Longest words of a status that are shown.
const LONGEST_WORDS: usize = 300;

/// Reason why a call ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("{0}")]
    Http2(#[from] h2::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the server did not go on within {DEADLINE:?}")]
    Late,
    #[error("the server answers {0}; is it culvert's controller?")]
    NoGrpc(hyper::StatusCode),
    #[error("the server ends the call: {words} (gRPC status {code})")]
    Status { code: String, words: String },
    #[error("the stream ended in the middle of a message")]
    Cut,
    #[error("the server ended the stream without a word")]
    Ended,
    #[error("cannot read the token {}: {source}", .path.display())]
    Token { path: PathBuf, source: std::io::Error },
}

/// A connection to a verified server.
pub(super) struct Channel {
    pub(super) requests: SendRequest<Bytes>,
    /// Name and port, as in the URL.
    pub(super) authority: String,
}

/// A call that goes both ways.
pub(super) struct Call {
    requests: SendStream<Bytes>,
    responses: RecvStream,
    frames: Frames,
    takes_names: bool,
}

/// The requests of a call whose answer has not begun.
pub(super) struct Begun {
    requests: SendStream<Bytes>,
    answer: ResponseFuture,
}

impl Channel {
    /// Begins a call of a method.
    pub(super) async fn begin(&mut self, method: &str, token: Option<&Path>) -> Result<Begun, CallError> {
        let mut requests = within(async { Ok(self.requests.clone().ready().await?) }).await?;
        let (answer, requests) = requests.send_request(self.head(method, token)?, false)?;
        Ok(Begun { requests, answer })
    }

    fn head(&self, method: &str, token: Option<&Path>) -> Result<Request<()>, CallError> {
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        let uri = format!("https://{}{method}", self.authority);
        *head.uri_mut() = uri.parse().expect("the authority was part of a URL, and methods are paths");
        let headers = head.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("culvert-sidecar/", env!("CARGO_PKG_VERSION"))),
        );
        if let Some(path) = token {
            headers.insert(AUTHORIZATION, bearer(path)?);
        }
        Ok(head)
    }

    /// Makes a call with one request and one answer.
    pub(super) async fn unary<A: Message + Default>(
        &mut self,
        method: &str,
        token: Option<&Path>,
        request: &impl Message,
    ) -> Result<A, CallError> {
        let mut begun = self.begin(method, token).await?;
        begun.requests.send_data(framed(request), true)?;
        let mut call = begun.answered().await?;
        let answer = within(call.next()).await?;
        // The status behind the answer says if it counts.
        match within(call.next::<A>()).await {
            Err(CallError::Ended) => Ok(answer),
            Ok(_) => Err(CallError::Cut),
            Err(error) => Err(error),
        }
    }
}

/// Reads the token anew: the kubelet replaces it before it ends.
fn bearer(path: &Path) -> Result<HeaderValue, CallError> {
    let failed = |source| CallError::Token { path: path.into(), source };
    let mut token = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LONGEST_TOKEN).read_to_string(&mut token).map_err(failed)?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| failed(std::io::Error::other("it holds letters that no token has")))?;
    // Kept out of logs and of the table of headers that HTTP/2 keeps.
    value.set_sensitive(true);
    Ok(value)
}

impl Begun {
    /// Sends a message.
    pub(super) async fn send(&mut self, message: &impl Message) -> Result<(), CallError> {
        send(&mut self.requests, framed(message)).await
    }

    /// Waits for the beginning of the answer.
    pub(super) async fn answered(self) -> Result<Call, CallError> {
        let Self { requests, answer } = self;
        let answer = within(async { Ok(answer.await?) }).await?;
        if answer.status() != hyper::StatusCode::OK {
            return Err(CallError::NoGrpc(answer.status()));
        }
        if let Some(status) = status(answer.headers()) {
            return Err(status);
        }
        let takes_names = answer.headers().contains_key(NAMES);
        Ok(Call { requests, responses: answer.into_body(), frames: Frames::default(), takes_names })
    }
}

impl Call {
    /// Returns true where the server looks names up.
    pub(super) fn takes_names(&self) -> bool {
        self.takes_names
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: &impl Message) -> Result<(), CallError> {
        send(&mut self.requests, framed(message)).await
    }

    /// Reads the next message. Dropped before it is ready, it loses nothing.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Result<M, CallError> {
        loop {
            if let Some(message) = self.frames.take()? {
                return Ok(message);
            }
            let Some(piece) = self.responses.data().await else { break };
            let piece = piece?;
            // Read, it makes room in the window for the next.
            self.responses.flow_control().release_capacity(piece.len())?;
            self.frames.push(&piece);
        }
        if self.frames.is_partial() {
            return Err(CallError::Cut);
        }
        let trailers = self.responses.trailers().await?;
        Err(trailers.as_ref().and_then(status).unwrap_or(CallError::Ended))
    }
}

/// Returns the error that headers or trailers tell.
fn status(headers: &HeaderMap) -> Option<CallError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").filter(|code| *code != "0")?;
    let words = text("grpc-message").unwrap_or("no reason is given");
    // Percent-encoded by gRPC; the words of our controller are letters that stand for themselves.
    let words = words.chars().take(LONGEST_WORDS).collect();
    Some(CallError::Status { code: code.chars().take(8).collect(), words })
}

/// Sends as the server has room: what it does not read must not pile up here.
async fn send(to: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), CallError> {
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        let room = within(async {
            match poll_fn(|cx| to.poll_capacity(cx)).await {
                Some(room) => Ok(room?),
                None => Err(CallError::Ended),
            }
        });
        let room = room.await?;
        let piece = bytes.split_to(room.min(bytes.len()));
        to.send_data(piece, false)?;
    }
    Ok(())
}

async fn within<T>(work: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(CallError::Late))
}
