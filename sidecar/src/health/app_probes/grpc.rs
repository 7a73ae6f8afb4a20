// SPDX-License-Identifier: Apache-2.0
//! One call of gRPC's health service, `grpc.health.v1.Health/Check`, by HTTP/2 with prior knowledge.
//!
//! `h2` itself rather than hyper's client over it: the connection is one future that ends with the probe, and the error
//! says if the application refused the call. Only the body is read: a server that knows the service answers with a
//! message, one that does not has none.

use super::ProbeReply;
use h2::client::{self, SendRequest};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use tokio::net::TcpStream;

/// Longest answer that is read. A `HealthCheckResponse` has one number: 7 bytes.
const LONGEST_ANSWER: usize = 256;
/// Longest list of header lines that is accepted. h2's own bound, and grpc-go's, is 16 MiB.
const LONGEST_HEADERS: u32 = 64 * 1024;

/// A call that came to no answer.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error("the answer is longer than {LONGEST_ANSWER} bytes")]
    TooLong,
}

impl CallError {
    /// Returns true if the application spoke HTTP/2 and refused this call, by RST_STREAM or by GOAWAY.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Http2(error) if error.is_remote() && (error.is_reset() || error.is_go_away()))
    }
}

/// `SERVING` of `HealthCheckResponse.ServingStatus`.
const SERVING: u8 = 1;

pub(super) async fn check(tcp: TcpStream, service: &str) -> ProbeReply {
    match call(tcp, service).await {
        Ok(Some(SERVING)) => ProbeReply::new(200, "the application is serving"),
        Ok(Some(status)) => {
            ProbeReply::unavailable(format!("the application's gRPC health is {}", status_name(status)))
        }
        Ok(None) => refused(),
        Err(error) if error.is_refusal() => refused(),
        Err(error) => {
            ProbeReply::unavailable(format!("the application does not speak gRPC as it should: {error}"))
        }
    }
}

fn refused() -> ProbeReply {
    ProbeReply::unavailable("the application refuses the gRPC health check: does it have that service?")
}

fn status_name(status: u8) -> String {
    match status {
        0 => "UNKNOWN".into(),
        2 => "NOT_SERVING".into(),
        3 => "SERVICE_UNKNOWN".into(),
        other => other.to_string(),
    }
}

/// Makes the call, and returns the status of the answer; `None` if the answer has none.
async fn call(tcp: TcpStream, service: &str) -> Result<Option<u8>, CallError> {
    let (requests, connection) = client::Builder::new()
        .enable_push(false)
        .max_header_list_size(LONGEST_HEADERS)
        .handshake(tcp)
        .await?;
    let exchange = exchange(requests, message(service));
    tokio::pin!(exchange, connection);
    tokio::select! {
        // The answer first: a server may close the connection behind it, and both are then ready at once.
        biased;
        status = &mut exchange => status,
        // The connection ended. It has handed its error, or its end, to the exchange as well.
        _ = &mut connection => exchange.await,
    }
}

async fn exchange(requests: SendRequest<Bytes>, message: Bytes) -> Result<Option<u8>, CallError> {
    let mut requests = requests.ready().await?;
    let (answer, mut body) = requests.send_request(head(), false)?;
    body.send_data(message, true)?;
    let mut body = answer.await?.into_body();
    let mut came = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        // A server's window may be one byte: what was read makes room for more.
        body.flow_control().release_capacity(data.len())?;
        came.extend_from_slice(&data);
        if came.len() > LONGEST_ANSWER {
            return Err(CallError::TooLong);
        }
    }
    Ok(status(&came))
}

fn head() -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = hyper::Method::POST;
    *head.uri_mut() = Uri::from_static("http://localhost/grpc.health.v1.Health/Check");
    let lines =
        [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "kube-probe/culvert")];
    for (name, value) in lines {
        head.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
    }
    head
}

/// Writes `HealthCheckRequest { string service = 1; }` behind gRPC's head: not compressed, and its length.
fn message(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        // Seven bits a byte, the lowest first. A service has at most 253 bytes.
        let mut length = service.len();
        while length > 0x7f {
            message.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    [&[0][..], &length, &message].concat().into()
}

/// Reads `HealthCheckResponse { ServingStatus status = 1; }`, not compressed.
fn status(answer: &[u8]) -> Option<u8> {
    let (&[0, a, b, c, d], message) = answer.split_first_chunk::<5>()? else { return None };
    if message.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        return None;
    }
    match message {
        // Protobuf leaves out a field with its default.
        [] => Some(0),
        [0x08, value @ 0..=0x7f] => Some(*value),
        _ => None,
    }
}
