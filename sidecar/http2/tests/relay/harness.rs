// SPDX-License-Identifier: Apache-2.0
//! Clients and servers of the h2 crate around a session, and raw ones for what the crate would not send.
//!
//! The clock is paused: it moves on only when all tasks wait, so a deadline strikes at once where something hangs, and a pause
//! means that all is at rest.

use bytes::Bytes;
use culvert_http2::{Decision, Edits, End, Exchange, Handle, Outcome, Peer, Reply, Rules, Session, Settings};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, request, response};
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

/// Bytes that a connection of the tests holds, as a socket would.
pub(crate) const SOCKET: usize = 64 * 1024;

/// Waits for something that must happen.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it happens in time")
}

/// Waits until all tasks are at rest.
pub(crate) async fn rest() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

type Decide = dyn Fn(&request::Parts, u32) -> Decision + Send + Sync;

/// Owner of a session that notes what it is told.
#[derive(Clone)]
pub(crate) struct Owner {
    decide: Arc<Decide>,
    pub(crate) journal: Arc<Mutex<Journal>>,
}

#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) began: usize,
    pub(crate) refused: Vec<&'static str>,
    pub(crate) answered: Vec<Reply>,
    pub(crate) responded: usize,
    pub(crate) moved: (usize, usize),
    /// Heads of responses and trailers that moved.
    pub(crate) fields: (usize, usize),
    pub(crate) ended: Vec<Outcome>,
    pub(crate) overdue: Option<Reply>,
    pub(crate) permits: usize,
    /// Requests of which the client sent all.
    pub(crate) received: usize,
    /// Bytes of a response that may pass in each [`TURN`], but for paths that begin with `/free`.
    pub(crate) portion: Option<usize>,
}

/// Time between two portions of a response.
pub(crate) const TURN: Duration = Duration::from_secs(1);

impl Owner {
    pub(crate) fn new(decide: impl Fn(&request::Parts, u32) -> Decision + Send + Sync + 'static) -> Self {
        Self { decide: Arc::new(decide), journal: Arc::default() }
    }

    pub(crate) fn pass() -> Self {
        Self::new(|_, _| Decision::Pass(Edits::default()))
    }

    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.journal.lock().unwrap().ended.clone()
    }
}

pub(crate) struct Books {
    owner: Owner,
    asked: u32,
    free: bool,
    /// Time of the next portion.
    next: Option<tokio::time::Instant>,
}

impl Rules for Owner {
    type Exchange = Books;

    fn begin(&self, request: &request::Parts) -> Books {
        let mut journal = self.journal.lock().unwrap();
        journal.began += 1;
        journal.permits += 1;
        let free = request.uri.path().starts_with("/free");
        Books { owner: self.clone(), asked: 0, free, next: None }
    }

    fn refused(&self, _: &request::Parts, rule: culvert_http2::Malformed) {
        self.journal.lock().unwrap().refused.push(rule.name());
    }
}

impl Exchange for Books {
    fn decide(&mut self, request: &request::Parts) -> Decision {
        self.asked += 1;
        (self.owner.decide)(request, self.asked)
    }

    fn answered(&mut self, reply: &Reply) {
        self.owner.journal.lock().unwrap().answered.push(reply.clone());
    }

    fn responded(&mut self, _: &response::Parts) {
        self.owner.journal.lock().unwrap().responded += 1;
    }

    fn moved(&mut self, from: Peer, bytes: usize) {
        let mut journal = self.owner.journal.lock().unwrap();
        match from {
            Peer::Client if bytes == 0 => journal.fields.0 += 1,
            Peer::Server if bytes == 0 => journal.fields.1 += 1,
            Peer::Client => journal.moved.0 += bytes,
            Peer::Server => journal.moved.1 += bytes,
        }
    }

    fn received(&mut self) {
        self.owner.journal.lock().unwrap().received += 1;
    }

    fn budget(&mut self, wanted: usize) -> Result<usize, tokio::time::Instant> {
        let portion = self.owner.journal.lock().unwrap().portion;
        let Some(portion) = portion.filter(|_| !self.free) else { return Ok(wanted) };
        let now = tokio::time::Instant::now();
        if let Some(next) = self.next.filter(|next| *next > now) {
            return Err(next);
        }
        self.next = Some(now + TURN);
        Ok(portion.min(wanted))
    }

    fn overdue(&mut self) -> Option<Reply> {
        self.owner.journal.lock().unwrap().overdue.clone()
    }

    fn ended(&mut self, outcome: &Outcome) {
        self.owner.journal.lock().unwrap().ended.push(*outcome);
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        self.owner.journal.lock().unwrap().permits -= 1;
    }
}

/// Session under test, with its client's socket.
pub(crate) struct Lab {
    pub(crate) handle: Handle,
    pub(crate) end: JoinHandle<End>,
    pub(crate) dials: Arc<AtomicUsize>,
}

/// Starts a session between a client's socket and what `dial` gives.
pub(crate) fn session(
    owner: Owner,
    settings: Settings,
    server: Result<DuplexStream, Reply>,
) -> (Lab, DuplexStream) {
    session_over(SOCKET, owner, settings, server)
}

/// Starts a session whose client's socket holds as many bytes.
pub(crate) fn session_over(
    socket: usize,
    owner: Owner,
    settings: Settings,
    server: Result<DuplexStream, Reply>,
) -> (Lab, DuplexStream) {
    let (near, far) = tokio::io::duplex(socket);
    let session = Session::new(owner, settings);
    let handle = session.handle();
    let dials = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&dials);
    let dial = async move {
        count.fetch_add(1, Relaxed);
        server
    };
    let end = tokio::spawn(async move { session.relay(far, Bytes::new(), dial).await });
    (Lab { handle, end, dials }, near)
}

/// Client of the h2 crate; its connection runs in a task.
pub(crate) async fn client(socket: DuplexStream) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    client_with(socket, &h2::client::Builder::new()).await
}

pub(crate) async fn client_with(
    socket: DuplexStream,
    builder: &h2::client::Builder,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let (sender, connection) = within(builder.handshake(socket)).await.expect("a handshake");
    (sender, tokio::spawn(connection))
}

/// Server of the h2 crate, and the number of requests it saw.
pub(crate) fn server<H, F>(handler: H) -> (DuplexStream, Arc<AtomicUsize>)
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    server_with(&h2::server::Builder::new(), handler)
}

pub(crate) fn server_with<H, F>(builder: &h2::server::Builder, handler: H) -> (DuplexStream, Arc<AtomicUsize>)
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    server_over(SOCKET, builder, handler)
}

/// Starts a server whose socket holds as many bytes.
pub(crate) fn server_over<H, F>(
    socket: usize,
    builder: &h2::server::Builder,
    handler: H,
) -> (DuplexStream, Arc<AtomicUsize>)
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (near, far) = tokio::io::duplex(socket);
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let handshake = builder.handshake(far);
    tokio::spawn(async move {
        let Ok(mut connection) = handshake.await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            count.fetch_add(1, Relaxed);
            tokio::spawn(handler(request, respond));
        }
    });
    (near, seen)
}

/// Whole way: a client, a session, a server with this handler.
pub(crate) async fn lab<H, F>(owner: Owner, handler: H) -> (Lab, SendRequest<Bytes>, Arc<AtomicUsize>)
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (upstream, seen) = server(handler);
    let (lab, socket) = session(owner, Settings::default(), Ok(upstream));
    let (sender, _) = client(socket).await;
    (lab, sender, seen)
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://web{path}")).body(()).unwrap()
}

pub(crate) fn post(path: &str) -> Request<()> {
    Request::post(format!("http://web{path}")).body(()).unwrap()
}

/// Sends a body as the windows allow.
pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(32 * 1024));
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(size) => stream.send_data(body.split_to(size?.min(body.len())), false)?,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Reads a body to its end, and gives the credit back.
pub(crate) async fn read_all(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        bytes.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    Ok((bytes, body.trailers().await?))
}

/// Sends a request without a body and reads its response.
pub(crate) async fn fetch(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
) -> Result<(Response<()>, Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut sender = within(sender.clone().ready()).await?;
    let (response, _) = sender.send_request(request, true)?;
    let (head, mut body) = within(response).await?.into_parts();
    let (bytes, trailers) = within(read_all(&mut body)).await?;
    Ok((Response::from_parts(head, ()), bytes, trailers))
}

/// Answers with the request's body and trailers.
pub(crate) async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = request.into_body();
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        if send_all(&mut stream, data).await.is_err() {
            return;
        }
    }
    let _ = match body.trailers().await {
        Ok(Some(trailers)) => stream.send_trailers(trailers),
        _ => stream.send_data(Bytes::new(), true),
    };
}

/// Answers 200 with a short text.
pub(crate) async fn hello(_: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        let _ = stream.send_data(Bytes::from_static(b"hello"), true);
    }
}

/// Never answers.
pub(crate) async fn silent(request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let _both = (request, respond);
    std::future::pending::<()>().await;
}

/// Frame as it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `GET http://web/` in HPACK.
pub(crate) const GET: &[u8] = b"\x82\x86\x84\x01\x03web";
/// `POST http://web/` in HPACK.
pub(crate) const POST: &[u8] = b"\x83\x86\x84\x01\x03web";

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Preface and settings of a client.
pub(crate) fn greeting() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// Reads the client's preface and greets it, as a raw server.
pub(crate) async fn greet(socket: &mut DuplexStream) {
    let mut preface = [0; 24];
    within(socket.read_exact(&mut preface)).await.expect("a preface");
    assert_eq!(preface, PREFACE);
    // The relay's windows hold from the answer to its settings on.
    let settings = [frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, 1, 0, &[])].concat();
    within(socket.write_all(&settings)).await.expect("it is read");
}

/// Reads the next frame, or none at the end.
pub(crate) async fn next(socket: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Frame> {
    let mut header = [0; 9];
    within(socket.read_exact(&mut header)).await.ok()?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let mut payload = vec![0; length as usize];
    within(socket.read_exact(&mut payload)).await.ok()?;
    let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
    Some(Frame { kind: header[3], flags: header[4], stream, payload })
}

/// Reads until a frame of this type.
pub(crate) async fn find(socket: &mut (impl tokio::io::AsyncRead + Unpin), kind: u8) -> Frame {
    loop {
        let frame = next(socket).await.expect("the frame comes");
        if frame.kind == kind {
            return frame;
        }
    }
}

/// Writes bytes while all that comes is read, until the other side is done; returns the frames that came.
pub(crate) async fn attack(socket: DuplexStream, bytes: Vec<u8>) -> Vec<Frame> {
    let (mut reader, mut writer) = tokio::io::split(socket);
    let writing = tokio::spawn(async move {
        // The relay may close before all is written.
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut frames = Vec::new();
    while let Some(frame) = next(&mut reader).await {
        frames.push(frame);
    }
    drop(within(writing).await);
    frames
}

/// Returns code and debug data of the last GOAWAY.
pub(crate) fn goaway(frames: &[Frame]) -> Option<(u32, String)> {
    let frame = frames.iter().rfind(|frame| frame.kind == GOAWAY)?;
    let code = u32::from_be_bytes(frame.payload[4..8].try_into().unwrap());
    Some((code, String::from_utf8_lossy(&frame.payload[8..]).into_owned()))
}
