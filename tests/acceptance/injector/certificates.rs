// SPDX-License-Identifier: Apache-2.0
//! Its certificate: made at the first start, shared by replicas, renewed while reviews go on, and put back where it was spoilt.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::eventually;
use serde_json::{Value, json};

use super::{CONFIGURATION, Cluster, Injector, SECRET, SOON, configuration, pod, review};

fn loaded(injector: &Injector) -> Result<f64> {
    injector.metric("culvert_injector_certificates_loaded_total")
}

fn answers(cluster: &Cluster, injector: &Injector) -> Result<()> {
    let response = cluster.review(injector, &review(&pod()))?;
    ensure!(response["allowed"] == true, "{response}");
    Ok(())
}

#[test]
fn replicas_that_start_together_share_one_certificate() -> Result<()> {
    let cluster = Cluster::new()?;
    let replicas = [0, 1, 2].map(|_| cluster.starting(super::IMAGE, &[]));
    for replica in replicas {
        let replica = replica?;
        replica.until_ready()?;
        answers(&cluster, &replica)?;
        assert_eq!(loaded(&replica)?, 1.0);
        replica.terminate()?;
    }
    assert_eq!(cluster.bundle()?.matches("BEGIN CERTIFICATE").count(), 1);
    // A later one takes what is there.
    let before = cluster.server.object_at(SECRET).context("the Secret")?;
    answers(&cluster, &cluster.injector(&[])?)?;
    assert_eq!(cluster.server.object_at(SECRET), Some(before));
    Ok(())
}

#[test]
fn a_certificate_is_renewed_while_every_review_is_answered() -> Result<()> {
    let cluster = Cluster::new()?;
    // Renewed at 12 s, at the latest before 18 s.
    let replicas = [0, 1].map(|_| cluster.starting(super::IMAGE, &["--certificate-life", "18s"]));
    let replicas = replicas.into_iter().collect::<Result<Vec<_>>>()?;
    replicas.iter().try_for_each(Injector::until_ready)?;
    let first = cluster.bundle()?;
    let (began, mut both, mut reviews) = (Instant::now(), false, 0);
    loop {
        for replica in &replicas {
            answers(&cluster, replica)?;
            reviews += 1;
        }
        let bundle = cluster.bundle()?;
        both |= bundle.matches("BEGIN CERTIFICATE").count() == 2;
        let is_done =
            replicas.iter().map(loaded).collect::<Result<Vec<_>>>()?.iter().all(|count| *count >= 2.0);
        if is_done {
            ensure!(both && bundle != first, "the new CA was never beside the old one");
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "no new certificate after {reviews} reviews");
    }
    replicas.iter().try_for_each(|replica| answers(&cluster, replica))
}

#[test]
fn a_bundle_that_someone_changes_is_put_back() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let right = cluster.server.object_at(CONFIGURATION).context("the configuration")?;
    let bundles = |configuration: &Value| {
        [0, 1].map(|index: usize| configuration["webhooks"][index]["clientConfig"]["caBundle"].clone())
    };
    let is_right =
        || cluster.server.object_at(CONFIGURATION).is_some_and(|now| bundles(&now) == bundles(&right));
    ensure!(is_right());
    // Emptied, of another CA, and made anew by whoever installs it.
    let mut emptied = right.clone();
    emptied["webhooks"][1]["clientConfig"]["caBundle"] = "".into();
    let mut other = right.clone();
    other["webhooks"][0]["clientConfig"]["caBundle"] = "Zm9yZWlnbg==".into();
    for changed in [emptied, other, configuration()] {
        cluster.server.object(CONFIGURATION, changed);
        eventually!(is_right(), SOON);
    }
    cluster.server.delete_object(CONFIGURATION);
    answers_by(&right, &cluster, &injector)?;
    cluster.server.object(CONFIGURATION, configuration());
    eventually!(is_right(), SOON);
    answers(&cluster, &injector)
}

/// It answers by the bundle of that configuration too, while there is none.
fn answers_by(configuration: &Value, cluster: &Cluster, injector: &Injector) -> Result<()> {
    cluster.server.object(CONFIGURATION, configuration.clone());
    let answered = answers(cluster, injector);
    cluster.server.delete_object(CONFIGURATION);
    answered
}

#[test]
fn a_secret_that_was_deleted_or_spoilt_is_made_anew() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let mut secret = cluster.server.object_at(SECRET).context("the Secret")?;
    ensure!(secret["data"].as_object().context("data")?.len() == 3, "{secret}");
    secret["data"]["tls.key"] = "bm9uZQ==".into();
    secret["metadata"]["labels"]["team"] = "mesh".into();
    cluster.server.object(SECRET, secret);
    eventually!(
        loaded(&injector).is_ok_and(|count| count == 2.0) && answers(&cluster, &injector).is_ok(),
        SOON
    );
    let made = cluster.server.object_at(SECRET).context("the Secret")?;
    assert_eq!(made["metadata"]["labels"]["team"], "mesh", "others' labels stay");
    cluster.server.delete_object(SECRET);
    eventually!(
        loaded(&injector).is_ok_and(|count| count == 3.0) && answers(&cluster, &injector).is_ok(),
        SOON
    );
    Ok(())
}

#[test]
fn it_is_ready_only_when_an_api_server_can_call_it() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.server.delete_object(CONFIGURATION);
    let injector = cluster.starting(super::IMAGE, &[])?;
    let says = |words: &str| {
        injector.page("/ready").is_ok_and(|page| page.status == 503 && page.body.contains(words))
    };
    eventually!(says("there is no MutatingWebhookConfiguration culvert-injector"), SOON);
    assert_eq!(injector.page("/healthz")?.status, 200);
    let mut others = configuration();
    others["webhooks"].as_array_mut().context("webhooks")?.remove(0);
    others["webhooks"].as_array_mut().context("webhooks")?.remove(0);
    cluster.server.object(CONFIGURATION, others);
    eventually!(says("calls Service culvert-injector.mesh"), SOON);
    cluster.server.object(CONFIGURATION, configuration());
    injector.until_ready()?;
    assert_eq!(injector.metric("culvert_injector_ready")?, 1.0);
    answers(&cluster, &injector)
}

#[test]
fn it_asks_only_for_what_its_role_allows() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let mut of_host = pod();
    of_host["spec"]["hostNetwork"] = json!(true);
    cluster.review(&injector, &review(&of_host))?;
    cluster.events(1)?;
    for asked in cluster.server.asked() {
        let path = asked.path.split('?').next().unwrap_or_default();
        let allowed = match asked.method.as_str() {
            "GET" => [SECRET, CONFIGURATION, "/api/v1/namespaces"].contains(&path),
            "POST" => ["/api/v1/namespaces/mesh/secrets", "/api/v1/namespaces/shop/events"].contains(&path),
            "PUT" => path == SECRET,
            "PATCH" => path == CONFIGURATION,
            _ => false,
        };
        ensure!(allowed, "{asked:?}");
    }
    Ok(())
}
