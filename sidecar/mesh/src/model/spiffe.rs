// SPDX-License-Identifier: Apache-2.0
//! SPIFFE identities: `spiffe://TRUST-DOMAIN/PATH`, as they stand in certificates. Pure.

use std::fmt;
use std::str::FromStr;

/// <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>, 2.3: an identity of more bytes is none.
const LONGEST: usize = 2048;
/// Longest trust domain in bytes, by 2.1 of the same page.
const LONGEST_TRUST_DOMAIN: usize = 255;

/// Error of a text that is not a SPIFFE identity or not a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// The name has another scheme, or is too long.
    #[error("{0:?} is no SPIFFE identity: it begins with spiffe:// and holds at most {LONGEST} bytes")]
    NotSpiffe(String),
    /// Returns the part before the path.
    #[error(
        "{0:?} is no trust domain: it holds 1 to {LONGEST_TRUST_DOMAIN} lower-case letters, digits, dots, dashes and underscores"
    )]
    TrustDomain(String),
    /// The path breaks the rules.
    #[error(
        "{0:?} has a path that no SPIFFE identity has: segments of letters, digits, dots, dashes and underscores"
    )]
    Path(String),
}

/// Owner of identities: a mesh's name, or the value of `--trust-domain`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Returns the trust domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        let fits = (1..=LONGEST_TRUST_DOMAIN).contains(&text.len()) && text.bytes().all(fits);
        if fits { Ok(Self(text.to_owned())) } else { Err(SpiffeError::TrustDomain(text.to_owned())) }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SPIFFE identity whose form was checked.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Box<str>);

impl SpiffeId {
    /// Returns true if a name claims to be a SPIFFE identity, in any case of letters.
    pub fn is_claimed_by(uri: &str) -> bool {
        uri.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
    }

    /// Returns the identity of a service of a mesh.
    pub fn of_service(trust_domain: &TrustDomain, service: &str) -> Self {
        Self(format!("{SCHEME}{trust_domain}/{service}").into())
    }

    /// Returns the whole identity, as it stands in a certificate.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the part before the path.
    pub fn trust_domain(&self) -> &str {
        let rest = &self.0[SCHEME.len()..];
        rest.split_once('/').map_or(rest, |(domain, _)| domain)
    }

    /// Returns the path without its first slash; empty without a path.
    pub fn path(&self) -> &str {
        self.0[SCHEME.len()..].split_once('/').map_or("", |(_, path)| path)
    }
}

const SCHEME: &str = "spiffe://";

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let rest = text
            .strip_prefix(SCHEME)
            .filter(|_| text.len() <= LONGEST)
            .ok_or_else(|| SpiffeError::NotSpiffe(text.chars().take(LONGEST).collect()))?;
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        domain.parse::<TrustDomain>()?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        // A reader that resolves `.` and `..` would see another path.
        let segment = |one: &str| !matches!(one, "" | "." | "..") && one.bytes().all(fits);
        if path.is_some_and(|path| !path.split('/').all(segment)) {
            return Err(SpiffeError::Path(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_have_a_trust_domain_and_a_path() {
        for (text, domain, path) in [
            ("spiffe://default/web", "default", "web"),
            ("spiffe://cluster.local/ns/shop/sa/web", "cluster.local", "ns/shop/sa/web"),
            ("spiffe://example.org", "example.org", ""),
            ("spiffe://m/web_shop_svc_80", "m", "web_shop_svc_80"),
        ] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!((id.trust_domain(), id.path(), id.as_str()), (domain, path, text));
        }
    }

    #[test]
    fn what_is_none_is_told() {
        let long = format!("spiffe://m/{}", "a".repeat(LONGEST));
        for text in [
            "",
            "default/web",
            "https://default/web",
            "SPIFFE://default/web",
            "spiffe://",
            "spiffe:///web",
            "spiffe://Default/web",
            "spiffe://default:80/web",
            "spiffe://u@default/web",
            "spiffe://default/",
            "spiffe://default//web",
            "spiffe://default/../web",
            "spiffe://default/./web",
            "spiffe://default/w%65b",
            "spiffe://default/web?x",
            "spiffe://default/web#x",
            "spiffe://défault/web",
            &long,
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_claim_is_seen_whatever_its_case() {
        for (uri, claims) in
            [("spiffe://", true), ("SpIfFe://x", true), ("kuma://a/b", false), ("spiffé", false)]
        {
            assert_eq!(SpiffeId::is_claimed_by(uri), claims, "{uri}");
        }
    }
}
