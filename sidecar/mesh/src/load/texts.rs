// SPDX-License-Identifier: Apache-2.0
//! Documents that come from elsewhere than files, beside those of files.

use super::{LoadError, Loaded, Sources, Text, no_document};
use crate::context::Context;
use crate::document::Document;
use crate::kinds::Kind;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};

/// Notes about replaced documents that are kept.
const MOST_NOTES: usize = 20;

/// Documents of texts that were read before. Those of texts that are gone go too.
#[derive(Debug, Default)]
pub struct Cache(HashMap<Arc<str>, Read>);

#[derive(Debug)]
struct Read {
    text: Arc<str>,
    documents: Vec<Document>,
    memory: usize,
}

/// Identity of a document among all.
type Key = (Kind, String, String, Option<String>);

fn key(document: &Document) -> Key {
    let Document { mesh, name, namespace, .. } = document;
    (document.kind(), mesh.clone(), name.clone(), namespace.clone())
}

/// Adds the documents of texts, and takes those of files out that they replace, with their errors. The text is the newer
/// one: a mounted file lags behind by a minute or more.
pub(super) fn add(loaded: &mut Loaded, context: &Context, sources: &Sources<'_>) {
    let of_files = loaded.found.documents.len();
    let mut cache = sources.cache.map(|cache| cache.lock().unwrap_or_else(PoisonError::into_inner));
    let mut before = cache.as_mut().map(|cache| std::mem::take(&mut cache.0)).unwrap_or_default();
    for text in sources.texts {
        let known = before.remove(&text.name).filter(|known| known.text == text.text);
        let read = match known {
            Some(known) => {
                known.add_again(loaded);
                Some(known)
            }
            None => read(loaded, context, text, cache.is_some()),
        };
        if let (Some(cache), Some(read)) = (&mut cache, read) {
            cache.0.insert(Arc::clone(&text.name), read);
        }
    }
    drop(cache);
    if of_files == 0 {
        return;
    }
    let newer: HashMap<Key, String> =
        loaded.found.documents[of_files..].iter().map(|one| (key(one), one.place.to_string())).collect();
    if newer.is_empty() {
        return;
    }
    let mut at = 0;
    let mut replaced = Vec::new();
    loaded.found.documents.retain(|document| {
        at += 1;
        let by = newer.get(&key(document)).filter(|_| at <= of_files);
        replaced.extend(by.map(|by| (document.place.clone(), by)));
        by.is_none()
    });
    loaded.errors.retain(|error| match error {
        LoadError::Document(error) => !replaced.iter().any(|(place, _)| *place == error.place),
        LoadError::File { .. } => true,
    });
    let notes = replaced.iter().take(MOST_NOTES);
    loaded
        .replaced
        .extend(notes.map(|(place, by)| format!("{place} is not used: {by} is the same, and newer")));
    if let Some(more) = replaced.len().checked_sub(MOST_NOTES).filter(|more| *more > 0) {
        loaded.replaced.push(format!("and {more} more documents of files are not used"));
    }
}

/// Reads a text. Returns its documents to be kept, where it says nothing beside them.
fn read(loaded: &mut Loaded, context: &Context, text: &Text, keep: bool) -> Option<Read> {
    let path = Path::new(&*text.name);
    let state = |loaded: &Loaded| {
        let left_out = loaded.found.left_out.count();
        (loaded.found.lost.len(), loaded.errors.len() + loaded.more, left_out.documents + left_out.fields)
    };
    let (before, documents, memory) = (state(loaded), loaded.found.documents.len(), loaded.memory);
    if loaded.add_pieces(context, &text.text, path) == 0 {
        loaded.cannot_read(path, no_document(&text.text));
    }
    let plain = keep && state(loaded) == before && !loaded.is_full();
    plain.then(|| Read {
        text: Arc::clone(&text.text),
        documents: loaded.found.documents[documents..].to_vec(),
        memory: loaded.memory - memory,
    })
}

impl Read {
    fn add_again(&self, loaded: &mut Loaded) {
        loaded.documents += self.documents.len();
        loaded.memory += self.memory;
        if !loaded.is_full() {
            self.documents.iter().for_each(|document| loaded.found.add_again(document.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::context::Context;
    use crate::kinds::Spec;
    use crate::load::{Sources, Text, load};
    use std::fs;
    use std::sync::{Arc, Mutex};

    fn text(name: &str, text: &str) -> Text {
        Text { name: name.into(), text: text.into() }
    }

    #[test]
    fn a_text_replaces_the_same_document_of_a_file_with_its_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let wrong = "{type: Mesh, name: default, mtls: 5}\n---\n{type: Mesh, name: other, mtls: 5}\n";
        fs::write(&file, wrong).unwrap();
        let paths = [file];
        let texts = [text("stream: Mesh/default", "{type: Mesh, name: default}")];
        let sources = Sources { paths: &paths, texts: &texts, ..Sources::default() };
        let loaded = load(&Context { mesh: "default".into(), ..Context::default() }, &sources);
        let places: Vec<_> = loaded.found.documents.iter().map(|one| one.place.to_string()).collect();
        assert_eq!(places.len(), 2, "{places:?}");
        assert_eq!(places[1], "stream: Mesh/default: document 1");
        assert_eq!(loaded.errors.len(), 1, "the other mesh's: {:?}", loaded.errors);
        assert!(loaded.replaced[0].ends_with(
            "a.yaml: document 1 is not used: stream: Mesh/default: document 1 is the same, and newer"
        ));
    }

    #[test]
    fn what_was_read_before_is_as_if_it_were_read_again() {
        let mesh = "{type: Mesh, name: default}";
        let pod = |name: &str, more: &str| {
            format!(
                "{{type: Dataplane, name: {name}, labels: {{app: web}}, networking: {{address: 10.0.0.2, {more}inbound: [{{port: 80, tags: {{kuma.io/service: web}}}}]}}}}"
            )
        };
        let (context, cache) = (Context { mesh: "default".into(), ..Context::default() }, Mutex::default());
        let of = |texts: &[Text]| {
            let sources = Sources { texts, ..Sources::default() };
            let cached = load(&context, &Sources { cache: Some(&cache), ..sources });
            let fresh = load(&context, &sources);
            assert_eq!(cached.found.documents, fresh.found.documents);
            assert_eq!(cached.errors, fresh.errors);
            assert_eq!(cached.found.left_out, fresh.found.left_out);
            assert_eq!((cached.documents, cached.memory), (fresh.documents, fresh.memory));
            cached
        };
        // One with a field without effect, and a wrong one, are read each time.
        let texts = [
            text("s: Mesh", mesh),
            text("s: a", &pod("a", "")),
            text("s: b", &pod("b", "admin: {port: 9901}, ")),
            text("s: c", "{type: Mesh, name: c, mtls: 5}"),
        ];
        for _ in 0..2 {
            of(&texts);
            let mut kept: Vec<_> = cache.lock().unwrap().0.keys().map(|name| name.to_string()).collect();
            kept.sort();
            assert_eq!(kept, ["s: Mesh", "s: a"]);
        }
        // Another text under the name is read, one that goes is forgotten, and equal tags are one set still.
        let found = of(&[text("s: a", &pod("other", "")), text("s: d", &pod("d", ""))]).found;
        assert_eq!(cache.lock().unwrap().0.len(), 2);
        let tags = |at: usize| match &found.documents[at].spec {
            Spec::Dataplane(one) => Arc::clone(&one.networking.inbound[0].tags),
            _ => panic!("{:?}", found.documents[at]),
        };
        assert!(Arc::ptr_eq(&tags(0), &tags(1)));
        of(&[text("s: a", &pod("other", "")), text("s: e", &pod("e", ""))]);
    }

    #[test]
    fn an_error_names_the_text_and_an_empty_text_is_one() {
        let texts = [text("stream: a", "{type: Mesh, name: a, mtls: 5}"), text("stream: b", "# nothing")];
        let loaded = load(&Context::default(), &Sources { texts: &texts, ..Sources::default() });
        let errors: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
        assert!(errors[0].starts_with("stream: a: document 1 (Mesh a): mtls: "), "{errors:?}");
        assert!(errors[1].starts_with("stream: b: found no document in 9 bytes"), "{errors:?}");
    }

    #[test]
    fn a_path_may_lead_to_nothing_only_where_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().to_owned(), folder.path().join("gone")];
        for (may_be_absent, errors) in [(false, 2), (true, 0)] {
            let sources = Sources { paths: &paths, may_be_absent, ..Sources::default() };
            let loaded = load(&Context::default(), &sources);
            assert_eq!((loaded.errors.len(), loaded.found.lost.len()), (errors, errors));
        }
    }
}
