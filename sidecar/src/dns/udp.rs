// SPDX-License-Identifier: Apache-2.0
//! Queries by datagrams: one loop on each worker, all on the same socket, so that an idle worker takes the next query.

use crate::dns::metrics::Answered;
use crate::dns::watch::Serving;
use crate::dns::{Dns, Fate, Transport};
use crate::net::backoff::Backoff;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;

/// Longest query. One of a resolver has at most a name of 255 bytes and some options.
pub(super) const MOST_QUERY: usize = 4096;

/// Waits after an error of the socket, which unconnected ones do not have but for a lack of memory.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Answers the queries of a socket for ever.
pub(crate) async fn serve(dns: Arc<Dns>, socket: UdpSocket, mut serving: Serving) {
    let socket = Arc::new(socket);
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut buffer = vec![0; MOST_QUERY + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, client)) => {
                backoff.reset();
                serving.works();
                if length > MOST_QUERY {
                    // Cut by the kernel, perhaps.
                    dns.metrics.queries[Answered::Dropped].inc();
                    continue;
                }
                match dns.decide(&buffer[..length], Transport::Udp, client) {
                    Fate::Silence => {}
                    Fate::Reply(reply) => send(&socket, &reply, client).await,
                    Fate::Relay(place) => {
                        let (dns, socket) = (Arc::clone(&dns), Arc::clone(&socket));
                        let query = buffer[..length].to_vec();
                        tokio::spawn(async move {
                            let reply = dns.relay(&query, Transport::Udp, client).await;
                            drop(place);
                            send(&socket, &reply, client).await;
                        });
                        // The query goes out, and answers come in, before the next one is taken: that one stays with the kernel
                        // for the worker that is free first.
                        tokio::task::yield_now().await;
                    }
                }
            }
            Err(error) => {
                serving.fails(&error);
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

/// Sends a reply. One that cannot be sent is as one that is lost: the client asks again.
async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    let sent: io::Result<usize> = socket.send_to(reply, client).await;
    if let Err(error) = sent {
        tracing::debug!(%client, %error, "cannot send a DNS answer");
    }
}
