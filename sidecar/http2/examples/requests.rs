// SPDX-License-Identifier: Apache-2.0
//! Requests a second through a session, and without one, in one process.
//!
//! `cargo run -p culvert-http2 --example requests [seconds]`. Client, relay and server share one thread, so the figures compare
//! builds of the relay with each other and say little about a machine.

use bytes::Bytes;
use culvert_http2::{Decision, Edits, Exchange, Reply, Rules, Session, Settings};
use http::{Request, Response, request};
use std::time::{Duration, Instant};
use tokio::io::DuplexStream;

const STREAMS: usize = 100;
const SOCKET: usize = 256 * 1024;

struct Open;

impl Rules for Open {
    type Exchange = Open;

    fn begin(&self, _: &request::Parts) -> Open {
        Open
    }
}

impl Exchange for Open {
    fn decide(&mut self, _: &request::Parts) -> Decision {
        Decision::Pass(Edits::default())
    }
}

fn server() -> DuplexStream {
    let (near, far) = tokio::io::duplex(SOCKET);
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(far).await.expect("a handshake");
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            // A client that leaves at the end of the time is no error.
            if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                let _ = stream.send_data(Bytes::from_static(b"hello"), true);
            }
        }
    });
    near
}

async fn requests(socket: DuplexStream, time: Duration) -> f64 {
    let (sender, connection) = h2::client::handshake(socket).await.expect("a handshake");
    tokio::spawn(connection);
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let sender = sender.clone();
        tasks.spawn(async move {
            let mut done = 0_u32;
            while began.elapsed() < time {
                let mut sender = sender.clone().ready().await.expect("the connection stands");
                let request = Request::get("http://web/").body(()).expect("a request");
                let (response, _) = sender.send_request(request, true).expect("the connection stands");
                let mut body = response.await.expect("a response").into_body();
                while let Some(data) = body.data().await {
                    body.flow_control().release_capacity(data.expect("data").len()).expect("it was received");
                }
                done += 1;
            }
            done
        });
    }
    let mut sum = 0;
    while let Some(done) = tasks.join_next().await {
        sum += done.expect("no panic");
    }
    f64::from(sum) / began.elapsed().as_secs_f64()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let time = Duration::from_secs_f64(seconds);
    let direct = requests(server(), time).await;
    let (near, far) = tokio::io::duplex(SOCKET);
    let upstream = server();
    tokio::spawn(
        Session::new(Open, Settings::default()).relay(far, Bytes::new(), async { Ok::<_, Reply>(upstream) }),
    );
    let relayed = requests(near, time).await;
    println!("{STREAMS} streams: {direct:.0} requests/s direct, {relayed:.0} through a session");
}
