// SPDX-License-Identifier: Apache-2.0
//! `inspect`, and the admin's page of that name.

use super::*;

#[test]
fn the_page_says_what_the_command_says() {
    let files = ["/tests/program/mesh.yaml", "/tests/documents/proxy-template-timeouts.universal.yaml"];
    let files = files.map(|file| format!("{}{file}", env!("CARGO_MANIFEST_DIR")));
    let (code, said, complaint) = output(program().arg("inspect").args(&files));
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    let patched = "  connect timeout       99s   ProxyTemplate custom-template-1 (";
    assert!(said.contains(patched) && said.contains(", conf.modifications[0])\n"), "{said}");
    let resources = files.map(|file| format!("--resources={file}"));
    let sidecar = Sidecar::start(&["--verify-redirect=off", &resources[0], &resources[1]]);
    let page = sidecar.ask(ADMIN, "GET /inspect");
    let (_, page) = page.split_once("\r\n\r\n").unwrap();
    assert_eq!(page, said);
    let answer = sidecar.ask(ADMIN, "GET /inspect?caller=web");
    assert!(answer.contains(" 400 ") && answer.contains("?caller=web: "), "{answer}");
}

#[test]
fn a_wrong_caller_or_document_is_64_with_the_reason() {
    let mesh = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/mesh.yaml");
    for (arguments, reason) in [
        (&["inspect", "--caller", "web", mesh][..], "--caller \"web\": "),
        (&["--dataplane=web", "inspect", mesh], "--dataplane web: no document is a Dataplane of this name"),
        (&["inspect"], "required arguments were not provided"),
    ] {
        let (code, said, complaint) = output(program().args(arguments));
        assert_eq!((code, said.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(complaint.contains(reason), "{arguments:?}: {complaint}");
    }
}
