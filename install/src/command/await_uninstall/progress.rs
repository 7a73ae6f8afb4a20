// SPDX-License-Identifier: Apache-2.0
//! Progress of the nodes, read from the DaemonSet and its pods. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use crate::cli::await_uninstall::Unreachable;

/// Fields of a DaemonSet that are read.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DaemonSet {
    /// Its uid, by which its pods name it.
    pub metadata: Metadata,
    pub spec: DaemonSetSpec,
    #[serde(default)]
    pub status: DaemonSetStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub uid: String,
    /// Owners of a pod.
    pub owner_references: Vec<Owner>,
    /// Token of the next page of a list.
    #[serde(rename = "continue")]
    pub next_page: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Owner {
    pub uid: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DaemonSetSpec {
    pub selector: Selector,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Selector {
    pub match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DaemonSetStatus {
    /// 0 until the controller has seen the object.
    pub observed_generation: u64,
    /// Nodes that should run a pod of it.
    pub desired_number_scheduled: usize,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PodList {
    #[serde(default)]
    pub metadata: Metadata,
    #[serde(default)]
    pub items: Vec<Pod>,
}

/// Fields of a pod that are read.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pod {
    pub metadata: Metadata,
    pub spec: PodSpec,
    #[serde(default)]
    pub status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    /// Empty until the pod is scheduled.
    pub node_name: String,
    /// Node affinity, in which the controller names the node before scheduling.
    pub affinity: serde_json::Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    /// Set by the kubelet when it starts the pod.
    pub start_time: Option<String>,
    /// Status of its only container.
    pub container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerStatus {
    pub state: ContainerState,
    /// State before the last restart.
    pub last_state: ContainerState,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerState {
    /// Reason why it does not run yet.
    pub waiting: Option<Waiting>,
    pub terminated: Option<Terminated>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Waiting {
    /// One word.
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Terminated {
    pub exit_code: i32,
    /// The end of its output.
    pub message: String,
}

/// Fields of a node that are read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub status: NodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
}

impl Node {
    /// Returns true if the control plane has not heard of the kubelet for its grace period, 40 or 50 s. A node that is not
    /// ready by its own kubelet's word is at work.
    pub(crate) fn is_silent(&self) -> bool {
        self.status.conditions.iter().any(|of| of.kind == "Ready" && of.status == "Unknown")
    }
}

/// Progress of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Plugin and entry are removed.
    Done,
    /// The work failed and is retried.
    Failing(String),
    /// The kubelet has started the pod.
    Working(String),
    /// The kubelet has not started the pod.
    NotTakenUp,
    /// The control plane does not hear of the kubelet either, so there is nothing to wait for.
    Silent,
}

/// Progress of all nodes. It remembers nodes that were done, since a container that has done its work is restarted and
/// no longer seen as ended.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    wanted: Option<usize>,
    nodes: BTreeMap<String, State>,
    done: BTreeSet<String>,
}

/// Characters that are shown of a pod's own message.
const MAX_WORDS: usize = 500;

impl Progress {
    /// Takes the result of another poll.
    pub(crate) fn look(&mut self, daemon_set: &DaemonSet, pods: &[Pod]) {
        let DaemonSetStatus { observed_generation, desired_number_scheduled } = daemon_set.status;
        self.wanted = (observed_generation > 0).then_some(desired_number_scheduled);
        let owned = |pod: &&Pod| {
            pod.metadata.owner_references.iter().any(|owner| owner.uid == daemon_set.metadata.uid)
        };
        // A node that was deleted meanwhile does not count.
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

    /// Number of nodes that are done, and of all.
    pub(crate) fn count(&self) -> (usize, Option<usize>) {
        (self.nodes.values().filter(|state| **state == State::Done).count(), self.wanted)
    }

    /// Names the nodes that are not done, those first whose kubelet has not started the pod.
    pub(crate) fn waited_for(&self) -> Vec<String> {
        let is_started = |state: &State| *state != State::NotTakenUp;
        let mut nodes: Vec<_> = self.others().collect();
        nodes.sort_by_key(|(_, state)| is_started(state));
        nodes.into_iter().map(|(node, _)| node.clone()).collect()
    }

    /// Takes the nodes whose kubelet is silent, until the next poll.
    pub(crate) fn silent(&mut self, nodes: impl IntoIterator<Item = String>) {
        for node in nodes {
            self.nodes.entry(node).and_modify(|state| *state = State::Silent);
        }
    }

    fn others(&self) -> impl Iterator<Item = (&String, &State)> {
        self.nodes.iter().filter(|(_, state)| **state != State::Done)
    }

    /// Returns true if nothing is left to wait for. `waited` is the time since the first poll.
    pub(crate) fn is_over(&self, waited: Duration, unreachable_after: Duration) -> bool {
        let all_made = self.wanted.is_some_and(|wanted| self.nodes.len() >= wanted);
        let late = waited >= unreachable_after;
        all_made
            && self.others().all(|(_, state)| match state {
                State::Silent => true,
                State::NotTakenUp => late,
                State::Done | State::Failing(_) | State::Working(_) => false,
            })
    }

    /// Final text, and true if all is well.
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
                State::NotTakenUp | State::Silent => {
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

/// Node of a pod. A DaemonSet's pod names it before it is scheduled.
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

/// Puts a text on one line and cuts it.
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
        // The first pod was restarted and works again.
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
    fn a_silent_node_is_not_waited_for() {
        let node = |ready: &str| -> Node {
            let conditions = json!([{ "type": "MemoryPressure", "status": "Unknown" }, { "type": "Ready", "status": ready }]);
            serde_json::from_value(json!({ "metadata": {}, "status": { "conditions": conditions } })).unwrap()
        };
        assert_eq!(["True", "False", "Unknown"].map(|ready| node(ready).is_silent()), [false, false, true]);
        assert!(!Node::default().is_silent());

        let running = json!({ "startTime": "x", "containerStatuses": [{ "state": { "running": {} } }] });
        let pods = [pod("a", &ended(0, "")), pod("b", &running), pod("c", &json!({ "phase": "Pending" }))];
        let mut progress = Progress::default();
        progress.look(&daemon_set(1, 3), &pods);
        assert_eq!(progress.waited_for(), ["c", "b"]);
        progress.silent(["c".to_owned()]);
        assert!(!at(&progress, 1), "another one is at work");
        progress.silent(["b".to_owned(), "no node of it".to_owned()]);
        assert!(at(&progress, 1));
        let (text, well) = progress.outcome(Unreachable::Skip);
        assert!(well && text.contains("b: not reached") && text.contains("c: not reached"), "{text}");
        assert!(!progress.outcome(Unreachable::Fail).1);
        // Each poll begins anew: the kubelet may be back.
        progress.look(&daemon_set(1, 3), &pods);
        assert!(!at(&progress, 1));
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
