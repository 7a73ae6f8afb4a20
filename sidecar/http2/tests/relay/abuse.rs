// SPDX-License-Identifier: Apache-2.0
//! Floods, and the limits of streams.

use crate::harness::*;
use culvert_http2::{Cause, End, How, Settings};
use h2::Reason;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Lets a client send bytes, and returns the end, the last GOAWAY, and the requests that the server saw.
async fn attacked(bytes: Vec<u8>) -> (End, Option<(u32, String)>, usize) {
    let (upstream, seen) = server(silent);
    let (lab, socket) = session(Owner::pass(), Settings::default(), Ok(upstream));
    let frames = attack(socket, [greeting(), bytes].concat()).await;
    let end = within(lab.end).await.unwrap();
    (end, goaway(&frames), seen.load(Relaxed))
}

fn repeated(times: u32, frames: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..times).flat_map(frames).collect()
}

#[tokio::test(start_paused = true)]
async fn rapid_resets_end_the_connection() {
    let bytes = repeated(20_000, |number| {
        let stream = 2 * number + 1;
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, GET), frame(RESET, 0, stream, &[0, 0, 0, 8])]
            .concat()
    });
    let (end, goaway, seen) = attacked(bytes).await;
    assert_eq!(goaway.unwrap().0, 11);
    assert!(matches!(end.cause, Cause::Client(Reason::ENHANCE_YOUR_CALM) | Cause::ResetFlood), "{end:?}");
    assert!(seen <= 201, "{seen} requests reached the server");
}

/// Each stream is reset only once the server has it, which the h2 crate does not limit.
#[tokio::test(start_paused = true)]
async fn resets_of_accepted_streams_are_limited() {
    let (upstream, seen) = server(silent);
    let owner = Owner::pass();
    let (lab, mut socket) = session(owner.clone(), Settings::default(), Ok(upstream));
    within(socket.write_all(&greeting())).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(socket);
    let reading = tokio::spawn(async move {
        let mut frames = Vec::new();
        while let Some(frame) = next(&mut reader).await {
            frames.push(frame);
        }
        frames
    });
    let mut sent = 0;
    for number in 0..1_000_u32 {
        let stream = 2 * number + 1;
        if writer.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, stream, GET)).await.is_err() {
            break;
        }
        // A millisecond of the paused clock: all tasks came to rest, the server has the request.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        if lab.end.is_finished() || writer.write_all(&frame(RESET, 0, stream, &[0, 0, 0, 8])).await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!((100..=201).contains(&sent), "{sent} resets");
    assert_eq!(within(lab.end).await.unwrap().cause, Cause::ResetFlood);
    assert_eq!(goaway(&within(reading).await.unwrap()).unwrap().0, 11);
    assert!(seen.load(Relaxed) <= 201, "{} requests reached the server", seen.load(Relaxed));
}

/// Streams that end well allow as many that do not.
#[tokio::test(start_paused = true)]
async fn some_resets_among_many_requests_are_no_flood() {
    let (lab, sender, _) = lab(Owner::pass(), silent_if_slow).await;
    for _ in 0..500 {
        fetch(&sender, get("/")).await.unwrap();
        let mut sender = within(sender.clone().ready()).await.unwrap();
        let (response, mut stream) = sender.send_request(get("/slow"), true).unwrap();
        tokio::task::yield_now().await;
        stream.send_reset(Reason::CANCEL);
        drop(response);
    }
    rest().await;
    assert!(!lab.end.is_finished());
    assert_eq!(fetch(&sender, get("/")).await.unwrap().0.status(), 200);
}

/// Opens streams that the server does not answer, and resets all of them after a while.
async fn reset_together(sender: &h2::client::SendRequest<bytes::Bytes>, streams: u32, age: Duration) {
    let mut open = Vec::new();
    for _ in 0..streams {
        // One that fails is seen by what the session does.
        let Ok(mut sender) = within(sender.clone().ready()).await else { return };
        let Ok((response, stream)) = sender.send_request(get("/slow"), true) else { return };
        open.push((response, stream));
    }
    tokio::time::sleep(age).await;
    for (_, stream) in &mut open {
        stream.send_reset(Reason::CANCEL);
    }
    rest().await;
}

async fn silent_if_slow(
    request: http::Request<h2::RecvStream>,
    respond: h2::server::SendResponse<bytes::Bytes>,
) {
    if request.uri().path() == "/slow" {
        return silent(request, respond).await;
    }
    hello(request, respond).await;
}

/// Deadlines of many requests that strike at once are no flood.
#[tokio::test(start_paused = true)]
async fn resets_of_older_streams_are_no_flood() {
    let (lab, sender, seen) = lab(Owner::pass(), silent_if_slow).await;
    for _ in 0..3 {
        reset_together(&sender, 250, Duration::from_secs(1)).await;
    }
    assert_eq!((lab.end.is_finished(), seen.load(Relaxed)), (false, 750));
    assert_eq!(fetch(&sender, get("/")).await.unwrap().0.status(), 200);
}

/// Good requests of a whole day allow one more burst, not millions of resets.
#[tokio::test(start_paused = true)]
async fn what_good_requests_allow_is_bounded() {
    let (lab, sender, seen) = lab(Owner::pass(), silent_if_slow).await;
    for _ in 0..1_000 {
        fetch(&sender, get("/")).await.unwrap();
    }
    for _ in 0..8 {
        reset_together(&sender, 100, Duration::from_millis(10)).await;
    }
    assert_eq!(within(lab.end).await.unwrap().cause, Cause::ResetFlood);
    let reset = seen.load(Relaxed) - 1_000;
    assert!((356..=600).contains(&reset), "{reset} resets");
}

#[tokio::test(start_paused = true)]
async fn floods_end_with_their_codes() {
    let zero = frame(WINDOW_UPDATE, 0, 1, &[0; 4]);
    let post = frame(HEADERS, END_HEADERS, 1, POST);
    let rows: [(&str, Vec<u8>, u32, usize); 9] = [
        (
            "continuation",
            [frame(HEADERS, 0, 1, GET), repeated(50_000, |_| frame(CONTINUATION, 0, 1, &[]))].concat(),
            11,
            0,
        ),
        ("empty data", [post.clone(), repeated(200_000, |_| frame(DATA, 0, 1, &[]))].concat(), 11, 1),
        ("ping", repeated(50_000, |_| frame(PING, 0, 0, &[0; 8])), 11, 0),
        ("ping answers", repeated(50_000, |_| frame(PING, 1, 0, &[0; 8])), 11, 0),
        ("settings", repeated(50_000, |_| frame(SETTINGS, 0, 0, &[])), 11, 0),
        ("priority", repeated(50_000, |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])), 11, 0),
        ("window update", repeated(50_000, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])), 11, 0),
        ("unknown", repeated(50_000, |_| frame(99, 0, 0, &[0; 8])), 11, 0),
        ("window update of nothing", [post, repeated(50_000, |_| zero.clone())].concat(), 1, 1),
    ];
    for (name, bytes, code, most) in rows {
        let (end, goaway, seen) = attacked(bytes).await;
        assert_eq!(goaway.map(|(code, _)| code), Some(code), "{name}: {end:?}");
        assert!(seen <= most, "{name}: {seen} requests reached the server");
    }
}

/// Each frame on a stream that is over is answered, and the answers wait in the h2 crate.
#[tokio::test(start_paused = true)]
async fn late_frames_of_a_client_that_reads_nothing_are_limited() {
    let (upstream, _) = server(silent);
    let (lab, mut socket) = session(Owner::pass(), Settings::default(), Ok(upstream));
    within(socket.write_all(&[greeting(), frame(HEADERS, END_HEADERS, 400_001, POST)].concat()))
        .await
        .unwrap();
    let late = repeated(200_000, |number| frame(DATA, 0, 2 * number + 1, b""));
    let (mut reader, mut writer) = tokio::io::split(socket);
    assert!(within(writer.write_all(&late)).await.is_err(), "it is cut in between");
    let end = within(lab.end).await.unwrap();
    assert_eq!(end.cause, Cause::ControlFlood);
    let mut resets = 0;
    while let Some(frame) = next(&mut reader).await {
        resets += usize::from(frame.kind == RESET);
    }
    // No more than its socket held of the answers, 13 bytes each.
    assert!(resets <= SOCKET / 13, "{resets}");
}

/// A client that reads gets an answer to each, on more streams than may wait.
#[tokio::test(start_paused = true)]
async fn late_frames_of_a_client_that_reads_are_answered() {
    let (upstream, _) = server(silent);
    let (lab, socket) = session(Owner::pass(), Settings::default(), Ok(upstream));
    let (mut reader, mut writer) = tokio::io::split(socket);
    let request = frame(HEADERS, END_HEADERS, 400_001, POST);
    within(writer.write_all(&[greeting(), request].concat())).await.unwrap();
    for batch in 0..10 {
        let late = repeated(2_000, |number| frame(DATA, 0, 2 * (2_000 * batch + number) + 1, b""));
        within(writer.write_all(&late)).await.unwrap();
        for _ in 0..2_000 {
            find(&mut reader, RESET).await;
        }
    }
    assert!(!lab.end.is_finished());
}

/// Requests of a client that is cut did not end by its own doing.
#[tokio::test(start_paused = true)]
async fn streams_of_a_client_that_is_cut_are_dropped() {
    let flood = repeated(50_000, |_| frame(PING, 1, 0, &[0; 8]));
    let rows = [("a flood", flood, How::Dropped), ("no stream", frame(DATA, 0, 0, b"?"), How::Dropped)];
    for (name, bytes, how) in rows.into_iter().chain([("it left", Vec::new(), How::ClientGone)]) {
        let owner = Owner::pass();
        let (upstream, _) = server(silent);
        let (lab, mut socket) = session(owner.clone(), Settings::default(), Ok(upstream));
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET);
        within(socket.write_all(&[greeting(), request].concat())).await.unwrap();
        rest().await;
        if bytes.is_empty() {
            drop(socket);
        } else {
            attack(socket, bytes).await;
        }
        within(lab.end).await.unwrap();
        let ends: Vec<_> = owner.outcomes().iter().map(|outcome| outcome.how).collect();
        assert_eq!(ends, [how], "{name}");
    }
}

/// Streams that the client makes the relay reset: each reached the server.
#[tokio::test(start_paused = true)]
async fn streams_that_break_a_rule_are_limited_as_resets_are() {
    let bytes = repeated(20_000, |number| {
        let stream = 2 * number + 1;
        [frame(HEADERS, END_HEADERS, stream, POST), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
    });
    let (end, goaway, seen) = attacked(bytes).await;
    assert!(matches!(goaway, Some((1 | 11, _))), "{end:?} {goaway:?}");
    assert!(seen <= 201, "{seen} requests reached the server");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_floods_is_cut() {
    let (near, mut far) = tokio::io::duplex(SOCKET);
    let (lab, socket) = session(Owner::pass(), Settings::default(), Ok(near));
    let (sender, _) = client(socket).await;
    let flooding = tokio::spawn(async move {
        greet(&mut far).await;
        find(&mut far, HEADERS).await;
        let flood = repeated(50_000, |_| frame(PING, 1, 0, &[0; 8]));
        assert!(far.write_all(&flood).await.is_err(), "it is cut in between");
    });
    assert_eq!(fetch(&sender, get("/")).await.unwrap().0.status(), 502);
    within(flooding).await.unwrap();
    drop(sender);
    assert_eq!(within(lab.end).await.unwrap().cause, Cause::ServerGone);
}

#[tokio::test(start_paused = true)]
async fn traffic_earns_its_frames_of_control() {
    let (lab, sender, _) = lab(Owner::pass(), echo).await;
    let mut sender = within(sender.ready()).await.unwrap();
    let (response, mut stream) = sender.send_request(post("/"), false).unwrap();
    let mut answer = within(response).await.unwrap().into_body();
    // Each message is released at once: the crate sends WINDOW_UPDATE for each half window, without a pause of the clock.
    for _ in 0..1_500 {
        stream.send_data(bytes::Bytes::from(vec![1; 16_000]), false).unwrap();
        let mut left = 16_000;
        while left > 0 {
            let data = within(answer.data()).await.unwrap().unwrap();
            answer.flow_control().release_capacity(data.len()).unwrap();
            left -= data.len();
        }
    }
    assert!(!lab.end.is_finished());
}

#[tokio::test(start_paused = true)]
async fn at_most_256_streams_are_under_way() {
    let (upstream, seen) = server(silent);
    let (lab, mut socket) = session(Owner::pass(), Settings::default(), Ok(upstream));
    let mut bytes = greeting();
    bytes.extend(repeated(300, |number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, GET)));
    within(socket.write_all(&bytes)).await.unwrap();
    let mut refused = 0;
    while refused < 44 {
        let reset = find(&mut socket, RESET).await;
        assert_eq!(reset.payload, [0, 0, 0, 7]);
        refused += 1;
    }
    rest().await;
    // The server of the tests sets no limit, so all that the relay took are there.
    assert_eq!((lab.handle.streams(), seen.load(Relaxed)), (256, 256));
}

#[tokio::test(start_paused = true)]
async fn the_servers_own_limit_is_kept_and_requests_wait() {
    for limit in [1, 2, 10] {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(limit);
        let most = Arc::new(AtomicUsize::new(0));
        let now = Arc::new(AtomicUsize::new(0));
        let (high, count) = (Arc::clone(&most), Arc::clone(&now));
        let (upstream, seen) = server_with(&builder, move |request, respond| {
            let (high, count) = (Arc::clone(&high), Arc::clone(&count));
            async move {
                high.fetch_max(count.fetch_add(1, Relaxed) + 1, Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                count.fetch_sub(1, Relaxed);
                hello(request, respond).await;
            }
        });
        let (_lab, socket) = session(Owner::pass(), Settings::default(), Ok(upstream));
        let (sender, _) = client(socket).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let sender = sender.clone();
            tasks.spawn(async move { fetch(&sender, get("/")).await.unwrap().0.status() });
        }
        while let Some(status) = within(tasks.join_next()).await {
            assert_eq!(status.unwrap(), 200, "limit {limit}");
        }
        assert_eq!((most.load(Relaxed), seen.load(Relaxed)), (limit as usize, 100));
    }
}

#[tokio::test(start_paused = true)]
async fn first_bytes_that_are_no_http2_end_the_session() {
    let (upstream, _) = server(hello);
    let (lab, mut socket) = session(Owner::pass(), Settings::default(), Ok(upstream));
    within(socket.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")).await.unwrap();
    assert_eq!(within(lab.end).await.unwrap().cause, Cause::Preface);
}

/// A limit that the server lowers keeps requests in the relay, where a client that leaves takes them back.
#[tokio::test(start_paused = true)]
async fn a_limit_that_the_server_lowers_is_kept() {
    let (near, mut far) = tokio::io::duplex(SOCKET);
    let owner = Owner::pass();
    let (lab, socket) = session(owner.clone(), Settings::default(), Ok(near));
    let (sender, _) = client(socket).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut sender = within(sender.clone().ready()).await.unwrap();
        waiting.push(sender.send_request(get("/"), true).unwrap());
        if waiting.len() == 1 {
            greet(&mut far).await;
            assert_eq!(find(&mut far, HEADERS).await.stream, 1);
            rest().await;
            far.write_all(&frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1])).await.unwrap();
            rest().await;
        }
    }
    rest().await;
    assert_eq!(lab.handle.streams(), 4);
    // The second one leaves while it waits: its books say that it went nowhere.
    waiting[1].1.send_reset(Reason::CANCEL);
    rest().await;
    assert_eq!((owner.outcomes().len(), owner.outcomes()[0].forwarded), (1, None));
    far.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88])).await.unwrap();
    assert_eq!(find(&mut far, HEADERS).await.stream, 3);
    rest().await;
    assert_eq!(lab.handle.streams(), 2);
}

/// Numbers of a small generator, the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    /// Frames of all types, with streams and payloads that often make sense.
    fn frames(&mut self, head: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..=self.roll(40) {
            let stream = self.roll(12) as u32;
            let payload: Vec<u8> = match self.roll(4) {
                0 => vec![0; self.roll(20)],
                1 => (0..self.roll(300)).map(|_| self.roll(256) as u8).collect(),
                2 => vec![0, 0, 0, self.roll(256) as u8],
                _ => head.to_vec(),
            };
            let kind = self.roll(11) as u8;
            let flags = if self.roll(3) == 0 { self.roll(256) as u8 } else { [0, 1, 4, 5][self.roll(4)] };
            let (kind, flags, payload) = match self.roll(3) {
                0 => (HEADERS, END_HEADERS | (self.roll(2) as u8), head.to_vec()),
                _ => (kind, flags, payload),
            };
            bytes.extend(frame(kind, flags, stream, &payload));
        }
        bytes
    }
}

#[tokio::test(start_paused = true)]
async fn rubbish_of_either_side_ends_in_order() {
    for seed in 1..600_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (near, mut far) = tokio::io::duplex(SOCKET);
        let owner = Owner::pass();
        let (lab, mut socket) = session(owner.clone(), Settings::default(), Ok(near));
        let rubbish = dice.frames(GET);
        let answers = [frame(SETTINGS, 0, 0, &[]), dice.frames(&[0x88])].concat();
        if seed % 2 == 0 {
            let mut bytes = greeting();
            bytes.extend(frame(HEADERS, END_HEADERS, 1, POST));
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 3, GET));
            within(socket.write_all(&bytes)).await.unwrap();
            // Either side may close before it has read all.
            let _ = within(far.write_all(&answers)).await;
        } else {
            within(socket.write_all(&[greeting(), rubbish].concat())).await.unwrap();
            let _ = within(far.write_all(&answers)).await;
        }
        rest().await;
        drop((socket, far));
        let ended = within(lab.end).await;
        assert!(ended.is_ok(), "seed {seed}: {ended:?}");
        let journal = owner.journal.lock().unwrap();
        assert_eq!((journal.permits, journal.ended.len()), (0, journal.began), "seed {seed}");
    }
}
