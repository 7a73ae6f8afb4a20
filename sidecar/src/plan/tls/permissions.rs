// SPDX-License-Identifier: Apache-2.0
//! Members that may call this pod, by `MeshTrafficPermission` documents. Pure.
//!
//! Without a document about this pod every member may call it; with one, only those that a document allows. Of `from` the
//! last item that fits a caller decides, as in Kuma; of `rules` one that denies decides.

use culvert_mesh::model::spiffe::SpiffeId;
use culvert_mesh::model::tags::{SERVICE, Tags};
use std::sync::Arc;

/// A mesh member at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its identities of this mesh, at least one.
    pub ids: Arc<[SpiffeId]>,
    /// Tags in its certificate, as Kong Mesh writes them: `kuma://KEY/VALUE`.
    pub tags: Arc<[(String, String)]>,
}

impl Peer {
    /// Returns the identity that logs name the peer by.
    pub fn id(&self) -> &SpiffeId {
        // `identify` makes no peer without an identity.
        &self.ids[0]
    }
}

/// Action of a document for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The peer may not call.
    Deny,
    /// The peer may call, and the call counts as one that `Deny` would refuse: a trial before `Deny`.
    AllowWithShadowDeny,
    /// The peer may call.
    Allow,
}

/// Peers that a document names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Every member of the mesh.
    Everyone,
    /// Peers with these tags; `kuma.io/service` comes from the identity.
    Tags(Tags),
    /// Peers with this identity.
    Exactly(String),
    /// Peers whose identity begins so.
    Prefix(String),
}

/// One permission of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Peers that it names.
    pub who: Who,
    /// Action for these peers.
    pub action: Action,
}

/// Permissions of all documents about this pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// True if any document is about this pod.
    pub restricted: bool,
    /// Permissions by `from`: the first that names the peer decides, so the last one of the documents comes first.
    pub ordered: Vec<Permission>,
    /// Permissions by `rules`: one that denies decides, even if others allow.
    pub unordered: Vec<Permission>,
}

/// Decision about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The peer may call.
    Allowed,
    /// The peer may call, and `Deny` would refuse it.
    ShadowDenied,
    /// The peer may not call.
    Denied,
}

impl Who {
    /// Returns true if the peer is named; `None` if its certificate cannot tell. `names_services` is true if the path of an
    /// identity is a service's name.
    pub(crate) fn means(&self, peer: &Peer, names_services: bool) -> Option<bool> {
        let has = |(key, wanted): (&String, &String)| {
            let fits = |value: &str| wanted == "*" || value == wanted;
            let tagged = peer.tags.iter().any(|(has, value)| has == key && fits(value));
            if names_services && key == SERVICE {
                return Some(tagged || peer.ids.iter().any(|id| fits(id.path())));
            }
            // Only the mesh's own authority writes tags, so a certificate without any does not say that the peer has none.
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

impl Who {
    /// Returns true if a permission with this action applies to the peer. Where the certificate cannot tell, a denial does.
    pub(crate) fn may_mean(&self, peer: &Peer, names_services: bool, action: Action) -> bool {
        self.means(peer, names_services).unwrap_or(action == Action::Deny)
    }
}

impl Permissions {
    /// Returns the number of permissions.
    pub(crate) fn len(&self) -> usize {
        self.ordered.len() + self.unordered.len()
    }

    /// Decides if a peer may call.
    pub fn decide(&self, peer: &Peer, names_services: bool) -> Verdict {
        if !self.restricted {
            return Verdict::Allowed;
        }
        let means = |one: &&Permission| one.who.may_mean(peer, names_services, one.action);
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
    fn the_first_that_fits_decides_and_a_denying_rule_in_any_case() {
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
