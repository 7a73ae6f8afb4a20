// SPDX-License-Identifier: Apache-2.0
//! Changes of a request's head: whole lines, and nothing else.
//!
//! | field | inbound |
//! |---|---|
//! | `x-kuma-tags` | left out: sidecars of Kong Mesh tell each other so who calls, and everyone can write it |
//! | `x-forwarded-client-cert` | in a mesh with TLS left out, and said of a member: applications believe it |
//! | `Upgrade: h2c` and its fields | left out where there are rules: what follows such an upgrade would pass all of them |

use culvert_http::{Field, RequestHead};
use std::sync::Arc;

const TAGS: &str = "x-kuma-tags";
const CLIENT_CERT: &str = "x-forwarded-client-cert";
const UPGRADE: &str = "upgrade";
const CONNECTION: &str = "connection";
const SETTINGS: &str = "http2-settings";
const H2C: &str = "h2c";

/// Changes of the heads of a connection.
#[derive(Clone, Debug, Default)]
pub(in crate::connection::carry::http) struct Edits {
    /// True if `x-kuma-tags` is left out.
    pub(in crate::connection::carry::http) tags: bool,
    pub(in crate::connection::carry::http) client_cert: ClientCert,
    /// True if `Upgrade: h2c` is left out.
    pub(in crate::connection::carry::http) h2c: bool,
}

/// The field that tells the application who calls.
#[derive(Clone, Debug, Default)]
pub(in crate::connection::carry::http) enum ClientCert {
    /// As the client sent it.
    #[default]
    Kept,
    LeftOut,
    Said(Arc<str>),
}

/// A line in its changed form; `None` = it is left out.
type Line = Option<Vec<u8>>;

// === impl Edits ===

impl Edits {
    /// Returns the changed head, if anything in it is to be changed.
    pub(super) fn of(&self, head: &RequestHead<'_>) -> Option<Vec<u8>> {
        let upgrades = self.h2c && head.upgrades && head.fields().any(|field| asks_for_h2c(&field));
        let change = |field: &Field<'_>| self.change(field, upgrades);
        let changes = head.fields().any(|field| change(&field).is_some());
        let said = match &self.client_cert {
            ClientCert::Said(value) => Some(value),
            _ => None,
        };
        if !changes && said.is_none() {
            return None;
        }
        let mut edited = Vec::with_capacity(head.bytes.len() + said.map_or(0, |value| value.len() + 30));
        let mut from = 0;
        for field in head.fields() {
            if let Some(line) = change(&field) {
                edited.extend_from_slice(&head.bytes[from..field.line.start]);
                edited.extend(line.unwrap_or_default());
                from = field.line.end;
            }
        }
        // The head ends with an empty line.
        let end = head.bytes.len() - 2;
        edited.extend_from_slice(&head.bytes[from..end]);
        if let Some(value) = said {
            edited.extend_from_slice(CLIENT_CERT.as_bytes());
            edited.extend_from_slice(b": ");
            edited.extend_from_slice(value.as_bytes());
            edited.extend_from_slice(b"\r\n");
        }
        edited.extend_from_slice(&head.bytes[end..]);
        Some(edited)
    }

    /// Returns the change of a line, if it has one.
    fn change(&self, field: &Field<'_>, upgrades: bool) -> Option<Line> {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            n if n == TAGS.len() && self.tags && is(TAGS) => Some(None),
            n if n == CLIENT_CERT.len()
                && !matches!(self.client_cert, ClientCert::Kept)
                && is(CLIENT_CERT) =>
            {
                Some(None)
            }
            _ if !upgrades => None,
            _ if is(SETTINGS) => Some(None),
            _ if is(UPGRADE) => without(field, &[H2C]),
            _ if is(CONNECTION) => without(field, &[SETTINGS]),
            _ => None,
        }
    }
}

fn asks_for_h2c(field: &Field<'_>) -> bool {
    field.name.eq_ignore_ascii_case(UPGRADE)
        && words(field.value).any(|word| word.eq_ignore_ascii_case(H2C.as_bytes()))
}

/// Returns the words of a list.
fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|word| !word.is_empty())
}

/// Leaves words out of a list, and the line where no word is left.
fn without(field: &Field<'_>, left_out: &[&str]) -> Option<Line> {
    let is_out = |word: &&[u8]| left_out.iter().any(|out| word.eq_ignore_ascii_case(out.as_bytes()));
    if !words(field.value).any(|word| is_out(&word)) {
        return None;
    }
    let rest: Vec<&[u8]> = words(field.value).filter(|word| !is_out(word)).collect();
    if rest.is_empty() {
        return Some(None);
    }
    Some(Some([field.name.as_bytes(), b": ", &rest.join(&b", "[..]), b"\r\n"].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_http::{Exchange, Step};

    fn edited(edits: &Edits, fields: &str) -> Option<String> {
        let head = format!("GET /a?b HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let Step::Head(read) = Exchange::default().client(head.as_bytes()) else {
            panic!("{fields} is refused")
        };
        let edited = String::from_utf8(edits.of(&read)?).unwrap();
        let rest = edited.strip_prefix("GET /a?b HTTP/1.1\r\nHost: h\r\n").expect("the rest is as it was");
        Some(rest.strip_suffix("\r\n").expect("an empty line").to_owned())
    }

    #[test]
    fn lines_are_left_out_and_said_and_nothing_else_changes() {
        let all = Edits { tags: true, client_cert: ClientCert::LeftOut, h2c: true };
        let said = Edits { client_cert: ClientCert::Said("By=a;URI=b".into()), ..Edits::default() };
        for (edits, fields, expected) in [
            (&all, "", None),
            (&all, "A: b\r\nx-kuma-tag: c\r\n", None),
            (&all, "A: b\r\nX-Kuma-Tags:c\r\nD:  e\r\nx-kuma-tags: f\r\n", Some("A: b\r\nD:  e\r\n")),
            (&all, "X-Forwarded-Client-Cert: URI=me\r\n", Some("")),
            (&Edits::default(), "X-Forwarded-Client-Cert: URI=me\r\nX-Kuma-Tags: c\r\n", None),
            (&said, "", Some("x-forwarded-client-cert: By=a;URI=b\r\n")),
            (
                &said,
                "x-forwarded-client-cert: URI=me\r\nA: b\r\n",
                Some("A: b\r\nx-forwarded-client-cert: By=a;URI=b\r\n"),
            ),
            (
                &all,
                "Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
                Some("Connection: Upgrade, close\r\n"),
            ),
            (
                &all,
                "Connection: upgrade\r\nUpgrade: websocket, H2C\r\n",
                Some("Connection: upgrade\r\nUpgrade: websocket\r\n"),
            ),
            (&all, "Connection: Upgrade\r\nUpgrade: websocket\r\n", None),
            (
                &said,
                "Connection: Upgrade\r\nUpgrade: h2c\r\n",
                Some("Connection: Upgrade\r\nUpgrade: h2c\r\nx-forwarded-client-cert: By=a;URI=b\r\n"),
            ),
        ] {
            assert_eq!(edited(edits, fields).as_deref(), expected, "{fields}");
        }
    }
}
