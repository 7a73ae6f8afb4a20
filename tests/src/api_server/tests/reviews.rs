// SPDX-License-Identifier: Apache-2.0
use anyhow::Result;
use serde_json::{Value, json};

use super::{send, server};
use crate::api_server::TokenOf;

#[test]
fn a_token_is_good_for_its_audience_as_long_as_its_pod_lives() -> Result<()> {
    let server = server()?;
    server.pod("n1", "shop", "web", "uid-1", &[]);
    let of = TokenOf {
        namespace: "shop".to_owned(),
        pod: "web".to_owned(),
        pod_uid: "uid-1".to_owned(),
        account: "web-account".to_owned(),
        node: "n1".to_owned(),
        audiences: vec!["culvert.dev".to_owned(), "other".to_owned()],
    };
    server.register_token("secret", of);
    let review = |token: &str, audiences: Value| {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": { "token": token, "audiences": audiences },
        });
        let (code, answer) = send(&server, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", &body)?;
        assert_eq!(code, 201, "{answer}");
        anyhow::Ok(answer["status"].clone())
    };
    let good = review("secret", json!(["culvert.dev", "a"]))?;
    assert_eq!((&good["authenticated"], &good["audiences"]), (&json!(true), &json!(["culvert.dev"])));
    assert_eq!(good["user"]["username"], "system:serviceaccount:shop:web-account");
    let extra = json!({
        "authentication.kubernetes.io/node-name": ["n1"], "authentication.kubernetes.io/pod-name": ["web"],
        "authentication.kubernetes.io/pod-uid": ["uid-1"],
    });
    assert_eq!(good["user"]["extra"], extra);
    let is_refused = |status: Value| status["authenticated"].is_null() && status["error"].is_string();
    assert!(is_refused(review("unknown", json!(["culvert.dev"]))?));
    assert!(is_refused(review("secret", json!(["kubernetes"]))?));
    assert!(is_refused(review("secret", Value::Null)?), "it is not for the API server itself");
    // A pod of the same name is another.
    server.delete_pod("shop", "web");
    assert!(is_refused(review("secret", json!(["culvert.dev"]))?));
    server.pod("n1", "shop", "web", "uid-2", &[]);
    assert!(is_refused(review("secret", json!(["culvert.dev"]))?));
    server.delete_pod("shop", "web");
    server.pod("n1", "shop", "web", "uid-1", &[]);
    assert_eq!(review("secret", json!(["culvert.dev"]))?["authenticated"], true);
    server.forget_token("secret");
    assert!(is_refused(review("secret", json!(["culvert.dev"]))?));
    Ok(())
}
