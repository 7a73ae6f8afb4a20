// SPDX-License-Identifier: Apache-2.0
//! Queries by TCP. A client may send many without waiting (pipelining); each is answered as soon as it can be.

use crate::dns::udp::MOST_QUERY;
use crate::dns::{Dns, Fate, Transport, frame};
use crate::net::limit::Permit;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// Queries of one connection in flight. The next one is read when one of them is answered.
const PIPELINE: usize = 64;

/// Time for the next query to come whole, and for a client to take an answer. RFC 7766 asks for seconds; unbound waits 30 s.
const IDLE: Duration = Duration::from_secs(30);

/// Serves a connection until the client ends it, is silent, or takes no more answers.
pub(crate) async fn serve(dns: Arc<Dns>, stream: TcpStream, client: SocketAddr, permit: Permit) {
    let (queries, answers) = stream.into_split();
    let (replies, ready) = mpsc::channel(PIPELINE);
    let reading = read(&dns, queries, client, replies);
    let writing = write(answers, ready);
    tokio::pin!(reading, writing);
    tokio::select! {
        () = &mut writing => {}
        // What was asked before the end is still answered.
        () = &mut reading => writing.await,
    }
    drop(permit);
}

/// Reads queries. The channel ends with the last of their answers.
async fn read(
    dns: &Arc<Dns>,
    mut queries: OwnedReadHalf,
    client: SocketAddr,
    replies: mpsc::Sender<Vec<u8>>,
) {
    let pipeline = Arc::new(Semaphore::new(PIPELINE));
    loop {
        // Nothing closes the semaphore.
        let Ok(turn) = Arc::clone(&pipeline).acquire_owned().await else { return };
        let Ok(Ok(Some(query))) = timeout(IDLE, frame::read(&mut queries)).await else { return };
        // As over UDP: no question is longer, and each that waits is kept several times.
        if query.len() > MOST_QUERY {
            return;
        }
        match dns.decide(&query, Transport::Tcp, client) {
            // This client does not speak DNS.
            Fate::Silence => return,
            Fate::Reply(reply) => {
                if replies.send(reply).await.is_err() {
                    return;
                }
            }
            Fate::Relay(place) => {
                let (dns, replies) = (Arc::clone(dns), replies.clone());
                tokio::spawn(async move {
                    let reply = dns.relay(&query, Transport::Tcp, client).await;
                    // Without a reader the client is gone.
                    let _ = replies.send(reply).await;
                    // Not before: an answer that is not taken is memory too.
                    drop((place, turn));
                });
            }
        }
    }
}

async fn write(mut answers: OwnedWriteHalf, mut ready: mpsc::Receiver<Vec<u8>>) {
    while let Some(reply) = ready.recv().await {
        let Ok(Ok(())) = timeout(IDLE, frame::write(&mut answers, &reply)).await else { return };
    }
}
