// SPDX-License-Identifier: Apache-2.0
//! Rates of connections by MeshRateLimit.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::echo;
use culvert_tests::{Family, Lab, Sidecar, eventually};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::{APP, assert_taken_and_reset};
use crate::walkthrough::{dump, of_dump, onboarded, talks, with_documents};

/// A pod with two inbounds, of which a policy limits the first.
fn documents(tcp: &str, more: &str) -> String {
    let inbound = |(port, name): (u16, &str)| {
        format!("{{port: {port}, name: {name}, tags: {{kuma.io/service: here}}}}")
    };
    let inbounds = [(9000, "limited"), (9001, "free")].map(inbound).join(", ");
    format!(
        "{{type: Mesh, name: default}}\n---\n{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{inbounds}]}}}}\n---\n{{type: MeshRateLimit, name: r, spec: {{targetRef: {{kind: Dataplane, name: here, sectionName: limited}}, rules: [{{default: {{local: {{tcp: {{{tcp}}}}}}}}}]}}}}\n{more}"
    )
}

struct World {
    lab: Lab,
    folder: PathBuf,
}

impl World {
    fn new(tcp: &str) -> Result<Self> {
        let (lab, folder) = onboarded()?;
        fs::write(folder.join("mesh.yaml"), documents(tcp, ""))?;
        Ok(Self { lab, folder })
    }

    fn sidecar(&self) -> Result<Sidecar<'_>> {
        with_documents(&self.lab, &self.folder, &["--dataplane", "here"])
    }

    /// Exchanges the documents, and waits until they are in force.
    fn change(&self, sidecar: &Sidecar<'_>, tcp: &str, more: &str) -> Result<()> {
        let before = sidecar.stat("config_reloaded")?;
        replace(&self.folder.join("mesh.yaml"), &documents(tcp, more))?;
        eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == before + 1), SOON);
        Ok(())
    }

    fn connect(&self, port: u16) -> Result<()> {
        talks(self.lab.peer.connect((Family::V4.pod(), port))?)
    }

    #[track_caller]
    fn is_refused(&self, what: &str) {
        assert_taken_and_reset(self.lab.peer.connect((Family::V4.pod(), 9000)), what);
    }
}

const THREE: &str = "connectionRate: {num: 3, interval: 1h}";
const LIMITED: &str = "local_rate_limit.tcp_rate_limit.rate_limited";

#[test]
fn connections_above_the_rate_of_an_inbound_are_reset_and_counted() -> Result<()> {
    let world = World::new(THREE)?;
    let pod = Family::V4.pod();
    let application = world.lab.pod.as_uid(APP);
    let limited = application.serve((pod, 9000), echo())?;
    let _free = application.serve((pod, 9001), echo())?;
    let sidecar = world.sidecar()?;
    let open = world.lab.peer.connect((pod, 9000))?;
    talks(open.try_clone()?)?;
    for _ in 0..2 {
        world.connect(9000)?;
    }
    for _ in 0..2 {
        world.is_refused("the fourth in an hour");
    }
    for _ in 0..5 {
        world.connect(9001).context("the other inbound")?;
    }
    talks(open).context("one that was let in")?;
    ensure!(limited.accepted() == 3, "the application sees none above the rate");
    eventually!(sidecar.stat(LIMITED).is_ok_and(|n| n == 2), SOON);
    ensure!(sidecar.metrics()?.contains("culvert_rate_limited_total{direction=\"inbound\"} 2\n"));
    let record = sidecar.access(SOON, |record| (record["reason"] == "limit").then(|| record.clone()));
    let record = record.context("no record of the refusal")?;
    ensure!(record["error"].as_str().is_some_and(|error| error.ends_with("3 in 3600s")), "{record}");
    let dump = dump(&sidecar)?;
    let listener = of_dump(&dump, &format!("inbound:{pod}:9000")).context("no listener")?;
    let filters = &listener["filter_chains"][0]["filters"];
    ensure!(filters[0]["typed_config"]["token_bucket"]["max_tokens"] == 3, "{filters}");
    ensure!(filters[1]["name"] == "envoy.filters.network.tcp_proxy", "{filters}");
    Ok(())
}

#[test]
fn a_bucket_is_kept_over_a_change_of_other_documents_and_a_changed_or_disabled_rate_counts_at_once()
-> Result<()> {
    let world = World::new(THREE)?;
    let _application = world.lab.pod.as_uid(APP).serve((Family::V4.pod(), 9000), echo())?;
    let sidecar = world.sidecar()?;
    for _ in 0..3 {
        world.connect(9000)?;
    }
    let other = "---\n{type: Dataplane, name: other, networking: {address: 192.0.2.10, inbound: [{port: 82, tags: {kuma.io/service: web}}]}}\n";
    world.change(&sidecar, THREE, other)?;
    world.is_refused("a reload fills no bucket");
    world.change(&sidecar, "connectionRate: {num: 1, interval: 1h}", other)?;
    world.connect(9000).context("another rate begins with a full bucket")?;
    world.is_refused("the second in an hour");
    world.change(&sidecar, &format!("disabled: true, {THREE}"), other)?;
    for _ in 0..5 {
        world.connect(9000)?;
    }
    Ok(())
}

#[test]
fn a_bucket_fills_again() -> Result<()> {
    let world = World::new("connectionRate: {num: 2, interval: 4s}")?;
    let _application = world.lab.pod.as_uid(APP).serve((Family::V4.pod(), 9000), echo())?;
    let sidecar = world.sidecar()?;
    let refused = || sidecar.stat(LIMITED).is_ok_and(|n| n > 0);
    // Connections that come as fast as they can outrun one each two seconds.
    eventually!(
        {
            let _ = world.connect(9000);
            refused()
        },
        SOON
    );
    eventually!(world.connect(9000).is_ok(), SOON);
    Ok(())
}
