// SPDX-License-Identifier: Apache-2.0
//! The answers of the API server.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Asked, Fault, Shared, State};

/// The body of an answer.
pub(super) enum Reply {
    Whole(Option<Bytes>),
    Watch(mpsc::UnboundedReceiver<Value>, bool),
    Endless,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Watch(events, partial) => {
                let partial = *partial;
                events.poll_recv(context).map(|event| {
                    let mut event = event?;
                    if partial {
                        event["object"] = metadata_of(&event["object"]);
                    }
                    Some(Ok(Frame::data(format!("{event}\n").into())))
                })
            }
            Self::Endless => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 16 << 10]))))),
        }
    }
}

/// Kubernetes' object for what went wrong.
pub(super) fn status(code: u16, message: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": message })
}

fn whole(code: u16, value: &Value) -> Response<Reply> {
    let reply = Reply::Whole(Some(value.to_string().into()));
    let mut response = Response::new(reply);
    *response.status_mut() = code.try_into().expect("a status of HTTP");
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a value"));
    response
}

fn refused(code: u16, message: &str) -> Response<Reply> {
    whole(code, &status(code, message))
}

/// Answers a request; an error closes the connection.
pub(super) async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> io::Result<Response<Reply>> {
    let header = |name| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (accept, authorization, kind) = (header(ACCEPT), header(AUTHORIZATION), header(CONTENT_TYPE));
    let method = request.method().clone();
    let path = request.uri().to_string();
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let fault = {
        let mut state = shared.state();
        if authorization != format!("Bearer {}", state.token) {
            return Ok(refused(401, "Unauthorized"));
        }
        state.asked.push(Asked { method: method.to_string(), path: path.clone(), accept: accept.clone() });
        let index = state.faults.iter().position(|(part, _)| path.contains(part));
        index.and_then(|index| state.faults.remove(index)).map(|(_, fault)| fault)
    };
    match fault {
        None => Ok(plain(&method, &path, &accept, &kind, &body, &mut shared.state())),
        Some(Fault::Status(code, retry_after)) => {
            let mut response = refused(code, "as the test wants it");
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(RETRY_AFTER, seconds.into());
            }
            Ok(response)
        }
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Close) => Err(io::Error::other("as the test wants it")),
        Some(Fault::Garbage) => Ok(Response::new(Reply::Whole(Some(Bytes::from_static(b"<html>\n"))))),
        Some(Fault::Endless) => Ok(Response::new(Reply::Endless)),
    }
}

/// An object, or a page of a list.
fn object(object: &Value, query: &HashMap<&str, String>) -> Response<Reply> {
    let number = |key: &str| query.get(key).and_then(|value| value.parse::<usize>().ok());
    let (Some(items), Some(limit)) = (object["items"].as_array(), number("limit")) else {
        return whole(200, object);
    };
    let first = number("continue").unwrap_or_default().min(items.len());
    let next = (first + limit).min(items.len());
    let mut page = object.clone();
    page["items"] = items[first..next].into();
    page["metadata"]["continue"] = if next < items.len() { next.to_string().into() } else { Value::Null };
    whole(200, &page)
}

fn plain(
    method: &Method,
    path: &str,
    accept: &str,
    kind: &str,
    body: &[u8],
    state: &mut State,
) -> Response<Reply> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query: HashMap<&str, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key, decoded(value)))
        .collect();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (method.as_str(), parts.as_slice()) {
        ("GET", _) if state.objects.contains_key(path) => object(&state.objects[path], &query),
        ("GET", ["api", "v1", "pods"]) => pods(&query, accept, state),
        ("GET", ["api", "v1", "namespaces"]) => {
            let all = state.namespaces.values().cloned().collect();
            list("Namespace", all, &query, accept, |_| true, state)
        }
        ("GET", ["api", "v1", "namespaces", name]) => match state.namespaces.get(*name) {
            Some(namespace) if accept.contains("as=PartialObjectMetadata") => {
                whole(200, &metadata_of(namespace))
            }
            Some(namespace) => whole(200, namespace),
            None => refused(404, &format!("namespaces {name:?} not found")),
        },
        ("GET", ["api", "v1", "namespaces", _, "secrets", name])
        | ("GET", ["apis", "admissionregistration.k8s.io", "v1", _, name]) => {
            refused(404, &format!("{name:?} not found"))
        }
        ("POST", ["api", "v1", "namespaces", _, "secrets"]) => match serde_json::from_slice::<Value>(body) {
            Ok(secret) => {
                let path = format!("{path}/{}", secret["metadata"]["name"].as_str().unwrap_or_default());
                if state.objects.contains_key(&path) {
                    return refused(409, "it exists already");
                }
                written(&path, secret, state)
            }
            Err(_) => refused(400, "no JSON"),
        },
        ("PUT", ["api", "v1", "namespaces", _, "secrets", _]) => {
            match serde_json::from_slice::<Value>(body) {
                Ok(secret) => match state.objects.get(path) {
                    None => refused(404, "not found"),
                    Some(old)
                        if old["metadata"]["resourceVersion"] != secret["metadata"]["resourceVersion"] =>
                    {
                        refused(409, "the object has been modified")
                    }
                    Some(_) => written(path, secret, state),
                },
                Err(_) => refused(400, "no JSON"),
            }
        }
        ("POST", _) if state.answers.contains_key(path) => {
            state.posted.push(serde_json::from_slice(body).unwrap_or_default());
            let (code, answer) = &state.answers[path];
            whole(*code, answer)
        }
        ("POST", ["api", "v1", "namespaces", namespace, "events"]) => {
            match serde_json::from_slice::<Value>(body) {
                Ok(event) if event["metadata"]["namespace"] == **namespace => {
                    state.events.push(event.clone());
                    whole(201, &event)
                }
                _ => refused(400, "the event is of another namespace, or no JSON"),
            }
        }
        ("GET", ["api", "v1", "nodes", name]) => match state.nodes.get(*name) {
            Some(node) => whole(200, node),
            None => refused(404, &format!("nodes {name:?} not found")),
        },
        ("PATCH", ["api", "v1", "nodes", name]) if kind == "application/json-patch+json" => {
            let version = state.next_version().to_string();
            let conflicts = state.conflicts > 0;
            state.conflicts = state.conflicts.saturating_sub(1);
            let Some(node) = state.nodes.get_mut(*name) else { return refused(404, "no such node") };
            if conflicts {
                node["metadata"]["resourceVersion"] = version.clone().into();
            }
            patch(node, body, version)
        }
        ("PATCH", ["apis", "admissionregistration.k8s.io", "v1", ..])
            if kind == "application/json-patch+json" =>
        {
            let version = state.next_version().to_string();
            let Some(object) = state.objects.get_mut(path) else { return refused(404, "not found") };
            patch(object, body, version)
        }
        _ => refused(403, &format!("{method} {path} is not what an agent may ask")),
    }
}

/// Only with the node in the selector: an agent has no business with others' pods.
fn pods(query: &HashMap<&str, String>, accept: &str, state: &mut State) -> Response<Reply> {
    let Some(node) = query.get("fieldSelector").and_then(|selector| selector.strip_prefix("spec.nodeName="))
    else {
        return refused(403, "pods is forbidden without a node");
    };
    let of_node = |object: &Value| object["spec"]["nodeName"] == node;
    let all = state.pods.values().filter(|object| of_node(object)).cloned().collect();
    list("Pod", all, query, accept, of_node, state)
}

/// A list by pages, or a watch.
fn list(
    kind: &'static str,
    all: Vec<Value>,
    query: &HashMap<&str, String>,
    accept: &str,
    is_wanted: impl Fn(&Value) -> bool,
    state: &mut State,
) -> Response<Reply> {
    let partial = accept.contains("as=PartialObjectMetadata");
    if query.contains_key("watch") {
        let from: u64 =
            query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
        if from < state.oldest {
            return refused(410, "too old resource version");
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let missed = state.history.iter().filter(|(version, event)| {
            *version > from && event["object"]["kind"] == kind && is_wanted(&event["object"])
        });
        for (_, event) in missed {
            let _ = sender.send(event.clone());
        }
        let bookmark = json!({ "type": "BOOKMARK", "object": { "kind": kind, "metadata": { "resourceVersion": state.version.to_string() } } });
        let _ = sender.send(bookmark);
        state.watchers.push((kind, sender));
        return Response::new(Reply::Watch(receiver, partial));
    }
    let number = |key: &str| query.get(key).and_then(|value| value.parse::<usize>().ok());
    let (begin, limit) = (number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
    let page: Vec<Value> = all
        .iter()
        .skip(begin)
        .take(limit)
        .map(|object| if partial { metadata_of(object) } else { object.clone() })
        .collect();
    let end = begin + page.len();
    let mut metadata = json!({ "resourceVersion": state.version.to_string() });
    if end < all.len() {
        metadata["continue"] = end.to_string().into();
    }
    let list =
        json!({ "kind": format!("{kind}List"), "apiVersion": "v1", "metadata": metadata, "items": page });
    whole(200, &list)
}

/// Keeps an object in a new version, and answers with it.
fn written(path: &str, mut object: Value, state: &mut State) -> Response<Reply> {
    object["metadata"]["resourceVersion"] = state.next_version().to_string().into();
    let answer = whole(201, &object);
    state.objects.insert(path.to_owned(), object);
    answer
}

/// Kubernetes' `PartialObjectMetadata` of an object; a `Status` stays as it is.
fn metadata_of(object: &Value) -> Value {
    if object["kind"] == "Status" {
        return object.clone();
    }
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

/// A JSON patch of `test`, `replace` and `add` of a member, all or nothing.
fn patch(object: &mut Value, body: &[u8], version: String) -> Response<Reply> {
    let Ok(Value::Array(operations)) = serde_json::from_slice(body) else { return refused(400, "no patch") };
    let mut patched = object.clone();
    for operation in &operations {
        let pointer = operation["path"].as_str().unwrap_or_default();
        if operation["op"] == "add" {
            let (parent, last) = pointer.rsplit_once('/').unwrap_or_default();
            match patched.pointer_mut(parent) {
                Some(Value::Object(parent)) => _ = parent.insert(last.to_owned(), operation["value"].clone()),
                _ => return refused(422, "no such parent"),
            }
            continue;
        }
        let Some(place) = patched.pointer_mut(pointer) else { return refused(422, "no such path") };
        match operation["op"].as_str() {
            Some("test") if *place == operation["value"] => {}
            Some("test") => return refused(422, "the test does not hold"),
            Some("replace") => *place = operation["value"].clone(),
            _ => return refused(400, "an unknown operation"),
        }
    }
    patched["metadata"]["resourceVersion"] = version.into();
    *object = patched.clone();
    whole(200, &patched)
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex: Vec<u8> = rest.by_ref().take(2).collect();
            let number = std::str::from_utf8(&hex).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
            bytes.push(number.expect("two hexadecimal digits"));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}
