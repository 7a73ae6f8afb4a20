// SPDX-License-Identifier: Apache-2.0
//! Permissions by tags: what is sent of them, and what their status says.

use anyhow::{Context, Result};
use culvert_tests::control::{Stream, documents};
use culvert_tests::eventually;
use culvert_tests::until::until_some;
use serde_json::{Value, json};

use super::{Cluster, Controller, SOON, path, pod};

const PERMISSION: &str = "/apis/kuma.io/v1alpha1/namespaces/shop/meshtrafficpermissions/cron";
const OLDER: &str = "/apis/kuma.io/v1alpha1/trafficpermissions/older";
/// Permission that a pod is sent in place of those by tags.
const SENT: &str = "MeshTrafficPermission/culvert-callers";

impl Cluster {
    /// Starts a replica with pods `db` and `web`, and `cron` and `report` of one account, once the kinds are there.
    fn with_callers(&self) -> Result<Controller> {
        for (name, ip) in [("db", "10.0.0.1"), ("web", "10.0.0.2")] {
            self.member("shop", name, ip, name);
        }
        self.batch("cron", "10.0.0.3", "cron");
        self.batch("report", "10.0.0.4", "report");
        let controller = self.controller(&["--crds", "always"])?;
        for kind in ["meshtrafficpermissions", "trafficpermissions"] {
            let crd = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}.kuma.io");
            until_some(SOON, || self.server.get(&crd)).context("no kinds")?;
        }
        Ok(controller)
    }

    /// Puts a pod of the account `batch` there.
    fn batch(&self, name: &str, ip: &str, app: &str) {
        let mut pod = pod("shop", name, ip, app, true);
        pod["spec"]["serviceAccountName"] = "batch".into();
        self.server.put(&path("shop", name), pod);
    }

    /// Lets in what runs by the label `app: cron`.
    fn permission(&self) {
        let target = json!({ "kind": "MeshSubset", "tags": { "app": "cron" } });
        self.document(
            "meshtrafficpermissions",
            &json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "MeshTrafficPermission",
                     "metadata": { "name": "cron", "namespace": "shop", "labels": { "kuma.io/mesh": "default" } },
                     "spec": { "from": [{ "targetRef": target, "default": { "action": "Allow" } }] } }),
        );
    }

    /// The condition of a document, by its type.
    fn condition(&self, path: &str, kind: &str) -> Option<Value> {
        let object = self.server.get(path)?;
        object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == kind).cloned()
    }

    /// Waits for a status of the condition about accounts.
    fn by_account(&self, path: &str, status: &str) -> Result<Value> {
        let is = || self.condition(path, "AppliesByAccount").filter(|one| one["status"] == status);
        until_some(SOON, is).with_context(|| format!("not {status}: {:?}", self.server.get(path)))
    }
}

/// The lists of the next permission that the pod is sent.
fn sent(stream: &mut Stream<'_>) -> Result<Value> {
    loop {
        let response = stream.next(SOON)?.context("no permission")?;
        let found = documents(&response)?;
        if let Some((_, document)) = found.iter().find(|(name, _)| name == SENT) {
            return Ok(document["spec"]["rules"][0]["default"].clone());
        }
    }
}

fn only(account: &str) -> Value {
    let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    json!({ "allow": [{ "spiffeID": { "type": "Exact", "value": id } }] })
}

#[test]
fn a_permission_says_whether_it_holds_for_whole_accounts() -> Result<()> {
    let cluster = Cluster::new()?;
    let controller = cluster.with_callers()?;
    cluster.permission();
    let told = cluster.by_account(PERMISSION, "False")?;
    assert_eq!(told["reason"], "PartOfAccount");
    let words = told["message"].as_str().unwrap_or_default();
    assert!(words.contains("shop/batch (from[0], Allow: not pod shop/report)"), "{words}");
    assert!(words.contains("account of their own"), "{words}");
    let accepted = cluster.condition(PERMISSION, "Accepted").context("no Accepted")?;
    assert_eq!(accepted["status"], "True");
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-db"))?;
    stream.ask_documents()?;
    let none =
        json!({ "allow": [{ "spiffeID": { "type": "Exact", "value": "spiffe://cluster.local/none" } }] });
    assert_eq!(sent(&mut stream)?, none);
    // The other pod gets an account of its own.
    cluster.member("shop", "report", "10.0.0.4", "report");
    assert_eq!(sent(&mut stream)?, only("batch"));
    let told = cluster.by_account(PERMISSION, "True")?;
    assert_eq!(told["reason"], "WholeAccounts");
    // And comes back into it: the time is that of the change, and that of the other condition stays.
    cluster.batch("report", "10.0.0.4", "report");
    cluster.by_account(PERMISSION, "False")?;
    let again = cluster.condition(PERMISSION, "Accepted").context("no Accepted")?;
    assert_eq!(again["lastTransitionTime"], accepted["lastTransitionTime"]);
    Ok(())
}

#[test]
fn a_status_is_written_where_something_differs() -> Result<()> {
    let cluster = Cluster::new()?;
    let _controller = cluster.with_callers()?;
    cluster.permission();
    cluster.by_account(PERMISSION, "False")?;
    let writes = || {
        let asked = cluster.server.asked();
        asked.iter().filter(|one| one.method == "PATCH" && one.path.contains("/cron/status")).count()
    };
    let before = writes();
    // Replicas come, and the leader passes: a namespace that is onboarded after them has its ConfigMap.
    for n in 0..20 {
        cluster.batch(&format!("cron-{n}"), &format!("10.0.1.{n}"), "cron");
    }
    cluster.server.namespace("plain", &[("culvert.dev/inject", "enabled")], &[]);
    eventually!(cluster.map("plain").is_some(), SOON);
    assert_eq!(writes(), before);
    // One of another account and another one of the permission's: the first says nothing about it, the second does.
    cluster.member("shop", "other", "10.0.2.1", "other");
    cluster.member("shop", "extra", "10.0.2.2", "cron");
    let mut pod = pod("shop", "extra-2", "10.0.2.3", "x", true);
    pod["spec"]["serviceAccountName"] = "cron".into();
    cluster.server.put(&path("shop", "extra-2"), pod);
    let words = || cluster.condition(PERMISSION, "AppliesByAccount").map(|one| one["message"].to_string());
    eventually!(
        words().is_some_and(|words| words.contains("shop/cron (from[0], Allow: not pod shop/extra-2)")),
        SOON
    );
    assert!(writes() <= before + 2, "{} writes", writes() - before);
    Ok(())
}

#[test]
fn a_permission_of_the_older_kind_is_sent_by_account() -> Result<()> {
    let cluster = Cluster::new()?;
    cluster.service("shop", "web", "10.96.0.1", &[("web", true)]);
    cluster.service("shop", "db", "10.96.0.2", &[("db", true)]);
    let controller = cluster.with_callers()?;
    let older = |sources: Value| {
        let mut document = json!({
            "apiVersion": "kuma.io/v1alpha1", "kind": "TrafficPermission", "mesh": "default",
            "metadata": { "name": "older" },
            "spec": { "destinations": [{ "match": { "kuma.io/service": "db_shop_svc_80" } }] },
        });
        document["spec"]["sources"] = sources;
        cluster.document("trafficpermissions", &document);
    };
    older(json!([{ "match": { "kuma.io/service": "web_shop_svc_80" } }]));
    let connection = cluster.connect(&controller)?;
    let mut stream = connection.stream(Some("token-db"))?;
    stream.ask_documents()?;
    assert_eq!(sent(&mut stream)?, only("web"));
    assert_eq!(cluster.by_account(OLDER, "True")?["reason"], "WholeAccounts");
    older(json!([{ "match": { "app": "cron" } }, { "match": { "kuma.io/service": "web_shop_svc_80" } }]));
    let words = cluster.by_account(OLDER, "False")?["message"].to_string();
    assert!(words.contains("shop/batch (sources: not pod shop/report)"), "{words}");
    older(json!([{ "match": { "app": "cron" } }, { "match": { "app": "report" } }]));
    assert_eq!(sent(&mut stream)?, only("batch"));
    cluster.by_account(OLDER, "True")?;
    // It gives way to the newer kind.
    cluster.permission();
    let none =
        json!({ "allow": [{ "spiffeID": { "type": "Exact", "value": "spiffe://cluster.local/none" } }] });
    assert_eq!(sent(&mut stream)?, none);
    Ok(())
}
