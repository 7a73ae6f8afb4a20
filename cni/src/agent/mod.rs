// SPDX-License-Identifier: Apache-2.0
//! The node agent's socket: what is said over it, and the plugin's half ([`client`]).
//!
//! The agent listens on `agentSocket` (`/run/culvert/agent.sock`, a unix stream socket, 0600). One connection carries one
//! request and at most one answer, each a JSON object on one line, closed by a line feed:
//!
//! ```text
//! {"annotations":{"namespace":"shop","name":"web-0","uid":"2f…"}}     asks for what Kubernetes knows of a pod
//!     {"annotations":{"culvert.dev/redirect":"enabled"}}              it knows the pod: culvert's annotations and Kuma's
//!     {"unknown":"no pod shop/web-0 on this node"}                    it does not, and why
//! {"report":{"verb":"ADD","network":"k8s","containerId":"…",…}}       what the plugin did: no answer
//! {"status":{}}                                                       asks for each pod of this node
//!     {"status":{"node":"worker-1","pods":[…]}}
//! anything else
//!     {"error":"…"}
//! ```
//! A request is at most [`MAX_REQUEST`] bytes and is there within a second, an answer at most [`MAX_ANSWER`] and within
//! another. Unknown keys are ignored by both sides: the plugin stays on the node while the agent is upgraded.

pub mod client;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::pod::Annotations;

/// Where the agent listens unless the conflist says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/culvert/agent.sock";
/// The largest request, in bytes: a report of 512-byte names is below 4 KiB.
pub const MAX_REQUEST: usize = 16 << 10;
/// The largest answer, in bytes: Kubernetes bounds a pod's annotations to 256 KiB, which JSON may double; a status row is
/// below 1 KiB, and a node has at most some hundred pods.
pub const MAX_ANSWER: usize = 2 << 20;

/// What is asked or told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Which annotations has this pod?
    Annotations(PodRef),
    /// A verb was carried out.
    Report(Box<Report>),
    /// How is each pod of this node?
    Status {},
}

/// What the agent answers. What it says to [`Request::Status`] is the agent's own business, so it is kept as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// The annotations that [`crate::pod::concerns_us`].
    Annotations(Annotations),
    /// Why the pod's annotations cannot be had.
    Unknown(String),
    /// Each pod of this node.
    Status(serde_json::Value),
    /// The request was none.
    Error(String),
}

/// A pod as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, where the runtime says it: names are used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What the plugin did, for the agent's metrics and its list of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// ADD or DEL.
    pub verb: String,
    /// The network's name.
    pub network: String,
    /// The sandbox's id.
    pub container_id: String,
    /// The interface in the sandbox.
    pub ifname: String,
    /// `namespace/name`, where the runtime said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// `redirect` or `pass through`; none where it did not come to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who wrote the rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The CNI error code; 0: it went well.
    pub code: i32,
    /// How long the verb took, in microseconds.
    pub took_us: u64,
}

/// Whether a path switches the socket off: an empty one, as for `logFile`.
pub fn is_off(socket: &Path) -> bool {
    socket.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_the_page_shows() {
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
