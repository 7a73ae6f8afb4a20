// SPDX-License-Identifier: Apache-2.0
//! The runtime's environment: the verb, and the attachment it concerns.

use std::str::FromStr;

use cni_plugin::Command;

use crate::metadata::PodRef;
use crate::shown::shown;

/// Largest configuration on stdin, in bytes: libcni's own bound for a conflist is 2 MiB.
pub(crate) const MAX_STDIN: usize = 4 << 20;

/// Longest interface name, in bytes: `IFNAMSIZ` of linux/if.h less the final zero.
const MAX_IFNAME: usize = 15;

/// Source of environment variables, so that tests never touch the process's own.
pub trait Strings {
    /// Returns the value of `name`, if it is set and is UTF-8.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Strings for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// A missing or malformed environment variable: CNI code 4.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvironmentError {
    /// A variable that the verb needs is not set.
    #[error("{0} is not set: a container runtime sets it, see the CNI specification")]
    Missing(&'static str),
    /// A variable that the verb needs is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A verb that the CNI specification does not have.
    #[error("CNI_COMMAND must be one of ADD, DEL, CHECK, GC, STATUS, VERSION: it is {}", shown(.0))]
    Verb(String),
    /// A container id with characters that the CNI specification does not allow.
    #[error(
        "CNI_CONTAINERID must begin with a letter or digit and hold only letters, digits and _.-: it is {}", shown(.0)
    )]
    ContainerId(String),
    /// An interface name that the kernel would refuse.
    #[error(
        "CNI_IFNAME must be 1 to 15 bytes without '/', ':' or white space, and not '.' or '..': it is {}", shown(.0)
    )]
    Ifname(String),
}

/// The verb of an invocation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verb {
    /// A verb of the specification up to 1.0.0.
    Classic(Command),
    /// Remove the records of attachments that the runtime no longer knows (1.1.0).
    Gc,
    /// Report if ADD can work (1.1.0).
    Status,
}

impl Verb {
    /// Read the verb from `CNI_COMMAND`.
    pub(crate) fn from_environment(env: &impl Strings) -> Result<Self, EnvironmentError> {
        match required(env, "CNI_COMMAND")?.as_str() {
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            other => Command::from_str(other)
                .map(Self::Classic)
                .map_err(|_| EnvironmentError::Verb(other.to_owned())),
        }
    }
}

/// The attachment of ADD, CHECK and DEL: one interface of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Id of the pod's sandbox.
    pub container_id: String,
    /// Interface inside the sandbox.
    pub ifname: String,
    /// Path of the sandbox's network namespace; only DEL may come without one.
    pub netns: Option<String>,
    /// The pod, as far as the runtime names it.
    pub args: CniArgs,
}

impl Attachment {
    /// Read the attachment; `netns_required` is true for all verbs but DEL.
    pub(crate) fn from_environment(
        env: &impl Strings,
        netns_required: bool,
    ) -> Result<Self, EnvironmentError> {
        let container_id = required(env, "CNI_CONTAINERID")?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !container_id.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !container_id.chars().all(allowed)
        {
            return Err(EnvironmentError::ContainerId(container_id));
        }
        let ifname = required(env, "CNI_IFNAME")?;
        let refused = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if ifname.len() > MAX_IFNAME || ifname == "." || ifname == ".." || ifname.contains(refused) {
            return Err(EnvironmentError::Ifname(ifname));
        }
        let netns = match required(env, "CNI_NETNS") {
            Ok(path) => Some(path),
            Err(error) if netns_required => return Err(error),
            Err(_) => None,
        };
        let args = CniArgs::parse(&env.get("CNI_ARGS").unwrap_or_default());
        Ok(Self { container_id, ifname, netns, args })
    }
}

/// The pod as `CNI_ARGS` names it; each field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs {
    /// `K8S_POD_NAMESPACE`: the Kubernetes namespace.
    pub(crate) pod_namespace: Option<String>,
    /// `K8S_POD_NAME`: the pod's name.
    pub(crate) pod_name: Option<String>,
    /// `K8S_POD_UID`: the pod's uid in Kubernetes.
    pub(crate) pod_uid: Option<String>,
}

impl CniArgs {
    /// Returns the pod, if the runtime passed its namespace and name.
    pub(crate) fn pod(&self) -> Option<PodRef> {
        let Self { pod_namespace, pod_name, pod_uid } = self;
        Some(PodRef { namespace: pod_namespace.clone()?, name: pod_name.clone()?, uid: pod_uid.clone() })
    }

    /// `namespace/name` for logs; podman passes only a name, and other runtimes pass nothing.
    pub(crate) fn pod_display_name(&self) -> Option<String> {
        let name = self.pod_name.as_deref()?;
        Some(match self.pod_namespace.as_deref() {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        })
    }

    /// Parse `K=V;K=V`. Unknown and malformed parts are skipped: they are no reason to keep a pod from starting.
    fn parse(text: &str) -> Self {
        let mut args = Self::default();
        for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
            let value = (!value.is_empty()).then(|| value.to_owned());
            match key.trim() {
                "K8S_POD_NAMESPACE" => args.pod_namespace = value,
                "K8S_POD_NAME" => args.pod_name = value,
                "K8S_POD_UID" => args.pod_uid = value,
                _ => {}
            }
        }
        args
    }
}

fn required(env: &impl Strings, name: &'static str) -> Result<String, EnvironmentError> {
    match env.get(name) {
        None => Err(EnvironmentError::Missing(name)),
        Some(value) if value.is_empty() => Err(EnvironmentError::Empty(name)),
        Some(value) => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A valid environment with one variable changed.
    fn environment(changed: (&str, Option<&str>)) -> impl Strings {
        let (name, value) = (changed.0.to_owned(), changed.1.map(str::to_owned));
        move |asked: &str| match asked {
            asked if asked == name => value.clone(),
            "CNI_COMMAND" => Some("ADD".to_owned()),
            "CNI_CONTAINERID" => Some("A1.b_c-d".to_owned()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_NETNS" => Some("/run/netns/x".to_owned()),
            "CNI_ARGS" => Some("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p=q;;x".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn a_good_environment_is_read() {
        let attachment = Attachment::from_environment(&environment(("", None)), true).unwrap();
        assert_eq!(attachment.container_id, "A1.b_c-d");
        assert_eq!(attachment.args.pod_namespace.as_deref(), Some("ns"));
        assert_eq!(attachment.args.pod_name.as_deref(), Some("p=q"));
    }

    #[test]
    fn a_bad_environment_is_named() {
        let rows = [
            (("CNI_CONTAINERID", None), EnvironmentError::Missing("CNI_CONTAINERID")),
            (("CNI_CONTAINERID", Some("")), EnvironmentError::Empty("CNI_CONTAINERID")),
            (("CNI_CONTAINERID", Some("-a")), EnvironmentError::ContainerId("-a".to_owned())),
            (("CNI_CONTAINERID", Some("a/b")), EnvironmentError::ContainerId("a/b".to_owned())),
            (("CNI_IFNAME", None), EnvironmentError::Missing("CNI_IFNAME")),
            (("CNI_IFNAME", Some("..")), EnvironmentError::Ifname("..".to_owned())),
            (("CNI_IFNAME", Some("a b")), EnvironmentError::Ifname("a b".to_owned())),
            (
                ("CNI_IFNAME", Some("sixteen-bytes-16")),
                EnvironmentError::Ifname("sixteen-bytes-16".to_owned()),
            ),
            (("CNI_NETNS", None), EnvironmentError::Missing("CNI_NETNS")),
            (("CNI_NETNS", Some("")), EnvironmentError::Empty("CNI_NETNS")),
        ];
        for (changed, expected) in rows {
            let found = Attachment::from_environment(&environment(changed), true).expect_err(changed.0);
            assert_eq!(found, expected);
        }
        let without = Attachment::from_environment(&environment(("CNI_NETNS", Some(""))), false).unwrap();
        assert_eq!(without.netns, None);
    }

    #[test]
    fn every_verb_is_known_and_no_other() {
        let rows = [
            ("ADD", "Classic(Add)"),
            ("DEL", "Classic(Del)"),
            ("CHECK", "Classic(Check)"),
            ("VERSION", "Classic(Version)"),
            ("GC", "Gc"),
            ("STATUS", "Status"),
        ];
        for (name, expected) in rows {
            let verb = Verb::from_environment(&environment(("CNI_COMMAND", Some(name)))).unwrap();
            assert_eq!(format!("{verb:?}"), expected);
        }
        for verb in ["", "add", "ADD ", "UPDATE"] {
            assert!(Verb::from_environment(&environment(("CNI_COMMAND", Some(verb)))).is_err(), "{verb:?}");
        }
    }
}
