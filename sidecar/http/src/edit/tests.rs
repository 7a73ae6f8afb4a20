// SPDX-License-Identifier: Apache-2.0
use super::{Edit, WrongEdit, edited};
use crate::head::RequestHead;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

fn kuma() -> Edit {
    Edit::remove("x-kuma-tags").unwrap()
}

fn cert(value: &str) -> Edit {
    Edit::set("x-forwarded-client-cert", value.as_bytes()).unwrap()
}

/// Edits a head of these fields, and reads the result again: it has to say the same but for the fields.
fn edit(fields: &str, edits: &[Edit]) -> Option<String> {
    let head = format!("POST /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let read = RequestHead::read(head.as_bytes()).expect("a right head");
    let mut bytes = b"of the last head".to_vec();
    let edited = edited(&read, edits, &mut bytes)?;
    let again = RequestHead::read(edited.bytes).expect("the edited head breaks no rule");
    for other in [&edited, &again] {
        let said = |head: &RequestHead<'_>| {
            let method = head.method.to_owned();
            (method, format!("{:?}", head.target), head.version, head.framing, head.keeps, head.expects)
        };
        assert_eq!((said(other), other.host), (said(&read), read.host));
        assert_eq!(other.upgrades, again.upgrades, "{fields}");
        assert_eq!(other.fields().collect::<Vec<_>>(), again.fields().collect::<Vec<_>>());
    }
    let text = String::from_utf8(bytes).unwrap();
    let fields = text.strip_prefix("POST /a HTTP/1.1\r\nHost: h\r\n").expect("the first lines stay");
    Some(fields.strip_suffix("\r\n").expect("an empty line ends a head").to_owned())
}

#[test]
fn lines_leave_a_head_and_are_set_at_its_end() {
    let h2c = Edit::without_h2c;
    for (name, fields, edits, expected) in [
        ("nothing to take out", "A: b\r\nConnection: close, x\r\n", &[kuma(), h2c()][..], None),
        ("no field at all", "", &[kuma()], None),
        ("no edit", "X-Kuma-Tags: a\r\n", &[], None),
        ("one line", "A: b\r\nx-kuma-tags: c\r\nD: e\r\n", &[kuma()], Some("A: b\r\nD: e\r\n")),
        ("the last line", "x-kuma-tags: c\r\n", &[kuma()], Some("")),
        (
            "all lines, in any letters",
            "X-Kuma-Tags: 1\r\nA:  b \r\nx-KUMA-tags:2\r\nx_kuma_tags: 3\r\nx-kuma-tags2: 4\r\n",
            &[kuma()],
            Some("A:  b \r\nx-kuma-tags2: 4\r\n"),
        ),
        (
            "set where it was not",
            "A: b\r\n",
            &[cert("URI=spiffe://d/a")],
            Some("A: b\r\nx-forwarded-client-cert: URI=spiffe://d/a\r\n"),
        ),
        (
            "set in place of a client's own",
            "X-Forwarded-Client-Cert: URI=spiffe://d/admin\r\nA: b\r\nX_Forwarded_Client_Cert: c\r\n",
            &[kuma(), cert("URI=spiffe://d/a")],
            Some("A: b\r\nx-forwarded-client-cert: URI=spiffe://d/a\r\n"),
        ),
        (
            "set, and a client that wants it taken out again",
            "Connection: X-Forwarded-Client-Cert, close\r\nconnection:x-forwarded-client-cert\r\n",
            &[cert("a")],
            Some("Connection: close\r\nx-forwarded-client-cert: a\r\n"),
        ),
        ("an empty value", "A: b\r\n", &[cert("")], Some("A: b\r\nx-forwarded-client-cert: \r\n")),
        (
            "h2c alone",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nA: b\r\n",
            &[h2c()],
            Some("A: b\r\n"),
        ),
        (
            "h2c beside another option",
            "Connection: keep-alive ,Upgrade,  HTTP2-Settings\t, x\r\nUpgrade: H2C\r\nHTTP2-Settings: a\r\nhttp2-settings: b\r\n",
            &[h2c()],
            Some("Connection: keep-alive , x\r\n"),
        ),
        (
            "h2c beside another protocol",
            "Connection: upgrade, http2-settings\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: a\r\n",
            &[h2c()],
            Some("Connection: upgrade\r\nUpgrade: websocket\r\n"),
        ),
        (
            "h2c beside another line",
            "Upgrade: h2c/2\r\nConnection: upgrade\r\nUpgrade: TLS/1.0\r\n",
            &[h2c()],
            Some("Connection: upgrade\r\nUpgrade: TLS/1.0\r\n"),
        ),
        ("another protocol alone", "Connection: upgrade\r\nUpgrade: websocket, xh2c\r\n", &[h2c()], None),
        (
            "settings without the protocol",
            "HTTP2-Settings: a\r\nConnection: http2-settings\r\n",
            &[h2c()],
            None,
        ),
        ("an empty list", "Upgrade:\r\nConnection:\r\n", &[h2c()], None),
        ("h2c among empty elements", "Upgrade: ,h2c,\r\nConnection: ,upgrade,\r\n", &[h2c()], Some("")),
        (
            "all at once",
            "x-kuma-tags: &a=b&\r\nUpgrade: h2c\r\nConnection: x-kuma-tags,upgrade,te\r\nTE: trailers\r\n",
            &[kuma(), h2c(), cert("c")],
            Some("Connection:te\r\nTE: trailers\r\nx-forwarded-client-cert: c\r\n"),
        ),
    ] {
        assert_eq!(edit(fields, edits).as_deref(), expected, "{name}");
    }
}

#[test]
fn a_name_of_any_length_is_found() {
    for length in [1, 4, 10, 62, 63, 64, 65, 200] {
        let name = "n".repeat(length);
        let edits = [Edit::remove(&name).unwrap()];
        assert_eq!(edit(&format!("A: b\r\n{name}: c\r\n"), &edits).as_deref(), Some("A: b\r\n"), "{length}");
        assert_eq!(edit(&format!("A: b\r\n{}: c\r\n", "m".repeat(length)), &edits), None, "{length}");
    }
}

#[test]
fn what_frames_or_routes_a_message_cannot_be_edited() {
    for name in [
        "Connection",
        "content_length",
        "Transfer-Encoding",
        "host",
        "Expect",
        "upgrade",
        "Keep-Alive",
        "close",
    ] {
        let wrong = WrongEdit::Reserved(name.into());
        assert_eq!((Edit::remove(name), Edit::set(name, b"a")), (Err(wrong.clone()), Err(wrong)), "{name}");
    }
    for name in ["", "a b", "a:", "a\r\nb", "ä"] {
        assert_eq!(Edit::remove(name), Err(WrongEdit::Name(name.into())));
    }
    for value in [&b"a\r\nB: c"[..], b"a\n", b"a\0", b" a", b"a\t", b"\x7f"] {
        assert_eq!(Edit::set("x-a", value), Err(WrongEdit::Value("x-a".into())), "{}", value.escape_ascii());
    }
    assert!(Edit::set("x-a", "b\tc \u{e4}".as_bytes()).is_ok());
}

const LINES: [&str; 16] = [
    "Content-Length: 5\r\n",
    "Expect: 100-continue\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, Upgrade, HTTP2-Settings\r\n",
    "connection: upgrade\r\n",
    "Connection: x-kuma-tags,,x-forwarded-client-cert \r\n",
    "Upgrade: h2c\r\n",
    "Upgrade: websocket , h2c\r\n",
    "upgrade: websocket\r\n",
    "HTTP2-Settings: AAMAAABk\r\n",
    "X-Kuma-Tags: &a=b&\r\n",
    "x-kuma-tags:\r\n",
    "X-Forwarded-Client-Cert: URI=spiffe://d/admin\r\n",
    "X_Forwarded_Client_Cert: c\r\n",
    "A: \tb  \r\n",
    "x-kuma-tag: c\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn other_lines_stay_in_their_order_byte_for_byte(
        lines in subsequence(LINES.to_vec(), 0..LINES.len()).prop_shuffle(),
        edits in subsequence(vec![kuma(), cert("new"), Edit::without_h2c()], 0..=3),
        more in select(vec!["", "Z: z\r\n"]),
    ) {
        let fields = lines.concat() + more;
        let after = edit(&fields, &edits).unwrap_or_else(|| fields.clone());
        let edited = ["connection", "upgrade", "http2", "x-kuma-tags", "x-forwarded", "x_forwarded"];
        let others = |fields: &str| -> String {
            let all = fields.split_inclusive("\r\n");
            all.filter(|line| !edited.iter().any(|name| line.to_ascii_lowercase().starts_with(name))).collect()
        };
        prop_assert_eq!(others(&after), others(&fields));
        let lower = after.to_ascii_lowercase();
        let has = |name: &str| lower.contains(name);
        if edits.contains(&kuma()) {
            prop_assert!(!has("x-kuma-tags"), "{}", after);
        }
        if edits.contains(&cert("new")) {
            prop_assert!(after.ends_with("x-forwarded-client-cert: new\r\n"), "{}", after);
            prop_assert_eq!(lower.matches("client").count(), 1, "{}", after);
        }
        if edits.contains(&Edit::without_h2c()) {
            prop_assert!(!has("h2c"), "{}", after);
            let is_upgrade = |line: &str| line.starts_with("upgrade:");
            if fields.to_ascii_lowercase().contains("h2c") && !lower.split("\r\n").any(is_upgrade) {
                prop_assert!(!has("upgrade") && !has("http2-settings"), "{}", after);
            }
        }
    }
}
