// SPDX-License-Identifier: Apache-2.0
//! `MeshTrafficPermission`: members of the mesh that may call some pods.

use crate::context::Context;
use crate::kinds::{Resource, one_inbound_list};
use crate::read::part::Part;
use crate::read::{At, fields, words};
use crate::target::{Target, TargetKind, TargetRef};

fields! {
    /// Members that may call some pods. With a policy about a pod only those may call it that a policy allows.
    pub struct MeshTrafficPermission {
        /// The pods. Absent: all pods of the mesh.
        target_ref: optional TargetRef = "targetRef",
        /// Callers by their tags; the last one that fits a caller decides.
        from: default Vec<PermissionFrom> = "from",
        /// Callers by their identity; one that denies decides.
        rules: default Vec<PermissionRule> = "rules",
    }
}

fields! {
    /// Callers by their tags.
    pub struct PermissionFrom {
        /// The callers: Mesh, MeshSubset, MeshService or MeshServiceSubset.
        target_ref: required TargetRef = "targetRef",
        /// Action for these callers: Allow, Deny or AllowWithShadowDeny.
        default: required PermissionDefault = "default",
    }
}

fields! {
    /// Action for these callers: Allow, Deny or AllowWithShadowDeny.
    pub struct PermissionDefault {
        /// Action for these callers: Allow, Deny or AllowWithShadowDeny.
        action: required ActionWord = "action",
    }
}

words! {
    /// Action for these callers: Allow, Deny or AllowWithShadowDeny.
    pub enum ActionWord {
        /// The callers may call.
        Allow = "Allow" | "ALLOW",
        /// The callers may not call.
        Deny = "Deny" | "DENY",
        /// The callers may call, and each call counts as one that Deny would refuse.
        AllowWithShadowDeny = "AllowWithShadowDeny" | "ALLOW_WITH_SHADOW_DENY",
    }
}

fields! {
    /// Callers by their identity.
    pub struct PermissionRule {
        /// Callers that may call, and callers that may not.
        default: required CallerLists = "default",
    }
}

fields! {
    /// Callers that may call, and callers that may not.
    pub struct CallerLists {
        /// Callers that may call.
        allow: default Vec<CallerMatch> = "allow",
        /// Callers that may not call, even if something else allows it.
        deny: default Vec<CallerMatch> = "deny",
        /// Callers that may call, and count as those that deny would refuse.
        shadow: default Vec<CallerMatch> = "allowWithShadowDeny",
    }
}

fields! {
    /// Callers by their identity.
    pub struct CallerMatch {
        /// Identity or beginning of it.
        spiffe_id: required SpiffeMatch = "spiffeID",
    }
}

fields! {
    /// A SPIFFE identity, or the beginning of several.
    pub struct SpiffeMatch {
        /// Exact: the value is a whole identity; Prefix: its beginning.
        kind: required MatchKind = "type",
        /// spiffe://TRUST-DOMAIN/PATH, or a beginning of it.
        value: required String = "value",
    }
}

words! {
    /// Comparison of a value with an identity.
    pub enum MatchKind {
        /// The value is the whole identity.
        Exact = "Exact",
        /// The value is the beginning of the identity.
        Prefix = "Prefix",
    }
}

/// Checks the `targetRef` of an item of `from`.
pub(in crate::kinds) fn check_callers(from: &Part<'_>, at: &mut At<'_>) {
    let target = from.field("targetRef");
    TargetRef::check(&target, at);
    // A certificate has the identity of a caller and no more, so other targets cannot be decided.
    let found = match target.get::<TargetKind>("kind") {
        Ok(Some(TargetKind::Dataplane)) => "kind Dataplane",
        Ok(Some(_)) if target.has("proxyTypes") == Ok(true) => "proxyTypes",
        _ => return,
    };
    let allowed = "Mesh, MeshSubset, MeshService or MeshServiceSubset: a caller is known by its identity";
    from.problem(at, "targetRef", found, allowed);
}

/// Lists of callers.
const LISTS: [&str; 3] = ["allow", "deny", "allowWithShadowDeny"];

impl Resource for MeshTrafficPermission {
    const NAME: &'static str = "MeshTrafficPermission";
    const HAS_SPEC: bool = true;

    fn target(&self) -> Target<'_> {
        Target::Ref(self.target_ref.as_ref())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        TargetRef::check(&part.field("targetRef"), at);
        one_inbound_list(part, at);
        if let (Ok(from), Ok(rules)) = (part.items("from"), part.items("rules"))
            && from.is_empty()
            && rules.is_empty()
        {
            // Taken for a policy about the pods, it would close them.
            part.problem(at, "rules", "nothing", "at least one item of rules or from");
        }
        for from in part.items("from").unwrap_or_default() {
            check_callers(&from, at);
        }
        for rule in part.items("rules").unwrap_or_default() {
            let lists = rule.field("default");
            let all = LISTS.map(|list| lists.items(list));
            if all.iter().all(|list| list.as_ref().is_ok_and(Vec::is_empty)) {
                let allowed = "at least one caller in allow, deny or allowWithShadowDeny";
                lists.problem_here(at, "no callers", allowed);
            }
            for one in all.into_iter().flatten().flatten() {
                let id = one.field("spiffeID");
                // A shorter beginning fits every identity, or none by a typing error.
                if let Ok(value) = id.need::<String>("value")
                    && !value.starts_with("spiffe://")
                {
                    id.problem(at, "value", format!("{value:?}"), "spiffe:// and so on");
                }
            }
        }
    }
}
