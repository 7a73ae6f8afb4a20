// SPDX-License-Identifier: Apache-2.0
//! Which members may call this pod, as `MeshTrafficPermission` documents say. Pure.
//!
//! Where no document is about this pod, every member may. Where one is, whoever no document allows may not.

use culvert_mesh::model::spiffe::SpiffeId;
use culvert_mesh::model::tags::{SERVICE, Tags};
use std::sync::Arc;

/// A mesh member at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// All it is, at least one; of this mesh.
    pub ids: Arc<[SpiffeId]>,
    /// The tags that its certificate says it has, as Kong Mesh's do: `kuma://KEY/VALUE`.
    pub tags: Arc<[(String, String)]>,
}

impl Peer {
    /// The one to name it by.
    pub fn id(&self) -> &SpiffeId {
        // `identify` makes none without.
        &self.ids[0]
    }
}

/// What a document says of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It may not.
    Deny,
    /// It may, and it is counted as if it might not: to see beforehand whom `Deny` would hit.
    AllowWithShadowDeny,
    /// It may.
    Allow,
}

/// Whom a document means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everybody in the mesh.
    Everyone,
    /// Those with these tags; `kuma.io/service` is what the identity says.
    Tags(Tags),
    /// Who has this identity.
    Exactly(String),
    /// Whose identity begins so.
    Prefix(String),
}

/// One sentence of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Whom it means.
    pub who: Who,
    /// What it says.
    pub action: Action,
}

/// All that documents say of who may call this pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Whether any document is about this pod.
    pub restricted: bool,
    /// Of `from`: the first that means the peer decides, so the most specific comes first.
    pub ordered: Vec<Permission>,
    /// Of `rules`: one that denies decides, whatever others allow.
    pub unordered: Vec<Permission>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// It may, and would not if it were meant.
    ShadowDenied,
    /// It may not.
    Denied,
}

impl Who {
    /// Whether the peer is meant; `None` where its certificate does not tell. `names_services` says whether the path of an
    /// identity is a service's name.
    fn means(&self, peer: &Peer, names_services: bool) -> Option<bool> {
        let has = |(key, wanted): (&String, &String)| {
            let fits = |value: &str| wanted == "*" || value == wanted;
            let tagged = peer.tags.iter().any(|(has, value)| has == key && fits(value));
            if names_services && key == SERVICE {
                return Some(tagged || peer.ids.iter().any(|id| fits(id.path())));
            }
            // Other authorities than the mesh's own write no tags.
            (tagged || !peer.tags.is_empty()).then_some(tagged)
        };
        Some(match self {
            Self::Everyone => true,
            Self::Tags(tags) => {
                let all: Vec<_> = tags.0.iter().map(has).collect();
                if !all.contains(&Some(false)) && all.contains(&None) {
                    return None;
                }
                !all.contains(&Some(false))
            }
            Self::Exactly(id) => peer.ids.iter().any(|has| has.as_str() == id),
            Self::Prefix(prefix) => peer.ids.iter().any(|has| has.as_str().starts_with(prefix.as_str())),
        })
    }
}

impl Permissions {
    /// Whether a peer may call.
    pub fn decide(&self, peer: &Peer, names_services: bool) -> Verdict {
        if !self.restricted {
            return Verdict::Allowed;
        }
        // Of whom nobody can tell, what denies holds and what allows does not.
        let means =
            |one: &&Permission| one.who.means(peer, names_services).unwrap_or(one.action == Action::Deny);
        let ordered = self.ordered.iter().find(means).map(|one| one.action);
        let unordered = self.unordered.iter().filter(means).map(|one| one.action);
        match unordered.chain(ordered).min() {
            None | Some(Action::Deny) => Verdict::Denied,
            Some(Action::AllowWithShadowDeny) => Verdict::ShadowDenied,
            Some(Action::Allow) => Verdict::Allowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ids: &[&str]) -> Peer {
        let tags = [("version".to_owned(), "2".to_owned())];
        Peer { ids: ids.iter().map(|id| id.parse().unwrap()).collect(), tags: tags.into() }
    }

    fn tags(tags: &[(&str, &str)]) -> Who {
        Who::Tags(Tags(tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()))
    }

    #[test]
    fn somebody_is_meant_by_identity_or_tags() {
        let web = peer(&["spiffe://default/web", "spiffe://default/admin"]);
        for (who, means) in [
            (Who::Everyone, true),
            (tags(&[]), true),
            (tags(&[(SERVICE, "web")]), true),
            (tags(&[(SERVICE, "admin"), ("version", "2")]), true),
            (tags(&[(SERVICE, "web"), ("version", "1")]), false),
            (tags(&[("version", "*")]), true),
            (tags(&[("zone", "*")]), false),
            (tags(&[(SERVICE, "we")]), false),
            (tags(&[(SERVICE, "*")]), true),
            (Who::Exactly("spiffe://default/admin".into()), true),
            (Who::Exactly("spiffe://default/adm".into()), false),
            (Who::Prefix("spiffe://default/".into()), true),
            (Who::Prefix("spiffe://default/x".into()), false),
        ] {
            assert_eq!(who.means(&web, true), Some(means), "{who:?}");
        }
        let service = tags(&[(SERVICE, "web")]);
        assert_eq!(service.means(&web, false), Some(false), "the path of a foreign authority is no service");
    }

    #[test]
    fn whom_a_certificate_does_not_describe_is_denied_by_a_denial_and_allowed_by_nothing() {
        let bare =
            Peer { ids: ["spiffe://cluster.local/ns/x/sa/web".parse().unwrap()].into(), tags: [].into() };
        let web = || tags(&[(SERVICE, "web")]);
        assert_eq!(web().means(&bare, false), None);
        assert_eq!(tags(&[(SERVICE, "api"), ("version", "2")]).means(&bare, true), Some(false));
        assert_eq!(tags(&[(SERVICE, "ns/x/sa/web"), ("version", "2")]).means(&bare, true), None);
        let everyone = || Permission { who: Who::Everyone, action: Action::Allow };
        for (action, ordered, verdict) in [
            (Action::Deny, Some(everyone()), Verdict::Denied),
            (Action::Allow, None, Verdict::Denied),
            (Action::Allow, Some(everyone()), Verdict::Allowed),
        ] {
            let first = Permission { who: web(), action };
            let ordered = std::iter::once(first).chain(ordered).collect();
            let permissions = Permissions { restricted: true, ordered, unordered: vec![] };
            assert_eq!(permissions.decide(&bare, false), verdict, "{permissions:?}");
        }
    }

    #[test]
    fn the_most_specific_decides_and_a_denying_rule_in_any_case() {
        use Action::{Allow, AllowWithShadowDeny, Deny};
        let one = |who, action| Permission { who, action };
        let web = || tags(&[(SERVICE, "web")]);
        let id = || Who::Exactly("spiffe://default/web".into());
        for (restricted, ordered, unordered, verdict) in [
            (false, vec![], vec![], Verdict::Allowed),
            (true, vec![], vec![], Verdict::Denied),
            (true, vec![one(web(), Deny), one(Who::Everyone, Allow)], vec![], Verdict::Denied),
            (true, vec![one(web(), Allow), one(Who::Everyone, Deny)], vec![], Verdict::Allowed),
            (true, vec![one(web(), AllowWithShadowDeny)], vec![], Verdict::ShadowDenied),
            (true, vec![], vec![one(id(), Allow)], Verdict::Allowed),
            (true, vec![], vec![one(id(), Allow), one(Who::Everyone, Deny)], Verdict::Denied),
            (true, vec![one(Who::Everyone, Allow)], vec![one(id(), Deny)], Verdict::Denied),
            (
                true,
                vec![one(Who::Everyone, Allow)],
                vec![one(id(), AllowWithShadowDeny)],
                Verdict::ShadowDenied,
            ),
        ] {
            let permissions = Permissions { restricted, ordered, unordered };
            assert_eq!(
                permissions.decide(&peer(&["spiffe://default/web"]), true),
                verdict,
                "{permissions:?}"
            );
        }
    }
}
