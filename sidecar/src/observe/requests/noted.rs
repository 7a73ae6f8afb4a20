// SPDX-License-Identifier: Apache-2.0
//! A request from its head to its end, as the pages tell of it.

use std::cell::RefCell;

/// Bytes that are kept of a method, an authority and a path.
const MOST_METHOD: usize = 16;
const MOST_AUTHORITY: usize = 120;
const MOST_PATH: usize = 240;
/// Notes that a worker keeps for its next requests, so that these allocate nothing.
const SPARE: usize = 32;

thread_local! {
    #[expect(clippy::vec_box, reason = "notes go around as boxes, and are not made anew")]
    static UNUSED: RefCell<Vec<Box<Noted>>> = const { RefCell::new(Vec::new()) };
}

/// Notes about a request under way. It has no query, and of the fields the authority alone: what else there is may be secret.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// Method, authority and path, one behind the other.
    text: Vec<u8>,
    /// Ends of method and authority.
    ends: [usize; 2],
    /// Status of the answer; 0 before there is one.
    pub(crate) status: u16,
    /// Failure in words.
    why: Option<Box<str>>,
    /// True if it became a tunnel, which lasts as long as its ends like.
    pub(crate) is_tunnel: bool,
}

/// Returns the part of a path that is kept: whole segments, as half of a token looks like none.
fn cut(path: &[u8]) -> (&[u8], &'static [u8]) {
    if path.len() <= MOST_PATH {
        return (path, b"");
    }
    let end = path[..MOST_PATH].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    (&path[..end], "…".as_bytes())
}

impl Noted {
    /// Begins with a head. `path` may have a query behind it.
    pub(crate) fn of(method: &str, authority: &[u8], path: &str) -> Box<Self> {
        let mut noted = UNUSED.with_borrow_mut(Vec::pop).unwrap_or_default();
        let Self { text, ends, status, why, is_tunnel } = &mut *noted;
        text.clear();
        (*status, *why, *is_tunnel) = (0, None, false);
        let path = path.split(['?', '#']).next().unwrap_or_default();
        text.extend(method.bytes().take(MOST_METHOD));
        ends[0] = text.len();
        text.extend(authority.iter().take(MOST_AUTHORITY));
        ends[1] = text.len();
        let (kept, rest) = cut(path.as_bytes());
        text.extend_from_slice(kept);
        text.extend_from_slice(rest);
        noted
    }

    /// Notes why the request fails, unless it was noted before.
    pub(crate) fn fails(&mut self, why: impl Into<Box<str>>) {
        if self.why.is_none() {
            self.why = Some(why.into());
        }
    }

    /// Returns the failure in words.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Returns true for a request that a user would call failed.
    pub(super) fn is_failed(&self) -> bool {
        self.why.is_some() || (500..600).contains(&self.status)
    }

    /// Returns method, authority and path in one, with the ends of the first two.
    pub(super) fn words(&self) -> (&[u8], [usize; 2]) {
        (&self.text, self.ends)
    }

    pub(super) fn method(&self) -> &[u8] {
        &self.text[..self.ends[0]]
    }

    pub(super) fn authority(&self) -> &[u8] {
        &self.text[self.ends[0]..self.ends[1]]
    }

    pub(super) fn path(&self) -> &[u8] {
        &self.text[self.ends[1]..]
    }

    /// Keeps the notes for another request.
    pub(super) fn reuse(mut self: Box<Self>) {
        self.why = None;
        UNUSED.with_borrow_mut(|unused| {
            if unused.len() < SPARE {
                unused.push(self);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_have_no_query_and_are_bounded() {
        let long = "x".repeat(1_000);
        for (head, noted) in [
            (("GET", "shop:80", "/a/b?token=1"), ("GET", "shop:80", "/a/b")),
            (("GET", "", "/a#b"), ("GET", "", "/a")),
            (("OPTIONS", "a", "*"), ("OPTIONS", "a", "*")),
            ((&*long, &*long, &*long), (&long[..16], &long[..120], "…")),
            (("GET", "a", &*format!("/a/b/{long}")), ("GET", "a", "/a/b/…")),
        ] {
            let (method, authority, path) = head;
            let found = Noted::of(method, authority.as_bytes(), path);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let parts = [found.method(), found.authority(), found.path()].map(text);
            assert_eq!(parts, [noted.0, noted.1, noted.2], "{head:?}");
            found.reuse();
        }
    }

    #[test]
    fn used_notes_say_nothing_of_the_request_before() {
        let mut first = Noted::of("POST", b"secret", "/long/path/of/the/first");
        first.fails("it failed");
        first.fails("and again");
        assert_eq!(first.why(), Some("it failed"));
        (first.status, first.is_tunnel) = (503, true);
        let at: *const Noted = &raw const *first;
        first.reuse();
        let second = Noted::of("GET", b"b", "/");
        assert_eq!(&raw const *second, at, "it is the same memory");
        assert_eq!((second.method(), second.authority(), second.path()), (&b"GET"[..], &b"b"[..], &b"/"[..]));
        assert_eq!((second.status, second.why(), second.is_tunnel), (0, None, false));
    }
}
