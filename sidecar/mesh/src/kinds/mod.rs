// SPDX-License-Identifier: Apache-2.0
//! The kinds of documents, one file each, and the one list of them.
//!
//! A kind is a type that implements [`Resource`]. The list at the end gives it its place in [`Kind`] and [`Spec`], and with
//! them its reader, its checks, its schema and its target; `ARCHITECTURE.md` says how to add one.

pub mod connections;
pub mod dataplane;
pub mod destination;
pub mod identity;
pub mod mesh;
pub mod mesh_access_log;
pub mod mesh_metric;
pub mod mesh_passthrough;
pub mod mesh_tls;
pub mod mesh_traffic_permission;
pub mod older;
pub mod proxy_template;
pub mod routes;
pub mod services;
pub mod traffic_permission;

use crate::context::Context;
use crate::read::part::Part;
use crate::read::{At, Read};
use crate::target::Target;
use serde_json::Value;

/// A kind of document: its name, its fields (by `Read`), its rules about several fields, and the pods that it is about.
pub trait Resource: Read {
    /// Name of the kind, as `type` and `kind` spell it.
    const NAME: &'static str;
    /// True where the universal spelling has a `spec` too, as Kuma's newer policies have.
    const HAS_SPEC: bool = false;
    /// True where a control plane writes addresses and names of a service beside the contents.
    const HAS_STATUS: bool = false;
    /// True where documents belong to every mesh, as they have no mesh of their own.
    const IN_EVERY_MESH: bool = false;

    /// Notes problems that several fields make together. `pod` is there where the document is the pod's own Dataplane.
    fn check(part: &Part<'_>, pod: Option<&Context>, at: &mut At<'_>);

    /// Returns the pods that a policy is about.
    fn target(&self) -> Target<'_> {
        Target::NoPolicy
    }
}

/// A kind in [`Spec`].
pub trait FromSpec: Resource {
    /// Returns the contents of a document of this kind, `None` for another kind or a wrong document.
    fn from_spec(spec: &Spec) -> Option<&Self>;
}

/// Reads a kind's fields and checks them together.
fn read_checked<T: Resource>(value: &Value, pod: Option<&Context>, at: &mut At<'_>) -> Option<T> {
    let read = T::read(value, at);
    let unknown = at.take_unknown_fields();
    T::check(&Part::new(value, at.path(), &unknown), pod, at);
    read
}

/// Notes `from` beside `rules`: they say the same of connections to a pod, and none of them could be said to hold.
fn one_inbound_list(part: &Part<'_>, at: &mut At<'_>) {
    let both = ["from", "rules"].map(|list| part.items(list));
    if both.iter().all(|list| list.as_ref().is_ok_and(|items| !items.is_empty())) {
        part.problem(at, "from", "from beside rules", "one or the other: rules is the newer spelling");
    }
}

/// The list of kinds → [`Kind`], [`Spec`], and everything that differs by kind.
macro_rules! kinds {
    ($($module:ident::$name:ident),* $(,)?) => {
        /// The kinds of documents.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = concat!("See [`", stringify!($module::$name), "`].")] $name,)*
        }

        impl Kind {
            /// All kinds, in the order in which errors list them.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];

            /// Returns the kind's name, as `type` and `kind` spell it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $module::$name::NAME,)*
                }
            }

            pub(crate) fn has_spec(self) -> bool {
                match self {
                    $(Self::$name => $module::$name::HAS_SPEC,)*
                }
            }

            pub(crate) fn has_status(self) -> bool {
                match self {
                    $(Self::$name => $module::$name::HAS_STATUS,)*
                }
            }

            pub(crate) fn is_in_every_mesh(self) -> bool {
                match self {
                    $(Self::$name => $module::$name::IN_EVERY_MESH,)*
                }
            }

            pub(crate) fn read(self, value: &Value, pod: Option<&Context>, at: &mut At<'_>) -> Option<Spec> {
                match self {
                    $(Self::$name => read_checked(value, pod, at).map(Spec::$name),)*
                }
            }

            pub(crate) fn spec_schema(self) -> Value {
                match self {
                    $(Self::$name => $module::$name::schema(),)*
                }
            }
        }

        /// The contents of a document.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Spec {
            $(#[doc = concat!("See [`", stringify!($module::$name), "`].")] $name($module::$name),)*
            /// A wrong document, whose problems were reported. It stays, for rules about several documents.
            Wrong(Kind),
        }

        impl Spec {
            /// Returns the kind, that of a wrong document too.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$name(_) => Kind::$name,)*
                    Self::Wrong(kind) => *kind,
                }
            }

            /// Returns the pods that the document is about.
            pub fn target(&self) -> Target<'_> {
                match self {
                    $(Self::$name(spec) => spec.target(),)*
                    Self::Wrong(_) => Target::NoPolicy,
                }
            }
        }

        $(impl FromSpec for $module::$name {
            fn from_spec(spec: &Spec) -> Option<&Self> {
                match spec {
                    Spec::$name(spec) => Some(spec),
                    _ => None,
                }
            }
        })*
    };
}

kinds! {
    mesh::Mesh,
    dataplane::Dataplane,
    proxy_template::ProxyTemplate,
    mesh_access_log::MeshAccessLog,
    mesh_tls::MeshTls,
    mesh_traffic_permission::MeshTrafficPermission,
    traffic_permission::TrafficPermission,
    connections::MeshTimeout,
    connections::MeshCircuitBreaker,
    connections::MeshRetry,
    older::Timeout,
    older::CircuitBreaker,
    older::Retry,
    mesh_passthrough::MeshPassthrough,
    mesh_metric::MeshMetric,
    identity::MeshIdentity,
    identity::MeshTrust,
    routes::MeshTcpRoute,
    older::TrafficRoute,
    connections::MeshLoadBalancingStrategy,
    connections::MeshHealthCheck,
    connections::MeshRateLimit,
    connections::MeshFaultInjection,
    older::HealthCheck,
    older::RateLimit,
    older::FaultInjection,
    older::TrafficLog,
    proxy_template::MeshProxyPatch,
    services::MeshService,
    services::MeshMultiZoneService,
    services::MeshExternalService,
    services::ExternalService,
    services::HostnameGenerator,
    services::VirtualOutbound,
}
