// SPDX-License-Identifier: Apache-2.0
//! The accounts for which a permission by tags cannot hold as it was written, in words. Pure.

use culvert_mesh::document::Document;
use culvert_mesh::kinds::Spec;
use culvert_mesh::kinds::mesh_traffic_permission::{ActionWord, MeshTrafficPermission, PermissionFrom};
use culvert_mesh::kinds::traffic_permission::TrafficPermission;

use super::callers::{Account, Caller, Part};
use super::permissions::is_everyone;

/// Accounts that are named; a condition is read by people.
const MOST_NAMED: usize = 10;

/// Callers of a permission by tags, by their accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// It chooses whole accounts, and holds as it was written.
    Whole,
    /// It chooses a part of some accounts; the words name them.
    Part(String),
}

/// Returns how a permission by tags holds for accounts; `None` for other documents, and for permissions on trial.
pub(crate) fn reach(accounts: &[Account], document: &Document) -> Option<Reach> {
    if document.is_shadow() {
        return None;
    }
    let parts: Vec<String> = match &document.spec {
        Spec::MeshTrafficPermission(permission) if !permission.from.is_empty() => {
            accounts.iter().filter_map(|account| of_from(permission, account)).collect()
        }
        Spec::TrafficPermission(permission) => {
            accounts.iter().filter_map(|account| of_sources(permission, account)).collect()
        }
        _ => return None,
    };
    if parts.is_empty() {
        return Some(Reach::Whole);
    }
    let named = parts[..parts.len().min(MOST_NAMED)].join(", ");
    let more = match parts.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more accounts"),
    };
    Some(Reach::Part(format!(
        "certificates name accounts, and some accounts also run pods that this does not choose: {named}{more}. A permission \
         does not hold for such an account, and a denial holds for all of its pods: give the pods that differ an account of \
         their own"
    )))
}

/// Names an account whose pods `from` decides about in different ways.
fn of_from(permission: &MeshTrafficPermission, account: &Account) -> Option<String> {
    let items = || permission.from.iter().enumerate();
    // The last item that fits a caller decides.
    let decision = |caller: &Caller| {
        let fits = |one: &&PermissionFrom| caller.is_among(&one.target_ref.pods);
        permission.from.iter().rev().find(fits).map_or(ActionWord::Deny, |one| one.default.action)
    };
    let first = decision(account.kinds.first()?);
    if account.kinds.iter().all(|caller| decision(caller) == first) {
        return None;
    }
    let is_partial =
        |one: &PermissionFrom| account.part(|caller| caller.is_among(&one.target_ref.pods)) == Part::Some;
    let (index, item) = items().rev().find(|(_, one)| is_partial(one))?;
    let outside = account.kinds.iter().find(|caller| !caller.is_among(&item.target_ref.pods))?;
    let action = match item.default.action {
        ActionWord::Allow => "Allow",
        ActionWord::Deny => "Deny",
        ActionWord::AllowWithShadowDeny => "AllowWithShadowDeny",
    };
    Some(named(account, &format!("from[{index}], {action}"), outside))
}

/// Names an account of which `sources` take some pods only.
fn of_sources(permission: &TrafficPermission, account: &Account) -> Option<String> {
    let takes = |caller: &Caller| {
        permission.sources.iter().any(|source| is_everyone(&source.tags) || caller.has(&source.tags))
    };
    if account.part(takes) != Part::Some {
        return None;
    }
    let outside = account.kinds.iter().find(|caller| !takes(caller))?;
    Some(named(account, "sources", outside))
}

fn named(account: &Account, part: &str, outside: &Caller) -> String {
    format!("{} ({part}: not pod {}/{})", account.key, account.key.namespace(), outside.name())
}
