// SPDX-License-Identifier: Apache-2.0
//! The answers of the API server.

use std::io;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response};
use serde_json::Value;

use super::discovery;
use super::encode::{self, Form, Refusal};
use super::path::{Place, Query, Resource};
use super::read;
use super::reply::{self, Reply};
use super::state::{Asked, Fault, Shared, State};
use super::tokens::{self, TokenOf};
use super::write::Write;

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A request without what is the same for all.
struct Call {
    method: Method,
    path: String,
    query: Query,
    accept: String,
    user_agent: String,
    form: String,
    body: Bytes,
}

/// Answers a request; an error closes the connection.
pub(super) async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> io::Result<Response<Reply>> {
    let header = |name| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (accept, user_agent, form) = (header(ACCEPT), header(USER_AGENT), header(CONTENT_TYPE));
    let authorization = header(AUTHORIZATION);
    let method = request.method().clone();
    let uri = request.uri().to_string();
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let (path, query) = uri.split_once('?').unwrap_or((&uri, ""));
    let (path, query) = (path.to_owned(), Query::parse(query));
    let call = Call { method, path, query, accept, user_agent, form, body };
    let fault = {
        let mut state = shared.state();
        if authorization != format!("Bearer {}", state.token) {
            return Ok(reply::refused(&Refusal::new(401, "Unauthorized")));
        }
        let asked = Asked {
            method: call.method.to_string(),
            path: uri.clone(),
            accept: call.accept.clone(),
            user_agent: call.user_agent.clone(),
            body: Arc::new(serde_json::from_slice(&call.body).unwrap_or_default()),
        };
        state.record.asked.push(asked);
        let faults = &mut state.script.faults;
        let index = faults.iter().position(|(part, _)| uri.contains(part));
        index.and_then(|index| faults.remove(index)).map(|(_, fault)| fault)
    };
    match fault {
        None => Ok(plain(&call, &shared).unwrap_or_else(|refusal| reply::refused(&refusal))),
        Some(Fault::Status(code, retry_after)) => {
            let mut response = reply::refused(&Refusal::new(code, "as the test wants it"));
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

fn plain(call: &Call, shared: &Arc<Shared>) -> Result<Response<Reply>, Refusal> {
    let (method, path) = (call.method.as_str(), call.path.as_str());
    let mut state = shared.state();
    let state = &mut *state;
    match method {
        "GET" => {
            if let Some(object) = state.script.fixed.get(path) {
                return Ok(read::fixed(object, &call.query));
            }
            if let Some(found) = discovery::answer(path, &state.store.kinds, &state.version) {
                return found.map(|found| reply::whole(200, &found));
            }
        }
        "POST" => {
            if let Some((code, answer)) = state.script.answers.get(path) {
                state.record.posted.push(serde_json::from_slice(&call.body).unwrap_or_default());
                return Ok(reply::whole(*code, answer));
            }
            if path == TOKEN_REVIEWS {
                return token_review(call, state);
            }
        }
        _ => {}
    }
    let unserved = || Refusal::new(404, "the server could not find the requested resource");
    let place = Place::parse(path).ok_or_else(unserved)?;
    let kind = state.store.kinds.get(&place.resource).cloned().ok_or_else(unserved)?;
    if method == "GET" {
        if place.part.as_deref().is_some_and(|part| part != "status") {
            return Err(unserved());
        }
        return read::answer(shared, state, (&place, &kind), &call.query, &call.accept);
    }
    let Call { query, user_agent, form, body, .. } = call;
    if method == "PATCH" && place.resource.is("", "nodes") && state.script.conflicts > 0 {
        state.script.conflicts -= 1;
        let node = state.store.get(&place).map(|node| Value::clone(node));
        node.and_then(|node| state.store.commit(&place, Some(node)));
    }
    let write = Write { place: &place, kind: &kind, query, user_agent, form, body };
    let (code, object) = write.run(method, &mut state.store)?;
    if method == "POST" && place.resource.name == "events" {
        state.record.events.push(Value::clone(&object));
    }
    let is_partial = call.accept.contains("as=PartialObjectMetadata");
    Ok(reply::json(code, encode::text(if is_partial { Form::Partial } else { Form::Whole }, &object)))
}

fn token_review(call: &Call, state: &State) -> Result<Response<Reply>, Refusal> {
    let asked: Value =
        serde_json::from_slice(&call.body).map_err(|_| Refusal::new(400, "the body is no JSON"))?;
    let lives = |token: &TokenOf| {
        let pod = Place {
            resource: Resource::new("v1", "pods"),
            namespace: Some(token.namespace.clone()),
            name: Some(token.pod.clone()),
            part: None,
        };
        state.store.get(&pod).is_some_and(|pod| pod["metadata"]["uid"] == token.pod_uid.as_str())
    };
    let token = state.tokens.get(asked["spec"]["token"].as_str().unwrap_or_default());
    Ok(reply::whole(201, &tokens::review(&asked, token, lives)))
}
