// SPDX-License-Identifier: Apache-2.0
//! podman's CNI: no pods, so no annotations and no Kubernetes namespace. `onUnknown` decides.

use anyhow::{Context, Result};
use culvert_tests::runtime::{Call, Podman, World};
use culvert_tests::{Family, server};
use serde_json::{Value, json};

use super::{leaving_nothing, leaving_nothing_after_a_panic};

/// podman writes its own networks in 0.4.0.
const CNI_VERSIONS: [&str; 3] = ["0.3.1", "0.4.0", "1.0.0"];

/// A node's default cannot onboard a container.
fn entry(on_unknown: &str) -> Value {
    json!({ "onUnknown": on_unknown, "redirect": { "excludeInboundPorts": "9090" } })
}

fn verbs(world: &World) -> Result<Vec<String>> {
    Ok(world.own_calls()?.iter().map(|call| call.verb().to_owned()).collect())
}

fn added(world: &World) -> Result<Call> {
    world.own_calls()?.into_iter().find(|call| call.verb() == "ADD").context("no ADD")
}

#[test]
fn podman_passes_no_annotations_and_on_unknown_allow_lets_its_containers_through() -> Result<()> {
    for version in CNI_VERSIONS {
        leaving_nothing(
            || Podman::new(version, &entry("allow")),
            |podman| {
                let world: &World = podman.as_ref();
                podman.run("box", &["/bin/sleep", "1000"])?.succeeded()?;
                let call = added(world)?;
                assert_eq!(call.config["cniVersion"], version);
                assert_eq!(call.config["runtimeConfig"], Value::Null, "{version}");
                assert_eq!(call.argument("K8S_POD_NAMESPACE"), None, "{version}");
                let host = podman.host(&call)?;
                assert!(host.ruleset()?.is_empty(), "{version}: {}", host.ruleset()?);

                for family in Family::BOTH {
                    let _outside = world.outside.serve((family.outside(), 80), server::http("outside"))?;
                    let url = format!("http://{}/", std::net::SocketAddr::from((family.outside(), 80)));
                    let answer = podman.exec("box", &["wget", "-q", "-O", "-", &url])?.succeeded()?;
                    assert!(answer.starts_with("outside: GET / from "), "{version}, {family}: {answer}");
                }
                let id = call.variable("CNI_CONTAINERID");
                let warned = world.logged(&["warn", "verb=ADD", id, "onUnknown is allow", "result=ok"]);
                assert_eq!(warned.len(), 1, "{version}:\n{}", world.plugin_log());

                podman.remove("box")?.succeeded()?;
                // Each process of podman's asks for the version before it calls.
                assert_eq!(verbs(world)?, ["VERSION", "ADD", "VERSION", "DEL"], "{version}");
                assert_eq!(world.logged(&["verb=DEL", id, "result=ok"]).len(), 1, "{}", world.plugin_log());
                assert!(world.addresses_in_use()?.is_empty(), "{version}");
                Ok(())
            },
        )?;
    }
    Ok(())
}

#[test]
fn on_unknown_deny_refuses_podmans_containers_and_says_why() -> Result<()> {
    for version in CNI_VERSIONS {
        leaving_nothing(
            || Podman::new(version, &entry("deny")),
            |podman| {
                let world: &World = podman.as_ref();
                let ran = podman.run("box", &["/bin/sleep", "1000"])?;
                assert!(!ran.status.success(), "{version}: {ran:?}");
                for words in ["culvert-cni", "annotations are unknown", "onUnknown is \"deny\""] {
                    assert!(ran.stderr.contains(words), "{version}: no {words:?} in {}", ran.stderr);
                }
                let call = added(world)?;
                let refused =
                    world.logged(&["error", "verb=ADD", call.variable("CNI_CONTAINERID"), "code=11"]);
                assert_eq!(refused.len(), 1, "{version}:\n{}", world.plugin_log());

                podman.remove("box")?.succeeded()?;
                assert_eq!(verbs(world)?, ["VERSION", "ADD", "DEL"], "{version}");
                assert!(world.addresses_in_use()?.is_empty(), "{version}");
                Ok(())
            },
        )?;
    }
    Ok(())
}

#[test]
fn nothing_is_left_behind_of_podman_after_a_panic() -> Result<()> {
    leaving_nothing_after_a_panic(
        || Podman::new("0.4.0", &entry("allow")),
        |podman| podman.run("box", &["/bin/sleep", "1000"])?.succeeded().map(drop),
    )
}
