// SPDX-License-Identifier: Apache-2.0
//! The pod of `helm test`, from its manifest to its end: it succeeds where it got a sidecar and is redirected, and only there.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::{Rendered, yaml};
use culvert_tests::process::binaries::Binaries;
use culvert_tests::runtime::{Containerd, Exit};
use serde_json::{Value, json};

use crate::chart::image::image;
use crate::chart::rendered;
use crate::runtime::leaving_nothing;

const IMAGE: &str = "localhost/culvert:test";
const SIDECAR: &str = "culvert-sidecar";

fn pod_of_test(values: &Value) -> Result<Value> {
    let rendered: Rendered = rendered(values)?;
    Ok(rendered.one("Pod", "-test")?.clone())
}

/// The pod as the API server stores it: decided by the injector's own rules, in a namespace without a label.
fn admitted(pod: &Value, folder: &Path) -> Result<Value> {
    let file = folder.join("pod.json");
    fs::write(&file, pod.to_string())?;
    let mut inject = Command::new(&Binaries::built()?.install);
    inject.args(["inject", "--image", IMAGE, "--namespace-label", "kubernetes.io/metadata.name=default"]);
    let output = inject.arg("--file").arg(&file).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.is_empty(), "{said}");
    let mut pod = yaml(&String::from_utf8(output.stdout)?)?;
    for volume in pod["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        // There is no API server to fill it.
        if let Some(path) = volume["downwardAPI"]["items"][0]["path"].as_str() {
            *volume = json!({ "name": volume["name"], "configMap": { "data": { path: "default" } } });
        }
    }
    Ok(pod)
}

#[test]
fn the_pod_of_helm_test_succeeds_with_its_sidecar() -> Result<()> {
    leaving_nothing(
        || Containerd::start("1.0.0", &json!({})),
        |node| {
            let folder = node.as_ref().folder();
            node.import(&image(folder, IMAGE)?)?;
            let values = json!({ "image": { "repository": "localhost/culvert", "tag": "test" } });
            let pod = admitted(&pod_of_test(&values)?, folder)?;
            assert_eq!(pod["spec"]["initContainers"][0]["name"], SIDECAR, "{pod}");
            let mut settings = node.pod("test");
            for (key, value) in pod["metadata"]["annotations"].as_object().into_iter().flatten() {
                settings = settings.annotation(key, value.as_str().context("no string")?);
            }
            let sandbox = settings.run()?;
            let sidecar = sandbox.start(&pod["spec"], SIDECAR)?;
            let test = sandbox.start(&pod["spec"], "test")?;
            assert_eq!(test.wait()?, Exit::Code(0), "{}{}", test.log()?, sidecar.log()?);
            Ok(())
        },
    )
}

#[test]
fn the_pod_of_helm_test_fails_without_a_sidecar() -> Result<()> {
    leaving_nothing(
        || Containerd::start("1.0.0", &json!({})),
        |node| {
            node.import(&image(node.as_ref().folder(), IMAGE)?)?;
            let values = json!({ "image": { "repository": "localhost/culvert", "tag": "test" } });
            let mut pod = pod_of_test(&values)?;
            let command = pod["spec"]["containers"][0]["command"].as_array_mut().context("no command")?;
            let time = command.last_mut().context("no words")?;
            assert_eq!(*time, "60s");
            *time = "1s".into();
            let sandbox = node.pod("test").run()?;
            let test = sandbox.start(&pod["spec"], "test")?;
            assert_ne!(test.wait()?, Exit::Code(0), "{}", test.log()?);
            Ok(())
        },
    )
}

#[test]
fn the_pod_of_helm_test_goes_where_the_injector_looks() -> Result<()> {
    let pod = pod_of_test(&json!({ "test": { "namespace": "shop" } }))?;
    assert_eq!(pod["metadata"]["namespace"], "shop");
    assert_eq!(pod["metadata"]["labels"]["culvert.dev/inject"], "enabled");
    assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
    assert_eq!(pod["spec"]["restartPolicy"], "Never");
    // Helm waits for its end in any case.
    assert!(pod["spec"]["activeDeadlineSeconds"].as_u64().is_some_and(|seconds| seconds > 60), "{pod}");
    Ok(())
}
