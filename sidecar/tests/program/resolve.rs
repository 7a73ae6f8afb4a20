// SPDX-License-Identifier: Apache-2.0
//! `resolve`, and the admin's page of names.

use super::*;

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[test]
fn the_command_says_what_the_page_says_and_a_name_that_does_not_exist_is_1() {
    let mesh = format!("--resources={}/tests/program/mesh.yaml", env!("CARGO_MANIFEST_DIR"));
    let sidecar = Sidecar::start(&["--verify-redirect=off", &mesh]);
    let admin = format!("--admin-address=127.0.0.1:{}", sidecar.ports[ADMIN]);
    for format in ["text", "json"] {
        let command = [&admin, "resolve", "nowhere.mesh", "--format", format];
        let (code, said, complaint) = output(program().args(command));
        assert_eq!((code, complaint.as_str()), (Some(1), ""), "{said}");
        let answer = sidecar.ask(ADMIN, &format!("GET /names?name=nowhere.mesh&format={format}"));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert_eq!(body(&answer).trim_end(), said.trim_end());
        assert!(said.contains("without --dataplane no document says which pod this is"), "{said}");
    }
    let list = sidecar.ask(ADMIN, "GET /names");
    assert!(
        list.starts_with("HTTP/1.1 200 ") && body(&list).starts_with("0 of 0 names, page 1 of 1"),
        "{list}"
    );
    let answer = sidecar.ask(ADMIN, "GET /names?colour=red");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn documents_that_are_named_are_read_and_what_is_wrong_is_64() {
    let mesh = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/mesh.yaml");
    let (code, said, _) = output(program().args(["resolve", "nowhere.mesh", mesh]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("nowhere.mesh is not there\n"), "{said}");
    let free = format!("--admin-address=127.0.0.1:{}", free_port());
    for (arguments, reason) in [
        (&["resolve", "no name", mesh][..], "\"no name\" is no name: "),
        (
            &["--dataplane=web", "resolve", "web.mesh", mesh],
            "--dataplane web: no document is a Dataplane of this name",
        ),
        (&["resolve"], "required arguments were not provided"),
        (&[&free, "resolve", "web.mesh"], "is that its --admin-address?"),
    ] {
        let (code, said, complaint) = output(program().args(arguments));
        assert_eq!((code, said.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(complaint.contains(reason), "{arguments:?}: {complaint}");
    }
}
