// SPDX-License-Identifier: Apache-2.0
//! Callers by their tokens, which the API server reviews.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::controller::key::Key;
use crate::controller::metrics::Why;
use crate::controller::world::{Life, Pod, World};

/// Largest token that is sent on, in bytes: a projected one has some 1,200.
const MAX_TOKEN: usize = 16 << 10;
/// Deadline of a review, waiting for its turn included. The API server takes 5 ms, and 45 under load.
const REVIEWS_WITHIN: Duration = Duration::from_secs(5);
/// Names of what a token is bound to (Kubernetes, pkg/serviceaccount/claims.go).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Begin of the name of a service account.
const ACCOUNT: &str = "system:serviceaccount:";

/// Reasons why a caller is turned away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the call has no bearer token: the sidecar's --control-token names its file")]
    NoToken,
    #[error("the API server does not accept the token: {0}")]
    NotAccepted(String),
    #[error("the token is for another audience than {}", culvert_control::AUDIENCE)]
    Audience,
    #[error("the token is bound to no pod: it must come from a projected volume")]
    NoPod,
    #[error("pod {0} is not known yet, or is gone")]
    Unknown(String),
    #[error("pod {0} has ended")]
    Ended(String),
    #[error("pod {0} has no sidecar")]
    NotOnboarded(String),
    #[error("pod {0} runs by another account than the token's")]
    Account(String),
    #[error("too many calls of this address wait for the API server: try again")]
    Busy,
    #[error("the API server cannot be asked about the token: {0}")]
    Unreachable(String),
}

impl Refused {
    /// Status code of gRPC. Only the last of all may be over in a moment, and a pod that the watch has not brought yet.
    pub(crate) const fn code(&self) -> u32 {
        match self {
            Self::NoToken | Self::NotAccepted(_) | Self::Audience | Self::NoPod => 16,
            Self::Ended(_) | Self::NotOnboarded(_) | Self::Account(_) => 7,
            Self::Busy => 8,
            Self::Unknown(_) | Self::Unreachable(_) => 14,
        }
    }
}

impl Refused {
    /// Reason for the metric.
    pub(crate) const fn why(&self) -> Why {
        match self {
            Self::NoToken | Self::NotAccepted(_) | Self::NoPod => Why::Token,
            Self::Audience => Why::Audience,
            Self::Unknown(_) | Self::Ended(_) => Why::Pod,
            Self::NotOnboarded(_) => Why::NotOnboarded,
            Self::Account(_) => Why::Account,
            Self::Busy => Why::Busy,
            Self::Unreachable(_) => Why::Unreachable,
        }
    }
}

/// The pod that a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Namespace and name.
    pub pod: Key,
    /// Unique among all pods that ever had the name.
    pub uid: String,
    /// Service account.
    pub account: String,
}

/// Asks the API server about a token.
pub(crate) async fn review(
    client: &Client,
    places: &Semaphore,
    token: Option<&str>,
) -> Result<Caller, Refused> {
    let token = token.filter(|token| !token.is_empty()).ok_or(Refused::NoToken)?;
    if token.len() > MAX_TOKEN {
        return Err(Refused::NotAccepted(format!("it has {} bytes", token.len())));
    }
    let spec = TokenReviewSpec {
        audiences: Some(vec![culvert_control::AUDIENCE.to_owned()]),
        token: Some(token.to_owned()),
    };
    let review = TokenReview { spec, ..TokenReview::default() };
    let ask = async {
        let _place = places.acquire().await.map_err(|error| Refused::Unreachable(error.to_string()))?;
        let api = Api::<TokenReview>::all(client.clone());
        let answered = api.create(&PostParams::default(), &review).await;
        answered.map_err(|error| Refused::Unreachable(error.to_string()))
    };
    let late = || Refused::Unreachable(format!("no answer within {} s", REVIEWS_WITHIN.as_secs()));
    let reviewed = timeout(REVIEWS_WITHIN, ask).await.map_err(|_| late())??;
    caller(reviewed.status.unwrap_or_default())
}

fn caller(status: TokenReviewStatus) -> Result<Caller, Refused> {
    let TokenReviewStatus { audiences, authenticated, error, user } = status;
    if authenticated != Some(true) {
        return Err(Refused::NotAccepted(error.unwrap_or_else(|| "it gives no reason".to_owned())));
    }
    // A server that knows no audiences returns none.
    if !audiences.unwrap_or_default().iter().any(|one| one == culvert_control::AUDIENCE) {
        return Err(Refused::Audience);
    }
    let user = user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let (namespace, account) =
        name.strip_prefix(ACCOUNT).and_then(|rest| rest.split_once(':')).ok_or(Refused::NoPod)?;
    let mut extra = user.extra.unwrap_or_default();
    let mut one = |name: &str| extra.remove(name).and_then(|values| values.into_iter().next());
    let (pod, uid) = (one(POD_NAME).ok_or(Refused::NoPod)?, one(POD_UID).ok_or(Refused::NoPod)?);
    Ok(Caller { pod: Key::new(namespace, &pod), uid, account: account.to_owned() })
}

/// Checks that the caller's pod lives and is onboarded.
pub(crate) fn living<'a>(world: &'a World, caller: &Caller) -> Result<&'a Pod, Refused> {
    let name = || caller.pod.to_string();
    let pod = world.pod(&caller.pod).filter(|pod| *pod.uid == *caller.uid);
    let pod = pod.ok_or_else(|| Refused::Unknown(name()))?;
    if pod.life == Life::Ended {
        return Err(Refused::Ended(name()));
    }
    if !pod.is_onboarded() {
        return Err(Refused::NotOnboarded(name()));
    }
    if *pod.account != *caller.account {
        return Err(Refused::Account(name()));
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(change: impl FnOnce(&mut Value)) -> TokenReviewStatus {
        // As Kubernetes 1.36 answers for a projected token.
        let mut status = json!({
            "authenticated": true,
            "audiences": ["culvert.dev"],
            "user": {
                "username": "system:serviceaccount:shop:web",
                "uid": "a2c4",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
                "extra": {
                    "authentication.kubernetes.io/credential-id": ["JTI=1"],
                    "authentication.kubernetes.io/node-name": ["node-1"],
                    "authentication.kubernetes.io/node-uid": ["b"],
                    "authentication.kubernetes.io/pod-name": ["web-0"],
                    "authentication.kubernetes.io/pod-uid": ["c0ffee"],
                },
            },
        });
        change(&mut status);
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_token_is_taken_for_the_pod_that_it_is_bound_to() {
        let caller = caller(status(|_| {})).unwrap();
        let expected =
            Caller { pod: Key::new("shop", "web-0"), uid: "c0ffee".to_owned(), account: "web".to_owned() };
        assert_eq!(caller, expected);
    }

    #[test]
    fn tokens_that_are_not_taken() {
        let not_accepted = Err(Refused::NotAccepted("token expired".to_owned()));
        let gone = status(|status| {
            *status = json!({ "error": "token expired" });
        });
        assert_eq!(caller(gone), not_accepted);
        let rows: [(&str, &str, Value, Refused); 6] = [
            ("another audience", "/audiences", json!(["https://kubernetes.default.svc"]), Refused::Audience),
            ("no audience", "/audiences", json!([]), Refused::Audience),
            ("no account", "/user/username", json!("admin"), Refused::NoPod),
            ("half an account", "/user/username", json!("system:serviceaccount:shop"), Refused::NoPod),
            ("no pod", "/user/extra/authentication.kubernetes.io~1pod-name", json!([]), Refused::NoPod),
            ("no uid", "/user/extra/authentication.kubernetes.io~1pod-uid", json!([]), Refused::NoPod),
        ];
        for (name, path, value, expected) in rows {
            let status = status(|status| *status.pointer_mut(path).unwrap() = value);
            assert_eq!(caller(status), Err(expected), "{name}");
        }
    }
}
