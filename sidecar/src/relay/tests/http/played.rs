// SPDX-License-Identifier: Apache-2.0
//! Each script through the relay, over ends in memory: whole, cut at any byte, and to sinks that take a byte at a time.

use super::scripts::{Event, cases, vectors};
use super::*;
use crate::relay::http::{Decision, Rules};
use culvert_http::edit::Edit;
use culvert_http::reply::Reply;
use culvert_http::{Refusal, RequestHead, ResponseHead, Target, Words};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Wake;
use std::time::Instant;

/// An end in memory.
#[derive(Default)]
struct Memory {
    says: VecDeque<u8>,
    says_fin: bool,
    received: Vec<u8>,
    got_fin: bool,
    /// True if it passes for a bare socket.
    bare: bool,
    /// True if it takes a byte at a time, and nothing in between.
    slow: bool,
    /// True if a slow end takes nothing now.
    pauses: bool,
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = buffer.remaining().min(self.says.len());
        assert!(buffer.remaining() > 0, "a read into a full buffer");
        if n == 0 && !self.says_fin {
            return Poll::Pending;
        }
        let bytes: Vec<u8> = self.says.drain(..n).collect();
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.got_fin, "written to after FIN");
        assert!(!bytes.is_empty(), "a write of nothing");
        self.pauses = self.slow && !self.pauses;
        if self.pauses {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let n = if self.slow { 1 } else { bytes.len() };
        self.received.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        assert!(!self.got_fin, "a second FIN");
        self.got_fin = true;
        Poll::Ready(Ok(()))
    }
}

impl RelayStream for Memory {
    fn pending_error(&self) -> Option<io::Error> {
        None
    }

    fn read_now(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn splices(&self) -> bool {
        self.bare
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// A relay between two ends in memory.
struct Connection {
    client: Memory,
    server: Memory,
    relay: Relay<HttpGate<Trying>>,
    notes: Notes,
    end: Option<End<()>>,
}

/// Rules that decline what a script wants declined, and try the gate's patience.
#[derive(Clone, Copy, Debug, Default)]
struct Trying {
    /// True if each request waits once before it goes on.
    waits: bool,
    /// True if a body passes by three bytes at a time.
    slow: bool,
    /// True if the next request has waited, and the next bytes have.
    waited: [bool; 2],
}

/// The line that is added to requests that wait.
const EDITED: &str = "x-waited: yes\r\n";
static EDITS: LazyLock<[Edit; 1]> = LazyLock::new(|| [Edit::set("x-waited", b"yes").expect("an edit")]);

/// The answer to what a script wants declined.
const DECLINED: &str = "<declined>";

impl Rules for Trying {
    fn request(&mut self, head: &RequestHead<'_>) -> Decision {
        if self.waits && !std::mem::replace(&mut self.waited[0], true) {
            return Decision::Wait(Instant::now());
        }
        self.waited[0] = false;
        if head.target == Target::Origin("/declined") {
            return Decision::Answer(Words { status: 403, text: DECLINED, last: false, fields: [].into() });
        }
        Decision::Pass
    }

    fn edits(&self) -> &[Edit] {
        if self.waits { &*EDITS } else { &[] }
    }

    fn response(&mut self, _: &ResponseHead<'_>) {}

    fn refused(&mut self, _: Refusal, _: Option<u16>) {}

    fn under_way(&mut self, _: usize, _: bool) {}

    fn body(&mut self, _: Side, _: u64) {}

    fn is_limited(&self) -> bool {
        self.slow
    }

    fn take_budget(&mut self, wanted: usize) -> Result<usize, Instant> {
        self.waited[1] = !self.waited[1];
        if self.waited[1] { Err(Instant::now()) } else { Ok(wanted.min(3)) }
    }
}

fn without(mut bytes: Vec<u8>, line: &str) -> Vec<u8> {
    while let Some(at) = bytes.windows(line.len()).position(|part| part == line.as_bytes()) {
        bytes.drain(at..at + line.len());
    }
    bytes
}

/// Puts the scripts' words in place of answers to declined requests.
fn in_words(mut bytes: Vec<u8>) -> Vec<u8> {
    let words = Words { status: 403, text: DECLINED, last: false, fields: [].into() };
    for (body, short) in [(true, DECLINED), (false, "<declined HEAD>")] {
        for keeps in [true, false] {
            let mut long = Vec::new();
            words.write(&mut long, body, keeps);
            while let Some(at) = bytes.windows(long.len()).position(|part| part == long) {
                bytes.splice(at..at + long.len(), short.bytes());
            }
        }
    }
    bytes
}

/// Output of a connection.
#[derive(PartialEq, Eq)]
struct Seen {
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    server_fin: bool,
    client_fin: bool,
    refused: Option<Refusal>,
    ended: bool,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { to_server, to_client, server_fin, client_fin, refused, ended } = self;
        let text = |bytes: &[u8]| bytes[..bytes.len().min(400)].escape_ascii().to_string();
        write!(f, "{refused:?}, ended: {ended}\n  to server ({server_fin}): {}", text(to_server))?;
        write!(f, "\n  to client ({client_fin}): {}", text(to_client))
    }
}

impl Connection {
    fn new(bare: bool, slow: bool) -> Self {
        Self::with(bare, slow, Trying::default())
    }

    fn with(bare: bool, slow: bool, rules: Trying) -> Self {
        let end = || Memory { bare, slow, ..Memory::default() };
        let (client, server) = (end(), end());
        let relay = Relay::through(HttpGate::new(Arc::default(), rules));
        Self { client, server, relay, notes: Notes::default(), end: None }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Client(bytes) => self.client.says.extend(bytes),
            Event::Server(bytes) => self.server.says.extend(bytes),
            Event::ClientFin => self.client.says_fin = true,
            Event::ServerFin => self.server.says_fin = true,
        }
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        for _ in 0..20_000 {
            if self.end.is_some() {
                return;
            }
            woken.0.store(false, Relaxed);
            let Self { client, server, relay, notes, end } = self;
            match relay.poll(&mut cx, client, server, notes) {
                Poll::Ready(ended) => *end = Some(ended),
                Poll::Pending if relay.gate().waits_until().is_some() => {
                    relay.gate_mut().go_on(Instant::now());
                }
                Poll::Pending if !woken.0.load(Relaxed) => return,
                Poll::Pending => {}
            }
        }
        panic!("it wakes itself for ever: {:?}", self.seen());
    }

    fn seen(&self) -> Seen {
        // The owner closes both at once, unless it has to read on for the answer's sake.
        let closed = self.end.is_some() && !self.relay.gate().is_to_linger();
        Seen {
            to_server: without(self.server.received.clone(), EDITED),
            to_client: in_words(self.client.received.clone()),
            server_fin: self.server.got_fin || self.end.is_some(),
            client_fin: self.client.got_fin || closed,
            refused: self.relay.gate().refused().map(|(rule, _)| rule),
            ended: matches!(self.end, Some(End::Closed)),
        }
    }
}

/// A script with its outcome.
struct Row {
    name: &'static str,
    events: Vec<Event>,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    verdict: &'static str,
}

fn rows() -> Vec<Row> {
    let cases = cases::all().into_iter().map(|case| {
        let cases::Case { name, events, to_server, to_client, verdict } = case;
        Row { name, events, to_server, to_client, verdict }
    });
    let vectors = vectors::all().into_iter().map(|vector| {
        let vectors::Vector { name, events, to_server, to_client, verdict } = vector;
        Row { name, events, to_server, to_client, verdict }
    });
    cases.chain(vectors).collect()
}

/// Checks an outcome against its row: the bytes that pass, then the answer and FIN.
fn check(row: &Row, seen: &Seen, how: &str) {
    let Row { name, events, to_server, to_client, verdict } = row;
    let mut expected = to_client.clone();
    let (kind, rest) = verdict.split_once(' ').unwrap_or((verdict, ""));
    let refused = match kind {
        "go" | "over" => None,
        "close" => Some(rest),
        status => {
            let (rule, body) = match rest.strip_suffix(" without a body") {
                Some(rule) => (rule, false),
                None => (rest, true),
            };
            let rule = *Refusal::ALL.iter().find(|one| one.name() == rule).expect("a rule");
            let status = status.parse().expect("a status");
            Reply { rule, status, body }.write(&mut expected);
            Some(rule.name())
        }
    };
    assert!(seen.to_server == *to_server, "{name}, {how}: {seen:?}");
    assert!(seen.to_client == expected, "{name}, {how}: {seen:?}\nexpected {}", expected.escape_ascii());
    assert_eq!(seen.refused.map(Refusal::name), refused, "{name}, {how}: {seen:?}");
    let sent = |fin: &Event| events.contains(fin);
    match kind {
        "go" => {
            assert_eq!(seen.client_fin, sent(&Event::ServerFin), "{name}, {how}: {seen:?}");
            assert_eq!(seen.server_fin, sent(&Event::ClientFin), "{name}, {how}: {seen:?}");
            let both = sent(&Event::ServerFin) && sent(&Event::ClientFin);
            assert_eq!(seen.ended, both, "{name}, {how}: {seen:?}");
        }
        _ => {
            assert!(seen.ended, "{name}, {how}: {seen:?}");
            assert!(seen.client_fin, "{name}, {how}: {seen:?}");
        }
    }
}

#[test]
fn each_script_passes_as_its_row_says() {
    let rows = rows();
    assert!(rows.len() >= 33 + 39, "{}", rows.len());
    for row in &rows {
        for (bare, slow) in [(false, false), (true, false), (false, true), (true, true)] {
            if slow && row.events.iter().any(|event| event.length() > 4096) {
                continue;
            }
            let mut connection = Connection::new(bare, slow);
            for event in &row.events {
                connection.take(event);
            }
            let mut seen = connection.seen();
            if slow && seen.refused.is_some() && row.to_server.starts_with(&seen.to_server) {
                // What the server has not taken of a refused message is dropped.
                seen.to_server.clone_from(&row.to_server);
            }
            check(row, &seen, &format!("bare: {bare}, slow: {slow}"));
        }
    }
}

#[test]
fn each_script_cut_at_any_byte_passes_as_its_row_says() {
    for row in &rows() {
        for (which, event) in row.events.iter().enumerate() {
            for at in event.cuts() {
                let mut connection = Connection::new(at % 2 == 0, false);
                for (n, event) in row.events.iter().enumerate() {
                    if n == which {
                        connection.take(&event.piece(0, at));
                        connection.take(&event.piece(at, event.length()));
                    } else {
                        connection.take(event);
                    }
                }
                check(row, &connection.seen(), &format!("event {which} cut at {at}"));
            }
        }
    }
}

#[test]
fn each_script_byte_by_byte_passes_as_its_row_says() {
    for row in &rows() {
        if row.events.iter().any(|event| event.length() > 4096) {
            continue;
        }
        let mut connection = Connection::new(true, false);
        for event in &row.events {
            for at in 0..event.length() {
                connection.take(&event.piece(at, at + 1));
            }
            if event.length() == 0 {
                connection.take(event);
            }
        }
        check(row, &connection.seen(), "byte by byte");
    }
}

#[test]
fn fin_in_the_packet_of_the_last_bytes_changes_nothing() {
    for row in &rows() {
        let mut connection = Connection::new(true, false);
        for (n, event) in row.events.iter().enumerate() {
            match (event, row.events.get(n + 1)) {
                (Event::Client(_), Some(Event::ClientFin)) => connection.client.says_fin = true,
                (Event::Server(_), Some(Event::ServerFin)) => connection.server.says_fin = true,
                _ => {}
            }
            connection.take(event);
        }
        check(row, &connection.seen(), "FIN in the same packet");
    }
}

#[test]
fn what_waits_and_what_is_slow_passes_as_its_row_says() {
    for row in &rows() {
        if row.events.iter().any(|event| event.length() > 4096) {
            continue;
        }
        for rules in [
            Trying { waits: true, ..Trying::default() },
            Trying { slow: true, ..Trying::default() },
            Trying { waits: true, slow: true, ..Trying::default() },
        ] {
            for cut in [false, true] {
                let mut connection = Connection::with(true, false, rules);
                for event in &row.events {
                    let at = if cut { event.length() / 2 } else { 0 };
                    if at > 0 {
                        connection.take(&event.piece(0, at));
                        connection.take(&event.piece(at, event.length()));
                    } else {
                        connection.take(event);
                    }
                }
                check(row, &connection.seen(), &format!("{rules:?}, cut: {cut}"));
            }
        }
    }
}

#[test]
fn a_client_is_told_that_the_owner_ends_the_connection() {
    let answer = "HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno";
    let told = "HTTP/1.1 417 No\r\nContent-Length: 2\r\nconnection: close\r\n\r\nno";
    let mut connection = Connection::new(true, false);
    connection.take(&Event::Client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()));
    connection.relay.gate_mut().finish();
    connection.take(&Event::Server(answer.into()));
    assert_eq!(String::from_utf8_lossy(&connection.seen().to_client), told);
    assert!(connection.seen().ended);
}

#[test]
fn an_idle_connection_keeps_no_bytes() {
    let mut connection = Connection::new(true, false);
    for _ in 0..3 {
        connection.take(&Event::Client(b"GET / HTTP/1.1\r\nHo".to_vec()));
        connection.take(&Event::Client(b"st: a\r\n\r\n".to_vec()));
        connection.take(&Event::Server(cases::OK.into()));
        assert!(connection.relay.gate().owns_nothing());
    }
    let bytes = std::mem::size_of::<Relay<HttpGate<()>>>();
    assert!(bytes <= 336, "{bytes} bytes");
}
