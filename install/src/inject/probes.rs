// SPDX-License-Identifier: Apache-2.0
//! Probes and hooks of the application, rewritten to the sidecar's status port: under STRICT the kubelet, which has no
//! identity, cannot connect to the application itself. The originals go into `--app-probes`.

use culvert_cni::redirect::policy::Policy;
use serde_json::{Map, Value, json};

use super::patch::Operation;
use super::pod::{LISTS, Place, Pod};
use super::sidecar::APP_PROBES;
use super::{Refusal, Shape};

/// Prefix of the paths that the sidecar passes on.
const PREFIX: &str = "/app-health/";
/// Most probes that the sidecar takes.
const MOST: usize = 64;
/// Longest timeout that the sidecar takes, in seconds.
const LONGEST: u64 = 300;
/// Longest path that the sidecar takes, in bytes.
const LONGEST_PATH: usize = 2048;
/// Most headers of a probe that the sidecar takes.
const MOST_HEADERS: usize = 32;
/// Longest name of a service that the sidecar takes, in bytes.
const LONGEST_SERVICE: usize = 253;
/// Probes, and the end of their path.
const PROBES: [(&str, &str); 3] =
    [("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")];
const HOOKS: [(&str, &str); 2] = [("postStart", "poststart"), ("preStop", "prestop")];
/// The ways to ask an application over the network.
const WAYS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// The changes of a pod's probes.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    pub operations: Vec<Operation>,
    /// The originals by path.
    pub originals: Map<String, Value>,
}

impl Rewritten {
    /// The option of the sidecar with these and the ones that `args` has. `None` if there are none.
    pub(super) fn option(&self, args: &[String]) -> Result<Option<String>, Refusal> {
        let mut all = written(args);
        all.extend(self.originals.clone());
        if all.len() > MOST {
            return Err(Refusal::of(format!("{} probes and hooks; the sidecar takes {MOST}", all.len())));
        }
        // Kubernetes makes one dollar of two, and a variable's value of $(NAME).
        let json = |all| Value::Object(all).to_string().replace('$', "\\u0024");
        Ok((!all.is_empty()).then(|| format!("{APP_PROBES}{}", json(all))))
    }
}

/// The probes that arguments of a sidecar have, by path.
fn written(args: &[String]) -> Map<String, Value> {
    let json = args.iter().find_map(|arg| arg.strip_prefix(APP_PROBES));
    json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// Rewrites all probes and hooks that go over the network to the pod, but for those that `args` of its sidecar have.
pub(super) fn rewrite(
    pod: &Pod<'_>,
    policy: &Policy,
    shape: Shape,
    args: &[String],
) -> Result<Rewritten, Refusal> {
    let mut rewritten = Rewritten::default();
    // Then the kubelet reaches the application itself.
    if !policy.inbound.redirect.is_enabled() {
        return Ok(rewritten);
    }
    let status = policy.inbound.status_port.get();
    let written = written(args);
    let mut refusal = Refusal::default();
    for place in pod.applications() {
        let hooks = place.container.get("lifecycle").unwrap_or(&Value::Null);
        let probes = PROBES.iter().map(|(field, end)| (*field, *end, &place.container[*field], None));
        let hooks = HOOKS.iter().map(|(field, end)| (*field, *end, &hooks[*field], Some(LONGEST)));
        for (field, end, handler, timeout) in probes.chain(hooks) {
            let path = format!("{PREFIX}{}/{end}", place.name());
            if written.contains_key(&path) && handler["httpGet"]["path"] == *path {
                continue;
            }
            let Some(original) = refusal.note(original(&place, field, handler, status)) else { continue };
            refusal.note(is_answered(&place, field, shape));
            let folder = if timeout.is_some() { "/lifecycle" } else { "" };
            let mut new = handler.as_object().cloned().unwrap_or_default();
            WAYS.iter().for_each(|way| _ = new.remove(*way));
            new.insert("httpGet".to_owned(), json!({ "path": path, "port": status }));
            rewritten.operations.push(Operation::replace(format!("{}{folder}/{field}", place.path()), new));
            rewritten.originals.insert(path, with_timeout(original, handler, timeout));
        }
    }
    refusal.check()?;
    Ok(rewritten)
}

/// Refuses what a container would wait for before a plain sidecar is there to answer: the pod would never start.
fn is_answered(place: &Place<'_>, field: &str, shape: Shape) -> Result<(), Refusal> {
    let early = ["startupProbe", "livenessProbe", "postStart"].contains(&field);
    if shape == Shape::Native || place.list != LISTS[0] || !early {
        return Ok(());
    }
    Err(Refusal::of(format!(
        "init container {}: its {field} goes over the network, and a plain sidecar starts after all init containers. Use a \
         native one (Kubernetes 1.29)",
        place.name()
    )))
}

/// Adds the time in which the application must answer: the kubelet's own, for hooks the longest, as they have none.
fn with_timeout(mut original: Map<String, Value>, handler: &Value, timeout: Option<u64>) -> Value {
    let timeout = timeout.or_else(|| handler["timeoutSeconds"].as_u64().filter(|seconds| *seconds > 0));
    if let Some(seconds) = timeout {
        original.insert("timeoutSeconds".to_owned(), seconds.min(LONGEST).into());
    }
    Value::Object(original)
}

/// The request that the sidecar makes in place of the kubelet. `None` for a handler that does not go over the network to the pod.
fn original(
    place: &Place<'_>,
    field: &str,
    handler: &Value,
    status: u16,
) -> Result<Option<Map<String, Value>>, Refusal> {
    let found = WAYS.iter().find_map(|way| Some((*way, handler.get(*way)?.as_object()?)));
    let Some((way, asked)) = found else { return Ok(None) };
    let text = |key: &str| asked.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    // The kubelet of the node asks that host, not the pod.
    if text("host").is_some() {
        return Ok(None);
    }
    let port = port(place, field, asked.get("port").unwrap_or(&Value::Null))?;
    // It asks the sidecar already, and no argument tells for what.
    if port == status && text("path").is_some_and(|path| path.starts_with(PREFIX)) {
        return Ok(None);
    }
    let mut asks = Map::from_iter([("port".to_owned(), Value::from(port))]);
    let mut copy = |key: &str| {
        if let Some(value) = asked.get(key).filter(|value| !value.is_null()) {
            asks.insert(key.to_owned(), value.clone());
        }
    };
    match way {
        "httpGet" => {
            copy("scheme");
            copy("httpHeaders");
            headers(asked.get("httpHeaders").unwrap_or(&Value::Null))
                .and_then(|()| scheme(asked.get("scheme").unwrap_or(&Value::Null)))
                .map_err(|words| wrong(place, field, &words))?;
            if let Some(path) = text("path") {
                let path = encoded(path);
                if path.len() > LONGEST_PATH {
                    return Err(wrong(place, field, &format!("a path of more than {LONGEST_PATH} bytes")));
                }
                asks.insert("path".to_owned(), path.into());
            }
        }
        "grpc" => {
            copy("service");
            service(asked.get("service").unwrap_or(&Value::Null))
                .map_err(|words| wrong(place, field, &words))?;
        }
        _ => {}
    }
    Ok(Some(Map::from_iter([(way.to_owned(), Value::Object(asks))])))
}

/// Refuses headers that the sidecar would not take: it would not start.
fn headers(headers: &Value) -> Result<(), String> {
    let is_header = |header: &Value| header["name"].is_string() && header["value"].is_string();
    match headers {
        Value::Null => Ok(()),
        Value::Array(list) if list.len() > MOST_HEADERS => {
            Err(format!("{} headers; the sidecar takes {MOST_HEADERS}", list.len()))
        }
        Value::Array(list) if !list.iter().all(is_header) => {
            Err("a header that has no name or no value".to_owned())
        }
        Value::Array(list) => match list.iter().find(|header| !is_line(header)) {
            None => Ok(()),
            Some(header) => Err(format!("{}, which is no header line", header["name"])),
        },
        _ => Err("headers that are no list".to_owned()),
    }
}

/// True for a header that HTTP can carry: a name of its letters, and a value within one line of ASCII.
fn is_line(header: &Value) -> bool {
    let text = |key: &str| header[key].as_str().unwrap_or_default();
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let of_value = |byte: u8| byte == b'\t' || byte == b' ' || byte.is_ascii_graphic();
    !text("name").is_empty() && text("name").bytes().all(of_name) && text("value").bytes().all(of_value)
}

fn scheme(scheme: &Value) -> Result<(), String> {
    match scheme.as_str() {
        None if scheme.is_null() => Ok(()),
        Some("" | "HTTP" | "HTTPS") => Ok(()),
        _ => Err(format!("scheme {scheme}, which is neither HTTP nor HTTPS")),
    }
}

fn service(service: &Value) -> Result<(), String> {
    match service.as_str() {
        None if service.is_null() => Ok(()),
        Some(name) if name.len() <= LONGEST_SERVICE => Ok(()),
        Some(_) => Err(format!("a service of more than {LONGEST_SERVICE} bytes")),
        None => Err(format!("service {service}, which is no text")),
    }
}

/// The number of a port, looked up by its name as the kubelet does it: in the container's own list.
fn port(place: &Place<'_>, field: &str, port: &Value) -> Result<u16, Refusal> {
    let number =
        |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let Some(name) = port.as_str() else {
        return number(port).ok_or_else(|| wrong(place, field, &format!("port {port}, which is none")));
    };
    let ports = place.container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named =
        ports.iter().find(|port| port["name"] == name).and_then(|port| number(&port["containerPort"]));
    named.or_else(|| name.parse().ok().filter(|port| *port > 0)).ok_or_else(|| {
        wrong(place, field, &format!("port {name:?}, and no port of the container has that name"))
    })
}

fn wrong(place: &Place<'_>, field: &str, words: &str) -> Refusal {
    Refusal::of(format!("container {}: {field} names {words}", place.name()))
}

/// A path as the kubelet would send it: from the root, without spaces.
fn encoded(path: &str) -> String {
    let root = if path.starts_with('/') { "" } else { "/" };
    let byte = |byte: u8| {
        if byte.is_ascii_graphic() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    root.chars().map(String::from).chain(path.bytes().map(byte)).collect()
}
