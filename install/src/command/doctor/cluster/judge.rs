// SPDX-License-Identifier: Apache-2.0
//! Meaning of the API server's answers, and advice. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use serde_json::Value;

use super::trial::Untried;
use super::{Facts, OURS, ours};
use crate::command::doctor::diagnosis::{Check, Status};
use crate::inject::{DECISION, SIDECAR};
use crate::kube::http::ApiError;

/// State of the CAs in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bundle {
    /// They are those of the injector's certificate.
    Fits,
    /// There is none, or what is there is no certificate.
    Empty,
    /// They are those of another.
    Other,
    /// The injector's Secret has no certificate.
    NoCertificate,
    /// The injector's certificate is refused.
    Unfit(String),
    /// There is no Secret of that name, here with its namespace.
    NoSecret(String),
    /// This account may not read the Secret.
    Closed,
    /// The Secret could not be read.
    Unread(String),
}

/// Outcome of the dry run.
#[derive(Debug)]
pub(super) enum Tried {
    /// The pod as it would be.
    Created(Value),
    /// The API server could not call the webhook of this name.
    NotCalled {
        webhook: String,
        text: String,
    },
    /// A webhook, a policy or a quota refuses the pod.
    Denied(String),
    /// This account may not create pods there.
    Forbidden(String),
    Failed(String),
}

impl Tried {
    pub(super) fn of(result: Result<Value, ApiError>) -> Self {
        match result {
            Ok(pod) => Self::Created(pod),
            Err(error) => Self::refused(error),
        }
    }

    /// API servers say most of these only by their texts: the status is 500 or 403 for other things too, and a webhook that
    /// denies a pod chooses its own.
    fn refused(error: ApiError) -> Self {
        let ApiError::Status { code, message, .. } = &error else { return Self::Failed(error.to_string()) };
        let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if let Some((_, rest)) = message.split_once("failed calling webhook \"") {
            let webhook = rest.split_once('"').map_or(rest, |(name, _)| name).to_owned();
            return Self::NotCalled { webhook, text: message.clone() };
        }
        if has(&["denied the request", "denied request"]) {
            return Self::Denied(message.clone());
        }
        match *code {
            // Without a name behind it, as the pod of the dry run has none.
            StatusCode::FORBIDDEN if message.starts_with("pods is forbidden: User ") => {
                Self::Forbidden(message.clone())
            }
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::UNPROCESSABLE_ENTITY => {
                Self::Denied(message.clone())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Returns true for an error behind which no API server was heard.
pub(super) const fn is_silent(error: &ApiError) -> bool {
    matches!(
        error,
        ApiError::Credentials { .. } | ApiError::Connect { .. } | ApiError::Broken(_) | ApiError::TimedOut
    )
}

/// Returns true for the name of one of the injector's webhooks.
pub(super) fn is_ours(webhook: &str) -> bool {
    webhook.ends_with(OURS)
}

/// The CAs of a webhook, if there is at least one certificate.
pub(super) fn bundle_of(client: &Value) -> Option<String> {
    let bytes = STANDARD.decode(client["caBundle"].as_str()?).ok()?;
    String::from_utf8(bytes).ok().filter(|pem| pem.contains("-----BEGIN CERTIFICATE-----"))
}

fn check(
    name: &'static str,
    status: Status,
    found: impl Into<String>,
    meaning: &str,
    action: Option<&str>,
) -> Check {
    Check {
        name,
        status,
        found: found.into(),
        meaning: meaning.to_owned(),
        action: action.map(str::to_owned),
    }
}

/// Judges each hop; those behind one that was not reached are left out.
pub(super) fn judge(facts: &Facts, name: &str) -> Vec<Check> {
    let Facts { configuration, policy, bundle, namespace, tried } = facts;
    let mut checks = vec![api_server(configuration)];
    if checks[0].status != Status::Ok {
        return checks;
    }
    checks.push(webhook(configuration, policy.as_ref(), name));
    if configuration.is_ok() {
        checks.push(ca_bundle(bundle));
    }
    checks.push(match namespace {
        Ok(namespace) => {
            check("namespace", Status::Ok, namespace.clone(), "it asks for sidecars, and is tried", None)
        }
        Err(reason) => untried(reason),
    });
    checks.extend(tried.iter().flat_map(dry_run));
    checks
}

fn untried(reason: &Untried) -> Check {
    let (status, meaning, action) = match reason {
        Untried::Unread(error) if error.status() == Some(StatusCode::FORBIDDEN) => (
            Status::Unknown,
            "the labels of namespaces cannot be read",
            "allow this account to get and list namespaces: injector.doctor.enabled of the chart makes one that may",
        ),
        Untried::Unread(error) if error.status() == Some(StatusCode::NOT_FOUND) => (
            Status::Missing,
            "there is no namespace to try",
            "name one that there is by --namespace, or leave the option out",
        ),
        Untried::Unread(_) | Untried::NotReached => {
            (Status::Unknown, "the labels of namespaces cannot be read now", AGAIN)
        }
        Untried::NoneGets(_) => (
            Status::Missing,
            "there is no namespace to try",
            "label another one, or take it out of injector.excludeNamespaces and entry.excludeNamespaces",
        ),
        Untried::NoneAsks | Untried::AsksNot(_) => (
            Status::Missing,
            "there is no namespace to try",
            "kubectl label namespace NAME culvert.dev/inject=enabled, and --namespace NAME",
        ),
    };
    check("namespace", status, reason.to_string(), meaning, Some(action))
}

/// Advice where the API server has an error of its own.
const AGAIN: &str = "run doctor again; if it stays so, look at the API server's log";

fn api_server(configuration: &Result<Value, ApiError>) -> Check {
    let name = "apiserver";
    let Err(error) = configuration else {
        return check(name, Status::Ok, "it answers", "the pods of this namespace reach it", None);
    };
    let (status, meaning, action) = match error {
        ApiError::Credentials { .. } => (
            Status::Unknown,
            "this process has no account of the cluster",
            "run it in a pod with a service account, or name its folder by --service-account",
        ),
        ApiError::Status { code: StatusCode::UNAUTHORIZED, .. } => (
            Status::Unknown,
            "the API server does not know this account",
            "look whether the token of the service account is a current one",
        ),
        // The error of TLS is one about data.
        ApiError::Connect { source, .. } if source.kind() == std::io::ErrorKind::InvalidData => (
            Status::Missing,
            "it is reached, and cannot be trusted",
            "look whether ca.crt of the service account is the API server's, and what is at KUBERNETES_SERVICE_HOST",
        ),
        ApiError::Connect { .. } | ApiError::Broken(_) | ApiError::TimedOut => (
            Status::Missing,
            "the API server cannot be reached from here",
            "look at the network policies of this namespace, and at KUBERNETES_SERVICE_HOST",
        ),
        ApiError::TooLong(_) | ApiError::Garbled(_) => (
            Status::Unknown,
            "what answers is no API server, or one behind a proxy that changes its answers",
            "look what is at KUBERNETES_SERVICE_HOST",
        ),
        ApiError::Status { .. } => {
            return check(name, Status::Ok, "it answers", "the pods of this namespace reach it", None);
        }
    };
    check(name, status, error.to_string(), meaning, Some(action))
}

fn webhook(
    configuration: &Result<Value, ApiError>,
    policy: Option<&Result<Value, ApiError>>,
    name: &str,
) -> Check {
    let this = "webhook";
    match (configuration, policy) {
        (Ok(configuration), _) => {
            let webhooks = ours(configuration);
            let open = webhooks.iter().filter(|webhook| webhook["failurePolicy"] != "Fail").count();
            let found = format!("MutatingWebhookConfiguration {name}, webhooks: {}", webhooks.len());
            if webhooks.is_empty() {
                let action = "install the chart again: its configuration is empty";
                check(this, Status::Missing, found, "no pod gets a sidecar", Some(action))
            } else if open > 0 {
                let meaning = "pods run without a sidecar while the injector is away";
                check(this, Status::Degraded, found, meaning, Some("set failurePolicy: Fail"))
            } else {
                check(this, Status::Ok, found, "API servers call the injector for labelled pods", None)
            }
        }
        (Err(_), Some(Ok(_))) => check(
            this,
            Status::Absent,
            format!("MutatingAdmissionPolicy {name}"),
            "policy mode: the API servers put the sidecar in by themselves",
            None,
        ),
        (Err(error), policy) => no_webhook(error, policy.and_then(|policy| policy.as_ref().err()), name),
    }
}

/// Neither configuration nor policy: not there, or not seen.
fn no_webhook(configuration: &ApiError, policy: Option<&ApiError>, name: &str) -> Check {
    let this = "webhook";
    let errors =
        [("mutatingwebhookconfigurations", Some(configuration)), ("mutatingadmissionpolicies", policy)];
    let unseen = errors.into_iter().find_map(|(kind, error)| {
        error.filter(|error| error.status() != Some(StatusCode::NOT_FOUND)).map(|error| (kind, error))
    });
    let Some((kind, error)) = unseen else {
        return check(
            this,
            Status::Missing,
            format!("neither MutatingWebhookConfiguration {name} nor a MutatingAdmissionPolicy of that name"),
            "no pod gets a sidecar",
            Some("install the chart with injector.enabled=true, or name the configuration by --webhook"),
        );
    };
    let action = if error.status() == Some(StatusCode::FORBIDDEN) {
        &format!("allow this account to get it: doctor needs get of {kind}")
    } else {
        AGAIN
    };
    let meaning = format!("{name} of {kind} cannot be read");
    check(this, Status::Unknown, error.to_string(), &meaning, Some(action))
}

fn ca_bundle(bundle: &Bundle) -> Check {
    let name = "ca-bundle";
    let refuses = "API servers refuse the injector's certificate, and so each pod of a labelled namespace";
    let restart = "look at the injector's log, whether it may patch the configuration and read its Secret";
    match bundle {
        Bundle::Fits => {
            check(name, Status::Ok, "of the injector's certificate", "API servers trust it", None)
        }
        Bundle::NoSecret(secret) => check(
            name,
            Status::Missing,
            format!("there; the injector's Secret {secret} does not exist"),
            "its replicas share their certificate by it: a new one would not be trusted",
            Some(
                "name the Secret by --secret; if that is its name, look at the injector's log, whether it may create it",
            ),
        ),
        Bundle::Unread(reason) => check(
            name,
            Status::Unknown,
            format!("there; the Secret with the certificate: {reason}"),
            "the dry run says whether API servers trust it",
            Some(AGAIN),
        ),
        Bundle::Closed => check(
            name,
            Status::Ok,
            "there; this account may not read the Secret with the certificate",
            "the dry run says whether API servers trust it",
            None,
        ),
        Bundle::Empty => check(name, Status::Missing, "empty, or no certificate", refuses, Some(restart)),
        Bundle::Other => check(name, Status::Missing, "of another certificate", refuses, Some(restart)),
        Bundle::NoCertificate => {
            check(name, Status::Missing, "the injector has no certificate yet", refuses, Some(restart))
        }
        Bundle::Unfit(reason) => check(
            name,
            Status::Missing,
            format!("the injector's certificate: {reason}"),
            refuses,
            Some(restart),
        ),
    }
}

fn dry_run(tried: &Tried) -> Vec<Check> {
    let name = "dry-run";
    match tried {
        Tried::Created(pod) => vec![
            check(name, Status::Ok, "the API server would create a pod", "every hop answered", None),
            sidecar(pod),
        ],
        Tried::NotCalled { webhook, text } if is_ours(webhook) => vec![check(
            name,
            Status::Missing,
            text.clone(),
            "API servers cannot call the injector: pods of labelled namespaces are refused",
            Some(cure(text)),
        )],
        Tried::NotCalled { webhook, text } => vec![check(
            name,
            Status::Degraded,
            text.clone(),
            "API servers cannot call a webhook of another program, and refuse the pod for that",
            Some(&format!(
                "look after webhook {webhook} with the program that it belongs to: it is not culvert's"
            )),
        )],
        Tried::Denied(text) => vec![check(
            name,
            Status::Degraded,
            text.clone(),
            "a pod that asks for little is refused in this namespace",
            Some("its text says by whom; pods of the namespace may meet the same"),
        )],
        Tried::Forbidden(text) => vec![check(
            name,
            Status::Unknown,
            text.clone(),
            "this account may not create pods there, not even as a dry run",
            Some("allow it to create pods in that namespace, or name another by --namespace"),
        )],
        Tried::Failed(text) => {
            vec![check(name, Status::Unknown, text.clone(), "the dry run has no outcome", Some(AGAIN))]
        }
    }
}

/// Advice by what API servers say of a failed call. Its URL is in the text, with `timeout` and the Service's name.
fn cure(text: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["x509", "certificate"]) {
        "the certificate is not trusted: look at ca-bundle above, and at the injector's log"
    } else if has(&["no endpoints", "connection refused"]) {
        "no replica is ready: kubectl get pods -l app.kubernetes.io/component=injector, and its log"
    } else if has(&["deadline exceeded", "i/o timeout", "Timeout exceeded", "timed out"]) {
        "packets are lost on the way: let the control plane reach port 10250 of the injector's pods (firewall, NetworkPolicy)"
    } else if has(&["service", "no such host"]) {
        "the Service of the injector is missing: install the chart again"
    } else {
        "look at the injector's log"
    }
}

fn sidecar(pod: &Value) -> Check {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
    let is_there = lists.flatten().any(|container| container["name"] == SIDECAR);
    let decision = pod["metadata"]["annotations"][DECISION].as_str();
    if is_there {
        let found = decision.unwrap_or("in the pod").to_owned();
        return check("sidecar", Status::Ok, found, "pods of this namespace get their sidecar", None);
    }
    check(
        "sidecar",
        Status::Missing,
        "the pod would be created without one",
        "no webhook and no policy took the pod for one that asks for a sidecar",
        Some(
            "compare the namespaceSelector and objectSelector of the configuration with the namespace's labels",
        ),
    )
}
