// SPDX-License-Identifier: Apache-2.0
//! Requests that the h2 crate takes and a relay must not: two readers could see two hosts or two paths in them.

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method};

/// Rule of RFC 9113 that a request breaks.
///
/// Its stream is reset with PROTOCOL_ERROR, and the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither `:authority` nor `host`.
    #[error("the request names no host")]
    NoHost,
    /// More than one `host`.
    #[error("the request has more than one host field")]
    TwoHosts,
    /// `host` and `:authority` are not the same.
    #[error("the host field differs from :authority")]
    HostDiffers,
    /// User and password in `:authority`.
    #[error(":authority has user information")]
    UserInformation,
    /// `:path` that does not begin with a slash; `*` is for OPTIONS alone.
    #[error(":path does not begin with a slash")]
    Path,
}

impl Malformed {
    /// Name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoHost => "no_host",
            Self::TwoHosts => "two_hosts",
            Self::HostDiffers => "host_differs",
            Self::UserInformation => "user_information",
            Self::Path => "target",
        }
    }

    /// Returns the first rule that a request breaks.
    pub(crate) fn of(request: &Parts) -> Option<Self> {
        let authority = request.uri.authority();
        if authority.is_some_and(|authority| authority.as_str().contains('@')) {
            return Some(Self::UserInformation);
        }
        let tunnel =
            request.method == Method::CONNECT && request.uri.scheme().is_none() && authority.is_some();
        let path = request.uri.path();
        let whole = request.method == Method::OPTIONS && path == "*";
        if !tunnel && !whole && !path.starts_with('/') {
            return Some(Self::Path);
        }
        host(&request.headers, authority)
    }
}

fn host(fields: &HeaderMap, authority: Option<&Authority>) -> Option<Malformed> {
    let mut hosts = fields.get_all(HOST).iter();
    match (hosts.next(), hosts.next(), authority) {
        (_, Some(_), _) => Some(Malformed::TwoHosts),
        (None, None, None) => Some(Malformed::NoHost),
        (Some(host), None, None) if host.is_empty() => Some(Malformed::NoHost),
        (Some(host), None, Some(authority))
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            Some(Malformed::HostDiffers)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Malformed;
    use http::Request;

    #[test]
    fn rules_are_found() {
        let rows: [(&str, &str, &[&str], Option<Malformed>); 12] = [
            ("GET", "http://web/a?b", &[], None),
            ("GET", "http://web:80/", &["WEB:80"], None),
            ("GET", "/a", &["web"], None),
            ("CONNECT", "web:443", &[], None),
            ("OPTIONS", "*", &["web"], None),
            ("GET", "/a", &[], Some(Malformed::NoHost)),
            ("GET", "/a", &[""], Some(Malformed::NoHost)),
            ("GET", "/a", &["web", "web"], Some(Malformed::TwoHosts)),
            ("GET", "http://web/", &["shop"], Some(Malformed::HostDiffers)),
            ("GET", "http://web/", &["web:80"], Some(Malformed::HostDiffers)),
            ("GET", "http://me:pw@web/", &[], Some(Malformed::UserInformation)),
            ("GET", "*", &["web"], Some(Malformed::Path)),
        ];
        for (method, uri, hosts, broken) in rows {
            let mut request = Request::builder().method(method).uri(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            assert_eq!(Malformed::of(&parts), broken, "{method} {uri} {hosts:?}");
        }
    }
}
