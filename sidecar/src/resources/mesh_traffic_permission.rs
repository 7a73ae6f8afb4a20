// SPDX-License-Identifier: Apache-2.0
//! `MeshTrafficPermission`: which members of the mesh may call some pods.

use super::read::{At, fields, words};
use super::target::{Pods, TargetRef};

fields! {
    /// Which members may call some pods. Where none is about a pod, all may; where one is, whoever none allows may not.
    pub struct MeshTrafficPermission {
        /// The pods; absent: all of the mesh.
        target_ref: optional TargetRef = "targetRef",
        /// Callers by their tags; the most specific decides.
        from: default Vec<From> = "from",
        /// Callers by their identity; one that denies decides.
        rules: default Vec<Rule> = "rules",
    }
}

fields! {
    /// Callers by their tags.
    pub struct From {
        /// The callers: Mesh, MeshSubset, MeshService or MeshServiceSubset.
        target_ref: required TargetRef = "targetRef",
        /// Whether they may.
        default: required Default_ = "default",
    }
}

fields! {
    /// Whether callers may.
    pub struct Default_ {
        /// Whether they may.
        action: required ActionWord = "action",
    }
}

words! {
    /// Whether callers may.
    pub enum ActionWord {
        /// They may.
        Allow = "Allow" | "ALLOW",
        /// They may not.
        Deny = "Deny" | "DENY",
        /// They may, and are counted as if they might not.
        AllowWithShadowDeny = "AllowWithShadowDeny" | "ALLOW_WITH_SHADOW_DENY",
    }
}

fields! {
    /// Callers by their identity.
    pub struct Rule {
        /// Who may and who may not.
        default: required Lists = "default",
    }
}

fields! {
    /// Who may and who may not.
    pub struct Lists {
        /// Who may.
        allow: default Vec<Match> = "allow",
        /// Who may not, whatever else says that they may.
        deny: default Vec<Match> = "deny",
        /// Who may, and is counted as if they might not.
        shadow: default Vec<Match> = "allowWithShadowDeny",
    }
}

fields! {
    /// Some callers.
    pub struct Match {
        /// By identity.
        spiffe_id: required SpiffeMatch = "spiffeID",
    }
}

fields! {
    /// Identities.
    pub struct SpiffeMatch {
        /// Whether the value is the whole identity or its beginning.
        kind: required MatchKind = "type",
        /// spiffe://TRUST-DOMAIN/PATH, or a beginning of it.
        value: required String = "value",
    }
}

words! {
    /// How a value is compared.
    pub enum MatchKind {
        /// The whole.
        Exact = "Exact",
        /// The beginning.
        Prefix = "Prefix",
    }
}

impl MeshTrafficPermission {
    /// What the fields say together.
    pub fn check(&self, at: &mut At<'_>) {
        at.field("from", |at| {
            for (index, from) in self.from.iter().enumerate() {
                let TargetRef { pods, proxy_types, section: _ } = &from.target_ref;
                // A caller is known by its identity, and by nothing else.
                let found = match pods {
                    Pods::Mesh | Pods::Tags(_) if proxy_types.is_empty() => continue,
                    Pods::Mesh | Pods::Tags(_) => "proxyTypes",
                    Pods::Dataplanes | Pods::Labels(_) | Pods::Dataplane { .. } => "kind Dataplane",
                };
                at.item(index, |at| {
                    at.field("targetRef", |at| {
                        let allowed = "Mesh, MeshSubset, MeshService or MeshServiceSubset: a caller is known by its identity";
                        at.problem(found, allowed);
                    });
                });
            }
        });
        at.field("rules", |at| {
            for (index, rule) in self.rules.iter().enumerate() {
                at.item(index, |at| at.field("default", |at| rule.default.check(at)));
            }
        });
    }
}

impl Lists {
    fn check(&self, at: &mut At<'_>) {
        for (field, list) in
            [("allow", &self.allow), ("deny", &self.deny), ("allowWithShadowDeny", &self.shadow)]
        {
            at.field(field, |at| {
                for (index, one) in list.iter().enumerate() {
                    // A beginning that is shorter than this would mean everybody, or nobody by a typing error.
                    if !one.spiffe_id.value.starts_with("spiffe://") {
                        at.item(index, |at| {
                            at.field("spiffeID", |at| {
                                at.field("value", |at| {
                                    at.problem(format!("{:?}", one.spiffe_id.value), "spiffe:// and so on");
                                });
                            });
                        });
                    }
                }
            });
        }
    }
}
