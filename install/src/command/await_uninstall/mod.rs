// SPDX-License-Identifier: Apache-2.0
//! `culvert-install await-uninstall`: waits for the pods that remove culvert from every node of a cluster.

pub(crate) mod progress;

use std::time::Duration;

use hyper::StatusCode;
use tokio::time::{Instant, sleep};

use self::progress::{DaemonSet, Node, Pod, PodList, Progress};
use super::logging::start_logging;
use crate::cli::await_uninstall::AwaitUninstallArgs;
use crate::command::answer::Answer;
use crate::command::answer::Exit;
use crate::kube::http::{ApiError, Call, Client, encoded};

/// Pause between two polls: a node takes seconds, and each poll makes two calls.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Pods a page; each is some 8 KiB.
const PAGE: usize = 200;
/// Most pages: twice as many nodes as Kubernetes is made for.
const MAX_PAGES: usize = 50;
/// Polls before the nodes themselves are asked about: most kubelets start the pod within these.
const FIRST_POLLS: u32 = 2;
/// Most nodes that one poll asks about. More that are down at once are waited for.
const MAX_NODES: usize = 50;

/// Reasons why it cannot wait.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AwaitError {
    /// The process does not run in a pod.
    #[error("KUBERNETES_SERVICE_HOST is not set: this runs in a pod, where the kubelet sets it")]
    NoApiServer,
    /// The event loop cannot start.
    #[error("cannot begin: {0}")]
    Runtime(#[from] std::io::Error),
}

pub(crate) fn run(args: &AwaitUninstallArgs) -> Answer {
    match try_run(args) {
        Ok(answer) => answer,
        Err(refusal) => Answer::refused(&refusal, Exit::Usage),
    }
}

fn try_run(args: &AwaitUninstallArgs) -> Result<Answer, AwaitError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(time) = args.policies {
        return Ok(runtime.block_on(settled(time)));
    }
    let client = Client::in_cluster(&args.service_account, |name| std::env::var(name).ok());
    let client = client.ok_or(AwaitError::NoApiServer)?;
    start_logging();
    Ok(runtime.block_on(wait(&client, args)))
}

/// Waits for all API servers of the cluster at once. None can be asked for its cache, and only one of them would answer.
async fn settled(time: Duration) -> Answer {
    sleep(time).await;
    Answer::said(format!("waited {} s for API servers to take up what went\n", time.as_secs()), Exit::Well)
}

/// Polls until all nodes are done or the time is over.
async fn wait(client: &Client, args: &AwaitUninstallArgs) -> Answer {
    let begun = Instant::now();
    let mut progress = Progress::default();
    let mut trouble = None;
    let mut said = (0, None);
    let mut polls = 0;
    while begun.elapsed() < args.timeout {
        match look(client, args).await {
            Ok((daemon_set, pods)) => {
                trouble = None;
                progress.look(&daemon_set, &pods);
                polls += 1;
                if polls > FIRST_POLLS {
                    let silent = silent(client, progress.waited_for()).await;
                    progress.silent(silent);
                }
                if progress.is_over(begun.elapsed(), args.unreachable_after) {
                    break;
                }
            }
            // The next poll asks again: a short outage of the API server must not leave a cluster half done.
            Err(error) => trouble = Some(error.to_string()),
        }
        let now = progress.count();
        if now != said {
            said = now;
            tracing::info!(done = now.0, nodes = now.1.unwrap_or_default(), "waiting for the nodes");
        }
        sleep(LOOK_EVERY).await;
    }
    let (text, well) = progress.outcome(args.unreachable);
    let exit = if well && trouble.is_none() { Exit::Well } else { Exit::Attention };
    let answer = Answer::said(text, exit);
    match trouble {
        Some(trouble) => answer.with("the last look failed", &[trouble]),
        None => answer,
    }
}

/// Returns the nodes whose kubelet the control plane does not hear of. Best effort: where nodes may not be read, the wait for
/// unreachable nodes is all there is.
async fn silent(client: &Client, nodes: Vec<String>) -> Vec<String> {
    let mut silent = Vec::new();
    for name in nodes.into_iter().take(MAX_NODES) {
        let path = format!("/api/v1/nodes/{}", encoded(&name));
        match client.json::<Node>(Call::get(&path)).await {
            Ok(node) if node.is_silent() => silent.push(name),
            Ok(_) => {}
            // Deleted meanwhile: its pod goes too.
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {}
            Err(_) => break,
        }
    }
    silent
}

/// Reads the DaemonSet and all of its pods.
async fn look(client: &Client, args: &AwaitUninstallArgs) -> Result<(DaemonSet, Vec<Pod>), ApiError> {
    let AwaitUninstallArgs { namespace, daemonset, .. } = args;
    // The command line has both, as it asks for nodes.
    let [namespace, daemonset] =
        [namespace, daemonset].map(|name| encoded(name.as_deref().unwrap_or_default()));
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{daemonset}");
    let daemon_set: DaemonSet = client.json(Call::get(&path)).await?;
    let labels: Vec<String> =
        daemon_set.spec.selector.match_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut pods = Vec::new();
    let mut next = String::new();
    for _ in 0..MAX_PAGES {
        let selector = encoded(&labels.join(","));
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}&limit={PAGE}{next}");
        let page: PodList = client.json(Call::get(&path)).await?;
        pods.extend(page.items);
        match page.metadata.next_page.filter(|token| !token.is_empty()) {
            Some(token) => next = format!("&continue={}", encoded(&token)),
            None => break,
        }
    }
    Ok((daemon_set, pods))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn api_servers_have_the_whole_time() {
        let begun = Instant::now();
        let Answer { out, exit, .. } = settled(Duration::from_secs(5)).await;
        assert_eq!((begun.elapsed(), exit), (Duration::from_secs(5), Exit::Well));
        assert!(out.contains("5 s"), "{out}");
    }
}
