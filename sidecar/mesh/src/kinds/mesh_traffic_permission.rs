// SPDX-License-Identifier: Apache-2.0
//! `MeshTrafficPermission`: which members of the mesh may call some pods.

use crate::context::Context;
use crate::kinds::Resource;
use crate::read::part::Part;
use crate::read::{At, fields, words};
use crate::target::{Target, TargetKind, TargetRef};

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

impl Resource for MeshTrafficPermission {
    const NAME: &'static str = "MeshTrafficPermission";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        Target::Ref(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        TargetRef::check(&part.field("targetRef"), at);
        for from in part.items("from").unwrap_or_default() {
            let target = from.field("targetRef");
            TargetRef::check(&target, at);
            // A caller is known by its identity, and by nothing else.
            let found = match target.get::<TargetKind>("kind") {
                Ok(Some(TargetKind::Dataplane)) => "kind Dataplane",
                Ok(Some(_)) if target.has("proxyTypes") == Ok(true) => "proxyTypes",
                _ => continue,
            };
            let allowed =
                "Mesh, MeshSubset, MeshService or MeshServiceSubset: a caller is known by its identity";
            from.problem(at, "targetRef", found, allowed);
        }
        for rule in part.items("rules").unwrap_or_default() {
            let lists = rule.field("default");
            let all = ["allow", "deny", "allowWithShadowDeny"].into_iter();
            for one in all.flat_map(|list| lists.items(list).unwrap_or_default()) {
                let id = one.field("spiffeID");
                // A beginning that is shorter than this would mean everybody, or nobody by a typing error.
                if let Ok(value) = id.need::<String>("value")
                    && !value.starts_with("spiffe://")
                {
                    id.problem(at, "value", format!("{value:?}"), "spiffe:// and so on");
                }
            }
        }
    }
}
