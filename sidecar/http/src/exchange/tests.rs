// SPDX-License-Identifier: Apache-2.0
use super::{Exchange, MAX_EMPTY_LINES, MAX_PIPELINED, Step, Verdict};
use crate::framing::Framing;
use crate::refusal::Refusal;
use crate::reply::{LINGER_BYTES, Reply};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";

#[track_caller]
fn request(exchange: &mut Exchange, bytes: &[u8]) -> usize {
    match exchange.client(bytes) {
        Step::Head(head) => {
            exchange.admit_request(&head);
            head.bytes.len()
        }
        other => panic!("no head: {other:?}"),
    }
}

#[track_caller]
fn response(exchange: &mut Exchange, bytes: &[u8]) -> usize {
    match exchange.server(bytes) {
        Step::Head(head) => {
            exchange.admit_response(&head);
            head.bytes.len()
        }
        other => panic!("no head: {other:?}"),
    }
}

#[test]
fn the_books_of_a_connection_are_small_and_own_no_memory() {
    fn owns_nothing<T: Copy>() {}
    owns_nothing::<Exchange>();
    assert!(size_of::<Exchange>() <= 96, "{}", size_of::<Exchange>());
}

#[test]
fn a_head_that_was_not_admitted_is_given_again() {
    let mut exchange = Exchange::default();
    for _ in 0..2 {
        assert!(matches!(exchange.client(GET), Step::Head(head) if head.bytes == GET));
        assert_eq!((exchange.under_way(), exchange.is_at_border()), (0, false), "a request waits");
    }
    request(&mut exchange, GET);
    assert_eq!((exchange.under_way(), exchange.is_at_border()), (1, false));
    assert!(matches!(exchange.client(b""), Step::More));
}

#[test]
fn a_client_with_sixteen_requests_under_way_is_held_until_a_response_is_complete() {
    let mut exchange = Exchange::default();
    for n in 0..MAX_PIPELINED {
        assert_eq!(exchange.under_way(), n);
        request(&mut exchange, GET);
    }
    assert!(matches!(exchange.client(GET), Step::Hold));
    response(&mut exchange, OK);
    assert!(matches!(exchange.client(GET), Step::Hold), "the body is not complete");
    assert!(matches!(exchange.server(b"ok"), Step::Forward(2)));
    request(&mut exchange, GET);
    assert!(matches!(exchange.client(b""), Step::Hold));
}

#[test]
fn bodies_may_pass_unseen() {
    let mut exchange = Exchange::default();
    request(&mut exchange, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    assert_eq!((exchange.client_unseen(), exchange.server_unseen()), (1000, 0));
    assert!(matches!(exchange.client(&[0; 10]), Step::Forward(10)));
    exchange.client_skip(900);
    assert_eq!(exchange.client_unseen(), 90);
    exchange.client_skip(90);
    assert_eq!(exchange.client_unseen(), 0);
    request(&mut exchange, GET);

    response(&mut exchange, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(exchange.server_unseen(), 0);
    assert!(matches!(exchange.server(b"64\r\nab"), Step::Forward(6)));
    assert_eq!(exchange.server_unseen(), 98);
    exchange.server_skip(98);
    assert!(matches!(exchange.server(b"\r\n0\r\n\r\n"), Step::Forward(7)));
    response(&mut exchange, OK);
    exchange.server_skip(2);
    assert!(exchange.is_at_border());

    request(&mut exchange, GET);
    response(&mut exchange, b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(exchange.server_unseen(), u64::MAX);
    exchange.server_skip(1 << 40);
    assert_eq!(exchange.verdict(), Verdict::Go);
    exchange.server_fin();
    assert_eq!((exchange.verdict(), exchange.server_unseen()), (Verdict::Over, 0));
}

#[test]
fn a_tunnel_passes_unseen_both_ways_once_it_is_agreed() {
    let mut exchange = Exchange::default();
    request(&mut exchange, b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n");
    assert_eq!((exchange.client_unseen(), exchange.server_unseen()), (0, 0));
    assert!(matches!(exchange.client(b"early"), Step::Hold));
    let Step::Head(head) = exchange.server(b"HTTP/1.1 200 OK\r\n\r\nwords") else { panic!("no head") };
    assert_eq!(head.framing, Framing::Tunnel);
    exchange.admit_response(&head);
    assert_eq!((exchange.client_unseen(), exchange.server_unseen()), (u64::MAX, u64::MAX));
    assert!(matches!(exchange.client(b"early"), Step::Forward(5)));
    assert!(matches!(exchange.server(b"words"), Step::Forward(5)));
    exchange.client_skip(5);
    exchange.server_skip(5);
    exchange.client_fin();
    exchange.server_fin();
    assert_eq!(exchange.verdict(), Verdict::Go, "both FINs pass");
}

#[test]
fn a_few_empty_lines_in_front_of_a_request_are_dropped() {
    let mut exchange = Exchange::default();
    for _ in 0..2 {
        for _ in 0..MAX_EMPTY_LINES {
            assert!(matches!(exchange.client(b"\r"), Step::More));
            assert!(matches!(exchange.client(b"\r\nGET"), Step::Drop(2)));
        }
        request(&mut exchange, GET);
        response(&mut exchange, OK);
        exchange.server_skip(2);
    }
    for _ in 0..MAX_EMPTY_LINES {
        assert!(matches!(exchange.client(b"\r\n"), Step::Drop(2)));
    }
    assert!(matches!(exchange.client(b"\r\n"), Step::Drop(2)), "read while lingering");
    assert_eq!(exchange.verdict(), Verdict::Answer(Reply::to_request(Refusal::EmptyLines)));
}

#[test]
fn a_refused_client_is_read_for_a_while() {
    let mut exchange = Exchange::default();
    let bytes = vec![0; LINGER_BYTES];
    assert!(matches!(exchange.client(&bytes[1..]), Step::Drop(n) if n == LINGER_BYTES - 1));
    assert_eq!(exchange.verdict(), Verdict::Answer(Reply::to_request(Refusal::ControlByte)));
    assert!(matches!(exchange.client(b""), Step::More));
    assert!(matches!(exchange.client(&bytes), Step::Drop(1)));
    assert!(matches!(exchange.client(&bytes), Step::Hold));
    assert_eq!((exchange.client_unseen(), exchange.server_unseen()), (0, 0));
}

#[test]
fn a_server_that_cannot_be_reached_is_answered_for_with_503() {
    for (head, body) in [("GET", true), ("HEAD", false)] {
        let mut exchange = Exchange::default();
        request(&mut exchange, format!("{head} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        request(&mut exchange, GET);
        exchange.fail(Refusal::Unreachable);
        assert_eq!(
            exchange.verdict(),
            Verdict::Answer(Reply { rule: Refusal::Unreachable, status: 503, body })
        );
    }
    let mut exchange = Exchange::default();
    request(&mut exchange, GET);
    response(&mut exchange, OK);
    exchange.fail(Refusal::Unreachable);
    assert_eq!(exchange.verdict(), Verdict::Close(Refusal::Unreachable), "an answer has begun");
    let mut exchange = Exchange::default();
    assert!(matches!(exchange.client(b"\0"), Step::Drop(1)));
    exchange.fail(Refusal::Unreachable);
    assert_eq!(
        exchange.verdict(),
        Verdict::Answer(Reply::to_request(Refusal::ControlByte)),
        "the first end stands"
    );
}

#[test]
fn a_refused_client_waits_for_the_answers_before_and_is_read_behind_its_own() {
    let mut exchange = Exchange::default();
    request(&mut exchange, GET);
    assert!(matches!(exchange.client(b"\0rubbish"), Step::Hold));
    assert!(matches!(exchange.client(b""), Step::More), "a FIN is noticed");
    assert_eq!(exchange.verdict(), Verdict::Go);
    response(&mut exchange, OK);
    assert!(matches!(exchange.client(b"\0rubbish"), Step::Hold));
    assert!(matches!(exchange.server(b"ok"), Step::Forward(2)));
    assert_eq!(exchange.verdict(), Verdict::Answer(Reply::to_request(Refusal::ControlByte)));
    assert!(matches!(exchange.client(b"\0rubbish"), Step::Drop(8)));
}

#[test]
fn a_server_is_held_while_an_answer_to_a_declined_request_is_due() {
    let mut exchange = Exchange::default();
    let Step::Head(head) = exchange.client(GET) else { panic!("no head") };
    exchange.decline_request(&head);
    request(&mut exchange, GET);
    assert_eq!(exchange.verdict(), Verdict::Reply { body: true, keeps: true });
    assert!(matches!(exchange.server(OK), Step::Hold));
    assert!(matches!(exchange.server(b""), Step::Hold), "a FIN waits, too");
    exchange.replied();
    assert_eq!((exchange.verdict(), exchange.under_way()), (Verdict::Go, 1));
    exchange.replied();
    assert_eq!(exchange.under_way(), 1, "the next one is the server's");
    response(&mut exchange, OK);
}

#[test]
fn a_connection_that_is_finished_ends_behind_all_requests_that_began() {
    let over = |exchange: &Exchange| exchange.verdict() == Verdict::Over;
    let answer = |exchange: &mut Exchange| {
        response(exchange, OK);
        assert!(matches!(exchange.server(b"ok"), Step::Forward(2)));
    };
    let mut exchange = Exchange::default();
    exchange.finish();
    assert!(over(&exchange), "nothing began");

    let mut exchange = Exchange::default();
    request(&mut exchange, GET);
    request(&mut exchange, GET);
    exchange.finish();
    assert!(matches!(exchange.client(GET), Step::Hold), "a request that comes later");
    answer(&mut exchange);
    assert!(!over(&exchange), "the second is not answered");
    answer(&mut exchange);
    assert!(over(&exchange));

    let mut exchange = Exchange::default();
    assert!(matches!(exchange.client(&GET[..5]), Step::More));
    exchange.finish();
    assert!(!over(&exchange), "a request is coming");
    request(&mut exchange, GET);
    assert!(matches!(exchange.client(GET), Step::Hold));
    answer(&mut exchange);
    assert!(over(&exchange));

    let mut exchange = Exchange::default();
    request(&mut exchange, GET);
    assert!(matches!(exchange.client(&GET[..5]), Step::More));
    exchange.finish();
    answer(&mut exchange);
    assert!(!over(&exchange), "a request is coming");
    request(&mut exchange, GET);
    answer(&mut exchange);
    assert!(over(&exchange));

    let mut exchange = Exchange::default();
    request(&mut exchange, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    answer(&mut exchange);
    exchange.finish();
    assert!(!over(&exchange), "the server may still read the body");
    assert!(matches!(exchange.client(b"hello"), Step::Forward(5)));
    assert!(over(&exchange));
}

#[test]
fn a_declined_request_of_a_finished_connection_gets_the_last_answer() {
    for pipelined in [false, true] {
        let mut exchange = Exchange::default();
        if pipelined {
            request(&mut exchange, GET);
        }
        let Step::Head(head) = exchange.client(GET) else { panic!("no head") };
        exchange.decline_request(&head);
        exchange.finish();
        if pipelined {
            assert_eq!(exchange.verdict(), Verdict::Go);
            response(&mut exchange, OK);
            assert!(matches!(exchange.server(b"ok"), Step::Forward(2)));
        }
        assert_eq!(exchange.verdict(), Verdict::Reply { body: true, keeps: false });
        exchange.replied();
        assert_eq!(exchange.verdict(), Verdict::Over);
    }
    let mut exchange = Exchange::default();
    let Step::Head(head) = exchange.client(GET) else { panic!("no head") };
    exchange.decline_request(&head);
    assert!(matches!(exchange.client(&GET[..5]), Step::More));
    exchange.finish();
    assert_eq!(exchange.verdict(), Verdict::Reply { body: true, keeps: true }, "a request is coming");
    exchange.replied();
    request(&mut exchange, GET);
    response(&mut exchange, OK);
    exchange.server_skip(2);
    assert_eq!(exchange.verdict(), Verdict::Over);
}

#[test]
fn a_connection_is_finished_behind_a_refused_change_of_protocol_and_not_within_a_tunnel() {
    const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\n\r\n";
    let mut exchange = Exchange::default();
    request(&mut exchange, UPGRADE);
    exchange.finish();
    response(&mut exchange, OK);
    exchange.server_skip(2);
    assert_eq!(exchange.verdict(), Verdict::Over);

    let mut exchange = Exchange::default();
    request(&mut exchange, UPGRADE);
    exchange.finish();
    response(&mut exchange, b"HTTP/1.1 101 Go\r\n\r\n");
    assert!(matches!(exchange.client(b"early"), Step::Forward(5)));
    assert!(matches!(exchange.server(b"words"), Step::Forward(5)));
    exchange.finish();
    assert_eq!(exchange.verdict(), Verdict::Go);
}

#[test]
fn only_the_last_response_of_a_finished_connection_ends_it_unsaid() {
    const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\n\r\n";
    let said = |requests: &[&[u8]], finished: bool, head: &[u8]| {
        let mut exchange = Exchange::default();
        for bytes in requests {
            request(&mut exchange, bytes);
        }
        if finished {
            exchange.finish();
        }
        let Step::Head(head) = exchange.server(head) else { panic!("no head") };
        exchange.ends_unsaid(&head)
    };
    for (name, requests, finished, head, ends) in [
        ("the last", &[GET][..], true, OK, true),
        ("not finished", &[GET], false, OK, false),
        ("one of two", &[GET, GET], true, OK, false),
        ("an interim one", &[GET], true, b"HTTP/1.1 103 Early\r\n\r\n", false),
        (
            "one that says so",
            &[GET],
            true,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
            false,
        ),
        ("one that ends with the connection", &[GET], true, b"HTTP/1.1 200 OK\r\n\r\n", false),
        ("a refused change of protocol", &[UPGRADE], true, OK, true),
        ("a tunnel", &[UPGRADE], true, b"HTTP/1.1 101 Go\r\n\r\n", false),
    ] {
        assert_eq!(said(requests, finished, head), ends, "{name}");
    }
}
