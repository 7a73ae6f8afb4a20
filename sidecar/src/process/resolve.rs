// SPDX-License-Identifier: Apache-2.0
//! `culvert-sidecar resolve NAME [PATH…]`: what a name of the mesh leads to, and why it does not exist. The sidecar that runs
//! is asked, as only that one knows the health of endpoints; with paths the documents there are read instead.

use crate::options::Options;
use crate::plan::load;
use crate::plan::names::shown::{Directory, Healths, Surroundings};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// Longest wait for the admin's answer, which takes some milliseconds.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read: a name with 16 ports of 256 endpoints each is below it.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// Returns the answer as text or JSON, and true if the name exists.
///
/// # Errors
/// The name is none, the sidecar gives no answer, or every error in the options and documents.
pub fn resolve(
    options: Options,
    name: &str,
    json: bool,
    paths: &[PathBuf],
) -> Result<(String, bool), Vec<String>> {
    match paths.is_empty() {
        true => asked(options.admin_address(), name, json).map_err(|error| vec![error]),
        false => read(options, name, json, paths),
    }
}

/// Reads documents, as a check of them does.
fn read(options: Options, name: &str, json: bool, paths: &[PathBuf]) -> Result<(String, bool), Vec<String>> {
    let mut config = options.with_resources(paths).check().map_err(|errors| words(&errors))?;
    config.any_pod = config.dataplane.is_none();
    config.checks_only = true;
    let plan = load::load(&config, paths, None).map_err(|errors| words(&errors))?;
    let nothing_runs = |_: &str| Healths::new();
    let around = Surroundings { config: &config, pod: None };
    let answer = Directory::new(&plan, &nothing_runs).resolve(name, &around);
    let answer = answer.map_err(|error| vec![error.to_string()])?;
    let text = match json {
        true => serde_json::to_string_pretty(&answer).map_err(|error| vec![error.to_string()])?,
        false => answer.to_string(),
    };
    Ok((text.trim_end().to_owned(), answer.exists()))
}

/// Asks the admin of the sidecar that runs.
fn asked(admin: SocketAddr, name: &str, json: bool) -> Result<(String, bool), String> {
    let format = if json { "json" } else { "text" };
    let path = format!("/names?name={}&format={format}", encoded(name));
    let answer = exchange(admin, &path).map_err(|error| {
        format!("{admin} does not answer ({error}): does the sidecar run, and is that its --admin-address? Or name documents to read")
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let body = body.trim_end();
    match head.split(' ').nth(1) {
        Some("200") => Ok((body.to_owned(), true)),
        Some("404") => Ok((body.to_owned(), false)),
        Some("400") => Err(body.to_owned()),
        _ => Err(format!("{admin} says {:?}", head.lines().next().unwrap_or_default())),
    }
}

/// Makes text a value of a query: all but letters, digits and a few signs as `%XX`.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte) {
            all.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(all, "%{byte:02X}");
        }
        all
    })
}

fn exchange(admin: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, ANSWER_DEADLINE)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn words<E: ToString>(errors: &[E]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::net::TcpListener;

    const DOCUMENTS: &str = "
{type: Mesh, name: default}
---
{type: Dataplane, name: here, networking: {address: 10.0.0.2, inbound: [{port: 80, tags: {kuma.io/service: here}}]}}
";

    fn options(arguments: &[String]) -> Options {
        let all = std::iter::once("culvert-sidecar").chain(arguments.iter().map(String::as_str));
        Options::try_parse_from(all).unwrap()
    }

    /// Serves one answer, and returns the request line and what the command makes of it.
    fn served(answer: &'static str, name: &str, json: bool) -> (String, Result<(String, bool), Vec<String>>) {
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("--admin-address={}", admin.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = admin.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let said = resolve(options(&[address]), name, json, &[]);
        let request = server.join().unwrap();
        (request.lines().next().unwrap().to_owned(), said)
    }

    #[test]
    fn the_admins_answer_is_told_and_its_status_is_the_verdict() {
        let (request, said) = served("HTTP/1.1 200 OK\r\nx: y\r\n\r\nweb.mesh\n  all\n", "web.mesh", false);
        assert_eq!(request, "GET /names?name=web.mesh&format=text HTTP/1.1");
        assert_eq!(said.unwrap(), ("web.mesh\n  all".into(), true));
        let (request, said) = served("HTTP/1.1 404 Not Found\r\n\r\n{}\n", "a b&c", true);
        assert_eq!(request, "GET /names?name=a%20b%26c&format=json HTTP/1.1");
        assert_eq!(said.unwrap(), ("{}".into(), false));
        let (_, said) = served("HTTP/1.1 400 Bad Request\r\n\r\n\"a b\" is no name\n", "a b", false);
        assert_eq!(said.unwrap_err(), ["\"a b\" is no name"]);
        for strange in ["", "HTTP/1.1 403 Forbidden\r\n\r\nno", "220 smtp"] {
            let (_, said) = served(strange, "web.mesh", false);
            assert!(said.unwrap_err()[0].contains(" says \""), "{strange}");
        }
    }

    #[test]
    fn a_sidecar_that_does_not_run_is_an_error_that_says_what_to_check() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let errors =
            resolve(options(&[format!("--admin-address={free}")]), "web.mesh", false, &[]).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains("is that its --admin-address?"), "{errors:?}");
    }

    #[test]
    fn documents_are_read_where_paths_are_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.yaml");
        std::fs::write(&path, DOCUMENTS).unwrap();
        let said = |name, json| {
            resolve(options(&["--dataplane=here".into()]), name, json, std::slice::from_ref(&path))
        };
        let (text, exists) = said("nowhere.mesh", false).unwrap();
        assert!(!exists && text.starts_with("nowhere.mesh is not there\n"), "{text}");
        let (text, exists) = said("nowhere.mesh", true).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(
            !exists && value["asked"] == "nowhere.mesh" && value["names"].as_array().unwrap().is_empty(),
            "{text}"
        );
        assert!(said("no name", false).unwrap_err()[0].starts_with("\"no name\" is no name: "));
        let missing = resolve(options(&[]), "web.mesh", false, &[folder.path().join("missing.yaml")]);
        assert!(missing.is_err());
    }
}
