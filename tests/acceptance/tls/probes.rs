//! The kubelet's gRPC probes against an HTTP/2 server of others.

use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{SERVER, World};
use crate::support::APP;

/// HTTP/2's preface, as h2 sends it.
type Bytes = io::Cursor<&'static [u8]>;

/// The application's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// `ServingStatus`, by service: the empty one serves, `sick` does not, any other is unknown.
    ByService,
    /// As many settings as there are, with values that no one uses by default.
    OddSettings,
    /// One byte to a write, and the message in two frames.
    InPieces,
    /// Header lines that fill several frames: HEADERS and CONTINUATION.
    LongHeaders,
    /// It goes away, and answers what it has begun to serve.
    GoesAway,
    /// It goes away at once.
    IsGone,
    /// It refuses the stream.
    Resets,
    /// Never.
    Never,
}

/// A connection that takes so many bytes at a time.
struct Slow(tokio::net::TcpStream, usize);

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let most = buf.len().min(self.1);
        Pin::new(&mut self.0).poll_write(cx, &buf[..most])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Serves the health service until the process ends.
fn serve(listener: TcpListener, how: How) -> Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (tcp, _) = listener.accept().await?;
                tcp.set_nodelay(true)?;
                // A client that has gone is no error of the server's.
                tokio::spawn(async move { drop(connection(tcp, how).await) });
            }
            #[expect(unreachable_code, reason = "names the error's type")]
            io::Result::Ok(())
        })
    });
    Ok(())
}

async fn connection(tcp: tokio::net::TcpStream, how: How) -> Result<(), h2::Error> {
    let mut builder = Builder::new();
    if how == How::OddSettings {
        builder
            .initial_window_size(1)
            .initial_connection_window_size(70_000)
            .max_frame_size(0x00ff_ffff)
            .max_header_list_size(1 << 30)
            .max_concurrent_streams(1)
            .enable_connect_protocol();
    }
    let most = if how == How::InPieces { 1 } else { usize::MAX };
    let mut connection = builder.handshake::<_, Bytes>(Slow(tcp, most)).await?;
    if how == How::IsGone {
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    }
    while let Some(asked) = connection.accept().await {
        let (request, respond) = asked?;
        if how == How::GoesAway {
            connection.graceful_shutdown();
        }
        tokio::spawn(async move { drop(answer(request, respond, how).await) });
    }
    Ok(())
}

async fn answer(
    mut request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    how: How,
) -> Result<(), h2::Error> {
    let mut asked = Vec::new();
    while let Some(data) = request.body_mut().data().await {
        let data = data?;
        asked.extend_from_slice(&data);
        request.body_mut().flow_control().release_capacity(data.len())?;
    }
    let as_grpc = request.uri().path() == "/grpc.health.v1.Health/Check"
        && request.headers().get("content-type").is_some_and(|kind| kind == "application/grpc")
        && request.headers().get("te").is_some_and(|te| te == "trailers");
    let service = asked.get(7..).unwrap_or_default();
    let status: &[u8] = match (how, as_grpc, service) {
        (How::Never, ..) => return std::future::pending().await,
        (How::Resets, ..) => {
            respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        (_, true, b"") => &[0, 0, 0, 0, 2, 8, 1],
        (_, true, b"sick") => &[0, 0, 0, 0, 2, 8, 2],
        _ => {
            // Trailers only: 5 is NOT_FOUND.
            let refused =
                Response::builder().header("content-type", "application/grpc").header("grpc-status", "5");
            respond.send_response(refused.body(()).expect("a fixed head"), true)?;
            return Ok(());
        }
    };
    let mut head = Response::builder().header("content-type", "application/grpc");
    if how == How::LongHeaders {
        head = (0..10).fold(head, |head, n| head.header(format!("x-{n}"), "~".repeat(4000)));
    }
    let mut body = respond.send_response(head.body(()).expect("a fixed head"), false)?;
    if how == How::GoesAway {
        // The client has both of the server's GOAWAYs by then: it is asked for a PING between them.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (first, rest) = status.split_at(3);
    body.send_data(io::Cursor::new(first), false)?;
    body.send_data(io::Cursor::new(rest), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a fixed value"));
    body.send_trailers(trailers)
}

#[test]
fn grpc_probes_are_understood_by_servers_of_others() -> Result<()> {
    let cases = [
        (How::ByService, "", 200, "is serving"),
        (How::ByService, "sick", 503, "NOT_SERVING"),
        (How::ByService, "nobody", 503, "does it have that service?"),
        (How::OddSettings, "", 200, "is serving"),
        (How::InPieces, "", 200, "is serving"),
        (How::InPieces, "sick", 503, "NOT_SERVING"),
        (How::LongHeaders, "", 200, "is serving"),
        (How::GoesAway, "", 200, "is serving"),
        (How::IsGone, "", 503, "gRPC"),
        (How::Resets, "", 503, "does it have that service?"),
        (How::Never, "", 503, "did not answer within 1 s"),
    ];
    let world = World::new("STRICT", "")?;
    let (app, mut probes) = (world.lab.pod.as_uid(APP), serde_json::Map::new());
    for (n, (how, service, ..)) in cases.into_iter().enumerate() {
        let port = 9100 + u16::try_from(n)?;
        serve(app.listen(("0.0.0.0", port))?, how)?;
        let seconds = if how == How::Never { 1 } else { 20 };
        let grpc = json!({"grpc": {"port": port, "service": service}, "timeoutSeconds": seconds});
        probes.insert(format!("/app-health/{n}/livez"), grpc);
    }
    let _sidecar = world.server_sidecar(&["--app-probes", &Value::from(probes).to_string()])?;
    for (n, (how, service, status, words)) in cases.into_iter().enumerate() {
        let kubelet = world.lab.peer.connect((SERVER, 15020))?;
        let reply = culvert_tests::http::get(kubelet, &format!("/app-health/{n}/livez"))?;
        let as_expected = reply.status == status && reply.body.contains(words);
        ensure!(as_expected, "{how:?}, service {service:?}: {} {}", reply.status, reply.body);
    }
    Ok(())
}
