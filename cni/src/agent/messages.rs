// SPDX-License-Identifier: Apache-2.0
//! Messages of the node agent's socket: one JSON object a line.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::metadata::{Annotations, PodRef};

/// Default path of the agent's socket, as `agentSocket` in the conflist.
pub(crate) const DEFAULT_SOCKET: &str = "/run/culvert/agent.sock";
/// Largest request, in bytes: a report of 512-byte names is below 4 KiB.
pub const MAX_REQUEST: usize = 16 << 10;
/// Largest answer, in bytes: Kubernetes bounds a pod's annotations to 256 KiB, which JSON may double; a status row is
/// below 1 KiB, and a node has at most some hundred pods.
pub const MAX_ANSWER: usize = 2 << 20;

/// A message from the plugin, or from `culvert-install status`, to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Asks for the annotations of one pod.
    Annotations(PodRef),
    /// Reports a verb that was carried out; gets no answer.
    Report(Box<Report>),
    /// Asks for the state of each pod of this node.
    Status {},
}

/// The agent's answer. The payload of [`Answer::Status`] is defined by the agent, so it is kept as JSON here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// The annotations that can influence a decision: those under `culvert.dev/` and Kuma's.
    Annotations(Annotations),
    /// The agent cannot provide the pod's annotations, for this reason.
    Unknown(String),
    /// One row for each pod of this node.
    Status(serde_json::Value),
    /// The request could not be parsed.
    Error(String),
}

/// The outcome of one verb, for the agent's metrics and its list of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// `ADD` or `DEL`, as in `CNI_COMMAND`.
    pub verb: String,
    /// Name of the CNI network, from the conflist.
    pub network: String,
    /// Id of the pod's sandbox.
    pub container_id: String,
    /// Interface inside the sandbox.
    pub ifname: String,
    /// `namespace/name`, where the runtime passed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `redirect` or `pass through`; absent if the verb failed before a decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Reason of the decision, as in the log line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Name of the engine that wrote the rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// CNI error code; 0 means success.
    pub code: i32,
    /// Duration of the verb, in microseconds.
    pub took_us: u64,
}

/// Returns true if `socket` is empty, which switches the agent's socket off as it does for `logFile`.
pub(crate) fn is_off(socket: &Path) -> bool {
    socket.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_look_as_the_module_page_shows() {
        let pod = PodRef { namespace: "shop".into(), name: "web-0".into(), uid: None };
        let report = Report { verb: "ADD".into(), code: 7, ..Report::default() };
        for (request, json) in [
            (Request::Annotations(pod), r#"{"annotations":{"namespace":"shop","name":"web-0"}}"#),
            (
                Request::Report(Box::new(report)),
                r#"{"report":{"verb":"ADD","network":"","containerId":"","ifname":"","code":7,"tookUs":0}}"#,
            ),
            (Request::Status {}, r#"{"status":{}}"#),
        ] {
            assert_eq!(serde_json::to_string(&request).unwrap(), json);
            assert_eq!(serde_json::from_str::<Request>(json).unwrap(), request);
        }
        let newer = r#"{"annotations":{"namespace":"a","name":"b","uid":"c","node":"d"}}"#;
        assert!(matches!(serde_json::from_str(newer), Ok(Request::Annotations(pod)) if pod.uid.is_some()));
        assert!(serde_json::from_str::<Request>(r#"{"annotations":{},"status":{}}"#).is_err());
    }
}
