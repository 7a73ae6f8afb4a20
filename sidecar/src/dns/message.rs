// SPDX-License-Identifier: Apache-2.0
//! Messages as bytes: what a relay has to know of them. Nothing is decoded that only the two ends care for.
//!
//! ```text
//! | id 2 | flags 2 | four counts of 2 | name, type 2, class 2 | records …
//! 0      2         4                  12 = HEADER             question_end
//! ```

/// Bytes before the question.
pub(crate) const HEADER: usize = 12;

/// Longest name on the wire, its end included (RFC 1035, 2.3.4).
pub(crate) const MOST_NAME: usize = 255;

/// Longest label of a name.
const MOST_LABEL: usize = 63;

/// Response codes.
pub(crate) const FORMERR: u8 = 1;
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

/// In the third byte: a response, the kind of query, truncated, recursion desired.
const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RD: u8 = 0x01;
const TC: u8 = 0x02;
/// In the fourth byte: recursion available, the response code.
const RA: u8 = 0x80;
const RCODE: u8 = 0x0f;

/// Places of counts.
const QUESTIONS: usize = 4;
const ANSWERS: usize = 6;

/// An OPT record without options (RFC 6891): root, type 41, payload of 1,232 bytes, version 0, no data. 1,232 bytes fit into
/// every IPv6 packet; it is the number that servers agreed on in 2020.
pub(crate) const PAYLOAD: u16 = 1232;
const OPT: [u8; 11] = [0, 0, 41, PAYLOAD.to_be_bytes()[0], PAYLOAD.to_be_bytes()[1], 0, 0, 0, 0, 0, 0];

fn number(message: &[u8], at: usize) -> u16 {
    message.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Returns the id of a message that has a header.
pub(crate) fn id_of(message: &[u8]) -> u16 {
    number(message, 0)
}

/// Replaces the id of a message that has a header.
pub(crate) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// Returns true if the message is an answer.
pub(crate) fn is_response(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & QR != 0)
}

/// Returns true if the message is an ordinary query, no update or notification.
pub(crate) fn is_standard(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & OPCODE == 0)
}

/// Returns the number of questions.
pub(crate) fn questions(message: &[u8]) -> u16 {
    number(message, QUESTIONS)
}

/// Returns the end of the first question. A name that points elsewhere has none: nothing stands before the first name.
pub(crate) fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        at += length;
        if length > MOST_LABEL || at - HEADER >= MOST_NAME {
            return None;
        }
    }
    // Type and class.
    let end = at + 4;
    (message.len() >= end).then_some(end)
}

/// Returns the type that a question asks for; `end` is the question's.
pub(crate) fn type_of(message: &[u8], end: usize) -> u16 {
    number(message, end - 4)
}

/// Returns the class that a question asks for; `end` is the question's.
pub(crate) fn class_of(message: &[u8], end: usize) -> u16 {
    number(message, end - 2)
}

/// Returns true if a message of a server answers this query: same id, kind and question.
///
/// Names are compared without case, as a server may write its own. A client that mixes the case of its names to tell forged
/// answers gets the server's bytes and looks itself.
pub fn answers(answer: &[u8], query: &[u8]) -> bool {
    if answer.len().min(query.len()) < HEADER || !is_response(answer) || id_of(answer) != id_of(query) {
        return false;
    }
    if (answer[2] ^ query[2]) & OPCODE != 0 {
        return false;
    }
    match questions(answer) {
        // Servers that cannot read a query do not repeat its question.
        0 => answer[3] & RCODE != 0 && number(answer, ANSWERS) == 0,
        1 => question_end(query).is_some_and(|end| {
            let same_name =
                |theirs: &[u8]| theirs[..end - 4 - HEADER].eq_ignore_ascii_case(&query[HEADER..end - 4]);
            let same_kind = |theirs: &[u8]| theirs[end - 4 - HEADER..] == query[end - 4..end];
            answer.get(HEADER..end).is_some_and(|theirs| same_name(theirs) && same_kind(theirs))
        }),
        _ => false,
    }
}

/// Returns the response code of a message; of one without a header 0.
pub(crate) fn code_of(message: &[u8]) -> u8 {
    message.get(3).map_or(0, |flags| flags & RCODE)
}

/// Returns true if an answer says that this server cannot help, which another one may. glibc goes on after these three.
pub(crate) fn is_unhelpful(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| [SERVFAIL, NOTIMP, REFUSED].contains(&(flags & RCODE)))
}

/// Makes an answer without records that says that it is cut.
pub(crate) fn truncated(query: &[u8], code: u8) -> Vec<u8> {
    let mut reply = error_reply(query, code);
    reply[2] |= TC;
    reply
}

/// Makes an answer without records: the query's id and question, and a response code.
pub(crate) fn error_reply(query: &[u8], code: u8) -> Vec<u8> {
    let end = question_end(query).filter(|_| questions(query) == 1);
    let mut reply = vec![0; HEADER];
    set_id(&mut reply, id_of(query));
    let flags = query.get(2).copied().unwrap_or_default();
    reply[2] = QR | flags & (OPCODE | RD);
    reply[3] = RA | code;
    if let Some(end) = end {
        reply[QUESTIONS + 1] = 1;
        reply.extend_from_slice(&query[HEADER..end]);
        // Every resolver puts its OPT record right behind the question.
        if query[end..].starts_with(&OPT[..3]) && number(query, ANSWERS) == 0 {
            reply[HEADER - 1] = 1;
            reply.extend_from_slice(&OPT);
        }
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for a name whose labels are given with their lengths.
    fn query(name: &[u8], kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, RD, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(name);
        message.extend_from_slice(&[kind.to_be_bytes(), [0, 1]].concat());
        message
    }

    fn answer(query: &[u8]) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2] |= QR;
        answer
    }

    #[test]
    fn the_question_ends_behind_its_class() {
        let name = b"\x03web\x04mesh\x00";
        let message = query(name, 1);
        assert_eq!(question_end(&message), Some(HEADER + name.len() + 4));
        assert_eq!(question_end(&query(b"\x00", 2)), Some(HEADER + 5), "the root");
        for cut in 0..message.len() {
            assert_eq!(question_end(&message[..cut]), None, "{cut} bytes");
        }
        for wrong in [&b"\xc0\x0c"[..], b"\x03web\xc0\x0c", b"\x40", b"\x80"] {
            assert_eq!(question_end(&query(wrong, 1)), None, "{wrong:?}");
        }
        let label = [&[63][..], &[b'a'; 63]].concat();
        // 3 labels of 64 bytes, one of 62, and the end: 255.
        let longest = [&label.repeat(3)[..], &[61], &[b'a'; 61], &[0]].concat();
        assert_eq!(longest.len(), MOST_NAME);
        assert!(question_end(&query(&longest, 1)).is_some());
        let longer = [&label.repeat(3)[..], &[62], &[b'a'; 62], &[0]].concat();
        assert_eq!(question_end(&query(&longer, 1)), None);
    }

    #[test]
    fn an_answer_has_the_id_and_the_question_of_its_query() {
        let asked = query(b"\x03wEb\x04mesh\x00", 28);
        let good = answer(&asked);
        assert!(answers(&good, &asked));
        let mut lower = good.clone();
        lower[HEADER + 2] = b'e';
        assert!(answers(&lower, &asked), "a server that writes lower case");
        let with = |at: usize, byte: u8| {
            let mut other = good.clone();
            other[at] = byte;
            answers(&other, &asked)
        };
        let end = good.len();
        for (what, taken) in [
            ("another id", with(0, 0)),
            ("no response", with(2, RD)),
            ("a notification", with(2, QR | 0x20)),
            ("another name", with(HEADER + 1, b'x')),
            ("another type", with(end - 3, 1)),
            ("another class", with(end - 1, 3)),
            ("two questions", with(5, 2)),
            ("no question and no error", with(5, 0)),
        ] {
            assert!(!taken, "{what}");
        }
        // 65, HTTPS, and 97 differ as "A" and "a" do.
        assert!(!answers(&answer(&query(b"\x00", 65)), &query(b"\x00", 97)));
        let refusal = [&good[..3], &[REFUSED], &[0; 8]].concat();
        assert!(answers(&refusal, &asked), "an error may leave the question out");
        for cut in 0..good.len() {
            assert!(!answers(&good[..cut], &asked), "{cut} bytes");
        }
    }

    #[test]
    fn an_error_repeats_the_question_and_that_edns_is_spoken() {
        let asked = query(b"\x03wEb\x00", 1);
        let reply = error_reply(&asked, SERVFAIL);
        assert!(answers(&reply, &asked));
        assert_eq!(reply[HEADER..], asked[HEADER..]);
        assert_eq!((reply[2], reply[3]), (QR | RD, RA | SERVFAIL));
        assert_eq!(reply[QUESTIONS..HEADER], [0, 1, 0, 0, 0, 0, 0, 0]);
        let mut with_edns = [&asked[..], &OPT].concat();
        with_edns[HEADER - 1] = 1;
        let reply = error_reply(&with_edns, SERVFAIL);
        assert_eq!(reply[asked.len()..], OPT);
        assert_eq!(reply[HEADER - 1], 1);
        // Bytes that hold no question.
        assert_eq!(error_reply(&asked[..HEADER + 2], FORMERR).len(), HEADER);
    }

    #[test]
    fn three_codes_send_a_query_to_the_next_server() {
        let mut message = answer(&query(b"\x00", 1));
        let unhelpful: Vec<u8> = (0..16)
            .filter(|code| {
                message[3] = RA | code;
                is_unhelpful(&message)
            })
            .collect();
        assert_eq!(unhelpful, [SERVFAIL, NOTIMP, REFUSED]);
    }
}
