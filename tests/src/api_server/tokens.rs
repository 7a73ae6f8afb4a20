// SPDX-License-Identifier: Apache-2.0
//! Reviews of tokens.

use serde_json::{Value, json};

/// The audience of a review that names none: the API server's own.
const OWN_AUDIENCE: &str = "https://kubernetes.default.svc";

/// The pod and the account that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOf {
    /// The namespace of both.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid; the token ends with the pod of this uid.
    pub pod_uid: String,
    /// The ServiceAccount.
    pub account: String,
    /// The node that the pod runs on.
    pub node: String,
    /// Audiences that the token is for.
    pub audiences: Vec<String>,
}

/// Answers a TokenReview. `token` is what the review's token is bound to, `None` where it is unknown, and `lives` tells of
/// its pod.
pub(super) fn review(asked: &Value, token: Option<&TokenOf>, lives: impl Fn(&TokenOf) -> bool) -> Value {
    let audiences = asked["spec"]["audiences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut wanted: Vec<&str> = audiences.iter().filter_map(Value::as_str).collect();
    if wanted.is_empty() {
        wanted.push(OWN_AUDIENCE);
    }
    let refused = |error: &str| json!({ "user": {}, "error": format!("[invalid bearer token, {error}]") });
    let status = match token {
        None => refused("the token is of no issuer that is known"),
        Some(token) => {
            let is_for = |audience: &&&str| token.audiences.iter().any(|own| own == **audience);
            let fitting: Vec<&&str> = wanted.iter().filter(is_for).collect();
            if fitting.is_empty() {
                refused(&format!(
                    "token audiences {:?} is invalid for the target audiences {wanted:?}",
                    token.audiences
                ))
            } else if !lives(token) {
                refused("service account token has been invalidated")
            } else {
                json!({ "authenticated": true, "user": user(token), "audiences": fitting })
            }
        }
    };
    let mut answer = asked.clone();
    answer["kind"] = "TokenReview".into();
    answer["apiVersion"] = "authentication.k8s.io/v1".into();
    answer["status"] = status;
    answer
}

fn user(token: &TokenOf) -> Value {
    let TokenOf { namespace, pod, pod_uid, account, node, audiences: _ } = token;
    json!({
        "username": format!("system:serviceaccount:{namespace}:{account}"),
        "uid": format!("uid-of-{namespace}-{account}"),
        "groups": [
            "system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated",
        ],
        "extra": {
            "authentication.kubernetes.io/node-name": [node],
            "authentication.kubernetes.io/pod-name": [pod],
            "authentication.kubernetes.io/pod-uid": [pod_uid],
        },
    })
}
