// SPDX-License-Identifier: Apache-2.0
//! Waits for a client's first bytes and finds out the protocol. The bytes are peeked at and stay in the socket, so a plain
//! stream is relayed (and spliced) as any other.
//!
//! The name that a client asks for is found in the same way ([`asked`]), without a server.
//!
//! A peek costs one more system call per connection, some 1 µs. To read and replay the bytes would cost a copy and a buffer
//! in each relay, and bulk streams could not be spliced.

use super::asked::{self, Asked, Nameless};
use super::error::TlsError;
use super::handshake::DEADLINE;
use super::sniff::{self, First, Hello, MOST, Sni, sniff};
use crate::plan::outside::Asks;
use crate::relay::with_scratch;
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Time for which a server's first bytes are held for a client that no document names. A member sends its ClientHello at
/// once, with the last packet of its connect. Documented are 100 ms; timers tick by the millisecond and fire a little late.
const SERVER_FIRST_DELAY: Duration = Duration::from_millis(95);

/// Time for a client to say the name that it asks for. Envoy waits 15 s; but a client that says none is refused at the end, and
/// a person should see that soon.
const NAME_DEADLINE: Duration = Duration::from_secs(1);

/// Expectation of a client under PERMISSIVE, from the address that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expects {
    /// A member: its ClientHello may come as late as a handshake may take. In a burst of 800 connects it is a second late on
    /// a busy node, and each lost packet costs a fifth of a second at least.
    Member,
    /// Any client, most of them plain: those wait for a server that speaks first.
    Anyone,
}

impl Expects {
    /// Returns the time for which a server's first bytes are held.
    fn patience(self) -> Duration {
        match self {
            Self::Member => DEADLINE,
            Self::Anyone => SERVER_FIRST_DELAY,
        }
    }
}

/// Waits for a mesh member's ClientHello, for mTLS STRICT.
///
/// # Errors
/// If other bytes came, or none within [`DEADLINE`].
pub(crate) async fn strict(client: &TcpStream) -> Result<(), TlsError> {
    match find(client, Some(Instant::now() + DEADLINE), &AtomicBool::default()).await? {
        Some(First::MeshTls) => Ok(()),
        Some(First::OwnTls) => Err(TlsError::OwnTls),
        Some(First::Plain | First::NeedMore) => Err(TlsError::Plaintext),
        None => Err(TlsError::Gone),
    }
}

/// Waits until the client's protocol is known, for mTLS PERMISSIVE: by its first bytes, or because the server speaks first
/// while the client sends nothing for as long as it `expects` allows, counted from accept. Without a server the caller bounds
/// the wait.
///
/// # Errors
/// If the client began a ClientHello and did not end it within [`DEADLINE`], or if the connection failed.
pub(crate) async fn permissive(
    client: &TcpStream,
    server: Option<&TcpStream>,
    accepted: Instant,
    expects: Expects,
) -> Result<First, TlsError> {
    let spoke = AtomicBool::default();
    let server_first = async {
        tokio::time::sleep_until(accepted + expects.patience()).await;
        // The server's FIN and its reset count as first bytes, too.
        let is_first = match server {
            Some(server) => server.readable().await.is_ok() && !spoke.load(Relaxed),
            None => false,
        };
        if !is_first {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        found = find(client, None, &spoke) => return Ok(found?.unwrap_or(First::Plain)),
        () = server_first => {}
    }
    after_the_wait(client, &spoke).await
}

/// Asks the socket once more, past the runtime. One call of the runtime to the kernel brings 1,024 events at most, and then
/// timers fire: in a larger burst a client whose ClientHello has long been there would be taken for a silent one.
async fn after_the_wait(client: &TcpStream, spoke: &AtomicBool) -> Result<First, TlsError> {
    match peek(client) {
        Ok((1.., _)) => {
            let found = find(client, Some(Instant::now() + DEADLINE), spoke).await?;
            Ok(found.unwrap_or(First::Plain))
        }
        // A failed socket too: the relay finds that out, and says so.
        _ => Ok(First::Plain),
    }
}

/// Waits until the client's first bytes show the protocol; `None` if FIN comes before. Sets `spoke` at the first byte; from
/// then on there is a deadline in any case.
async fn find(
    client: &TcpStream,
    mut deadline: Option<Instant>,
    spoke: &AtomicBool,
) -> Result<Option<First>, TlsError> {
    loop {
        let ready = client.ready(Interest::READABLE);
        let ready = match deadline {
            Some(deadline) => {
                tokio::time::timeout_at(deadline, ready).await.map_err(|_| TlsError::Silent(DEADLINE))?
            }
            None => ready.await,
        };
        let ended = ready.map_err(TlsError::Lost)?.is_read_closed();
        // "Would block" makes the runtime wait for more than there is now.
        let found = client.try_io(Interest::READABLE, || match peek(client)? {
            (0, _) => Ok(None),
            (_, First::NeedMore) if ended => Ok(None),
            (_, First::NeedMore) => {
                spoke.store(true, Relaxed);
                Err(io::ErrorKind::WouldBlock.into())
            }
            (_, first) => Ok(Some(first)),
        });
        match found {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if spoke.load(Relaxed) {
                    deadline.get_or_insert_with(|| Instant::now() + DEADLINE);
                }
            }
            found => return found.map_err(TlsError::Lost),
        }
    }
}

/// Longest server name that is kept: a host's has at most 253 bytes, and Kuma's between zones at most 255.
const LONGEST_NAME: usize = 255;

/// Returns the server name of the ClientHello that waits in the socket, as the client wrote it.
pub(crate) fn server_name(client: &TcpStream) -> Option<Box<str>> {
    let name = |hello: &[u8]| match sniff::server_name(hello) {
        Sni::Name(name) if name.len() <= LONGEST_NAME => std::str::from_utf8(name).ok().map(Box::from),
        Sni::Name(_) | Sni::Absent | Sni::Unreadable => None,
    };
    let (_, hello) = peek_and(client, MOST, |bytes| sniff::hello(bytes, name)).ok()?;
    match hello {
        Hello::Whole(name) => name,
        Hello::Unreadable | Hello::NotTls | Hello::NeedMore => None,
    }
}

fn peek(client: &TcpStream) -> io::Result<(usize, First)> {
    peek_and(client, MOST, sniff)
}

/// Asks about the client's first bytes that are there, and returns their number, too.
fn peek_and<T>(client: &TcpStream, most: usize, ask: impl FnOnce(&[u8]) -> T) -> io::Result<(usize, T)> {
    with_scratch(|scratch| {
        let there = recv(client.as_raw_fd(), &mut scratch[..most], MsgFlags::MSG_PEEK)?;
        Ok((there, ask(&scratch[..there])))
    })
}

/// Waits until the client's first bytes show the name that it asks for, [`NAME_DEADLINE`] at most.
///
/// # Errors
/// If the connection failed.
pub(crate) async fn asked(client: &TcpStream, asks: Asks) -> io::Result<Asked> {
    let peek = || peek_and(client, asked::MOST, |bytes| asked::read(bytes, asks));
    let looking = async {
        loop {
            let ended = client.ready(Interest::READABLE).await?.is_read_closed();
            // "Would block" makes the runtime wait for more than there is now.
            let found = client.try_io(Interest::READABLE, || match peek()? {
                (there, Asked::NeedMore) if ended || there == 0 => Ok(Asked::Nothing(Nameless::Gone)),
                (_, Asked::NeedMore) => Err(io::ErrorKind::WouldBlock.into()),
                (_, asked) => Ok(asked),
            });
            match found {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                found => return found,
            }
        }
    };
    if let Ok(found) = tokio::time::timeout(NAME_DEADLINE, looking).await {
        return found;
    }
    // Once more, past the runtime, as in `after_the_wait`.
    match peek() {
        Ok((1.., asked)) if asked != Asked::NeedMore => Ok(asked),
        _ => Ok(Asked::Nothing(Nameless::Silent)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Both ends of a connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let near = near.unwrap();
        near.set_nodelay(true).unwrap();
        (near, far.unwrap().0)
    }

    /// A record that begins a ClientHello of 200 bytes.
    const BEGUN: [u8; 9] = [22, 3, 1, 0, 204, 1, 0, 0, 200];

    #[tokio::test]
    async fn peeked_bytes_stay_in_the_socket() {
        let (mut client, mut accepted) = pair().await;
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert!(matches!(strict(&accepted).await, Err(TlsError::Plaintext)));
        let mut read = [0; 64];
        let n = accepted.read(&mut read).await.unwrap();
        assert_eq!(&read[..n], b"GET / HTTP/1.1\r\n");
    }

    #[tokio::test]
    async fn a_hello_may_come_in_pieces() {
        let (mut client, accepted) = pair().await;
        let hello = [&BEGUN[..], &[3; 200]].concat();
        let saying = async {
            for byte in &hello {
                client.write_all(std::slice::from_ref(byte)).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (first, ()) = tokio::join!(strict(&accepted), saying);
        assert!(matches!(first, Err(TlsError::OwnTls)), "{first:?}");
    }

    #[tokio::test]
    async fn a_client_that_closes_before_its_hello_is_gone() {
        for said in [&b""[..], &BEGUN] {
            let (mut client, accepted) = pair().await;
            client.write_all(said).await.unwrap();
            client.shutdown().await.unwrap();
            assert!(matches!(strict(&accepted).await, Err(TlsError::Gone)));
        }
    }

    #[tokio::test]
    async fn a_client_that_resets_before_its_hello_is_a_reset() {
        let (client, accepted) = pair().await;
        let (_server, dialled) = pair().await;
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let first = permissive(&accepted, Some(&dialled), Instant::now(), Expects::Anyone).await;
        assert_eq!(first.unwrap_err().reason(), crate::observe::close_reason::CloseReason::ClientReset);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hello_that_never_ends_runs_into_the_deadline() {
        let (mut client, accepted) = pair().await;
        let (_server, dialled) = pair().await;
        assert!(matches!(strict(&accepted).await, Err(TlsError::Silent(_))));
        client.write_all(&BEGUN).await.unwrap();
        accepted.readable().await.unwrap();
        let first = permissive(&accepted, Some(&dialled), Instant::now(), Expects::Anyone).await;
        assert!(matches!(first, Err(TlsError::Silent(_))), "{first:?}");
    }

    #[tokio::test]
    async fn a_server_that_speaks_first_is_held_for_a_moment_only() {
        let (_client, accepted) = pair().await;
        let (mut server, dialled) = pair().await;
        let start = Instant::now();
        server.write_all(b"220 hello").await.unwrap();
        assert_eq!(
            permissive(&accepted, Some(&dialled), start, Expects::Anyone).await.unwrap(),
            First::Plain
        );
        assert!(start.elapsed() >= SERVER_FIRST_DELAY);
        // A connection that has waited for long already waits no longer.
        let begun = Instant::now();
        let long_ago = begun - Duration::from_secs(5);
        assert_eq!(
            permissive(&accepted, Some(&dialled), long_ago, Expects::Anyone).await.unwrap(),
            First::Plain
        );
        assert!(begun.elapsed() < SERVER_FIRST_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_has_as_long_as_a_handshake_and_a_plain_byte_ends_the_wait() {
        let (_client, accepted) = pair().await;
        let (mut server, dialled) = pair().await;
        server.write_all(b"220 hello").await.unwrap();
        dialled.readable().await.unwrap();
        let start = Instant::now();
        let first = permissive(&accepted, Some(&dialled), start, Expects::Member).await;
        assert_eq!(first.unwrap(), First::Plain, "silent");
        assert!(start.elapsed() >= DEADLINE);
        for (said, expected) in
            [(&b"EHLO"[..], First::Plain), (&[&BEGUN[..], &[3; 200]].concat(), First::OwnTls)]
        {
            let (mut client, accepted) = pair().await;
            let start = Instant::now();
            let saying = async {
                tokio::time::sleep(DEADLINE / 2).await;
                client.write_all(said).await.unwrap();
            };
            let (first, ()) =
                tokio::join!(permissive(&accepted, Some(&dialled), start, Expects::Member), saying);
            assert_eq!(first.unwrap(), expected);
            assert!(start.elapsed() < DEADLINE);
        }
    }

    const BOTH: Asks = Asks { tls: true, http: true };
    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

    fn is_a_test(asked: &Asked) -> bool {
        matches!(asked, Asked::Name { name, .. } if name == "a.test")
    }

    #[tokio::test]
    async fn a_name_may_come_in_pieces_and_stays_in_the_socket() {
        let (mut client, mut accepted) = pair().await;
        let saying = async {
            for byte in HEAD {
                client.write_all(std::slice::from_ref(byte)).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (found, ()) = tokio::join!(asked(&accepted, BOTH), saying);
        assert!(is_a_test(found.as_ref().unwrap()), "{found:?}");
        let mut read = [0; 64];
        accepted.read_exact(&mut read[..HEAD.len()]).await.unwrap();
        assert_eq!(&read[..HEAD.len()], HEAD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_say_a_name_is_silent_after_a_second() {
        for said in [&b""[..], b"GET / HTTP/1.1\r\n", &BEGUN] {
            let (mut client, accepted) = pair().await;
            client.write_all(said).await.unwrap();
            let start = Instant::now();
            assert_eq!(asked(&accepted, BOTH).await.unwrap(), Asked::Nothing(Nameless::Silent), "{said:?}");
            let waited = start.elapsed();
            assert!(waited >= NAME_DEADLINE && waited < 2 * NAME_DEADLINE, "{waited:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_is_gone_or_speaks_otherwise_is_told_at_once() {
        for (said, why) in [
            (&b""[..], Nameless::Gone),
            (b"GET / HTTP/1.1\r\nHost: a", Nameless::Gone),
            (b"\0\0", Nameless::NoRequest),
        ] {
            let (mut client, accepted) = pair().await;
            client.write_all(said).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(asked(&accepted, BOTH).await.unwrap(), Asked::Nothing(why), "{said:?}");
        }
        // The end of the stream behind the name is the server's business.
        let (mut client, accepted) = pair().await;
        client.write_all(HEAD).await.unwrap();
        client.shutdown().await.unwrap();
        assert!(is_a_test(&asked(&accepted, BOTH).await.unwrap()));
        let (client, accepted) = pair().await;
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(asked(&accepted, BOTH).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_client_that_spoke_unnoticed_is_not_silent() {
        let (mut client, accepted) = pair().await;
        assert_eq!(after_the_wait(&accepted, &AtomicBool::default()).await.unwrap(), First::Plain);
        client.write_all(&[&BEGUN[..], &[3; 200]].concat()).await.unwrap();
        assert_eq!(after_the_wait(&accepted, &AtomicBool::default()).await.unwrap(), First::OwnTls);
    }

    #[tokio::test]
    async fn a_hello_that_began_is_awaited_although_the_server_spoke() {
        let (mut client, accepted) = pair().await;
        let (mut server, dialled) = pair().await;
        server.write_all(b"220 hello").await.unwrap();
        client.write_all(&BEGUN).await.unwrap();
        let long_ago = Instant::now() - Duration::from_secs(5);
        let saying = async {
            tokio::time::sleep(SERVER_FIRST_DELAY).await;
            client.write_all(&[3; 200]).await.unwrap();
        };
        let (first, ()) =
            tokio::join!(permissive(&accepted, Some(&dialled), long_ago, Expects::Anyone), saying);
        assert_eq!(first.unwrap(), First::OwnTls);
    }
}
