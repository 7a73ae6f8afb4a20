// SPDX-License-Identifier: Apache-2.0
//! Heads of HTTP/2 as HTTP/1 writes them: the traffic log reads both in one form.

use culvert_http2::http::{HeaderMap, request, response};

/// Most bytes of a head that are kept: HPACK makes 60 KiB of a few bytes, for each stream. Later fields are left out.
const MOST: usize = 8 * 1024;

/// Returns a request's head. A client that names its host by `:authority` sends no host field, so it stands for one.
pub(super) fn of_request(head: &request::Parts) -> Box<[u8]> {
    let uri = &head.uri;
    let path = match (uri.path_and_query(), uri.authority()) {
        (Some(path), _) => path.as_str(),
        // CONNECT has no path.
        (None, Some(authority)) => authority.as_str(),
        (None, None) => "",
    };
    let mut bytes = Vec::with_capacity(256);
    // Both ends are whole characters: a path of HTTP/2 has others escaped.
    let path = path.get(..MOST).unwrap_or(path);
    for part in [head.method.as_str(), " ", path, " HTTP/2\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    if let Some(authority) = uri.authority() {
        line(&mut bytes, "host", authority.as_str().as_bytes());
    }
    fields(&mut bytes, &head.headers);
    bytes.into()
}

/// Returns a response's head.
pub(super) fn of_response(head: &response::Parts) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(256);
    for part in ["HTTP/2 ", head.status.as_str(), "\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    fields(&mut bytes, &head.headers);
    bytes.into()
}

fn fields(bytes: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        if bytes.len() + name.as_str().len() + value.len() <= MOST {
            line(bytes, name.as_str(), value.as_bytes());
        }
    }
    bytes.extend_from_slice(b"\r\n");
}

fn line(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        bytes.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_http2::http::{Request, Response};

    #[test]
    fn heads_are_written_as_http_1_writes_them() {
        let request = |method: &str, uri: &str| {
            let request =
                Request::builder().method(method).uri(uri).header("te", "trailers").body(()).unwrap();
            of_request(&request.into_parts().0).escape_ascii().to_string()
        };
        for (method, uri, head) in [
            (
                "POST",
                "http://shop:80/a?b=c",
                "POST /a?b=c HTTP/2\\r\\nhost: shop:80\\r\\nte: trailers\\r\\n\\r\\n",
            ),
            ("GET", "/a", "GET /a HTTP/2\\r\\nte: trailers\\r\\n\\r\\n"),
            ("CONNECT", "shop:80", "CONNECT shop:80 HTTP/2\\r\\nhost: shop:80\\r\\nte: trailers\\r\\n\\r\\n"),
        ] {
            assert_eq!(request(method, uri), head);
        }
        let long = "v".repeat(5_000);
        let cut = Request::builder().uri(format!("/{}", "p".repeat(60_000)));
        let cut = cut.header("a", &long).header("b", "c").body(()).unwrap();
        assert!(of_request(&cut.into_parts().0).len() < MOST + 100);
        let fields =
            Response::builder().header("a", &long).header("b", &long).header("c", "d").body(()).unwrap();
        let kept = of_response(&fields.into_parts().0);
        assert!(kept.ends_with(b"c: d\r\n\r\n") && kept.len() < MOST, "whole fields, as many as fit");
        let response = Response::builder().status(404).header("server", "x").body(()).unwrap();
        assert_eq!(&*of_response(&response.into_parts().0), b"HTTP/2 404\r\nserver: x\r\n\r\n");
    }
}
