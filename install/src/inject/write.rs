// SPDX-License-Identifier: Apache-2.0
//! The operations of a first call, which puts the sidecar in, and of a second one, which puts right what others changed.

use culvert_cni::pod::{Decision as Plugins, Settings as NodeSettings, decide_policy};
use culvert_cni::redirect::policy::{DnsCapture, Policy};
use serde_json::{Map, Value, json};

use super::labels::Asked;
use super::options::{Options, has_volume};
use super::patch::{Operation, escaped};
use super::pod::{LISTS, Place, Pod};
use super::probes::{Rewritten, rewrite};
use super::resources::resources;
use super::sidecar::{APP_PROBES, Template, Times};
use super::{DECISION, Injected, Names, Namespace, Refusal, Settings, Shape, uid};

const REDIRECT: &str = "culvert.dev/redirect";
const PROXY_UID: &str = "culvert.dev/proxy-uid";
/// Container that `kubectl logs` and `kubectl exec` take.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Port of the sidecar's admin interface, on loopback.
const ADMIN_PORT: u16 = 9901;
/// ConfigMap with the mesh documents of a namespace, and the volume of it.
const DOCUMENTS: &str = "culvert-mesh";
const DOCUMENTS_FOLDER: &str = "/etc/culvert/mesh";
const IDENTITY_FOLDER: &str = "/etc/culvert/identity";
/// Readable for every user: the files of a volume belong to root.
const READABLE: u32 = 0o444;
/// Empty volume where an admission behind this one would mount the API token.
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
    let (policy, gives_uid) = policy(pod)?;
    let shape = options.shape(settings.shape)?;
    ends_with_it(pod, shape)?;
    refusal.note(ports(pod, &policy));
    let rewritten = refusal.note(rewrite(pod, &policy));
    let given = gives_uid.then(|| policy.proxy_uid.get());
    let default = Policy::default().proxy_uid.get();
    let uid = refusal.note(uid::choose(pod, namespace, shape, given, default));
    let resources = refusal.note(resources(pod, &options));
    let more = refusal.note(Additions::of(pod, &options, &rewritten));
    refusal.check()?;
    let times = Times::of(shape, pod.spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64));
    let Additions { args, mounts, volumes } = more;
    let template =
        Template { shape, image: &settings.image, uid, policy: &policy, times, resources, args, mounts };

    let mut operations = rewritten.operations;
    operations.push(insertion(pod, shape, template.container()));
    operations.extend(appended(pod, volumes));
    if pod.spec.get("enableServiceLinks") != Some(&Value::Bool(false)) {
        operations.push(Operation::add("/spec/enableServiceLinks", false));
    }
    operations.push(Operation::add("/spec/terminationGracePeriodSeconds", times.grace));
    let kind = if shape == Shape::Native { "native" } else { "plain" };
    let words = format!("injected: {asked}; {kind} sidecar, uid {uid}");
    let mut annotations = Names::from([(DECISION.to_owned(), words.clone())]);
    if !pod.annotations.contains_key(REDIRECT) {
        annotations.insert(REDIRECT.to_owned(), "enabled".to_owned());
    }
    if !gives_uid && uid != default {
        annotations.insert(PROXY_UID.to_owned(), uid.to_string());
    }
    let main = pod.applications().find(|place| place.list == LISTS[1]);
    if let Some(main) = main.filter(|_| !pod.annotations.contains_key(DEFAULT_CONTAINER)) {
        annotations.insert(DEFAULT_CONTAINER.to_owned(), main.name().to_owned());
    }
    operations.extend(annotated(pod, annotations));
    Ok(Injected { operations, words, notes: notes(pod, shape) })
}

/// Looks at a pod that has the sidecar from an earlier call. Without changes by others there is nothing to do.
pub(super) fn again(pod: &Pod<'_>, place: Place<'_>, namespace: &Namespace) -> Result<Injected, Refusal> {
    Options::read(pod, namespace)?;
    let (policy, _) = policy(pod)?;
    let own = pod.uid_of(&place).unwrap_or_else(|| policy.proxy_uid.get());
    let shape = if place.list == LISTS[0] { Shape::Native } else { Shape::Plain };
    uid::choose(pod, &Namespace::default(), shape, Some(own), own)?;
    let rewritten = rewrite(pod, &policy)?;
    let args: Vec<String> = place.container["args"]
        .as_array()
        .map_or_else(Vec::new, |args| args.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    let mut container = place.container.clone();
    if !rewritten.originals.is_empty() {
        let option = rewritten.option(&args)?;
        let others = args.iter().filter(|arg| !arg.starts_with(APP_PROBES)).cloned();
        container["args"] = others.chain(option).collect();
    }
    let mut operations = rewritten.operations;
    if place.index != 0 {
        operations.push(Operation::Remove { path: place.path() });
        operations.push(Operation::add(format!("/spec/{}/0", place.list), container));
    } else if container != *place.container {
        operations.push(Operation::replace(format!("{}/args", place.path()), container["args"].take()));
    }
    if !pod.annotations.contains_key(REDIRECT) {
        operations.extend(annotated(pod, Names::from([(REDIRECT.to_owned(), "enabled".to_owned())])));
    }
    let words = pod.annotations.get(DECISION).cloned().unwrap_or_default();
    Ok(Injected { operations, words, notes: notes(pod, shape) })
}

/// The redirect that the plugin will make of the pod's annotations, and true if they name the sidecar's uid. Errors are
/// the plugin's, which would otherwise come when the pod starts.
fn policy(pod: &Pod<'_>) -> Result<(Policy, bool), Refusal> {
    let mut annotations = pod.annotations.clone();
    annotations.entry(REDIRECT.to_owned()).or_insert_with(|| "enabled".to_owned());
    let decided = decide_policy(&annotations, &NodeSettings::default())
        .map_err(|error| Refusal::of(error.to_string()))?;
    match decided.decision {
        Plugins::Redirect(policy) => Ok((*policy, decided.sources.contains_key("proxy-uid"))),
        Plugins::PassThrough(_) => Err(Refusal::of(format!(
            "annotation {REDIRECT} is disabled, but a sidecar is asked for: set the label culvert.dev/inject: disabled to have \
             neither"
        ))),
    }
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
    let mut own = vec![
        (policy.inbound.port.get(), "set culvert.dev/inbound-port to another one"),
        (policy.outbound.port.get(), "set culvert.dev/outbound-port to another one"),
        (policy.inbound.status_port.get(), "set culvert.dev/status-port to another one"),
        (ADMIN_PORT, "give the application another one"),
    ];
    if policy.dns.capture != DnsCapture::Off {
        own.push((policy.dns.port.get(), "set culvert.dev/dns-port to another one"));
    }
    let mut refusal = Refusal::default();
    for place in pod.applications() {
        let ports = place.container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_tcp = |port: &&Value| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
        for port in ports.iter().filter(is_tcp).filter_map(|port| port["containerPort"].as_u64()) {
            if let Some((_, remedy)) = own.iter().find(|(own, _)| u64::from(*own) == port) {
                let name = place.name();
                refusal.0.push(format!("container {name}: port {port} is one of the sidecar's: {remedy}"));
            }
        }
    }
    refusal.check()
}

/// Arguments, mounts and volumes that depend on the pod.
#[derive(Debug, Default)]
struct Additions {
    args: Vec<String>,
    mounts: Vec<Value>,
    volumes: Vec<Value>,
}

impl Additions {
    fn of(pod: &Pod<'_>, options: &Options<'_>, rewritten: &Rewritten) -> Result<Self, Refusal> {
        let mut more = Self::default();
        more.mount(NO_TOKEN, TOKEN_FOLDER);
        more.volumes.push(json!({ "name": NO_TOKEN, "emptyDir": {} }));
        if options.documents()? {
            more.mount(DOCUMENTS, DOCUMENTS_FOLDER);
            more.args.push(format!("--resources={DOCUMENTS_FOLDER}"));
            let map = json!({ "name": DOCUMENTS, "defaultMode": READABLE });
            more.volumes.push(json!({ "name": DOCUMENTS, "configMap": map }));
        }
        more.args.extend(options.dataplane().map(|name| format!("--dataplane={name}")));
        if let Some(volume) = options.identity()? {
            more.mount(volume, IDENTITY_FOLDER);
            more.args.push(format!("--identity={IDENTITY_FOLDER}"));
        }
        more.args.extend(options.trust_domain().map(|name| format!("--trust-domain={name}")));
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

fn annotated(pod: &Pod<'_>, annotations: Names) -> Vec<Operation> {
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

fn notes(pod: &Pod<'_>, shape: Shape) -> Vec<String> {
    let early = shape == Shape::Plain && !pod.lists[0].is_empty();
    let words = "init containers run before a plain sidecar, and have no network unless they run as its uid";
    early.then(|| words.to_owned()).into_iter().collect()
}
