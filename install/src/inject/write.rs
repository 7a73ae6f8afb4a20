// SPDX-License-Identifier: Apache-2.0
//! The operations of a first call, which puts the sidecar in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use culvert_cni::pod::{Decided, Decision as Plugins, Settings as NodeSettings, decide_policy};
use culvert_cni::redirect::policy::{DnsCapture, IpFamilies, Policy};
use serde_json::{Map, Value, json};

use super::control::{self, Control};
use super::identity::{self, Identity};
use super::labels::Asked;
use super::options::{Options, has_volume};
use super::patch::{Operation, escaped};
use super::pod::{LISTS, Pod};
use super::probes::{Rewritten, rewrite};
use super::resources::resources;
use super::sidecar::{Template, Times};
use super::{DECISION, Injected, Names, Namespace, Refusal, Settings, Shape, uid};

const REDIRECT: &str = "culvert.dev/redirect";
/// The setting of the sidecar's uid.
const PROXY_UID: &str = "proxy-uid";
/// Container that `kubectl logs` and `kubectl exec` take.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Port of the sidecar's admin interface, on loopback.
const ADMIN_PORT: u16 = 9901;
/// ConfigMap with the mesh documents of a namespace, and the volume of it.
const DOCUMENTS: &str = "culvert-mesh";
const DOCUMENTS_FOLDER: &str = "/etc/culvert/mesh";
/// Readable for every user: the files of a volume belong to root.
const READABLE: u32 = 0o444;
/// Volume without a token where an admission behind this one would mount the API token.
const NO_TOKEN: &str = "culvert-no-token";
const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Puts a sidecar into a pod that has none.
pub(super) fn first(
    pod: &Pod<'_>,
    namespace: &Namespace,
    settings: &Settings,
    asked: &Asked,
) -> Result<Injected, Refusal> {
    let mut refusal = Refusal::default();
    let options = Options::read(pod, namespace)?;
    let redirect = Redirect::of(pod, &settings.node)?;
    let policy = &redirect.policy;
    let shape = options.shape(settings.shape)?;
    ends_with_it(pod, shape)?;
    refusal.note(ports(pod, policy));
    let rewritten = refusal.note(rewrite(pod, policy, shape, &[]));
    let given = redirect.given_uid();
    let default = policy.proxy_uid.get();
    let uid = refusal.note(uid::choose(pod, namespace, shape, given, default));
    let resources = refusal.note(resources(pod, &options));
    let more = refusal.note(Additions::of(pod, &options, &rewritten, settings.control.as_ref()));
    refusal.check()?;
    let mut annotations = redirect.annotations(pod, uid)?;
    let times = Times::of(shape, pod.spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64));
    let Additions { args, variables, mounts, volumes } = more;
    let image = &settings.image;
    let template = Template { shape, image, uid, policy, times, resources, args, variables, mounts };

    let mut operations = rewritten.operations;
    operations.push(insertion(pod, shape, template.container()));
    operations.extend(appended(pod, volumes));
    if pod.spec.get("enableServiceLinks") != Some(&Value::Bool(false)) {
        operations.push(Operation::add("/spec/enableServiceLinks", false));
    }
    operations.push(Operation::add("/spec/terminationGracePeriodSeconds", times.grace));
    let kind = if shape == Shape::Native { "native" } else { "plain" };
    let words = format!("injected: {asked}; {kind} sidecar, uid {uid}");
    annotations.insert(DECISION.to_owned(), words.clone());
    let main = pod.applications().find(|place| place.list == LISTS[1]);
    if let Some(main) = main.filter(|_| !pod.annotations.contains_key(DEFAULT_CONTAINER)) {
        annotations.insert(DEFAULT_CONTAINER.to_owned(), main.name().to_owned());
    }
    operations.extend(annotated(pod, annotations));
    Ok(Injected { operations, is_first: true, words, notes: notes(pod, shape) })
}

/// The redirect that the plugin will make of the pod's annotations.
#[derive(Debug)]
pub(super) struct Redirect<'a> {
    pub policy: Policy,
    /// Names of the settings that the pod gives, with the annotations that do.
    sources: BTreeMap<&'static str, String>,
    node: &'a NodeSettings,
}

impl<'a> Redirect<'a> {
    /// Errors are the plugin's, which would otherwise come when the pod starts.
    pub(super) fn of(pod: &Pod<'_>, node: &'a NodeSettings) -> Result<Self, Refusal> {
        let Decided { decision, mut sources, .. } = decided(&pod.annotations, node)?;
        // The others are of the conflist.
        sources.retain(|_, source| source.contains('/'));
        match decision {
            Plugins::Redirect(policy) => Ok(Self { policy: *policy, sources, node }),
            Plugins::PassThrough(_) => Err(Refusal::of(format!(
                "annotation {REDIRECT} is disabled, but a sidecar is asked for: set the label culvert.dev/inject: disabled to \
                 have neither"
            ))),
        }
    }

    /// The sidecar's uid, where the pod names it.
    pub(super) fn given_uid(&self) -> Option<u32> {
        self.sources.contains_key(PROXY_UID).then(|| self.policy.proxy_uid.get())
    }

    /// The annotations that the pod lacks: all that its sidecar relies on, since a node may have other defaults.
    pub(super) fn annotations(&self, pod: &Pod<'_>, uid: u32) -> Result<Names, Refusal> {
        let mut annotations = Names::new();
        let is_default = uid == self.policy.proxy_uid.get();
        for (setting, value) in relied_on(&self.policy, uid) {
            if self.sources.contains_key(setting) {
                continue;
            }
            let name = format!("culvert.dev/{setting}");
            let mut with = pod.annotations.clone();
            with.insert(name.clone(), value.clone());
            match decided(&with, self.node) {
                Ok(_) => _ = annotations.insert(name, value),
                Err(refusal) if setting == PROXY_UID && !is_default => return Err(refusal),
                // A locked setting without a value: the node has the same.
                Err(_) => {}
            }
        }
        if !pod.annotations.contains_key(REDIRECT) {
            annotations.insert(REDIRECT.to_owned(), "enabled".to_owned());
        }
        Ok(annotations)
    }
}

/// The plugin's decision about a pod that is onboarded unless it says otherwise.
fn decided(annotations: &Names, node: &NodeSettings) -> Result<Decided, Refusal> {
    let mut annotations = annotations.clone();
    annotations.entry(REDIRECT.to_owned()).or_insert_with(|| "enabled".to_owned());
    decide_policy(&annotations, node).map_err(|error| Refusal::of(error.to_string()))
}

/// The settings that a sidecar relies on.
fn relied_on(policy: &Policy, uid: u32) -> Vec<(&'static str, String)> {
    let Policy { inbound, outbound, dns, families, .. } = policy;
    let redirect = if inbound.redirect.is_enabled() { "enabled" } else { "disabled" };
    let families = match families {
        IpFamilies::Dual => "dual",
        IpFamilies::V4 => "ipv4",
        IpFamilies::V6 => "ipv6",
    };
    let capture = match &dns.capture {
        DnsCapture::Off => "disabled".to_owned(),
        DnsCapture::All => "all".to_owned(),
        DnsCapture::Servers(list) => list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(","),
    };
    let mut settings = vec![
        (PROXY_UID, uid.to_string()),
        ("redirect-inbound", redirect.to_owned()),
        ("inbound-port", inbound.port.to_string()),
        ("outbound-port", outbound.port.to_string()),
        ("status-port", inbound.status_port.to_string()),
        ("ip-family", families.to_owned()),
        ("redirect-dns", capture),
    ];
    if dns.capture != DnsCapture::Off {
        settings.push(("dns-port", dns.port.to_string()));
    }
    settings
}

/// Refuses a pod that could not end beside a plain sidecar.
fn ends_with_it(pod: &Pod<'_>, shape: Shape) -> Result<(), Refusal> {
    let restarts = pod.spec.get("restartPolicy").and_then(Value::as_str).unwrap_or("Always");
    if shape == Shape::Native || restarts == "Always" {
        return Ok(());
    }
    Err(Refusal::of(format!(
        "restartPolicy {restarts}: a plain sidecar would keep the pod from ending. Use a native one (Kubernetes 1.29), or set \
         the label culvert.dev/inject: disabled"
    )))
}

/// Refuses applications that listen on the sidecar's ports.
fn ports(pod: &Pod<'_>, policy: &Policy) -> Result<(), Refusal> {
    let captures = policy.dns.capture != DnsCapture::Off;
    let dns = captures.then(|| (policy.dns.port.get(), "dns-port"));
    let mut own = vec![
        (policy.inbound.port.get(), "inbound-port"),
        (policy.outbound.port.get(), "outbound-port"),
        (policy.inbound.status_port.get(), "status-port"),
    ];
    own.extend(dns);
    let mut refusal = Refusal::default();
    for (_, name) in own.iter().filter(|(port, _)| *port == ADMIN_PORT) {
        refusal.0.push(format!(
            "annotation culvert.dev/{name} is {ADMIN_PORT}, the port of the sidecar's admin interface"
        ));
    }
    for place in pod.applications() {
        let ports = place.container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        for declared in ports {
            let Some(port) = declared["containerPort"].as_u64() else { continue };
            let taken = |(own, _): &&(u16, &str)| u64::from(*own) == port;
            let same = match declared["protocol"].as_str() {
                None | Some("TCP") => own.iter().find(taken),
                Some("UDP") => dns.as_ref().filter(taken),
                Some(_) => None,
            };
            let remedy = match same {
                Some((_, name)) => format!("set culvert.dev/{name} to another one"),
                None if port == u64::from(ADMIN_PORT) && declared["protocol"] != "UDP" => {
                    "give the application another one".to_owned()
                }
                None => continue,
            };
            let name = place.name();
            refusal.0.push(format!("container {name}: port {port} is one of the sidecar's: {remedy}"));
        }
    }
    refusal.check()
}

/// Arguments, variables, mounts and volumes that depend on the pod.
#[derive(Debug, Default)]
pub(super) struct Additions {
    pub args: Vec<String>,
    variables: Vec<Value>,
    mounts: Vec<Value>,
    volumes: Vec<Value>,
}

impl Additions {
    pub(super) fn of(
        pod: &Pod<'_>,
        options: &Options<'_>,
        rewritten: &Rewritten,
        control: Option<&Control>,
    ) -> Result<Self, Refusal> {
        let mut more = Self::default();
        more.mount(NO_TOKEN, TOKEN_FOLDER);
        // An emptyDir would be local storage, which keeps `kubectl drain` and autoscalers from taking the pod's node.
        let name = json!({ "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } });
        more.volumes.push(json!({ "name": NO_TOKEN, "downwardAPI": { "items": [name] } }));
        let reads = options.documents(control.is_some())?;
        more.args.extend(reads.then(|| format!("--resources={DOCUMENTS_FOLDER}")));
        if reads || control.is_some() {
            more.mount(DOCUMENTS, DOCUMENTS_FOLDER);
            let mut map = json!({ "name": DOCUMENTS, "defaultMode": READABLE });
            if control.is_some() {
                // The controller may write it later than the first pod starts.
                map["optional"] = true.into();
            }
            more.volumes.push(json!({ "name": DOCUMENTS, "configMap": map }));
        }
        more.args.extend(options.dataplane()?.map(|name| format!("--dataplane={name}")));
        let own = options.identity()?;
        let source = control.filter(|_| own.is_none()).map(|control| control.identity);
        if source == Some(Identity::Directory) {
            return Err(Options::no_identity());
        }
        let is_requested = source == Some(Identity::Requests);
        if let Some(volume) = own.or(is_requested.then_some(identity::VOLUME)) {
            more.mount(volume, identity::FOLDER);
            more.args.push(format!("--identity={}", identity::FOLDER));
        }
        more.volumes.extend(is_requested.then(|| identity::volume(READABLE)));
        // An identity of one's own has a trust domain of its own.
        let domain = control.filter(|_| own.is_none()).map(|control| control.trust_domain.as_str());
        let domain = options.trust_domain()?.or(domain);
        more.args.extend(domain.map(|name| format!("--trust-domain={name}")));
        if let Some(control) = control {
            // The trust bundle is the cluster's; a ConfigMap can be written by who writes into the namespace.
            let authorities = if is_requested { identity::FOLDER } else { DOCUMENTS_FOLDER };
            more.args.extend(control.args(authorities, pod));
            more.variables = control::variables();
            for (volume, folder, source) in control::volumes(READABLE) {
                more.mount(volume, folder);
                more.volumes.push(source);
            }
        }
        more.args.extend(rewritten.option(&[])?);
        // A volume of that name by the pod's author takes the place of ours.
        more.volumes.retain(|volume| !has_volume(pod, volume["name"].as_str().unwrap_or_default()));
        Ok(more)
    }

    fn mount(&mut self, volume: &str, folder: &str) {
        self.mounts.push(json!({ "name": volume, "mountPath": folder, "readOnly": true }));
    }
}

/// Puts the sidecar before all others of its list.
fn insertion(pod: &Pod<'_>, shape: Shape, container: Value) -> Operation {
    let list = if shape == Shape::Native { LISTS[0] } else { LISTS[1] };
    // An empty list may be null in a manifest.
    if shape == Shape::Native && pod.lists[0].is_empty() {
        return Operation::add(format!("/spec/{list}"), vec![container]);
    }
    Operation::add(format!("/spec/{list}/0"), container)
}

fn appended(pod: &Pod<'_>, volumes: Vec<Value>) -> Vec<Operation> {
    if volumes.is_empty() {
        return Vec::new();
    }
    if !pod.spec.get("volumes").is_some_and(Value::is_array) {
        return vec![Operation::add("/spec/volumes", volumes)];
    }
    volumes.into_iter().map(|volume| Operation::add("/spec/volumes/-", volume)).collect()
}

pub(super) fn annotated(pod: &Pod<'_>, annotations: Names) -> Vec<Operation> {
    if pod.has_annotations {
        let add = |(name, value): (String, String)| {
            Operation::add(format!("/metadata/annotations/{}", escaped(&name)), value)
        };
        return annotations.into_iter().map(add).collect();
    }
    let all: Map<String, Value> = annotations.into_iter().map(|(name, value)| (name, value.into())).collect();
    if pod.has_metadata {
        vec![Operation::add("/metadata/annotations", all)]
    } else {
        vec![Operation::add("/metadata", json!({ "annotations": all }))]
    }
}

pub(super) fn notes(pod: &Pod<'_>, shape: Shape) -> Vec<String> {
    let early = shape == Shape::Plain && !pod.lists[0].is_empty();
    let links = pod.spec.get("enableServiceLinks") == Some(&Value::Bool(true));
    let notes = [
        (early, "init containers run before a plain sidecar, and have no network unless they run as its uid"),
        (
            links,
            "enableServiceLinks becomes false: a Service's variables could be taken for the sidecar's options",
        ),
    ];
    notes.into_iter().filter(|(is, _)| *is).map(|(_, words)| words.to_owned()).collect()
}
