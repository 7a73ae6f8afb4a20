// SPDX-License-Identifier: Apache-2.0
//! Bodies and requests that are no reviews: 400 or another refusal with its reason, never an end of the program, and never a pod
//! that is let through.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use culvert_tests::http::{self, Response};
use culvert_tests::until::DEADLINE;
use serde_json::{Value, json};

use super::{Cluster, Injector, pod, post, review};

fn request(head: &str, body: &[u8]) -> Vec<u8> {
    let rest = format!("Host: h\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), rest.as_bytes(), body].concat()
}

fn still_answers(cluster: &Cluster, injector: &Injector) -> Result<()> {
    let response = cluster.review(injector, &review(&pod()))?;
    ensure!(response["allowed"] == true && response["patch"].is_string(), "{response}");
    Ok(())
}

#[test]
fn what_is_no_review_is_a_400_with_the_reason() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let whole = review(&pod());
    let with = |change: fn(&mut Value)| {
        let mut review = whole.clone();
        change(&mut review);
        review.to_string().into_bytes()
    };
    let text = whole.to_string().into_bytes();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "no JSON"),
        ("no JSON", b"hello".to_vec(), "no JSON"),
        ("YAML", b"kind: AdmissionReview\n".to_vec(), "no JSON"),
        ("protobuf", b"k8s\0\n\x0f\n\x02v1\x12\x09".to_vec(), "no JSON"),
        ("half", text[..text.len() / 2].to_vec(), "not all of it"),
        ("two", [text.clone(), text.clone()].concat(), "no JSON"),
        ("a list", b"[]".to_vec(), "no AdmissionReview"),
        ("a list of lists", [vec![b'['; 200_000], vec![b']'; 200_000]].concat(), "recursion"),
        ("a pod", pod().to_string().into_bytes(), "its kind \"Pod\""),
        (
            "another version",
            with(|review| review["apiVersion"] = "admission.k8s.io/v1beta1".into()),
            "v1beta1",
        ),
        ("another kind", with(|review| review["kind"] = "ConversionReview".into()), "ConversionReview"),
        ("no request", with(|review| review["request"] = Value::Null), "no request"),
        (
            "an answer",
            with(|review| {
                review["request"] = Value::Null;
                review["response"] = json!({ "uid": "x", "allowed": true });
            }),
            "no request",
        ),
        ("no uid", with(|review| review["request"]["uid"] = Value::Null), "no request.uid"),
    ];
    let count = cases.len();
    for (name, body, reason) in cases {
        let answer = cluster.post(&injector, &body)?;
        ensure!(answer.status == 400 && answer.body.contains(reason), "{name}: {answer:?}");
        ensure!(!answer.body.contains("allowed"), "{name}: {answer:?}");
    }
    assert_eq!(
        injector.metric("culvert_injector_rejected_requests_total{reason=\"Malformed\"}")?,
        count as f64
    );
    still_answers(&cluster, &injector)
}

#[test]
fn a_review_whose_pod_cannot_be_read_is_denied_with_the_reason() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (object, reason) in [
        ("null", "no request.object"),
        ("7", "no object"),
        ("{}", "spec is missing"),
        (r#"{"spec":{}}"#, "containers is empty"),
        (r#"{"spec":{"containers":{}}}"#, "no list of containers"),
        (r#"{"metadata":[],"spec":{"containers":[{"name":"a"}]}}"#, "metadata is no object"),
        (
            r#"{"metadata":{"annotations":{"culvert.dev/redirect-dns":[]}},"spec":{"containers":[{"name":"a"}]}}"#,
            "no text",
        ),
        (deep.as_str(), "recursion"),
    ] {
        let mut review = review(&pod());
        review["request"]["object"] = "HERE".into();
        let body = review.to_string().replace("\"HERE\"", object);
        let answer = cluster.post(&injector, body.as_bytes())?;
        assert_eq!(answer.status, 200, "{object}");
        let response = &serde_json::from_str::<Value>(&answer.body)?["response"];
        assert_eq!(
            (&response["uid"], &response["allowed"]),
            (&review["request"]["uid"], &json!(false)),
            "{object}"
        );
        let message = response["status"]["message"].as_str().context("a message")?;
        ensure!(message.contains(reason), "{object}: {message}");
    }
    still_answers(&cluster, &injector)
}

#[test]
fn what_is_no_post_of_json_to_its_path_is_refused() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let body = review(&pod()).to_string().into_bytes();
    for (head, status, words) in [
        ("POST /mutate HTTP/1.1\r\nContent-Type: application/json\r\n", 404, "/inject"),
        ("POST / HTTP/1.1\r\nContent-Type: application/json\r\n", 404, "/inject"),
        ("GET /inject HTTP/1.1\r\n", 405, "use POST"),
        ("PUT /inject HTTP/1.1\r\nContent-Type: application/json\r\n", 405, "use POST"),
        ("POST /inject HTTP/1.1\r\n", 415, "application/json"),
        ("POST /inject HTTP/1.1\r\nContent-Type: application/vnd.kubernetes.protobuf\r\n", 415, "protobuf"),
    ] {
        let answer = http::exchange(cluster.tls(&injector)?, &request(head, &body))?;
        ensure!(answer.status == status && answer.body.contains(words), "{head}: {answer:?}");
    }
    let kind = "POST /inject HTTP/1.1\r\nContent-Type: Application/JSON; charset=utf-8\r\n";
    assert_eq!(http::exchange(cluster.tls(&injector)?, &request(kind, &body))?.status, 200);
    // Not TLS at all, and not HTTP.
    let mut plain = TcpStream::connect(injector.webhook)?;
    plain.set_read_timeout(Some(DEADLINE))?;
    plain.write_all(&post(&body))?;
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    ensure!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let mut stream = cluster.tls(&injector)?;
    stream.write_all(b"hello\r\n\r\n")?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    ensure!(answer.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&answer));
    still_answers(&cluster, &injector)
}

#[test]
fn a_body_may_be_as_large_as_kubernetes_takes_and_no_larger() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let mut large = pod();
    large["metadata"]["annotations"] = json!({ "example.com/large": "x".repeat(3 << 20) });
    let response = cluster.review(&injector, &review(&large))?;
    ensure!(response["allowed"] == true && response["patch"].is_string(), "{response}");

    let too_large = |answer: Response| ensure_status(&answer, 413, "larger than");
    // Said before it comes, and found out while it comes.
    let head = "POST /inject HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n";
    let mut stream = cluster.tls(&injector)?;
    too_large(http::exchange(&mut stream, format!("{head}Content-Length: 99999999999\r\n\r\n").as_bytes())?)?;
    let mut stream = cluster.tls(&injector)?;
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20));
    stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
    for _ in 0..4 {
        stream.write_all(chunk.as_bytes())?;
    }
    too_large(http::exchange(&mut stream, chunk.as_bytes())?)?;
    // Lists of small values take sixteen times as much when they are read: one at a time.
    let values = format!("[{}0]", "0,".repeat(2_000_000));
    let mut review = review(&pod());
    review["request"]["object"]["spec"]["values"] = "HERE".into();
    let body = review.to_string().replace("\"HERE\"", &values);
    assert_eq!(cluster.post(&injector, body.as_bytes())?.status, 200);
    still_answers(&cluster, &injector)
}

fn ensure_status(answer: &Response, status: u16, words: &str) -> Result<()> {
    ensure!(answer.status == status && answer.body.contains(words), "{answer:?}");
    Ok(())
}

#[test]
fn a_slow_body_has_its_deadline_and_keeps_no_one_waiting() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let body = post(review(&pod()).to_string().as_bytes());
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = cluster.tls(&injector)?;
        stream.write_all(&body[..body.len() - 1])?;
        slow.push(stream);
    }
    still_answers(&cluster, &injector)?;
    let began = Instant::now();
    for mut stream in slow {
        let mut answer = String::new();
        // The connection ends with the answer, since the rest of the body is still to come.
        let _ = stream.read_to_string(&mut answer);
        ensure!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    }
    ensure!(began.elapsed() < DEADLINE * 2, "{:?}", began.elapsed());
    // Gone in the middle: it counts, and that is all.
    let mut stream = cluster.tls(&injector)?;
    stream.write_all(&body[..body.len() / 2])?;
    drop(stream);
    still_answers(&cluster, &injector)
}

#[test]
fn a_peer_that_hoards_connections_closes_its_own() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let mut hoard = Vec::new();
    for _ in 0..600 {
        hoard.push(TcpStream::connect(injector.webhook)?);
    }
    still_answers(&cluster, &injector)
}
