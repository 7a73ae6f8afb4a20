// SPDX-License-Identifier: Apache-2.0
//! Sides that die: what they said before is passed on, and its end is no FIN.

use super::*;

#[tokio::test]
async fn bytes_before_a_failure_are_passed_on_and_their_end_is_no_fin() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let up = noise(1 + random.below(100_000), &mut random);
        let mut client = Weird::new(&up, seed);
        client.dies = true;
        let mut server = Weird::new(b"", seed ^ 1);
        // It has nothing to say and does not hang up first.
        server.dies = false;
        let mut server = Quiet(server);
        let end = run(&mut client, &mut server, &mut Notes::default()).await;
        assert!(matches!(end, End::Died(Side::Client, _)), "seed {seed}: {end:?}");
        assert!(server.0.received == up, "seed {seed}: bytes differ");
        assert!(!server.0.got_fin, "seed {seed}: a reset became a FIN");
    }
}

/// A stream that never says anything, not even FIN.
struct Quiet(Weird);

impl AsyncRead for Quiet {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl RelayStream for Quiet {
    fn pending_error(&self) -> Option<io::Error> {
        None
    }

    fn read_now(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

#[tokio::test]
async fn a_server_that_answers_and_resets_mid_upload_is_read_to_its_last_byte() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let (up, down) = (noise(300_000, &mut random), noise(1 + random.below(100_000), &mut random));
        let mut client = Weird::new(&up, seed);
        let mut server = Weird::new(&down, seed ^ 1);
        server.takes = random.below(100_000);
        server.dies = random.one_in(2);
        client.bare = seed % 2 == 0;
        server.bare = seed % 3 == 0;
        let end = run(&mut client, &mut server, &mut Notes::default()).await;
        assert!(matches!(end, End::Died(Side::Server, _)), "seed {seed}: {end:?}");
        assert!(up.starts_with(&server.received), "seed {seed}: bytes differ");
        assert!(client.received == down, "seed {seed}: the answer is not whole");
        // An end that the server announced before its death was received may have been passed on; one that came after
        // may not, and the end is a reset in both cases.
    }
}

#[tokio::test]
async fn the_end_of_last_words_is_no_fin() {
    let mut client = Weird::new(&[1; 10], 3);
    let mut server = Weird::new(&[2; 200_000], 4);
    server.takes = 0;
    let end = run(&mut client, &mut server, &mut Notes::default()).await;
    assert!(matches!(end, End::Died(Side::Server, _)), "{end:?}");
    assert_eq!(client.received.len(), 200_000);
    assert!(!client.got_fin, "a truncated answer would pass for a whole one");
}
