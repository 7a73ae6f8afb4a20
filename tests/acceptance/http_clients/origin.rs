//! Servers for the clients: HTTP/1 with and without `keep-alive`, HTTP/2, and gRPC's health service.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use culvert_tests::server::Behaviour;
use h2::server::SendResponse;
use h2::{RecvStream, server};
use http::{HeaderMap, Request, Response, header};
use hyper::body::Bytes;

use crate::http_ports::Heard;

/// A request, as far as a server cares.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub first: String,
    pub body: Vec<u8>,
    pub expects: bool,
    length: usize,
    keeps: bool,
    closes: bool,
}

impl Asked {
    /// Reads a head; `None` at the end of the connection.
    pub(crate) fn head(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut asked = Self::default();
        if from.read_line(&mut asked.first)? == 0 {
            return Ok(None);
        }
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                _ if line.is_empty() => return Ok(Some(asked)),
                Some(("content-length", value)) => asked.length = value.parse().map_err(io::Error::other)?,
                Some(("expect", "100-continue")) => asked.expects = true,
                Some(("connection", "keep-alive")) => asked.keeps = true,
                Some(("connection", "close")) => asked.closes = true,
                _ => {}
            }
        }
    }

    pub(crate) fn read_body(&mut self, from: &mut impl Read) -> io::Result<()> {
        self.body = vec![0; self.length];
        from.read_exact(&mut self.body)
    }

    /// Returns true if the connection goes on behind the answer.
    pub(crate) fn goes_on(&self) -> bool {
        if self.first.ends_with("HTTP/1.0\r\n") { self.keeps } else { !self.closes }
    }

    /// The answer of a server that keeps a connection as long as it may: `words`, and the length of the body that came.
    pub(crate) fn answer(&self, words: &str) -> String {
        let body = format!("{words} {}", self.body.len());
        let connection = if self.goes_on() { "keep-alive" } else { "close" };
        format!("HTTP/1.1 200 OK\r\nConnection: {connection}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }
}

/// Answers each request with `ok` and the length of its body.
pub(crate) fn http_1() -> impl Behaviour {
    |stream: TcpStream| {
        stream.set_nodelay(true)?;
        let mut answers = stream.try_clone()?;
        let mut requests = BufReader::new(stream);
        while let Some(mut asked) = Asked::head(&mut requests)? {
            asked.read_body(&mut requests)?;
            answers.write_all(asked.answer("ok").as_bytes())?;
            if !asked.goes_on() {
                break;
            }
        }
        Ok(())
    }
}

/// HTTP/2 by prior knowledge: a page, a [large](LARGE) one, and gRPC's health service, which serves.
pub(crate) fn http_2() -> impl Behaviour {
    http_2_heard(&Heard::default())
}

/// The same, and notes the fields of all requests, a line each.
pub(crate) fn http_2_heard(heard: &Heard) -> impl Behaviour + use<> {
    let heard = Arc::clone(heard);
    move |stream: TcpStream| {
        let heard = Arc::clone(&heard);
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let mut connection = server::handshake(stream).await.map_err(io::Error::other)?;
            while let Some(asked) = connection.accept().await {
                let (request, respond) = asked.map_err(io::Error::other)?;
                for (name, value) in request.headers() {
                    let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat();
                    heard.lock().expect("no panic").extend(line);
                }
                tokio::spawn(async move { drop(serve_stream(request, respond).await) });
            }
            Ok(())
        })
    }
}

/// A path whose answer is larger than others.
pub(crate) const LARGE: &str = "/large";
pub(crate) const LARGE_BYTES: usize = 100 * 1024;

async fn serve_stream(
    mut request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut length = 0;
    while let Some(data) = request.body_mut().data().await {
        let data = data?;
        length += data.len();
        request.body_mut().flow_control().release_capacity(data.len())?;
    }
    let is_grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/grpc");
    if !is_grpc {
        let mut body = respond.send_response(Response::new(()), false)?;
        let large = request.uri().path() == LARGE;
        let text = if large { "x".repeat(LARGE_BYTES) } else { format!("ok {length}") };
        return body.send_data(text.into(), true);
    }
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_TYPE, "application/grpc".parse().expect("a value"));
    let mut body = respond.send_response(response, false)?;
    // A HealthCheckResponse of SERVING, and the status as trailer.
    body.send_data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    body.send_trailers(trailers)
}
