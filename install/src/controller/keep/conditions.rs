// SPDX-License-Identifier: Apache-2.0
//! Conditions of mesh documents: whether each is read, and whether a permission by tags holds for whole accounts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_mesh::document::Document;
use culvert_mesh::kinds::Kind;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::call::{MANAGER, WriteError, failed, within};
use crate::controller::compile::{Reach, reach};
use crate::controller::key::Key;
use crate::controller::shared::Shared;
use crate::controller::watch::{GROUP, VERSION, resource};
use crate::controller::world::{ACCEPTED, BY_ACCOUNT, MeshDocument, Stated, Told, names_callers};
use crate::system::clock;

/// Longest message of a condition, as Kubernetes takes it.
const MAX_MESSAGE: usize = 32_000;
/// Pause between two looks at all permissions: callers come and go together, as in a rollout.
const LOOKS_EVERY: Duration = Duration::from_secs(5);

/// Place in the list of kinds, and key of a document.
type Id = (usize, Key);

/// Conditions of mesh documents, with what they are made of.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// Reach of each permission by tags, with the content that it was made of.
    reaches: HashMap<Id, (Arc<str>, Option<Reach>)>,
    /// State of the cluster that all of these were made of, and the time.
    looked: Option<(u64, Instant)>,
    /// True if that state is another one by now.
    is_old: bool,
    /// Conditions that were written and are not seen yet, or never will be: another program's kind may have no status.
    unseen: HashMap<Id, Difference>,
}

/// A permission that is to be compared with the accounts of its mesh.
struct Permission {
    id: Id,
    text: Arc<str>,
    document: Arc<Document>,
}

/// Conditions of a document that are not as its status says.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    generation: i64,
    accepted: Wanted,
    by_account: Option<Wanted>,
}

/// Conditions of a document on their way.
struct Write {
    id: Id,
    conditions: Vec<Value>,
    uid: Box<str>,
    /// True if people should hear of it.
    turns: bool,
    difference: Difference,
}

/// A condition that is to be written.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Conditions {
    /// Time until all permissions are looked at again, where they must be.
    pub(super) fn due(&self) -> Option<Duration> {
        let (_, at) = self.looked.filter(|_| self.is_old)?;
        Some(LOOKS_EVERY.saturating_sub(at.elapsed()))
    }

    /// Writes the conditions that differ from what documents have. One failure stops none of the others.
    pub(super) async fn write(&mut self, shared: &Shared) -> Result<(), WriteError> {
        self.look(shared).await;
        let (mut invalid, mut differ) = (0, Vec::new());
        let mut unseen = std::mem::take(&mut self.unseen);
        for document in shared.world().documents.current() {
            invalid += i64::from(document.read.is_err());
            let Some(difference) = self.difference(document) else { continue };
            let id = (document.kind, document.key.clone());
            match unseen.remove(&id).filter(|written| *written == difference) {
                Some(written) => _ = self.unseen.insert(id, written),
                None => differ.push(Write {
                    id,
                    conditions: difference.conditions(&document.told),
                    uid: document.uid.clone(),
                    turns: difference.turns(document.told.accepted.as_ref()),
                    difference,
                }),
            }
        }
        shared.metrics.invalid.set(invalid);
        let mut result = Ok(());
        for Write { id, conditions, uid, turns, difference } in differ {
            if let Err(error) = apply(shared, &id, conditions).await {
                result = Err(error);
                continue;
            }
            let Wanted { holds, message, .. } = &difference.accepted;
            if turns {
                let wrong = (!holds).then_some(message.as_str());
                let kind = Kind::ALL[id.0];
                shared.reports.document(format!("{GROUP}/{VERSION}"), kind, (&id.1, &uid), wrong);
            }
            self.unseen.insert(id, difference);
        }
        result
    }

    /// Compares permissions with accounts: those whose content is new, and all of them once the callers are others.
    async fn look(&mut self, shared: &Shared) {
        let identities = shared.identities();
        let (version, permissions) = {
            let world = shared.world();
            let all = world.documents.current().filter_map(permission);
            (world.callers_version(), all.collect::<Vec<_>>())
        };
        self.is_old = self.looked.is_none_or(|(of, _)| of != version);
        let is_due = self.is_old && self.looked.is_none_or(|(_, at)| at.elapsed() >= LOOKS_EVERY);
        let mut known = std::mem::take(&mut self.reaches);
        for permission in permissions {
            let Permission { id, text, document } = permission;
            let reach = match known.remove(&id).filter(|(of, _)| !is_due && *of == text) {
                Some((_, reach)) => reach,
                None => {
                    let accounts = shared.accounts(&identities, &document.mesh).await;
                    // One takes milliseconds in a large cluster, and streams share the thread.
                    yield_now().await;
                    reach(&accounts, &document)
                }
            };
            self.reaches.insert(id, (text, reach));
        }
        if is_due {
            self.looked = Some((version, Instant::now()));
            self.is_old = false;
        }
    }

    /// Returns the conditions of a document if one is not as its status says.
    fn difference(&self, document: &MeshDocument) -> Option<Difference> {
        let MeshDocument { told, generation, .. } = document;
        let generation = *generation;
        let by_account = match permission(document) {
            None => None,
            Some(Permission { id, text, .. }) => {
                // One that changed since the look is looked at again at once.
                let (_, reach) = self.reaches.get(&id).filter(|(of, _)| *of == text)?;
                reach.as_ref().map(applies)
            }
        };
        let accepted = accepted(document);
        let is_told = |wanted: &Wanted, stated: &Option<Stated>| {
            stated.as_ref().is_some_and(|one| one.holds == wanted.holds && one.generation == generation)
        };
        let is_by_account_told = match &by_account {
            None => told.by_account.is_none(),
            Some(wanted) => {
                let same_words = told.by_account.as_ref().is_some_and(|one| *one.message == *wanted.message);
                same_words && is_told(wanted, &told.by_account)
            }
        };
        let is_told = is_told(&accepted, &told.accepted) && is_by_account_told;
        (!is_told).then_some(Difference { generation, accepted, by_account })
    }
}

impl Difference {
    /// Returns true if the document becomes invalid, with this content or at all, or valid again.
    fn turns(&self, before: Option<&Stated>) -> bool {
        match before {
            None => !self.accepted.holds,
            Some(before) if self.accepted.holds => !before.holds,
            Some(before) => before.holds || before.generation != self.generation,
        }
    }

    /// All conditions: a list of conditions is one field to the API server, and has one writer.
    fn conditions(&self, told: &Told) -> Vec<Value> {
        let Self { generation, accepted, by_account } = self;
        let mut conditions = vec![condition(ACCEPTED, *generation, accepted, told.accepted.as_ref())];
        let by_account = by_account.as_ref();
        conditions
            .extend(by_account.map(|one| condition(BY_ACCOUNT, *generation, one, told.by_account.as_ref())));
        conditions
    }
}

/// A permission by tags that is in force as it is written.
fn permission(document: &MeshDocument) -> Option<Permission> {
    let good = document.read.as_ref().ok().filter(|good| names_callers(&good.document.spec))?;
    let (text, read) = (Arc::clone(&good.text), Arc::clone(&good.document));
    Some(Permission { id: (document.kind, document.key.clone()), text, document: read })
}

fn accepted(document: &MeshDocument) -> Wanted {
    let (reason, message) = match &document.read {
        Ok(_) => ("Valid", "culvert has read it".to_owned()),
        Err(refused) => ("Invalid", refused.0.join("\n")),
    };
    Wanted { holds: document.read.is_ok(), reason, message }
}

fn applies(reach: &Reach) -> Wanted {
    match reach {
        Reach::Whole => Wanted {
            holds: true,
            reason: "WholeAccounts",
            message: "it chooses all pods of an account or none".to_owned(),
        },
        Reach::Part(words) => Wanted { holds: false, reason: "PartOfAccount", message: words.clone() },
    }
}

fn condition(kind: &str, generation: i64, wanted: &Wanted, before: Option<&Stated>) -> Value {
    let Wanted { holds, reason, message } = wanted;
    let since = before.filter(|before| before.holds == *holds && !before.since.is_empty());
    let since = since.map_or_else(|| clock::rfc3339(SystemTime::now()), |before| before.since.to_string());
    json!({
        "type": kind, "status": if *holds { "True" } else { "False" }, "reason": reason,
        "message": message.chars().take(MAX_MESSAGE).collect::<String>(),
        "observedGeneration": generation,
        "lastTransitionTime": since,
    })
}

async fn apply(shared: &Shared, (kind, key): &Id, conditions: Vec<Value>) -> Result<(), WriteError> {
    let kind = Kind::ALL[*kind];
    let resource = resource(kind);
    let client = shared.client.clone();
    let api = match key.namespace() {
        "" => Api::<DynamicObject>::all_with(client, &resource),
        namespace => Api::namespaced_with(client, namespace, &resource),
    };
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), key.name().into());
    let status = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind.name(), "metadata": metadata,
        "status": { "conditions": conditions },
    });
    let apply = PatchParams::apply(MANAGER).force();
    match within(api.patch_status(key.name(), &apply, &Patch::Apply(&status))).await {
        Ok(_) => Ok(()),
        // Gone meanwhile, or a kind of another program's without a status.
        Err(error) if error.is(404) => Ok(()),
        Err(error) => Err(failed(format!("the status of {} {key}", kind.name()), error)),
    }
}
