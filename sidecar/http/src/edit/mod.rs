// SPDX-License-Identifier: Apache-2.0
//! Edits of a request's head: field lines leave it, and lines are added at its end. Every other byte stays as it was received.
//!
//! What decides where a message ends or where it goes cannot be edited, so an edited head has the framing, the host and the target
//! of the one that was read.

use crate::chunks::is_token;
use crate::head::{Field, RequestHead};

/// Fields that this crate reads, and options of Connection that are no fields.
const RESERVED: [&str; 8] =
    ["close", "connection", "content-length", "expect", "host", "keep-alive", "transfer-encoding", "upgrade"];

/// Protocol that a tunnel of HTTP/2 begins with.
const H2C: &str = "h2c";

/// Field that goes with it.
const H2C_SETTINGS: &str = "http2-settings";

/// Change of a head.
///
/// A field's name stands for the spellings with underscores too, which CGI-like readers take for it. It also leaves the Connection
/// fields: a server that finds it there would take the field out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit(Change);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Remove(Box<str>),
    Set(Box<str>, Box<[u8]>),
    WithoutH2c,
}

/// Error of an edit that no head may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongEdit {
    /// The text is no name of a field.
    #[error("{0:?} is no name of a field: it has a byte that names may not have")]
    Name(String),
    /// The field decides where a message ends or goes.
    #[error("the field {0} cannot be edited: it says where a message ends or goes")]
    Reserved(String),
    /// The value would be another one for its reader.
    #[error("the value of {0} has a control byte, or white space around it")]
    Value(String),
}

// === impl Edit ===

impl Edit {
    /// Leaves out all lines of a field.
    pub fn remove(name: &str) -> Result<Self, WrongEdit> {
        check(name)?;
        Ok(Self(Change::Remove(name.into())))
    }

    /// Leaves out all lines of a field, and adds one at the end.
    pub fn set(name: &str, value: &[u8]) -> Result<Self, WrongEdit> {
        check(name)?;
        let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
        if !value.iter().all(is_text) || value.trim_ascii() != value {
            return Err(WrongEdit::Value(name.into()));
        }
        Ok(Self(Change::Set(name.into(), value.into())))
    }

    /// Leaves `h2c` out of the protocols of Upgrade, and the HTTP2-Settings that belong to it.
    ///
    /// A server that agreed would make the connection a tunnel, whose requests nothing looks at.
    pub fn without_h2c() -> Self {
        Self(Change::WithoutH2c)
    }

    /// Returns the field that the edit takes out.
    fn name(&self) -> Option<&str> {
        match &self.0 {
            Change::Remove(name) | Change::Set(name, _) => Some(name),
            Change::WithoutH2c => None,
        }
    }
}

fn check(name: &str) -> Result<(), WrongEdit> {
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(WrongEdit::Name(name.into()));
    }
    if RESERVED.iter().any(|reserved| is_same(name, reserved)) {
        return Err(WrongEdit::Reserved(name.into()));
    }
    Ok(())
}

/// Writes the edited head into `bytes` in place of what was there, and returns it; `None` where no edit changes anything.
///
/// It may have a line more for each edit than a head that is read may have.
pub fn edited<'b>(head: &RequestHead<'b>, edits: &[Edit], bytes: &'b mut Vec<u8>) -> Option<RequestHead<'b>> {
    let adds = edits.iter().any(|edit| matches!(edit.0, Change::Set(..)));
    if !adds && stays(head, edits) {
        return None;
    }
    let plan = Plan::new(head, edits);
    if !adds && head.fields().all(|field| plan.judge(&field) == Line::Keep) {
        return None;
    }
    bytes.clear();
    let mut from = 0;
    for field in head.fields() {
        match plan.judge(&field) {
            Line::Keep => continue,
            Line::Drop => bytes.extend_from_slice(&head.bytes[from..field.line.start]),
            Line::Without(taken) => {
                bytes.extend_from_slice(&head.bytes[from..field.line.start]);
                write_rest(&head.bytes[field.line.clone()], taken, &plan, bytes);
            }
        }
        from = field.line.end;
    }
    let end = head.bytes.len() - b"\r\n".len();
    bytes.extend_from_slice(&head.bytes[from..end]);
    for edit in edits {
        if let Change::Set(name, value) = &edit.0 {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].into_iter().flatten());
        }
    }
    bytes.extend_from_slice(b"\r\n");
    Some(head.with_lines(bytes, plan.upgrades))
}

/// Returns true if it is plain at one look that no line leaves the head: nearly always, and by the lengths of names alone.
///
/// A head that asks for another protocol is looked at more closely.
fn stays(head: &RequestHead<'_>, edits: &[Edit]) -> bool {
    let plan = Plan { edits, drops_h2c: false, upgrades: true };
    let keeps = |field: Field<'_>| !is_same(field.name, "upgrade") && plan.judge(&field) == Line::Keep;
    !head.may_have(edits.iter().filter_map(Edit::name)) || head.fields().all(keeps)
}

/// Elements that leave a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// Of Connection, the names of fields that leave the head.
    Options,
    /// Of Upgrade, h2c.
    H2c,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Keep,
    Drop,
    /// Without some elements of its list.
    Without(Taken),
}

/// Decisions about a head that one line alone does not make.
struct Plan<'e> {
    edits: &'e [Edit],
    /// True if h2c leaves, and HTTP2-Settings with it.
    drops_h2c: bool,
    /// True if a line of Upgrade stays.
    upgrades: bool,
}

// === impl Plan ===

impl<'e> Plan<'e> {
    fn new(head: &RequestHead<'_>, edits: &'e [Edit]) -> Self {
        let asks = |field: &Field<'_>| is_same(field.name, "upgrade") && elements(field.value).any(is_h2c);
        let wanted = edits.iter().any(|edit| edit.0 == Change::WithoutH2c);
        let mut plan = Self { edits, drops_h2c: wanted && head.fields().any(|f| asks(&f)), upgrades: true };
        let mut lines = head.fields().filter(|field| is_same(field.name, "upgrade"));
        plan.upgrades = lines.any(|field| plan.judge(&field) != Line::Drop);
        plan
    }

    fn judge(&self, field: &Field<'_>) -> Line {
        let taken = if self.takes(field.name) {
            return Line::Drop;
        } else if is_same(field.name, "connection") {
            Taken::Options
        } else if self.drops_h2c && is_same(field.name, "upgrade") {
            Taken::H2c
        } else {
            return Line::Keep;
        };
        let leaves = |element: &[u8]| self.leaves(element, taken);
        if !elements(field.value).any(leaves) {
            return Line::Keep;
        }
        let stays = |element: &[u8]| !element.is_empty() && !leaves(element);
        if elements(field.value).any(stays) { Line::Without(taken) } else { Line::Drop }
    }

    /// Returns true if the lines of a field leave the head.
    fn takes(&self, name: &str) -> bool {
        self.edits.iter().filter_map(Edit::name).any(|taken| is_same(name, taken))
            || (self.drops_h2c && is_same(name, H2C_SETTINGS))
    }

    /// Returns true if an element leaves its list.
    fn leaves(&self, element: &[u8], taken: Taken) -> bool {
        match taken {
            Taken::H2c => is_h2c(element),
            Taken::Options => str::from_utf8(element).is_ok_and(|option| {
                self.takes(option) || (self.drops_h2c && !self.upgrades && is_same(option, "upgrade"))
            }),
        }
    }
}

/// Writes a line without the elements that leave it. The others keep their white space.
fn write_rest(line: &[u8], taken: Taken, plan: &Plan<'_>, bytes: &mut Vec<u8>) {
    let colon = line.iter().position(|byte| *byte == b':').map_or(0, |at| at + 1);
    let (name, list) = line.split_at(colon);
    bytes.extend_from_slice(name);
    let list = list.strip_suffix(b"\r\n").unwrap_or(list);
    let stay = list.split(|byte| *byte == b',').filter(|element| !plan.leaves(element.trim_ascii(), taken));
    for (n, element) in stay.enumerate() {
        if n > 0 {
            bytes.push(b',');
        }
        bytes.extend_from_slice(element);
    }
    bytes.extend_from_slice(b"\r\n");
}

/// Returns the elements of a list, without white space.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Returns true for h2c, with a version or without.
fn is_h2c(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    name.eq_ignore_ascii_case(H2C.as_bytes())
}

/// Compares names of fields, an underscore as a dash.
fn is_same(one: &str, other: &str) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.bytes().map(dashed).eq(other.bytes().map(dashed))
}

#[cfg(test)]
mod tests;
