// SPDX-License-Identifier: Apache-2.0
//! The decision about a query: answered from the names of the mesh, refused, or passed on. Pure.
//!
//! | query | answer |
//! |---|---|
//! | shorter than a header, or a response | none: an answer to an answer could go round for ever |
//! | an update, a notification, a zone transfer | NOTIMP |
//! | not one whole question | FORMERR |
//! | a name of the mesh, with records of the type | these |
//! | a name of the mesh, without such records | NOERROR without a record (NODATA), never NXDOMAIN: the name exists |
//! | any other name | what a server of the pod says, once the controller was asked about one that the mesh may have |

use crate::dns::message::{
    self, FORMERR, HEADER, NOTIMP, PAYLOAD, SERVFAIL, class_of, code_of, error_reply, is_response,
    is_standard, question_end, truncated, type_of,
};
use crate::dns::metrics::Answered;
use crate::dns::names::{NameRecords, Names};
use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record};

/// Types of zone transfers, incremental and whole: their answer is many messages, and no resolver of a pod asks for one.
const TRANSFERS: [u16; 2] = [251, 252];

/// Classes: the Internet, and any.
const CLASSES: [u16; 2] = [1, 255];

/// Largest answer over UDP, if the client takes so much: what fits into a frame of most networks.
const MOST_DATAGRAM: u16 = 4096;

/// Bytes of a datagram that every client takes.
const LEAST_PAYLOAD: u16 = 512;

/// Bounds of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// 512 bytes, or what the client says by EDNS; a longer answer is truncated, and the client asks by TCP.
    Datagram,
    /// 65,535 bytes.
    Stream,
}

/// Treatment of a query.
#[derive(Debug)]
pub enum Decision {
    /// Nothing: this is no query.
    Drop,
    /// Answer it with these bytes.
    Reply {
        /// The whole message.
        bytes: Vec<u8>,
        /// Kind of the answer, for the metrics.
        answered: Answered,
    },
    /// Pass it on. It is one whole question.
    Relay,
}

/// Decides about the bytes that a client sent.
pub fn decide(query: &[u8], bounds: Bounds, names: &Names) -> Decision {
    if query.len() < HEADER || is_response(query) {
        return Decision::Drop;
    }
    let reject = |code| Decision::Reply { bytes: error_reply(query, code), answered: Answered::Rejected };
    if !is_standard(query) {
        return reject(NOTIMP);
    }
    let Some(end) = question_end(query).filter(|_| message::questions(query) == 1) else {
        return reject(FORMERR);
    };
    if TRANSFERS.contains(&type_of(query, end)) {
        return reject(NOTIMP);
    }
    let Some(entry) = names.get(query, end).filter(|_| CLASSES.contains(&class_of(query, end))) else {
        return Decision::Relay;
    };
    let Ok(query_read) = Message::from_vec(query) else { return reject(FORMERR) };
    match reply(&query_read, bounds, &entry) {
        Ok((bytes, answered)) => Decision::Reply { bytes, answered },
        // Only a table with a name that cannot be written comes here, and its builder takes none.
        Err(_) => Decision::Reply { bytes: error_reply(query, SERVFAIL), answered: Answered::Failed },
    }
}

/// Cuts the answer of a server that is longer than its client takes in a datagram: the client asks again by TCP (RFC 6891,
/// section 6.2.5).
pub(super) fn cut_to_client(query: &[u8], answer: Vec<u8>) -> Vec<u8> {
    if answer.len() <= usize::from(LEAST_PAYLOAD) {
        return answer;
    }
    let most = Message::from_vec(query).map_or(LEAST_PAYLOAD, |query| query.max_payload());
    if answer.len() <= usize::from(most.max(LEAST_PAYLOAD)) {
        return answer;
    }
    truncated(query, code_of(&answer))
}

/// Answers the one question of a query.
fn reply(
    query: &Message,
    bounds: Bounds,
    entry: &NameRecords<'_>,
) -> Result<(Vec<u8>, Answered), ProtoError> {
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = query.metadata.checking_disabled;
    let mut answered = Answered::Mesh;
    if let Some(theirs) = &query.edns {
        let mut ours = Edns::new();
        ours.set_max_payload(PAYLOAD);
        ours.set_version(0);
        ours.set_dnssec_ok(theirs.flags().dnssec_ok);
        reply.set_edns(ours);
        if theirs.version() > 0 {
            reply.metadata.response_code = ResponseCode::BADVERS;
            answered = Answered::Rejected;
        }
    }
    if let Some(asked) = query.queries.first() {
        reply.add_query(asked.clone());
        if answered == Answered::Mesh {
            for data in entry.records(asked.query_type)? {
                reply.add_answer(Record::from_rdata(asked.name.clone(), entry.ttl(), data));
            }
        }
        if answered == Answered::Mesh && reply.answers.is_empty() {
            reply.add_authority(start_of_authority(&asked.name, entry.ttl()));
            answered = Answered::NoData;
        }
    }
    let most = match bounds {
        Bounds::Datagram => query.max_payload().min(MOST_DATAGRAM),
        Bounds::Stream => u16::MAX,
    };
    let mut bytes = reply.to_vec()?;
    if bytes.len() > usize::from(most) {
        // Without any record rather than with some: the encoder would give the place of OPT to one of them.
        reply.answers.clear();
        reply.metadata.truncation = true;
        bytes = reply.to_vec()?;
    }
    Ok((bytes, answered))
}

/// Says for how long a client may remember that there is no record of this type. Each name of the mesh is a zone of its own.
fn start_of_authority(name: &Name, ttl: u32) -> Record {
    let [refresh, retry, expire] = [i32::from(i16::MAX); 3];
    let soa = SOA::new(name.clone(), Name::root(), 1, refresh, retry, expire, ttl);
    Record::from_rdata(name.clone(), ttl, RData::SOA(soa))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::message::answers;
    use crate::dns::names::{Reach, tests::mesh};
    use hickory_proto::op::Query;
    use hickory_proto::rr::RecordType;

    fn names() -> Names {
        let many: Vec<_> = (0..100).map(|last| format!("240.0.1.{last}")).collect();
        let many: Vec<_> = many.iter().map(|address| &**address).collect();
        let mesh = mesh(&[
            ("web.mesh", 30, &["240.0.0.2", "fd00:fd00::2"], &[(80, "http")]),
            ("four.mesh", 5, &["240.0.0.2"], &[]),
            ("many.mesh", 30, &many, &[]),
        ]);
        Names::of(mesh, Reach::ALL)
    }

    fn query(name: &str, kind: RecordType) -> Message {
        let mut query = Message::new(77, hickory_proto::op::MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        query
    }

    #[track_caller]
    fn asked(query: &Message, bounds: Bounds) -> (Message, Answered) {
        let bytes = query.to_vec().unwrap();
        match decide(&bytes, bounds, &names()) {
            Decision::Reply { bytes: reply, answered } => {
                assert!(answers(&reply, &bytes));
                (Message::from_vec(&reply).unwrap(), answered)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_type_of_a_name_has_its_records() {
        for (name, kind, expected) in [
            ("web.mesh.", RecordType::A, vec!["240.0.0.2"]),
            ("web.mesh.", RecordType::AAAA, vec!["fd00:fd00::2"]),
            ("web.mesh.", RecordType::ANY, vec!["240.0.0.2", "fd00:fd00::2"]),
            ("_http._tcp.web.mesh.", RecordType::SRV, vec!["0 0 80 web.mesh."]),
            ("2.0.0.240.in-addr.arpa.", RecordType::PTR, vec!["four.mesh.", "web.mesh."]),
        ] {
            let (reply, answered) = asked(&query(name, kind), Bounds::Datagram);
            let data: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
            assert_eq!(data, expected, "{name} {kind}");
            assert!(reply.answers.iter().all(|record| record.ttl == 30 || name.starts_with("2.")), "{name}");
            assert_eq!(answered, Answered::Mesh);
            assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        }
    }

    #[test]
    fn a_name_without_records_of_the_type_has_no_data_and_exists() {
        for kind in [RecordType::AAAA, RecordType::HTTPS, RecordType::TXT, RecordType::MX] {
            let (reply, answered) = asked(&query("four.mesh.", kind), Bounds::Datagram);
            assert_eq!(answered, Answered::NoData, "{kind}");
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
            assert!(reply.answers.is_empty(), "{kind}");
            let RData::SOA(soa) = &reply.authorities[0].data else { panic!("{:?}", reply.authorities) };
            assert_eq!((reply.authorities[0].ttl, soa.minimum), (5, 5));
        }
    }

    #[test]
    fn the_case_of_a_name_does_not_matter_and_comes_back_as_it_was() {
        let bytes = query("wEb.MeSH.", RecordType::A).to_vec().unwrap();
        let Decision::Reply { bytes: reply, .. } = decide(&bytes, Bounds::Datagram, &names()) else {
            panic!()
        };
        assert_eq!(reply[HEADER..bytes.len()], bytes[HEADER..]);
        // The owner of the record is a pointer to the question.
        assert_eq!(reply[bytes.len()..bytes.len() + 2], [0xc0, HEADER as u8]);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_truncated_but_for_tcp() {
        let plain = query("many.mesh.", RecordType::A);
        let with_edns = |payload: u16| {
            let mut query = plain.clone();
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            query.set_edns(edns);
            query
        };
        // 1,627 bytes, and 11 for EDNS.
        for (query, bounds, records) in [
            (plain.clone(), Bounds::Datagram, 0),
            (with_edns(512), Bounds::Datagram, 0),
            (with_edns(1637), Bounds::Datagram, 0),
            (with_edns(1638), Bounds::Datagram, 100),
            (with_edns(4096), Bounds::Datagram, 100),
            (with_edns(u16::MAX), Bounds::Datagram, 100),
            (plain.clone(), Bounds::Stream, 100),
        ] {
            let (reply, _) = asked(&query, bounds);
            assert_eq!(reply.answers.len(), records, "{bounds:?} {:?}", query.edns);
            assert_eq!(reply.metadata.truncation, records < 100);
            assert_eq!(reply.edns.is_some(), query.edns.is_some());
        }
    }

    #[test]
    fn a_later_version_of_edns_is_told_so() {
        let mut later = query("web.mesh.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        later.set_edns(edns);
        let (reply, answered) = asked(&later, Bounds::Datagram);
        // 16 is a code of EDNS and of signatures.
        assert_eq!((u16::from(reply.metadata.response_code), answered), (16, Answered::Rejected));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_dropped_passed_on_or_answered_with_what_fits(
            mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80),
            name in 0..5_usize,
            at in 0..60_usize,
        ) {
            // Random bytes alone are hardly ever a question: most of these are a query with one byte changed.
            let names_asked = ["web.mesh.", "many.mesh.", "2.0.0.240.in-addr.arpa.", "a.test."];
            if let Some(name) = names_asked.get(name) {
                let byte = bytes.first().copied().unwrap_or_default();
                bytes = query(name, RecordType::A).to_vec().unwrap();
                if let Some(place) = bytes.get_mut(at) {
                    *place ^= byte;
                }
            }
            for bounds in [Bounds::Datagram, Bounds::Stream] {
                match decide(&bytes, bounds, &names()) {
                    Decision::Drop => assert!(bytes.len() < HEADER || is_response(&bytes)),
                    Decision::Relay => {
                        let mut echo = bytes.clone();
                        echo[2] |= 0x80;
                        assert!(answers(&echo, &bytes), "a server that repeats the query");
                    }
                    Decision::Reply { bytes: reply, .. } => {
                        assert!(reply.len() == HEADER || answers(&reply, &bytes), "{reply:?}");
                        assert_eq!(reply[..2], bytes[..2]);
                        assert!(bounds == Bounds::Stream || reply.len() <= usize::from(MOST_DATAGRAM));
                    }
                }
            }
        }
    }

    #[test]
    fn other_names_are_passed_on_and_what_is_no_query_is_not() {
        let bytes = query("web.example.", RecordType::A).to_vec().unwrap();
        let decided = |bytes: &[u8]| match decide(bytes, Bounds::Datagram, &names()) {
            Decision::Drop => "drop".to_owned(),
            Decision::Relay => "relay".to_owned(),
            Decision::Reply { bytes, .. } => format!("code {}", bytes[3] & 0xf),
        };
        let with = |at: usize, byte: u8| {
            let mut other = bytes.clone();
            other[at] = byte;
            decided(&other)
        };
        assert_eq!(decided(&bytes), "relay");
        assert_eq!(with(2, 0x81), "drop", "a response");
        assert_eq!(decided(&bytes[..11]), "drop");
        assert_eq!(with(2, 5 << 3), "code 4", "an update");
        assert_eq!(with(5, 0), "code 1", "no question");
        assert_eq!(with(5, 2), "code 1", "two questions");
        assert_eq!(decided(&bytes[..bytes.len() - 1]), "code 1", "half a question");
        assert_eq!(with(bytes.len() - 3, 252), "code 4", "a zone transfer");
        let mut mesh = query("web.mesh.", RecordType::A).to_vec().unwrap();
        assert_eq!(decided(&mesh), "code 0");
        // A record that the header promises and that is not there.
        mesh[HEADER - 1] = 1;
        assert_eq!(decided(&mesh), "code 1");
        mesh[HEADER - 1] = 0;
        let end = mesh.len();
        mesh[end - 1] = 3;
        assert_eq!(decided(&mesh), "relay", "a class that the mesh has no names in");
    }
}
