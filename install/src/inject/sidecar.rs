// SPDX-License-Identifier: Apache-2.0
//! The sidecar's container: the one template behind the injector and the manifests of the README, which a test compares.

use culvert_cni::redirect::policy::{DnsCapture, IpFamilies, Policy};
use serde_json::{Value, json};

use super::{SIDECAR, Shape};

/// Name of the status port.
pub(super) const STATUS: &str = "culvert-status";
const PROGRAM: &str = "/bin/culvert-sidecar";
/// Longest time in which a native sidecar serves on after its signal: the application has ended before it.
const NATIVE_DRAIN: u64 = 30;
/// Time for which a plain one still accepts: every node has heard by then that the pod is going.
const PLAIN_DELAY: u64 = 5;
/// Seconds of the pod beyond a plain sidecar's times.
const PLAIN_REST: u64 = 10;
/// The kubelet's grace period where a pod names none.
const DEFAULT_GRACE: u64 = 30;
/// Option with the probes of the application.
pub(super) const APP_PROBES: &str = "--app-probes=";

/// Parts that differ from pod to pod.
#[derive(Debug)]
pub(super) struct Template<'a> {
    pub shape: Shape,
    pub image: &'a str,
    pub uid: u32,
    pub policy: &'a Policy,
    pub times: Times,
    pub resources: Option<Value>,
    /// Further arguments.
    pub args: Vec<String>,
    pub variables: Vec<Value>,
    pub mounts: Vec<Value>,
}

/// Times of the end, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub drain_delay: u64,
    pub drain_time: u64,
    /// `terminationGracePeriodSeconds` of the pod.
    pub grace: u64,
}

impl Times {
    /// Leaves the application the time that the pod gives it: a native sidecar ends after it, a plain one beside it.
    pub(super) fn of(shape: Shape, grace: Option<u64>) -> Self {
        let grace = grace.unwrap_or(DEFAULT_GRACE);
        match shape {
            Shape::Native => Self { drain_delay: 0, drain_time: NATIVE_DRAIN, grace: grace + NATIVE_DRAIN },
            Shape::Plain => {
                let drain_time = grace.max(NATIVE_DRAIN);
                Self { drain_delay: PLAIN_DELAY, drain_time, grace: PLAIN_DELAY + drain_time + PLAIN_REST }
            }
        }
    }
}

impl Template<'_> {
    pub(super) fn container(self) -> Value {
        let own_status = own_status(self.policy);
        let args = self.arguments();
        let Self { shape, image, uid, policy, resources, variables, mounts, .. } = self;
        let probe = |path: &str, period: u64| json!({ "httpGet": { "path": path, "port": STATUS }, "periodSeconds": period });
        let mut container = json!({
            "name": SIDECAR,
            "image": image,
            "command": [PROGRAM],
            "args": args,
            "ports": [{ "name": STATUS, "containerPort": policy.inbound.status_port.get() }],
            "readinessProbe": probe("/ready", 5),
            "livenessProbe": probe("/live", 10),
            "securityContext": {
                "runAsUser": uid,
                "runAsGroup": uid,
                "runAsNonRoot": true,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
                "seccompProfile": { "type": "RuntimeDefault" },
            },
        });
        match shape {
            Shape::Native => {
                container["restartPolicy"] = "Always".into();
                container["startupProbe"] = probe("/ready", 1);
                container["startupProbe"]["failureThreshold"] = 60.into();
            }
            Shape::Plain => {
                let wait = ["wait", "--for", "ready", "--timeout", "60s"].map(str::to_owned);
                let command: Vec<_> =
                    [PROGRAM.to_owned()].into_iter().chain(own_status).chain(wait).collect();
                container["lifecycle"] = json!({ "postStart": { "exec": { "command": command } } });
            }
        }
        if let Some(resources) = resources {
            container["resources"] = resources;
        }
        if !variables.is_empty() {
            container["env"] = variables.into();
        }
        if !mounts.is_empty() {
            container["volumeMounts"] = mounts.into();
        }
        container
    }

    fn arguments(&self) -> Vec<String> {
        let Self { times, policy, .. } = self;
        let mut args = vec![
            format!("--drain-delay={}s", times.drain_delay),
            format!("--drain-time={}s", times.drain_time),
        ];
        args.extend(of_policy(policy));
        args.extend(self.args.iter().cloned());
        args
    }
}

/// Options of [`of_policy`].
pub(super) const OF_POLICY: [&str; 5] =
    ["--inbound-port=", "--outbound-port=", "--status-address=", "--dns-port=", "--verify-redirect="];

/// The options that follow the pod's redirect, where it is not the default one.
pub(super) fn of_policy(policy: &Policy) -> Vec<String> {
    let default = Policy::default();
    let mut args = Vec::new();
    if policy.inbound.port != default.inbound.port {
        args.push(format!("--inbound-port={}", policy.inbound.port));
    }
    if policy.outbound.port != default.outbound.port {
        args.push(format!("--outbound-port={}", policy.outbound.port));
    }
    args.extend(own_status(policy));
    if policy.dns.capture != DnsCapture::Off {
        args.push(format!("--dns-port={}", policy.dns.port));
    }
    let verify = match (policy.inbound.redirect.is_enabled(), policy.families) {
        // The proof is a connection to the pod's own address that comes back on the inbound port.
        (false, _) => Some("off"),
        (true, IpFamilies::V4) => Some("ipv4"),
        (true, IpFamilies::V6) => Some("ipv6"),
        (true, IpFamilies::Dual) => None,
    };
    args.extend(verify.map(|verify| format!("--verify-redirect={verify}")));
    args
}

/// The option for another status port than the default one.
fn own_status(policy: &Policy) -> Option<String> {
    let port = policy.inbound.status_port;
    (port != Policy::default().inbound.status_port).then(|| format!("--status-address=[::]:{port}"))
}
