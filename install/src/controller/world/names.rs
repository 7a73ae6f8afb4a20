// SPDX-License-Identifier: Apache-2.0
//! Host names that sidecars ask about, and the words by which they find Services. Pure.
//!
//! The controller does not know which name a HostnameGenerator makes: that is the sidecar's to say. A name is made of a Service's
//! name, namespace and values of labels, so that each of its labels may be one of these.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Longest host name, in bytes.
const MAX_HOST: usize = 253;

/// Words of a name that are looked at: the words of all names that are followed are in memory.
const MAX_WORDS: usize = 16;

/// Host name in lower case, without a dot at its end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Host(Arc<str>);

impl Host {
    /// Reads a name. `None` for one with an empty label, an unknown character, or too many bytes.
    pub(crate) fn read(text: &str) -> Option<Self> {
        (text.len() <= MAX_HOST && text.split('.').all(is_word)).then(|| Self(text.into()))
    }

    /// Words that a Service's name, namespace or label may be: the labels, and their pieces, as Kuma writes
    /// `NAME_NAMESPACE_svc_PORT.mesh`. Of more than [`MAX_WORDS`] the first ones.
    pub(crate) fn words(&self) -> BTreeSet<&str> {
        let pieces = self.0.split('.').filter(|label| label.contains('_')).flat_map(|label| label.split('_'));
        let labels = self.0.split('.').take(MAX_WORDS / 2);
        labels.chain(pieces.filter(|piece| !piece.is_empty()).take(MAX_WORDS / 2)).collect()
    }

    /// Returns true if this is the first label of the name.
    pub(crate) fn begins_with(&self, word: &str) -> bool {
        self.0.split('.').next() == Some(word)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Words by which names find a Service: its name, and the values of its labels that can stand in a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Words(Arc<BTreeSet<Box<str>>>);

impl Words {
    pub(crate) fn of(name: &str, labels: &BTreeMap<String, String>) -> Self {
        let all = labels.values().map(String::as_str).chain([name]).filter(|word| is_word(word));
        Self(Arc::new(all.map(Into::into).collect()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|word| &**word)
    }
}

/// Returns true for a label of a host name. Kuma's names have underscores.
fn is_word(text: &str) -> bool {
    let is_known =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.bytes().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_names() {
        let long = format!("{}.b", "a".repeat(251));
        for (name, words) in [
            ("web", Some(&["web"][..])),
            ("web.shop.mesh", Some(&["mesh", "shop", "web"])),
            ("web_shop_svc_80.mesh", Some(&["80", "mesh", "shop", "svc", "web", "web_shop_svc_80"])),
            ("_tcp__x.a_b.web", Some(&["_tcp__x", "a", "a_b", "b", "tcp", "web", "x"])),
            ("v1.web_shop_svc_80.mesh", Some(&["80", "mesh", "shop", "svc", "v1", "web", "web_shop_svc_80"])),
            ("a.b.c.d.e.f.g.h.i", Some(&["a", "b", "c", "d", "e", "f", "g", "h"])),
            ("a.a.a", Some(&["a"])),
            ("_.a", Some(&["_", "a"])),
            ("10.0.0.1", Some(&["0", "1", "10"])),
            (&long, Some(&[&long[..251], "b"])),
            (&format!("{long}c"), None),
            ("", None),
            (".", None),
            ("web.", None),
            (".web", None),
            ("web..shop", None),
            ("Web.shop", None),
            ("web:80", None),
            ("web shop", None),
            ("web*", None),
            ("wéb", None),
        ] {
            let host = Host::read(name);
            assert_eq!(
                host.as_ref().map(Host::words),
                words.map(|words| words.iter().copied().collect()),
                "{name}"
            );
            assert_eq!(host.map(|host| host.to_string()), words.map(|_| name.to_owned()));
        }
    }

    #[test]
    fn words_of_services() {
        let labels =
            [("app", "web"), ("team", "Shop"), ("version", "1.2"), ("empty", ""), ("tier", "front_end")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(Words::of("web-1", &labels).iter().collect::<Vec<_>>(), ["front_end", "web", "web-1"]);
    }
}
