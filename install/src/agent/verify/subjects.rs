// SPDX-License-Identifier: Apache-2.0
//! The pods of this node with the desired state of each, from the runtime's sandboxes, the attachments' records and the node's
//! defaults. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use culvert_cni::attachment::{Considered, NO_ENGINE, Record};
use culvert_cni::netns::NetnsId;
use culvert_cni::pod::{Decided, Decision, Reason, Settings, SettingsError, decide_policy};
use culvert_cni::protocol::NetConf;
use culvert_cni::redirect::policy::Policy;
use serde_json::{Map, Value, json};

use crate::cri::Sandbox;
use crate::cri::sandboxes::{Bypass, Handlers};

/// The interface of a pod's main network, as every runtime of Kubernetes names it.
const MAIN_INTERFACE: &str = "eth0";

/// The node's settings, for pods without a record: those that are older than the plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Defaults {
    settings: Settings,
    redirect: Option<String>,
    locked: Vec<String>,
    exclude_namespaces: Vec<String>,
    /// The runtime's handlers whose sandboxes bypass the rules.
    pub(crate) handlers: Handlers,
}

impl Defaults {
    /// Reads the plugin's entry, a JSON object. The error is the plugin's own message.
    pub(crate) fn of_entry(entry: &str) -> Result<Self, String> {
        let mut whole: Map<String, Value> = serde_json::from_str(entry).map_err(|error| error.to_string())?;
        // A runtime adds these two before it hands the entry to the plugin.
        whole.insert("name".to_owned(), json!("any"));
        whole.insert("cniVersion".to_owned(), json!("1.0.0"));
        let stdin = Value::Object(whole).to_string();
        let conf = NetConf::parse(stdin.as_bytes()).map_err(|failure| failure.message)?;
        Ok(Self {
            settings: Settings::of_node(conf.redirect, &conf.locked).map_err(|error| error.to_string())?,
            redirect: conf.redirect.map(|raw| raw.get().to_owned()),
            locked: conf.locked.clone(),
            exclude_namespaces: conf.exclude_namespaces,
            handlers: Handlers::new(),
        })
    }
}

/// The desired state of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Desired {
    /// To be redirected, because of this setting.
    Redirect(Box<Policy>, String),
    /// Not to be redirected, for this reason.
    Direct(String),
    /// Not known, for this reason.
    Unknown(String),
}

/// A pod with its desired state and what is on record of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The runtime's id of its sandbox, which is the plugin's container id.
    pub id: String,
    /// Namespace and name.
    pub pod: (String, String),
    pub uid: Option<String>,
    /// The interface that the rules are written for.
    pub ifname: String,
    pub desired: Desired,
    /// Time of the sandbox's creation in nanoseconds since 1970, where the runtime says it.
    pub created_at: Option<i64>,
    /// The kind of sandbox, if its packets bypass the rules.
    pub bypass: Option<Bypass>,
    /// The engine that wrote the rules.
    pub engine: Option<String>,
    /// The path of the namespace at the pod's ADD.
    pub netns: Option<PathBuf>,
    /// The identity of the namespace at the pod's ADD.
    pub netns_id: Option<NetnsId>,
    /// The network that the record names; `None` without a record.
    pub network: Option<String>,
    /// The input of the decision at the pod's ADD; without a record, the input of today's decision.
    pub considered: Option<Considered>,
}

impl Subject {
    /// Returns `namespace/name`, or the sandbox's id where no name is known.
    pub(crate) fn name(&self) -> String {
        match (self.pod.0.as_str(), self.pod.1.as_str()) {
            ("", "") => self.id.clone(),
            ("", name) => name.to_owned(),
            (namespace, name) => format!("{namespace}/{name}"),
        }
    }
}

/// Joins each sandbox of the runtime with its record; without a list of sandboxes, returns every pod that has a record.
pub(crate) fn subjects(
    sandboxes: Option<Vec<Sandbox>>,
    records: Vec<Record>,
    defaults: &Defaults,
) -> Vec<Subject> {
    let mut of_container: BTreeMap<String, Record> = BTreeMap::new();
    for record in records {
        let better = |there: &Record| rank(&record) > rank(there);
        if of_container.get(&record.container_id).is_none_or(better) {
            of_container.insert(record.container_id.clone(), record);
        }
    }
    match sandboxes {
        Some(sandboxes) => sandboxes
            .into_iter()
            .map(|sandbox| {
                let record = of_container.remove(&sandbox.id);
                of_sandbox(sandbox, record, defaults)
            })
            .collect(),
        None => of_container.into_values().map(of_record).collect(),
    }
}

/// Orders several records of one pod: the one that says most is used.
fn rank(record: &Record) -> (bool, bool, bool) {
    (record.considered.is_some(), record.engine != NO_ENGINE, record.ifname == MAIN_INTERFACE)
}

fn of_sandbox(sandbox: Sandbox, record: Option<Record>, defaults: &Defaults) -> Subject {
    let Sandbox { id, namespace, name, uid, annotations, created_at, handler } = sandbox;
    let considered = record.as_ref().and_then(|record| record.considered.clone());
    let decided_at_add = considered.as_ref().map(|considered| desired(considered.decide()));
    let excluded = defaults.exclude_namespaces.contains(&namespace);
    let now =
        Considered { annotations, redirect: defaults.redirect.clone(), locked: defaults.locked.clone() };
    let desired = match decided_at_add {
        Some(desired) => desired,
        None if excluded => Desired::Direct(Reason::NamespaceExcluded.as_str().to_owned()),
        None => desired(decide_policy(&now.annotations, &defaults.settings)),
    };
    Subject {
        pod: (namespace, name),
        uid: Some(uid).filter(|uid| !uid.is_empty()),
        desired,
        created_at: Some(created_at).filter(|at| *at > 0),
        bypass: defaults.handlers.get(&handler).copied().or_else(|| Bypass::of(&handler)),
        considered: considered.or(Some(now)),
        ..attached(id, record)
    }
}

/// A pod that is known only by its record.
fn of_record(record: Record) -> Subject {
    let desired = match &record.considered {
        Some(considered) => desired(considered.decide()),
        None if record.engine == NO_ENGINE => Desired::Unknown(Reason::Unknown.as_str().to_owned()),
        None => Desired::Unknown(
            "the record does not say what was decided by, and there is no runtime to ask".to_owned(),
        ),
    };
    let (namespace, name) = match record.pod.as_deref().map(|pod| pod.split_once('/').unwrap_or(("", pod))) {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => (String::new(), String::new()),
    };
    let considered = record.considered.clone();
    Subject {
        pod: (namespace, name),
        desired,
        considered,
        ..attached(record.container_id.clone(), Some(record))
    }
}

fn attached(id: String, record: Option<Record>) -> Subject {
    let empty = |id| Subject {
        id,
        pod: (String::new(), String::new()),
        uid: None,
        ifname: MAIN_INTERFACE.to_owned(),
        desired: Desired::Unknown(String::new()),
        created_at: None,
        bypass: None,
        engine: None,
        netns: None,
        netns_id: None,
        network: None,
        considered: None,
    };
    let Some(record) = record else { return empty(id) };
    Subject {
        ifname: record.ifname,
        engine: Some(record.engine).filter(|engine| engine != NO_ENGINE),
        netns: Some(PathBuf::from(record.netns)).filter(|path| Path::is_absolute(path)),
        netns_id: record.netns_id,
        network: Some(record.network),
        ..empty(id)
    }
}

fn desired(decided: Result<Decided, SettingsError>) -> Desired {
    match decided {
        Ok(Decided { decision: Decision::Redirect(policy), sources, .. }) => {
            Desired::Redirect(policy, sources.get("redirect").cloned().unwrap_or_default())
        }
        Ok(Decided { decision: Decision::PassThrough(reason), .. }) => {
            Desired::Direct(reason.as_str().to_owned())
        }
        Err(error) => Desired::Unknown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use culvert_cni::pod::Annotations;
    use culvert_cni::redirect::Footprint;

    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn sandbox(namespace: &str, pairs: &[(&str, &str)]) -> Sandbox {
        Sandbox {
            id: "s1".to_owned(),
            namespace: namespace.to_owned(),
            name: "web".to_owned(),
            uid: "u1".to_owned(),
            annotations: annotations(pairs),
            created_at: 1,
            handler: String::new(),
        }
    }

    fn record(engine: &str, considered: Option<&[(&str, &str)]>) -> Record {
        Record {
            network: "k8s".to_owned(),
            container_id: "s1".to_owned(),
            ifname: "eth0".to_owned(),
            netns: "/run/netns/x".to_owned(),
            pod: Some("shop/web".to_owned()),
            engine: engine.to_owned(),
            footprint: Footprint::nothing(),
            netns_id: None,
            considered: considered.map(|pairs| Considered {
                annotations: annotations(pairs),
                redirect: None,
                locked: Vec::new(),
            }),
        }
    }

    const ON: (&str, &str) = ("culvert.dev/redirect", "enabled");

    fn kind(desired: &Desired) -> String {
        match desired {
            Desired::Redirect(policy, _) => format!("redirect, inbound to {}", policy.inbound.port),
            Desired::Direct(reason) => format!("direct: {reason}"),
            Desired::Unknown(reason) => format!("unknown: {reason}"),
        }
    }

    #[test]
    fn each_pod_is_held_to_what_was_decided_at_its_add_and_else_to_its_annotations() {
        let defaults = Defaults::of_entry(r#"{"redirect":{"inboundPort":16006}}"#).unwrap();
        let port = ("culvert.dev/inbound-port", "17006");
        for (name, sandboxes, records, expected) in [
            ("before the plugin", Some(sandbox("shop", &[ON])), None, "redirect, inbound to 16006"),
            ("not onboarded", Some(sandbox("shop", &[])), None, "direct: not onboarded"),
            ("excluded", Some(sandbox("kube-system", &[ON])), None, "direct: namespace excluded"),
            (
                "let through, and now known",
                Some(sandbox("shop", &[ON])),
                Some(record(NO_ENGINE, None)),
                "redirect, inbound to 16006",
            ),
            (
                "the defaults are others now",
                Some(sandbox("shop", &[ON])),
                Some(record("nftables", Some(&[ON, port]))),
                "redirect, inbound to 17006",
            ),
            ("no runtime", None, Some(record("nftables", Some(&[ON]))), "redirect, inbound to 15006"),
            (
                "no runtime, let through",
                None,
                Some(record(NO_ENGINE, None)),
                "unknown: annotations unknown, onUnknown is allow",
            ),
        ] {
            let found = subjects(sandboxes.map(|one| vec![one]), records.into_iter().collect(), &defaults);
            let [subject] = found.as_slice() else { panic!("{name}: {found:?}") };
            assert_eq!(kind(&subject.desired), expected, "{name}");
            assert_eq!(subject.pod.1, "web", "{name}");
        }
        let wrong =
            subjects(Some(vec![sandbox("shop", &[("culvert.dev/redirekt", "on")])]), vec![], &defaults);
        assert!(
            kind(&wrong[0].desired)
                .starts_with("unknown: no annotation of culvert: \"culvert.dev/redirekt\""),
            "{wrong:?}"
        );
        assert_eq!(subjects(Some(vec![]), vec![record("nftables", None)], &defaults), vec![]);
    }

    #[test]
    fn an_entry_that_no_pod_could_follow_is_told() {
        assert!(Defaults::of_entry(r#"{"redirect":{"inboundPorts":1}}"#).is_err());
        assert!(Defaults::of_entry("[]").is_err());
    }
}
