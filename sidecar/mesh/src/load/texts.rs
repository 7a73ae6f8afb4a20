// SPDX-License-Identifier: Apache-2.0
//! Documents that come from elsewhere than files, beside those of files.

use super::{LoadError, Loaded, Sources, no_document};
use crate::context::Context;
use crate::document::Document;
use crate::kinds::Kind;
use std::collections::HashMap;
use std::path::Path;

/// Notes about replaced documents that are kept.
const MOST_NOTES: usize = 20;

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
    for text in sources.texts {
        let path = Path::new(&*text.name);
        if loaded.add_pieces(context, &text.text, path) == 0 {
            loaded.cannot_read(path, no_document(&text.text));
        }
    }
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

#[cfg(test)]
mod tests {
    use crate::context::Context;
    use crate::load::{Sources, Text, load};
    use std::fs;

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
