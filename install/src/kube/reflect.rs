// SPDX-License-Identifier: Apache-2.0
//! Metadata of many objects, kept current by LIST and WATCH. Only metadata is requested (`PartialObjectMetadata`).

use std::convert::Infallible;
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::http::{ApiError, ApiResponse, Call, Client, encoded, message_of};
use super::metadata::ObjectMeta;

/// Objects a page of a list: their annotations may be 256 KiB each.
const PAGE: usize = 50;
/// Longest event of a watch, in bytes: the API server takes no object above 1.5 MiB.
const MAX_EVENT: usize = 4 << 20;
/// Duration of a watch that the server is asked for.
const WATCH: Duration = Duration::from_secs(300);
/// Longest silence of a watch: bookmarks come each minute, and the server ends it by itself.
const SILENCE: Duration = Duration::from_secs(330);

const LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
/// Asks for one object's metadata alone.
pub(crate) const OBJECT: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Keeper of what is known.
pub(crate) trait Mirror {
    /// The part of an object that is kept.
    type Item;
    /// Most objects that are kept.
    const MOST: usize;

    fn read(metadata: ObjectMeta) -> Self::Item;
    fn replace(&self, items: Vec<Self::Item>);
    fn put(&self, item: Self::Item);
    fn remove(&self, metadata: &ObjectMeta);
    /// Notes why the data may be old.
    fn is_stale(&self, why: String);
}

/// The objects to follow.
#[derive(Debug, Clone)]
pub(crate) struct Source<'a> {
    /// Path of the list, without a query.
    pub path: &'a str,
    /// A selector as a query, encoded; empty for all.
    pub selector: String,
    /// The objects in words, for the log.
    pub what: &'static str,
}

/// Keeps a mirror current for as long as it is polled; never ends.
pub(crate) async fn follow<M: Mirror>(mirror: &M, client: &Client, source: &Source<'_>) {
    let mut backoff = Backoff::new();
    let what = source.what;
    loop {
        let Err(error) = follow_once(mirror, client, source, &mut backoff).await;
        if error.status() == Some(StatusCode::GONE) {
            // Expected: the list is read again.
            tracing::debug!(%error, "the watch of {what} begins anew");
            tokio::time::sleep(backoff.pause(None)).await;
            continue;
        }
        mirror.is_stale(error.to_string());
        tracing::warn!(%error, "{what} cannot be watched; what is known of them stays");
        tokio::time::sleep(backoff.pause(error.retry_after())).await;
    }
}

async fn follow_once<M: Mirror>(
    mirror: &M,
    client: &Client,
    source: &Source<'_>,
    backoff: &mut Backoff,
) -> Result<Infallible, ApiError> {
    let mut version = list(mirror, client, source).await?;
    backoff.reset();
    loop {
        let began = Instant::now();
        watch(mirror, client, source, &mut version).await?;
        // A server that ends each watch at once is asked again after a pause.
        if began.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(backoff.pause(None)).await;
        } else {
            backoff.reset();
        }
    }
}

impl Source<'_> {
    fn query(&self, rest: &str) -> String {
        let Self { path, selector, .. } = self;
        let and = if selector.is_empty() { "" } else { "&" };
        format!("{path}?{selector}{and}{rest}")
    }
}

/// Reads all objects, page by page; returns the version of the list.
async fn list<M: Mirror>(mirror: &M, client: &Client, source: &Source<'_>) -> Result<String, ApiError> {
    let mut items = Vec::new();
    let mut page = String::new();
    loop {
        let path = source.query(&format!("limit={PAGE}{page}"));
        let call = Call { method: Method::GET, path: &path, accept: LIST, body: None };
        let List { metadata, items: more } = client.json(call).await?;
        items.extend(more.into_iter().map(|item| M::read(item.metadata)));
        match metadata.next_page.filter(|token| !token.is_empty()) {
            Some(token) if items.len() < M::MOST => page = format!("&continue={}", encoded(&token)),
            _ => {
                mirror.replace(items);
                return Ok(metadata.resource_version);
            }
        }
    }
}

/// Follows one watch until the server ends it.
async fn watch<M: Mirror>(
    mirror: &M,
    client: &Client,
    source: &Source<'_>,
    version: &mut String,
) -> Result<(), ApiError> {
    let path = source.query(&format!(
        "watch=1&resourceVersion={}&allowWatchBookmarks=true&timeoutSeconds={}",
        encoded(version),
        WATCH.as_secs(),
    ));
    let answer = client.call(Call { method: Method::GET, path: &path, accept: OBJECT, body: None }).await?;
    let mut lines = Lines { answer, held: Vec::new() };
    while let Some(line) = lines.next().await? {
        let event: WatchEvent =
            serde_json::from_slice(&line).map_err(|error| ApiError::Garbled(error.to_string()))?;
        let WatchEvent { kind, object } = event;
        if kind == "ERROR" {
            let (code, message) = (object.code, message_of(&line_object(&line)));
            let code = code.and_then(|code| StatusCode::from_u16(code).ok());
            let code = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Err(ApiError::Status { code, message, retry_after: None });
        }
        if !object.metadata.resource_version.is_empty() {
            version.clone_from(&object.metadata.resource_version);
        }
        match kind.as_str() {
            "ADDED" | "MODIFIED" => mirror.put(M::read(object.metadata)),
            "DELETED" => mirror.remove(&object.metadata),
            // BOOKMARK carries only the version.
            _ => {}
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct List {
    metadata: ObjectMeta,
    #[serde(default)]
    items: Vec<Object>,
}

/// An object of which only the metadata is read.
#[derive(Deserialize)]
pub(crate) struct Object {
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Code of a `Status` object.
    code: Option<u16>,
}

#[derive(Deserialize)]
struct WatchEvent {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

/// The object of an event's line, as JSON.
fn line_object(line: &[u8]) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    value["object"].to_string().into_bytes()
}

/// Lines of a watch.
struct Lines {
    answer: ApiResponse,
    held: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.held[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.held.split_off(searched + end + 1);
                let line = std::mem::replace(&mut self.held, rest);
                if line.trim_ascii().is_empty() {
                    searched = 0;
                    continue;
                }
                return Ok(Some(line));
            }
            searched = self.held.len();
            if searched > MAX_EVENT {
                return Err(ApiError::TooLong(MAX_EVENT));
            }
            match self.answer.piece(SILENCE).await? {
                Some(piece) => self.held.extend_from_slice(&piece),
                // Half a line means that the server went away; the next watch repeats it.
                None => return Ok(None),
            }
        }
    }
}
