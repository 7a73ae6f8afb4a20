// SPDX-License-Identifier: Apache-2.0
//! Reading of an AdmissionReview and writing of its answer, both of `admission.k8s.io/v1`. Pure.

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::inject::Operation;

/// Version and kind of the one review that is answered.
const VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// Longest warning, in bytes: `kubectl` shows it whole, and the API server cuts all of them together at 4,096.
const MAX_WARNING: usize = 1000;
/// Longest text of a refusal, in bytes. The API server passes it on to each log and condition of the pod's owner.
const MAX_MESSAGE: usize = 4000;

/// Reasons why a body cannot be answered by a review, which would need its uid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the body is no JSON, or not all of it: {0}")]
    NoJson(String),
    #[error("the body is no {KIND} of {VERSION}: its apiVersion is {version:?} and its kind {kind:?}")]
    Other { version: String, kind: String },
    #[error("the {KIND} has no request")]
    NoRequest,
    #[error("the {KIND} has no request.uid, which its answer must repeat")]
    NoUid,
}

/// A request of the API server, as far as it matters. All but the uid may be missing.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    pub uid: String,
    pub namespace: String,
    /// Name of the object; empty for a pod that the API server is yet to name.
    pub name: String,
    /// Nothing may be written anywhere.
    pub dry_run: bool,
    /// The reason why this is no creation of a pod.
    pub aside: Option<String>,
    /// As text: read, a body of 4 MiB may take 64 MiB, which is not to be held while anything is waited for.
    object: Option<&'a RawValue>,
}

impl Request<'_> {
    /// Reads the pod. The error says why it is none.
    pub(super) fn pod(&self) -> Result<Value, String> {
        let Some(object) = self.object else { return Err("the review has no request.object".to_owned()) };
        let pod: Value = serde_json::from_str(object.get()).map_err(|error| error.to_string())?;
        if pod.is_object() { Ok(pod) } else { Err("request.object is no object".to_owned()) }
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// Texts that `kubectl` shows to whoever makes the pod.
    pub warnings: Vec<String>,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// The pod may be created with these changes; none leave it as it is.
    Allowed(Vec<Operation>),
    /// The pod may not be created.
    Denied { code: StatusCode, message: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(default)]
    api_version: Value,
    #[serde(default)]
    kind: Value,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRequest<'a> {
    #[serde(default)]
    uid: Value,
    #[serde(default)]
    namespace: Value,
    #[serde(default)]
    name: Value,
    #[serde(default)]
    operation: Value,
    #[serde(default)]
    resource: Value,
    #[serde(default)]
    sub_resource: Value,
    #[serde(default)]
    dry_run: Value,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

/// Reads a review.
pub(super) fn read(body: &[u8]) -> Result<Request<'_>, Malformed> {
    // serde would take a list for an object, member by member.
    let is_object = |text: &[u8]| text.trim_ascii_start().starts_with(b"{");
    let wire: Wire<'_> = serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Malformed::Other { version: String::new(), kind: String::new() },
        _ => Malformed::NoJson(error.to_string()),
    })?;
    let Wire { api_version, kind, request } = wire;
    if !is_object(body) || api_version != VERSION || kind != KIND {
        let (version, kind) =
            if is_object(body) { (text(&api_version), text(&kind)) } else { Default::default() };
        return Err(Malformed::Other { version, kind });
    }
    let request = request.filter(|raw| is_object(raw.get().as_bytes()));
    let request: WireRequest<'_> =
        request.and_then(|raw| serde_json::from_str(raw.get()).ok()).ok_or(Malformed::NoRequest)?;
    let uid = text(&request.uid);
    if uid.is_empty() {
        return Err(Malformed::NoUid);
    }
    Ok(Request {
        uid,
        namespace: text(&request.namespace),
        name: text(&request.name),
        dry_run: request.dry_run == true,
        aside: aside(&request),
        object: request.object,
    })
}

/// A text, cut to what an error can carry; empty for anything else.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().take(300).collect()
}

/// The reason why a request is none that a pod waits for. A rule that sends it is too wide, and refusing it would only do
/// harm: on UPDATE it keeps finalizers from ending a pod.
fn aside(request: &WireRequest<'_>) -> Option<String> {
    let WireRequest { resource, operation, sub_resource, .. } = request;
    let (group, version, name) =
        (text(&resource["group"]), text(&resource["version"]), text(&resource["resource"]));
    let (operation, sub) = (text(operation), text(sub_resource));
    let is_pod = group.is_empty() && version == "v1" && name == "pods" && sub.is_empty();
    if is_pod && operation == "CREATE" {
        return None;
    }
    let sub = if sub.is_empty() { sub } else { format!("/{sub}") };
    let group = if group.is_empty() { group } else { format!("{group}/") };
    Some(format!(
        "{operation} of {group}{version} {name}{sub} is nothing that culvert changes: the webhook's rule should name CREATE of v1 \
         pods alone"
    ))
}

/// Writes the answer to the request of this uid.
pub(super) fn write(uid: &str, answer: &Answer) -> Vec<u8> {
    let mut response = json!({ "uid": uid });
    match &answer.verdict {
        Verdict::Allowed(operations) => {
            response["allowed"] = true.into();
            // An empty patch would be one more thing for the API server to apply.
            if !operations.is_empty() {
                let patch = serde_json::to_vec(operations).expect("texts and JSON values only");
                response["patchType"] = "JSONPatch".into();
                response["patch"] = STANDARD.encode(patch).into();
            }
        }
        Verdict::Denied { code, message } => {
            response["allowed"] = false.into();
            response["status"] = json!({
                "status": "Failure",
                "code": code.as_u16(),
                "reason": reason(*code),
                "message": cut(message, MAX_MESSAGE),
            });
        }
    }
    if !answer.warnings.is_empty() {
        response["warnings"] = answer.warnings.iter().map(|warning| cut(warning, MAX_WARNING)).collect();
    }
    json!({ "apiVersion": VERSION, "kind": KIND, "response": response }).to_string().into_bytes()
}

/// Kubernetes' word for a status.
const fn reason(code: StatusCode) -> &'static str {
    match code {
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        _ => "InternalError",
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most - '…'.len_utf8())])
}
