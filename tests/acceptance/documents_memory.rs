//! Memory that documents take: within the manifests' limit at the documented bound, and for texts that are made to explode.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use std::time::Duration;

use anyhow::{Context, Result};
use culvert_tests::{Lab, Sidecar, eventually};

use crate::documents::replace;
use crate::walkthrough::OPEN_MESH;

/// To read so much takes a while on a busy machine, in a program without optimisation above all.
const PATIENCE: Duration = Duration::from_secs(120);
/// Left of the limit for connections: 8 pipes, the scratch buffers of 8 workers, 10,000 idle connections.
const FOR_CONNECTIONS: u64 = 48 << 20;

/// The memory limit of the manifests on the first page, which is the same in all.
fn limit() -> Result<u64> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let limits: Vec<u64> = page
        .split("limits: { memory: ")
        .skip(1)
        .map(|rest| rest.split("Mi").next().context("a limit in Mi")?.parse().context("a number"))
        .collect::<Result<_>>()?;
    assert!(limits.len() >= 2 && limits.iter().all(|limit| *limit == limits[0]), "{limits:?}");
    Ok(limits[0] << 20)
}

/// The most memory that a sidecar has had, in bytes.
fn peak(sidecar: &Sidecar<'_>) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.pid()))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    Ok(kib.context("no peak")?.parse::<u64>()? << 10)
}

/// As many Dataplanes as the page allows beside a Mesh, each of a service of its own.
fn most(port: u16) -> String {
    let mut text = OPEN_MESH.to_owned();
    for number in 0..49_999 {
        let [_, a, b, c] = u32::to_be_bytes(number);
        let _ = writeln!(
            text,
            "---\ntype: Dataplane\nmesh: default\nname: web-{number}\nnetworking:\n  address: 10.{a}.{b}.{c}\n  inbound:\n  \
             - port: {port}\n    servicePort: 80\n    tags:\n      kuma.io/service: web-{number}\n      kuma.io/protocol: http\n      version: v1"
        );
    }
    text
}

#[test]
fn as_many_documents_as_the_page_allows_fit_into_the_manifests_limit_at_a_start_and_at_a_reload() -> Result<()>
{
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../sidecar/DOCUMENTS.md"))?;
    assert!(page.contains("50,000 documents"), "the page says another bound");
    let lab = Lab::new()?;
    let file = lab.folder().join("all.yaml");
    fs::write(&file, most(8080))?;
    let path = file.display().to_string();
    let mut sidecar =
        lab.pod.sidecar().options(["--resources", &path, "--verify-redirect", "off"]).start_unready()?;
    eventually!(sidecar.status("/ready").is_ok_and(|reply| reply.status == 200), PATIENCE);
    let start = peak(&sidecar)?;
    replace(&file, &most(8081))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), PATIENCE);
    let (reload, limit) = (peak(&sidecar)?, limit()?);
    println!("{} MiB at the start, {} MiB at a reload, limit {} MiB", start >> 20, reload >> 20, limit >> 20);
    assert!(reload + FOR_CONNECTIONS <= limit, "{reload} bytes and {FOR_CONNECTIONS} for connections");
    assert!(sidecar.is_running()?);
    Ok(())
}

#[test]
fn a_short_text_takes_little_memory_whatever_it_says() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.folder().join("mesh.yaml");
    fs::write(&file, OPEN_MESH)?;
    let path = file.display().to_string();
    let sidecar = lab.pod.sidecar().options(["--resources", &path, "--verify-redirect", "off"]).start()?;
    let before = peak(&sidecar)?;
    let aliases = |list: &str| -> String {
        let nine =
            |to: &str, from: &str| format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 9].join(","));
        let names: Vec<_> = list.split(' ').collect();
        format!(
            "a: &a [x,x,x,x,x,x,x,x,x,x]\n{}",
            names.windows(2).map(|two| nine(two[1], two[0])).collect::<String>()
        )
    };
    let texts = [
        aliases("a b c d e f g"),
        format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), ["*a"; 99].join(",")),
        format!("[{}]\n", "x,".repeat(1 << 20)),
        "---\na: 1\n".repeat(100_000),
        format!("items: [{}]\n", "a,".repeat(100_000)),
    ];
    for (failed, text) in (1..).zip(texts) {
        replace(&file, &text)?;
        eventually!(sidecar.stat("config_reload_failed").is_ok_and(|n| n == failed), PATIENCE);
        let grown = peak(&sidecar)?.saturating_sub(before) >> 20;
        println!("{grown} MiB more after {} bytes: {:.40}", text.len(), text.replace('\n', " "));
        assert!(grown < 64, "{grown} MiB for {} bytes", text.len());
    }
    Ok(())
}
