// SPDX-License-Identifier: Apache-2.0
//! A relay without sockets: the loop that the owner of an [`Exchange`] runs.

use culvert_http::{Exchange, Step, Verdict};

/// Event on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Client(Vec<u8>),
    Server(Vec<u8>),
    ClientFin,
    ServerFin,
}

/// Connection, and what came out of it.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    exchange: Exchange,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
    result: Seen,
    /// True if bytes that need no look are counted only, as a relay does that splices.
    splices: bool,
}

/// What both ends of a connection saw.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) to_server: Vec<u8>,
    pub(crate) to_client: Vec<u8>,
    /// Empty lines and bytes of refused messages.
    pub(crate) dropped: usize,
    /// Bytes of the client that wait.
    pub(crate) held: usize,
    pub(crate) verdict: String,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { to_server, to_client, dropped, held, verdict } = self;
        let text = |bytes: &[u8]| bytes[..bytes.len().min(400)].escape_ascii().to_string();
        write!(f, "{verdict}, {dropped} dropped, {held} held\n  to server: {}", text(to_server))?;
        write!(f, "\n  to client: {}", text(to_client))
    }
}

// === impl Wire ===

impl Wire {
    pub(crate) fn new(splices: bool) -> Self {
        Self { splices, ..Self::default() }
    }

    /// Plays all events.
    pub(crate) fn play(events: &[Event]) -> Seen {
        let mut wire = Self::default();
        for event in events {
            wire.take(event);
        }
        wire.seen()
    }

    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Client(bytes) => self.from_client.extend_from_slice(bytes),
            Event::Server(bytes) => self.from_server.extend_from_slice(bytes),
            Event::ClientFin => self.exchange.client_fin(),
            Event::ServerFin => self.exchange.server_fin(),
        }
        // What one side says may set the other free.
        while self.client() | self.server() {}
    }

    pub(crate) fn seen(&self) -> Seen {
        let verdict = match self.exchange.verdict() {
            Verdict::Go => "go".to_owned(),
            Verdict::Over => "over".to_owned(),
            Verdict::Close(rule) => format!("close {}", rule.name()),
            Verdict::Answer(reply) if reply.body => format!("{} {}", reply.status, reply.rule.name()),
            Verdict::Answer(reply) => format!("{} {} without a body", reply.status, reply.rule.name()),
        };
        Seen { held: self.from_client.len(), verdict, ..self.result.clone() }
    }

    /// Takes the client's steps; true if there was one.
    fn client(&mut self) -> bool {
        let mut moved = false;
        loop {
            let unseen = self.exchange.client_unseen().min(self.from_client.len() as u64) as usize;
            let n = if self.splices && unseen > 0 {
                self.exchange.client_skip(unseen as u64);
                self.result.to_server.extend_from_slice(&self.from_client[..unseen]);
                unseen
            } else {
                match self.exchange.client(&self.from_client) {
                    Step::More | Step::Hold => return moved,
                    Step::Forward(n) => {
                        self.result.to_server.extend_from_slice(&self.from_client[..n]);
                        n
                    }
                    Step::Drop(n) => {
                        self.result.dropped += n;
                        n
                    }
                    Step::Head(head) => {
                        self.exchange.admit_request(&head);
                        self.result.to_server.extend_from_slice(head.bytes);
                        head.bytes.len()
                    }
                }
            };
            assert!(n > 0, "a step without progress");
            self.from_client.drain(..n);
            moved = true;
        }
    }

    /// Takes the server's steps; true if there was one.
    fn server(&mut self) -> bool {
        let mut moved = false;
        loop {
            let unseen = self.exchange.server_unseen().min(self.from_server.len() as u64) as usize;
            let n = if self.splices && unseen > 0 {
                self.exchange.server_skip(unseen as u64);
                self.result.to_client.extend_from_slice(&self.from_server[..unseen]);
                unseen
            } else {
                match self.exchange.server(&self.from_server) {
                    Step::More | Step::Hold => return moved,
                    Step::Forward(n) => {
                        self.result.to_client.extend_from_slice(&self.from_server[..n]);
                        n
                    }
                    Step::Drop(n) => {
                        self.result.dropped += n;
                        n
                    }
                    Step::Head(head) => {
                        self.exchange.admit_response(&head);
                        self.result.to_client.extend_from_slice(head.bytes);
                        head.bytes.len()
                    }
                }
            };
            assert!(n > 0, "a step without progress");
            self.from_server.drain(..n);
            moved = true;
        }
    }
}
