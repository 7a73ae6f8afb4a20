// SPDX-License-Identifier: Apache-2.0
//! The first hour of the README: its commands are read from the page and run as they stand there, up to those that need a
//! cluster. From a manifest to a pod with its sidecar under containerd, its traffic, a mesh document, and a closed mesh.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::{repository, yaml};
use culvert_tests::process::binaries::Binaries;
use culvert_tests::runtime::{Containerd, PAGE, Pod, World};
use culvert_tests::until::until_some;
use culvert_tests::{Family, eventually, http, server};
use serde_json::{Value, json};

use super::leaving_nothing;
use crate::chart::image::image;

/// The image that the page's commands name.
const IMAGE: &str = "registry.example.com/culvert:0.1.0";
const SIDECAR: &str = "culvert-sidecar";
/// For containers to start and for a changed document, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A fenced block, by what stands in the comment before it.
#[derive(Debug)]
enum Block {
    Cluster(String),
    Runs(String),
    InPod(String),
    File(String, String),
}

/// The blocks of the section, in their order.
fn blocks() -> Result<Vec<Block>> {
    let page = fs::read_to_string(repository().join("README.md"))?;
    let (_, section) = page.split_once("\n## The first hour\n").context("no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut blocks = Vec::new();
    let mut rest = section;
    while let Some((before, after)) = rest.split_once("\n```") {
        let (first, after) = after.split_once('\n').context("a fence without a line")?;
        let (text, after) = after.split_once("\n```\n").context("a block without an end")?;
        rest = after;
        let mark = before.lines().last().unwrap_or_default();
        let mark = mark.strip_prefix("<!-- ").and_then(|mark| mark.strip_suffix(" -->"));
        let text = format!("{text}\n");
        blocks.push(match (first, mark.with_context(|| format!("no mark before:\n{text}"))?) {
            ("sh", "needs a cluster") => Block::Cluster(text),
            ("sh", "runs") => Block::Runs(text),
            ("sh", "runs in the pod") => Block::InPod(text),
            ("yaml", mark) => {
                let name = mark.strip_prefix("file: ").with_context(|| mark.to_owned())?;
                Block::File(name.to_owned(), text)
            }
            other => anyhow::bail!("{other:?} is no kind of block"),
        });
    }
    Ok(blocks)
}

/// Runs a block with a shell, as the reader does.
fn shell(text: &str, folder: &Path) -> Result<Output> {
    let programs = Binaries::built()?.install.parent().context("no folder")?.to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH")?);
    let script = format!("set -e\n{text}");
    Ok(Command::new("sh").args(["-c", &script]).current_dir(folder).env("PATH", path).output()?)
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a block where the pod's own network is, as a forwarded port does.
fn in_pod(pod: &Pod<'_>, text: &str, folder: &Path) -> Result<String> {
    let output = pod.host().as_uid(1000).run(|| shell(text, folder))?;
    Ok(words(&output))
}

/// The pod as the API server and the kubelet have it: with the documents of its namespace, and a namespace's name.
fn stored(text: &str, documents: Option<&str>) -> Result<Value> {
    let mut pod = yaml(text)?;
    for volume in pod["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        if let Some(path) = volume["downwardAPI"]["items"][0]["path"].as_str() {
            *volume = json!({ "name": volume["name"], "configMap": { "data": { path: "shop" } } });
        } else if volume["configMap"]["name"] == "culvert-mesh" {
            let documents = documents.context("documents that nobody asked for")?;
            volume["configMap"]["data"] = json!({ "mesh.yaml": documents });
        }
    }
    Ok(pod)
}

/// A sandbox as the manifest annotates it.
fn sandbox<'n>(node: &'n Containerd, name: &str, pod: &Value) -> Result<Pod<'n>> {
    let mut settings = node.pod(name).namespace("shop");
    for (key, value) in pod["metadata"]["annotations"].as_object().into_iter().flatten() {
        settings = settings.annotation(key, value.as_str().context("no string")?);
    }
    settings.run()
}

#[test]
fn each_command_of_the_first_hour_is_run_or_needs_a_cluster() -> Result<()> {
    let blocks = blocks()?;
    let count = |is: fn(&Block) -> bool| blocks.iter().filter(|block| is(block)).count();
    assert_eq!(count(|block| matches!(block, Block::Runs(_))), 1, "{blocks:?}");
    assert_eq!(count(|block| matches!(block, Block::InPod(_))), 2, "{blocks:?}");
    assert_eq!(count(|block| matches!(block, Block::File(..))), 3, "{blocks:?}");
    // What a cluster is needed for calls nothing else.
    for block in &blocks {
        let Block::Cluster(text) = block else { continue };
        let text = text.replace("\\\n", " ");
        for line in text.lines() {
            let is_local = line.starts_with("cargo build ");
            assert!(is_local || line.starts_with("kubectl ") || line.starts_with("helm "), "{line}");
        }
    }
    Ok(())
}

#[test]
fn from_a_manifest_to_a_closed_mesh() -> Result<()> {
    let blocks = blocks()?;
    let file = |wanted: &str, nth: usize| {
        let files = blocks.iter().filter_map(|block| match block {
            Block::File(name, text) if name == wanted => Some(text.as_str()),
            _ => None,
        });
        files.into_iter().nth(nth).with_context(|| format!("no {wanted}"))
    };
    let (manifest, open, closed) = (file("web.yaml", 0)?, file("mesh.yaml", 0)?, file("mesh.yaml", 1)?);
    let runs = blocks.iter().find_map(|block| if let Block::Runs(text) = block { Some(text) } else { None });
    let mut looks =
        blocks.iter().filter_map(|block| if let Block::InPod(text) = block { Some(text) } else { None });
    let (see, find) = (looks.next().context("no look")?, looks.next().context("no second look")?);
    leaving_nothing(
        || Containerd::start("1.0.0", &json!({})),
        |node| {
            let world: &World = node.as_ref();
            let folder = world.folder();
            node.import(&image(folder, IMAGE)?)?;
            fs::write(folder.join("web.yaml"), manifest)?;
            let said = shell(runs.context("no commands")?, folder)?;
            ensure!(said.status.success(), "{}", words(&said));
            assert!(words(&said).contains("injected"), "{}", words(&said));
            let injected = stored(&fs::read_to_string(folder.join("web-with-sidecar.yaml"))?, None)?;
            let pod = sandbox(node, "web", &injected)?;
            let _sidecar = serves(world, &pod, &injected)?;

            // Its traffic, in and out, on the pages.
            let _outside = world.outside.serve(("::", 80), server::http("outside"))?;
            let outside = SocketAddr::from((Family::V4.outside(), 80));
            let held = pod.host().as_uid(1000).connect(outside)?;
            let shown = until_some(SOON, || {
                in_pod(&pod, see, folder).ok().filter(|text| text.contains(&outside.to_string()))
            });
            let shown = shown.with_context(|| in_pod(&pod, see, folder).unwrap_or_default())?;
            assert!(shown.contains("outbound:passthrough:ipv4"), "{shown}");
            drop(held);
            pod.stop()?;
            pod.remove()?;
            closes(node, (manifest, find), [open, closed])
        },
    )
}

/// Starts the pod's containers, and waits until the kubelet would find it ready by its own probe and a client reaches it.
fn serves<'p>(
    world: &World,
    pod: &Pod<'p>,
    manifest: &Value,
) -> Result<culvert_tests::runtime::Container<'p>> {
    let sidecar = pod.start(&manifest["spec"], SIDECAR)?;
    let application = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"];
    pod.container("web", 1000, &application)?;
    let probe = &manifest["spec"]["containers"][0]["readinessProbe"]["httpGet"];
    let (path, port) =
        (probe["path"].as_str().context("no path")?, probe["port"].as_u64().context("no port")?);
    assert_eq!(port, 15020, "the kubelet asks the sidecar");
    let address = pod.address(Family::V4)?;
    let get = |port: u16, path: &str| http::get(world.node.connect((address, port))?, path);
    let mut last = String::new();
    let mut passes = || match get(15020, path) {
        Ok(answer) => {
            last = format!("{answer:?}");
            answer.status == 200
        }
        Err(error) => {
            last = format!("{error:#}");
            false
        }
    };
    eventually!(passes(), SOON);
    let page = get(8080, "/").with_context(|| format!("{last} {}", sidecar.log().unwrap_or_default()))?;
    assert!(page.body.contains(PAGE), "{page:?}");
    Ok(sidecar)
}

/// A pod whose sidecar reads documents: the open mesh shows what the closed one refuses. The neighbour serves on.
fn closes(node: &Containerd, (manifest, find): (&str, &str), [open, closed]: [&str; 2]) -> Result<()> {
    let world: &World = node.as_ref();
    let folder = world.folder();
    fs::write(folder.join("web.yaml"), manifest)?;
    let inject = format!(
        "culvert-install inject --file web.yaml --image {IMAGE} --namespace-label culvert.dev/inject=enabled \
         --namespace-annotation inject.culvert.dev/mesh-documents=enabled"
    );
    let injected = shell(&inject, folder)?;
    ensure!(injected.status.success(), "{}", words(&injected));
    let injected = stored(&String::from_utf8(injected.stdout)?, Some(open))?;
    let pod = sandbox(node, "web-2", &injected)?;
    let sidecar = serves(world, &pod, &injected)?;
    let outside = SocketAddr::from((Family::V4.outside(), 80));
    let calls = || -> Result<http::Response> { http::get(pod.host().as_uid(1000).connect(outside)?, "/") };
    assert_eq!(calls()?.status, 200, "{}", sidecar.log()?);
    let found = in_pod(&pod, find, folder)?;
    let named = found.lines().any(|line| line.contains(&format!("::{outside}::named_by::no document")));
    assert!(named, "{found}");

    // The kubelet writes the changed ConfigMap.
    fs::write(folder.join("volumes/culvert-mesh/mesh.yaml"), closed)?;
    eventually!(calls().is_err(), SOON);
    // Callers still come in.
    let page = http::get(world.node.connect((pod.address(Family::V4)?, 8080))?, "/")?;
    assert!(page.body.contains(PAGE), "{page:?}");
    pod.stop()?;
    pod.remove()
}
