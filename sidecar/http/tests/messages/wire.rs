// SPDX-License-Identifier: Apache-2.0
//! A relay without sockets: the loop that the owner of an [`Exchange`] runs.

use crate::opinion;
use crate::scripts::Event;
use culvert_http::exchange::MAX_PIPELINED;
use culvert_http::{Exchange, Framing, Step, Target, Verdict};

/// Connection, and what came out of it.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    exchange: Exchange,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
    client_fin: Fin,
    server_fin: Fin,
    result: Seen,
    /// True to count bytes that need no look, as splicing does.
    splices: bool,
    /// Bytes that the server had got when the connection became a tunnel.
    switched: Option<usize>,
    /// True after a request that may switch protocols: until it is answered no other may pass.
    may_switch: bool,
    /// True while the client waits for 100: its next bytes are a body, so the server cannot switch.
    expects: bool,
    /// True once the owner wants no more requests.
    finished: bool,
}

/// FIN of a side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Fin {
    #[default]
    No,
    Sent,
    Noted,
}

/// Output of a connection, as both ends see it.
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
            Event::Client(bytes) if self.client_fin == Fin::No => self.from_client.extend_from_slice(bytes),
            Event::Server(bytes) if self.server_fin == Fin::No => self.from_server.extend_from_slice(bytes),
            Event::Client(_) | Event::Server(_) => {}
            Event::ClientFin => self.client_fin = self.client_fin.max(Fin::Sent),
            Event::ServerFin => self.server_fin = self.server_fin.max(Fin::Sent),
        }
        self.run();
    }

    /// Ends the connection behind the requests that began.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
        self.exchange.finish();
        self.run();
    }

    /// Takes all steps that can be taken.
    fn run(&mut self) {
        let before = (self.result.to_server.len(), self.result.to_client.len());
        let at_its_end = self.exchange.verdict() != Verdict::Go;
        // A step of the server may set a held client free, and what it says then belongs before the server's next bytes.
        // Each byte is part of one step at most, and a reply or a FIN is one more.
        let mut left = 2 * (self.from_client.len() + self.from_server.len()) + 8;
        while self.client() || self.reply() || self.server() {
            left = left.checked_sub(1).expect("the connection comes to rest");
            assert!(self.exchange.under_way() <= MAX_PIPELINED);
        }
        let after = (self.result.to_server.len(), self.result.to_client.len());
        assert!(!at_its_end || before == after, "bytes pass behind the end: {:?}", self.seen());
        let rests = self.exchange.is_at_border() && self.exchange.verdict() == Verdict::Go;
        assert!(!self.finished || !rests, "the connection goes on: {:?}", self.seen());
    }

    pub(crate) fn seen(&self) -> Seen {
        let verdict = match self.exchange.verdict() {
            Verdict::Go => "go".to_owned(),
            Verdict::Reply { .. } => "a reply is due".to_owned(),
            Verdict::Over => "over".to_owned(),
            Verdict::Close(rule) => format!("close {}", rule.name()),
            Verdict::Answer(reply) if reply.body => format!("{} {}", reply.status, reply.rule.name()),
            Verdict::Answer(reply) => format!("{} {} without a body", reply.status, reply.rule.name()),
        };
        Seen { held: self.from_client.len(), verdict, ..self.result.clone() }
    }

    /// Returns the bytes of messages that the server got, without those of a tunnel.
    pub(crate) fn messages(&self) -> &[u8] {
        let all = &self.result.to_server;
        &all[..self.switched.unwrap_or(all.len())]
    }

    /// Answers a declined request if it is its turn; true if it was.
    fn reply(&mut self) -> bool {
        let Verdict::Reply { body, keeps } = self.exchange.verdict() else { return false };
        let answer = if body { "<declined>" } else { "<declined HEAD>" };
        self.result.to_client.extend_from_slice(answer.as_bytes());
        self.exchange.replied();
        assert_eq!(self.exchange.verdict() == Verdict::Over, !keeps);
        true
    }

    /// Takes a step of the client; true if there was one.
    fn client(&mut self) -> bool {
        let unseen = self.exchange.client_unseen().min(self.from_client.len() as u64) as usize;
        let n = if self.splices && unseen > 0 {
            self.exchange.client_skip(unseen as u64);
            self.result.to_server.extend_from_slice(&self.from_client[..unseen]);
            self.expects = false;
            unseen
        } else {
            match self.exchange.client(&self.from_client) {
                Step::Hold => return false,
                Step::More => {
                    let is_new = self.client_fin == Fin::Sent;
                    if is_new {
                        self.client_fin = Fin::Noted;
                        self.exchange.client_fin();
                    }
                    return is_new;
                }
                Step::Forward(n) => {
                    self.result.to_server.extend_from_slice(&self.from_client[..n]);
                    self.expects = false;
                    n
                }
                Step::Drop(n) => {
                    self.result.dropped += n;
                    n
                }
                Step::Head(head) => {
                    opinion::of_request(&head);
                    assert!(!self.may_switch, "a request passes behind one that may switch");
                    self.may_switch = head.upgrades || head.method == "CONNECT";
                    self.expects = head.expects;
                    if head.target == Target::Origin("/declined") {
                        self.exchange.decline_request(&head);
                    } else {
                        self.exchange.admit_request(&head);
                        self.result.to_server.extend_from_slice(head.bytes);
                    }
                    head.bytes.len()
                }
            }
        };
        assert!(n > 0, "a step without progress");
        self.from_client.drain(..n);
        true
    }

    /// Takes a step of the server; true if there was one.
    fn server(&mut self) -> bool {
        let unseen = self.exchange.server_unseen().min(self.from_server.len() as u64) as usize;
        let n = if self.splices && unseen > 0 {
            self.exchange.server_skip(unseen as u64);
            self.result.to_client.extend_from_slice(&self.from_server[..unseen]);
            unseen
        } else {
            match self.exchange.server(&self.from_server) {
                Step::Hold => return false,
                Step::More => {
                    let is_new = self.server_fin == Fin::Sent;
                    if is_new {
                        self.server_fin = Fin::Noted;
                        self.exchange.server_fin();
                    }
                    return is_new;
                }
                Step::Forward(n) => {
                    self.result.to_client.extend_from_slice(&self.from_server[..n]);
                    n
                }
                Step::Drop(n) => {
                    self.result.dropped += n;
                    n
                }
                Step::Head(head) => {
                    opinion::of_response(&head);
                    let is_for_last = self.exchange.under_way() == 1;
                    self.expects &= head.status != 100 || !is_for_last;
                    self.may_switch &= head.is_interim() || !is_for_last;
                    self.exchange.admit_response(&head);
                    if head.framing == Framing::Tunnel {
                        assert!(!self.expects, "a tunnel while the client waits for 100");
                        self.switched = Some(self.result.to_server.len());
                    }
                    self.result.to_client.extend_from_slice(head.bytes);
                    head.bytes.len()
                }
            }
        };
        assert!(n > 0, "a step without progress");
        self.from_server.drain(..n);
        true
    }
}
