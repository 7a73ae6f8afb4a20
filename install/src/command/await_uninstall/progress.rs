// SPDX-License-Identifier: Apache-2.0
//! How far the nodes are, read from the DaemonSet and its pods. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use crate::cli::await_uninstall::Unreachable;

/// The part of a DaemonSet that is read.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DaemonSet {
    /// Its uid, by which its pods name it.
    pub metadata: Metadata,
    /// Its pods' labels.
    pub spec: DaemonSetSpec,
    /// What the controller says.
    #[serde(default)]
    pub status: DaemonSetStatus,
}

/// See [`DaemonSet`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    /// An object's uid.
    pub uid: String,
    /// Whose pod it is.
    pub owner_references: Vec<Owner>,
    /// Of a list: where its next page begins.
    #[serde(rename = "continue")]
    pub next_page: Option<String>,
}

/// See [`Metadata`].
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Owner {
    /// The owner's uid.
    pub uid: String,
}

/// See [`DaemonSet`].
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DaemonSetSpec {
    /// Which pods are its.
    pub selector: Selector,
}

/// See [`DaemonSetSpec`].
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Selector {
    /// All of these.
    pub match_labels: BTreeMap<String, String>,
}

/// See [`DaemonSet`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DaemonSetStatus {
    /// 0 until the controller has looked at it.
    pub observed_generation: u64,
    /// On how many nodes it should run.
    pub desired_number_scheduled: usize,
}

/// A page of pods.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PodList {
    /// Where the next one begins.
    #[serde(default)]
    pub metadata: Metadata,
    /// Them.
    #[serde(default)]
    pub items: Vec<Pod>,
}

/// The part of a pod that is read.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pod {
    /// Its uid and its owner.
    pub metadata: Metadata,
    /// Its node.
    pub spec: PodSpec,
    /// How it is.
    #[serde(default)]
    pub status: PodStatus,
}

/// See [`Pod`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    /// Empty until it is scheduled.
    pub node_name: String,
    /// Where the controller says which node it is for.
    pub affinity: serde_json::Value,
}

/// See [`Pod`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    /// Set by the kubelet when it takes up the pod.
    pub start_time: Option<String>,
    /// Of its only container.
    pub container_statuses: Vec<ContainerStatus>,
}

/// See [`PodStatus`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerStatus {
    /// Now.
    pub state: ContainerState,
    /// Before it was started again.
    pub last_state: ContainerState,
}

/// See [`ContainerStatus`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerState {
    /// Why it does not run yet.
    pub waiting: Option<Waiting>,
    /// How it ended.
    pub terminated: Option<Terminated>,
}

/// See [`ContainerState`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Waiting {
    /// One word.
    pub reason: String,
    /// More of them.
    pub message: String,
}

/// See [`ContainerState`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Terminated {
    /// Of the program.
    pub exit_code: i32,
    /// The end of what it printed.
    pub message: String,
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Plugin and entry are off.
    Done,
    /// It could not be done, and is tried again.
    Failing(String),
    /// Its kubelet has taken it up.
    Working(String),
    /// Its kubelet has not.
    NotTakenUp,
}

/// What is known of all nodes. Fed with each look, it remembers who was done: a container that has done its work is started
/// again, and is then no longer seen as ended.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    wanted: Option<usize>,
    nodes: BTreeMap<String, State>,
    done: BTreeSet<String>,
}

/// Of a pod's own words, in characters.
const MAX_WORDS: usize = 500;

impl Progress {
    /// Takes in another look.
    pub(crate) fn look(&mut self, daemon_set: &DaemonSet, pods: &[Pod]) {
        let DaemonSetStatus { observed_generation, desired_number_scheduled } = daemon_set.status;
        self.wanted = (observed_generation > 0).then_some(desired_number_scheduled);
        let owned = |pod: &&Pod| {
            pod.metadata.owner_references.iter().any(|owner| owner.uid == daemon_set.metadata.uid)
        };
        // A node that was deleted meanwhile is nobody's concern any more.
        self.nodes.clear();
        for pod in pods.iter().filter(owned) {
            let node = node_of(pod);
            let state = match state_of(pod) {
                State::Done => {
                    self.done.insert(node.clone());
                    State::Done
                }
                _ if self.done.contains(&node) => State::Done,
                other => other,
            };
            self.nodes.insert(node, state);
        }
    }

    /// How many nodes are done, and how many there are to do.
    pub(crate) fn count(&self) -> (usize, Option<usize>) {
        (self.nodes.values().filter(|state| **state == State::Done).count(), self.wanted)
    }

    fn others(&self) -> impl Iterator<Item = (&String, &State)> {
        self.nodes.iter().filter(|(_, state)| **state != State::Done)
    }

    /// Whether nothing is left to wait for. `waited` is the time since the first look.
    pub(crate) fn is_over(&self, waited: Duration, unreachable_after: Duration) -> bool {
        let all_made = self.wanted.is_some_and(|wanted| self.nodes.len() >= wanted);
        let late = waited >= unreachable_after;
        all_made && self.others().all(|(_, state)| late && *state == State::NotTakenUp)
    }

    /// What is said at the end, and whether it is well.
    pub(crate) fn outcome(&self, unreachable: Unreachable) -> (String, bool) {
        let (done, wanted) = self.count();
        let Some(wanted) = wanted else {
            let text = "no node is done: the DaemonSet was not taken up by its controller; is the cluster's control plane well?";
            return (format!("{text}\n"), false);
        };
        let mut text = format!("{done} of {wanted} nodes are done: entry and plugin are off\n");
        let mut well = true;
        if self.nodes.len() < wanted {
            let missing = wanted - self.nodes.len();
            let why = "`kubectl describe` of the DaemonSet says why: often Pod Security, or a quota";
            text.push_str(&format!("{missing} nodes got no pod; {why}\n"));
            well = false;
        }
        for (node, state) in self.others() {
            let (word, why) = match state {
                State::Done => continue,
                State::Failing(why) => ("failed", why.as_str()),
                State::Working(why) => ("not done in time", why.as_str()),
                State::NotTakenUp => {
                    well &= unreachable == Unreachable::Skip;
                    let todo = "its kubelet does not answer. Should it come back, run `culvert-install uninstall` on it";
                    text.push_str(&format!("{node}: not reached: {todo}\n"));
                    continue;
                }
            };
            text.push_str(&format!("{node}: {word}: {why}\n"));
            well = false;
        }
        (text, well)
    }
}

/// The node that a pod is on, or is meant for: a DaemonSet's pod says so before it is scheduled.
fn node_of(pod: &Pod) -> String {
    let PodSpec { node_name, affinity } = &pod.spec;
    if !node_name.is_empty() {
        return node_name.clone();
    }
    let terms =
        &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let meant = terms[0]["matchFields"][0]["values"][0].as_str();
    meant.map_or_else(|| format!("the node of pod {}", pod.metadata.uid), str::to_owned)
}

fn state_of(pod: &Pod) -> State {
    let PodStatus { start_time, container_statuses } = &pod.status;
    let Some(ContainerStatus { state, last_state }) = container_statuses.first() else {
        let working = || State::Working("its pod is being prepared".to_owned());
        return if start_time.is_some() { working() } else { State::NotTakenUp };
    };
    let ends = [&state.terminated, &last_state.terminated];
    if ends.into_iter().flatten().any(|end| end.exit_code == 0) {
        return State::Done;
    }
    if let Some(Terminated { exit_code, message }) = ends.into_iter().flatten().next() {
        return State::Failing(words(&format!("exit code {exit_code}: {message}")));
    }
    match &state.waiting {
        Some(Waiting { reason, message }) => State::Working(words(&format!("{reason} {message}"))),
        None => State::Working("it is at work".to_owned()),
    }
}

/// On one line, and not too long.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const LATE: Duration = Duration::from_secs(60);

    fn daemon_set(generation: u64, wanted: usize) -> DaemonSet {
        let object = json!({
            "metadata": { "uid": "ours" },
            "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": {} },
            "status": { "observedGeneration": generation, "desiredNumberScheduled": wanted, "numberReady": 0 },
        });
        serde_json::from_value(object).unwrap()
    }

    fn pod(node: &str, status: &Value) -> Pod {
        let object = json!({
            "metadata": { "uid": format!("of-{node}"), "name": "x", "ownerReferences": [{ "kind": "DaemonSet", "uid": "ours" }] },
            "spec": { "nodeName": node, "containers": [] },
            "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn ended(code: i32, message: &str) -> Value {
        json!({ "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
            { "state": { "terminated": { "exitCode": code, "message": message } } }] })
    }

    fn again(code: i32) -> Value {
        json!({ "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
            { "state": { "waiting": { "reason": "CrashLoopBackOff" } },
              "lastState": { "terminated": { "exitCode": code, "message": "the folder\nis read-only" } } }] })
    }

    fn at(progress: &Progress, seconds: u64) -> bool {
        progress.is_over(Duration::from_secs(seconds), LATE)
    }

    #[test]
    fn it_is_over_when_every_node_is_done() {
        let mut progress = Progress::default();
        assert!(!at(&progress, 1));
        progress.look(&daemon_set(0, 0), &[]);
        assert!(!at(&progress, 1), "the controller has not looked yet");
        progress.look(&daemon_set(1, 2), &[]);
        assert!(!at(&progress, 100), "no pod was made");
        let running = json!({ "startTime": "x", "containerStatuses": [{ "state": { "running": {} } }] });
        progress.look(&daemon_set(1, 2), &[pod("a", &ended(0, "")), pod("b", &running)]);
        assert!(!at(&progress, 100));
        assert_eq!(progress.count(), (1, Some(2)));
        // The first was started again, and is at work once more.
        progress.look(&daemon_set(1, 2), &[pod("a", &running), pod("b", &again(0))]);
        assert!(at(&progress, 1));
        let (text, well) = progress.outcome(Unreachable::Fail);
        assert_eq!(text, "2 of 2 nodes are done: entry and plugin are off\n");
        assert!(well);
    }

    #[test]
    fn a_cluster_without_nodes_is_done() {
        let mut progress = Progress::default();
        progress.look(&daemon_set(1, 0), &[]);
        assert!(at(&progress, 0));
        assert!(progress.outcome(Unreachable::Fail).1);
    }

    #[test]
    fn a_node_that_is_down_is_waited_for_a_while_and_named() {
        let mut progress = Progress::default();
        progress
            .look(&daemon_set(1, 2), &[pod("a", &ended(0, "")), pod("down", &json!({ "phase": "Pending" }))]);
        assert!(!at(&progress, 59));
        assert!(at(&progress, 60));
        let (text, well) = progress.outcome(Unreachable::Skip);
        assert!(well && text.contains("1 of 2") && text.contains("down: not reached"), "{text}");
        assert!(!progress.outcome(Unreachable::Fail).1);
    }

    #[test]
    fn a_node_that_fails_is_waited_for_and_says_why() {
        let mut progress = Progress::default();
        progress.look(&daemon_set(1, 1), &[pod("a", &again(1))]);
        assert!(!at(&progress, 1000), "it is tried again");
        let (text, well) = progress.outcome(Unreachable::Skip);
        assert!(!well && text.contains("a: failed: exit code 1: the folder is read-only"), "{text}");
    }

    #[test]
    fn a_node_whose_pod_cannot_start_says_why() {
        let mut progress = Progress::default();
        let waiting = json!({ "startTime": "x", "containerStatuses": [
            { "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } } }] });
        progress.look(&daemon_set(1, 1), &[pod("a", &waiting)]);
        assert!(!at(&progress, 1000));
        let (text, well) = progress.outcome(Unreachable::Skip);
        assert!(!well && text.contains("a: not done in time: ImagePullBackOff no such image"), "{text}");
    }

    #[test]
    fn nodes_without_a_pod_are_counted() {
        let mut progress = Progress::default();
        progress.look(&daemon_set(1, 3), &[pod("a", &ended(0, ""))]);
        assert!(!at(&progress, 1000));
        let (text, well) = progress.outcome(Unreachable::Skip);
        assert!(!well && text.contains("2 nodes got no pod"), "{text}");
        let mut progress = Progress::default();
        progress.look(&daemon_set(0, 0), &[]);
        assert!(!progress.outcome(Unreachable::Skip).1);
    }

    #[test]
    fn pods_of_an_earlier_run_do_not_count() {
        let mut progress = Progress::default();
        let mut old = pod("a", &ended(0, ""));
        old.metadata.owner_references[0].uid = "another's".to_owned();
        progress.look(&daemon_set(1, 1), &[old]);
        assert_eq!(progress.count(), (0, Some(1)));
    }

    #[test]
    fn a_pod_that_is_not_scheduled_knows_its_node() {
        let mut unscheduled = pod("", &json!({}));
        unscheduled.spec.affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n7"] }] }] } } });
        assert_eq!(node_of(&unscheduled), "n7");
    }
}
