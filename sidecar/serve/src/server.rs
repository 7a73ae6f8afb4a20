// SPDX-License-Identifier: Apache-2.0
//! Accepting, with bounds on everything that a peer controls.

use crate::network::network_of;
use crate::reply::Reply;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Time for a request's head to arrive, and between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(30);

/// Longest life of a connection; a scraper opens a new one now and then.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Request heads of more bytes are refused. 8 KiB is the least that hyper takes.
const MAX_HEAD: usize = 8 * 1024;

/// Pause after an accept that failed, mostly for want of files. Without one the loop would spin, as the connection that
/// could not be accepted is still there; a probe waits longer than this.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The address of this host that a request came to, among the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress(pub SocketAddr);

/// The address that a request came from, among the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub IpAddr);

/// The pages of one port.
pub trait Pages: Send + Sync + 'static {
    /// Answers a request, of which only the head is read.
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Reply> + Send + use<Self>;
}

/// Serves pages for ever, on at most `most` connections at a time, as [`accept`] bounds them.
pub async fn serve(listener: TcpListener, most: usize, pages: impl Pages) {
    serve_for(listener, most, MAX_AGE, pages).await;
}

/// Serves pages for ever as [`serve`] does, each connection for `age` at most.
pub async fn serve_for(listener: TcpListener, most: usize, age: Duration, pages: impl Pages) {
    let pages = Arc::new(pages);
    accept(listener, most, |stream, peer| {
        let ends = (stream.local_addr().ok().map(LocalAddress), PeerAddress(peer));
        answer_all(stream, ends, age, Arc::clone(&pages))
    })
    .await;
}

/// Accepts connections for ever, at most `most` at a time, each in a task of its own.
///
/// One more closes the oldest connection of the peer that has most: of the network (see [`network_of`]), and in it of the
/// address. A peer that hoards connections, from however many addresses of its own, then neither keeps the kubelet from
/// asking, as it could if the newest were turned away, nor cuts off a probe that is being answered. Nor does it close those
/// of its neighbours: all pods of a node may share a /64.
pub async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    most: usize,
    answer: impl Fn(TcpStream, IpAddr) -> F,
) {
    let mut open: VecDeque<(IpAddr, AbortHandle)> = VecDeque::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        open.retain(|(_, connection)| !connection.is_finished());
        if open.len() >= most
            && let Some((_, oldest)) =
                oldest_of_most(open.iter().map(|(ip, _)| *ip)).and_then(|at| open.remove(at))
        {
            oldest.abort();
        }
        let task = tokio::spawn(answer(stream, peer));
        open.push_back((peer, task.abort_handle()));
    }
}

/// Answers the requests of one connection. Any stream will do: one that begins with a handshake does it inside, so that
/// the handshake counts against the same place and the same time.
async fn answer_all(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    (local, peer): (Option<LocalAddress>, PeerAddress),
    age: Duration,
    pages: Arc<impl Pages>,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(local) = local {
            request.extensions_mut().insert(local);
        }
        request.extensions_mut().insert(peer);
        let reply = pages.answer(&request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // Errors are the peer's: it went away, or does not speak HTTP.
    let _ = tokio::time::timeout(age, connection).await;
}

/// Returns the place of the oldest of the peer that has most, where each stands for one thing that its peer holds, in the order
/// of their age. The peer is a network (see [`network_of`]), and in it an address.
pub fn oldest_of_most(peers: impl Iterator<Item = IpAddr> + Clone) -> Option<usize> {
    let numbered = || peers.clone().enumerate();
    let network = heaviest(numbered(), network_of)?;
    let address = heaviest(numbered().filter(|(_, ip)| network_of(*ip) == network), |ip| ip)?;
    peers.clone().position(|ip| ip == address)
}

/// Returns the group that has most; of several such, the one whose oldest is oldest.
fn heaviest(
    peers: impl Iterator<Item = (usize, IpAddr)>,
    group: impl Fn(IpAddr) -> IpAddr,
) -> Option<IpAddr> {
    let mut groups: HashMap<IpAddr, (usize, usize)> = HashMap::new();
    for (at, ip) in peers {
        groups.entry(group(ip)).or_insert((0, at)).0 += 1;
    }
    let most = groups.into_iter().max_by_key(|(_, (count, oldest))| (*count, Reverse(*oldest)))?;
    Some(most.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Nothing;

    impl Pages for Nothing {
        fn answer(&self, _: &Request<Incoming>) -> impl Future<Output = Reply> + Send + use<> {
            std::future::ready(crate::reply::text(hyper::StatusCode::OK, "nothing"))
        }
    }

    fn listener() -> TcpListener {
        TcpListener::from_std(crate::bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn the_peer_that_has_most_gives_way() {
        let open =
            |last: &[u8]| -> Vec<IpAddr> { last.iter().map(|&last| [10, 0, 0, last].into()).collect() };
        for (peers, gives_way) in
            [(&[][..], None), (&[1, 2, 2, 2], Some(1)), (&[1, 2, 3], Some(0)), (&[3, 1, 2, 1], Some(1))]
        {
            assert_eq!(oldest_of_most(open(peers).into_iter()), gives_way, "{peers:?}");
        }
    }

    #[test]
    fn the_addresses_of_a_64_are_one_peer_whose_quiet_neighbours_stay() {
        let open =
            |peers: &[&str]| -> Vec<IpAddr> { peers.iter().map(|peer| peer.parse().unwrap()).collect() };
        for (peers, gives_way) in [
            (&["10.0.0.1", "fd00::1", "fd00::2", "fd00::3"][..], 1),
            (&["10.0.0.1", "10.0.0.2", "fd00::1", "fd00:0:0:1::1"], 0),
            (&["fd00::1", "fd00::2", "fd00::9", "fd00::9", "10.0.0.1"], 2),
        ] {
            assert_eq!(oldest_of_most(open(peers).into_iter()), Some(gives_way), "{peers:?}");
        }
    }

    /// On a clock that runs ahead whenever all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_is_given_up() {
        let listener = listener();
        let at = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, 64, Nothing));
        for head in ["", "GET / HTTP/1.1\r\nHost: local"] {
            let start = tokio::time::Instant::now();
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(start.elapsed() <= MAX_AGE, "{head:?}: {:?}", start.elapsed());
        }
        serving.abort();
    }

    #[tokio::test]
    async fn one_connection_more_closes_the_oldest_and_is_answered() {
        let listener = listener();
        let at = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, 2, Nothing));
        let mut hoard = Vec::new();
        for _ in 0..2 {
            hoard.push(TcpStream::connect(at).await.unwrap());
        }
        let mut newest = TcpStream::connect(at).await.unwrap();
        newest.write_all(b"GET / HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        newest.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nnothing\n"), "{answer}");
        assert_eq!(hoard[0].read(&mut [0]).await.unwrap_or(0), 0, "the oldest is closed");
        serving.abort();
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_refused() {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let peer = PeerAddress([127, 0, 0, 1].into());
        let answering = tokio::spawn(answer_all(server, (None, peer), MAX_AGE, Arc::new(Nothing)));
        let head = format!("GET / HTTP/1.1\r\nHost: local\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        answering.await.unwrap();
    }
}
