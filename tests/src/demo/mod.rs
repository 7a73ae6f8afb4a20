//! The demo: what happens to a pod's connections, shown to a person.

mod connections;
mod paper;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use culvert_cni::pod::{Annotations, Decision, Settings, decide_policy};
use culvert_cni::redirect::engine::Engine;
use culvert_cni::redirect::{self, plan};

pub use self::paper::Paper;
use crate::family::Family;
use crate::kernel::netns::Namespace;
use crate::lab::Lab;
use crate::pod::plugin::previous_result;
use crate::pod::sidecar::UID;
use crate::process::binaries::Binaries;

/// The annotations of the demo's pod beside `redirect: enabled`.
const ANNOTATIONS: [(&str, &str); 2] =
    [("exclude-inbound-ports", "9100"), ("exclude-outbound-ports", "9443")];

/// Runs the demo and prints it. Returns true if every connection took its expected way.
///
/// # Errors
/// Fails if the lab, the programs or a connection cannot be set up.
pub fn run(paper: &mut Paper) -> Result<bool> {
    // Before anything is built: this is what a user without root gets to see.
    drop(Namespace::new("root?")?);
    paper.progress("building the plugin and the sidecar from the same crates")?;
    let binaries = Binaries::built()?;

    paper.title("A pod and a peer, no cluster")?;
    let lab = Lab::new()?;
    paper.table(&[
        row(["pod", &both(Family::pod), "the application, uid 1000"]),
        row(["peer", &both(Family::peer), "its neighbour and gateway"]),
        row(["outside", &both(Family::outside), "the peer answers for it"]),
    ])?;

    add(paper, &lab)?;
    rules(paper, &lab)?;

    paper.title("The sidecar")?;
    let start = Instant::now();
    let sidecar = lab.pod.sidecar().start()?;
    paper.line(&format!(
        "{} is ready {} ms after its start, as uid {UID} without any capability; the redirect is proved in both families",
        name(&binaries.sidecar),
        start.elapsed().as_millis()
    ))?;

    let good = connections::show(paper, &lab, &sidecar)?;

    paper.title("The end")?;
    drop(sidecar);
    lab.del()?.expect_success();
    let left = lab.pod.ruleset()?;
    if !left.is_empty() {
        bail!("DEL left {left}");
    }
    drop(lab);
    paper.line("DEL took the rules away; pod, peer and sidecar are gone")?;
    paper.verdict(good)?;
    Ok(good)
}

fn add(paper: &mut Paper, lab: &Lab) -> Result<()> {
    paper.title("The plugin")?;
    for (name, value) in [("redirect", "enabled")].iter().chain(&ANNOTATIONS) {
        paper.line(&format!("annotation  culvert.dev/{name}: {value}"))?;
    }
    let outcome = lab.add(&ANNOTATIONS)?;
    if !outcome.status.success() {
        bail!("ADD failed: {outcome}");
    }
    if outcome.document() != Some(previous_result()) {
        bail!("ADD did not hand on the previous plugin's result: {outcome}");
    }
    let micros = outcome.took.as_micros();
    paper.line(&format!(
        "ADD         {}.{:02} ms from the start of the process to its end; it printed the previous plugin's result",
        micros / 1000,
        micros % 1000 / 10
    ))
}

/// The plan that the annotations come to, after the kernel was asked whether it holds just that.
fn rules(paper: &mut Paper, lab: &Lab) -> Result<()> {
    paper.title("The rules, in words")?;
    let annotations: Annotations = [("redirect", "enabled")]
        .iter()
        .chain(&ANNOTATIONS)
        .map(|(name, value)| (format!("culvert.dev/{name}"), (*value).to_owned()))
        .collect();
    let Decision::Redirect(policy) = decide_policy(&annotations, &Settings::default())?.decision else {
        bail!("the annotations do not onboard the pod");
    };
    let differences = lab
        .pod
        .namespace()
        .run(|| redirect::verify(&policy, Engine::Nftables))
        .context("cannot read the rules back")?;
    if !differences.is_empty() {
        bail!("the kernel holds something else: {}", differences.join("; "));
    }
    for chain in plan(&policy).chains {
        paper.line(&format!("{}:", chain.name.nftables().replace('_', " ")))?;
        let rules: Vec<_> = chain
            .rules
            .iter()
            .map(|rule| {
                let text = rule.to_string();
                let (condition, action) = text.rsplit_once(": ").unwrap_or(("", &text));
                row([&format!("  {condition}"), &action.replace('_', " "), &rule.because])
            })
            .collect();
        paper.table(&rules)?;
    }
    let all = lab.pod.ruleset()?;
    paper.line(&format!("read back from the kernel: these and nothing else, {all}"))
}

fn both(address: fn(Family) -> std::net::IpAddr) -> String {
    Family::BOTH.map(|family| address(family).to_string()).join(" and ")
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn name(path: &std::path::Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
