// SPDX-License-Identifier: Apache-2.0
//! The URL of a request, and the one that a redirect leads to. Pure.

use std::net::IpAddr;

/// A request's URL without its host, which is always the pod's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) tls: bool,
    pub(super) port: u16,
    /// Path and query.
    pub(super) path: String,
    /// The value of `Host` where the probe names one.
    pub(super) host: Option<String>,
    /// The URL that redirected to this one.
    pub(super) referer: Option<String>,
}

/// The step after an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is the last.
    Answer,
    Request(Target),
    /// It redirects to something that cannot be asked.
    Refused,
}

impl Target {
    /// Returns the step that an answer leads to. A kubelet follows redirects whose host is the one that it asked.
    pub(super) fn follow(&self, pod: IpAddr, status: u16, location: Option<&str>) -> Next {
        let Some(location) = location.filter(|location| !location.is_empty()) else { return Next::Answer };
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            return Next::Answer;
        }
        if location.bytes().any(|byte| byte.is_ascii_control()) {
            return Next::Refused;
        }
        let location = location.split('#').next().unwrap_or_default();
        let (scheme, rest) = split_scheme(location);
        let tls = match scheme.map(str::to_ascii_lowercase).as_deref() {
            None => Some(self.tls),
            Some("http") => Some(false),
            Some("https") => Some(true),
            Some(_) => None,
        };
        let (authority, path) = split_authority(rest);
        let port = match authority {
            // `mailto:` and the like have no host, and so another one.
            None if scheme.is_some() => return Next::Answer,
            None => Some(self.port),
            Some(authority) => {
                let (host, port) = split_port(authority);
                if host != pod.to_string() {
                    return Next::Answer;
                }
                match port {
                    None | Some("") => Some(if tls == Some(true) { 443 } else { 80 }),
                    Some(port) => port.parse().ok().filter(|port| *port != 0),
                }
            }
        };
        let (Some(tls), Some(port)) = (tls, port) else { return Next::Refused };
        let path = if authority.is_some() { resolve("/", path) } else { resolve(&self.path, path) };
        // A relative redirect keeps the name by which the probe called the host.
        let host = if scheme.is_none() { self.host.clone() } else { None };
        // Nothing of an encrypted URL goes into a plain request.
        let referer = (tls || !self.tls).then(|| self.url(pod));
        Next::Request(Self { tls, port, path, host, referer })
    }

    fn url(&self, pod: IpAddr) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", std::net::SocketAddr::new(pod, self.port), self.path)
    }
}

/// Splits `scheme:` off.
fn split_scheme(url: &str) -> (Option<&str>, &str) {
    match url.split_once(':') {
        Some((scheme, rest))
            if scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) =>
        {
            (Some(scheme), rest)
        }
        _ => (None, url),
    }
}

/// Splits `//host:port` off.
fn split_authority(url: &str) -> (Option<&str>, &str) {
    let Some(rest) = url.strip_prefix("//") else { return (None, url) };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    (Some(&rest[..end]), &rest[end..])
}

/// Splits `user@[host]:port` into host and port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if is_port(port) => (host, Some(port)),
        _ => (host, None),
    };
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

/// Resolves a reference against a path with its query, as RFC 3986 does.
fn resolve(base: &str, reference: &str) -> String {
    let base_path = base.split('?').next().unwrap_or_default();
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    if reference.is_empty() {
        return base.to_owned();
    }
    let path = if path.is_empty() {
        base_path.to_owned()
    } else if path.starts_with('/') {
        without_dots(path)
    } else {
        let folder = base_path.rfind('/').map_or("/", |end| &base_path[..=end]);
        without_dots(&format!("{folder}{path}"))
    };
    encoded(&query.map_or(path.clone(), |query| format!("{path}?{query}")))
}

/// Takes `.` and `..` out of an absolute path.
fn without_dots(path: &str) -> String {
    let mut kept = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Encodes what a request line cannot have.
fn encoded(path: &str) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Target {
        Target { tls: false, port: 8080, path: path.into(), host: None, referer: None }
    }

    #[test]
    fn a_redirect_to_the_same_host_is_followed_and_any_other_is_the_answer() {
        let v4: IpAddr = "10.0.0.2".parse().unwrap();
        let v6: IpAddr = "2001:db8::2".parse().unwrap();
        // Scheme, port and path of the next request.
        let next = |tls, port, path| Some((tls, port, path));
        for (pod, location, expected) in [
            (v4, "/ready/", next(false, 8080, "/ready/")),
            (v4, "ready/", next(false, 8080, "/a/ready/")),
            (v4, "../x/./y", next(false, 8080, "/x/y")),
            (v4, "/../..", next(false, 8080, "/")),
            (v4, "?c", next(false, 8080, "/a/b?c")),
            (v4, "#c", next(false, 8080, "/a/b?q")),
            (v4, "/a b?\u{e4}", next(false, 8080, "/a%20b?%C3%A4")),
            (v4, "http://10.0.0.2:9000/x", next(false, 9000, "/x")),
            (v4, "HTTP://10.0.0.2", next(false, 80, "/")),
            (v4, "https://10.0.0.2/x?y#z", next(true, 443, "/x?y")),
            (v4, "https://user:word@10.0.0.2:8443?y", next(true, 8443, "/?y")),
            (v4, "//10.0.0.2:9000/x", next(false, 9000, "/x")),
            (v4, "/x:y", next(false, 8080, "/x:y")),
            (v6, "http://[2001:db8::2]:9000/x", next(false, 9000, "/x")),
            (v6, "http://[2001:db8::3]:9000/x", None),
            (v4, "http://10.0.0.3:8080/x", None),
            (v4, "https://web.example/x", None),
            (v4, "//web.example/x", None),
            (v4, "http://10.0.0.2.example/x", None),
            (v4, "mailto:a@b", None),
            (v4, "", None),
        ] {
            let got = match target("/a/b?q").follow(pod, 302, Some(location)) {
                Next::Request(Target { tls, port, path, host: None, .. }) => Some((tls, port, path)),
                Next::Answer => None,
                other => panic!("{location}: {other:?}"),
            };
            assert_eq!(got, expected.map(|(tls, port, path)| (tls, port, path.to_owned())), "{location}");
        }
        for wrong in ["http://10.0.0.2:70000/", "http://10.0.0.2:0/", "ftp://10.0.0.2/", "/x\r", "/x\u{0}"] {
            assert_eq!(target("/").follow(v4, 302, Some(wrong)), Next::Refused, "{wrong:?}");
        }
    }

    #[test]
    fn only_five_statuses_redirect() {
        let pod: IpAddr = "10.0.0.2".parse().unwrap();
        for status in 100..=599 {
            let follows = target("/").follow(pod, status, Some("/x")) != Next::Answer;
            assert_eq!(follows, [301, 302, 303, 307, 308].contains(&status), "{status}");
            assert_eq!(target("/").follow(pod, status, None), Next::Answer, "{status}");
        }
    }

    #[test]
    fn a_name_is_kept_by_a_relative_redirect_and_a_secret_url_told_to_none() {
        let pod: IpAddr = "10.0.0.2".parse().unwrap();
        let from = Target { tls: true, host: Some("web".into()), ..target("/a") };
        for (location, host, referer) in [
            ("/b", Some("web"), Some("https://10.0.0.2:8080/a")),
            ("https://10.0.0.2:8080/b", None, Some("https://10.0.0.2:8080/a")),
            ("http://10.0.0.2:8080/b", None, None),
        ] {
            let Next::Request(next) = from.follow(pod, 302, Some(location)) else { panic!("{location}") };
            assert_eq!((next.host.as_deref(), next.referer.as_deref()), (host, referer), "{location}");
        }
    }
}
