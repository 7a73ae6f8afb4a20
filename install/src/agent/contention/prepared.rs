// SPDX-License-Identifier: Apache-2.0
//! Lists with our entry that lie beside the live one, flushed to the disk already.

use std::path::PathBuf;

use crate::host::entry::EntryChange;
use crate::host::files::Unfinished;
use crate::system::lossless::bytes;

/// Lists of a neighbour that are kept: some write two in turn.
const MAX_LISTS: usize = 4;
/// Files that are prepared for each list. A neighbour that writes into the live file, instead of replacing it, spoils the one
/// that it was copied from: both are names of one file.
const SPARES: usize = 2;

/// An edit of a list that was made before and may be needed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListEdit {
    /// The live file, as this process opens it.
    pub path: PathBuf,
    /// The text that the neighbour writes.
    pub from: String,
    /// The same with our entry.
    pub to: String,
}

impl ListEdit {
    /// The edit in a change; other kinds of changes are not prepared.
    pub(super) fn of(change: &EntryChange) -> Option<Self> {
        let EntryChange::Edit { path, from, to, .. } = change else { return None };
        Some(Self { path: path.clone(), from: from.clone(), to: to.clone() })
    }

    fn is_for(&self, other: &Self) -> bool {
        (&self.path, &self.from) == (&other.path, &other.from)
    }
}

/// The prepared files by edit, the edit that was needed last at the end.
#[derive(Debug, Default)]
pub(super) struct Prepared(Vec<(ListEdit, Vec<Unfinished>)>);

impl Prepared {
    /// Removes all prepared files from the disk.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes room for files of this edit; keeps those that are there.
    pub(super) fn expect(&mut self, edit: ListEdit) {
        let known = self.0.iter().position(|(there, _)| there.is_for(&edit));
        let spares = known.map(|index| self.0.remove(index)).map(|(_, spares)| spares).unwrap_or_default();
        self.0.push((edit, spares));
        if self.0.len() > MAX_LISTS {
            self.0.remove(0);
        }
    }

    /// Drops spoiled files and returns the edits that lack files, with the number of them.
    pub(super) fn missing(&mut self) -> Vec<(ListEdit, usize)> {
        for (ListEdit { to, .. }, spares) in &mut self.0 {
            spares.retain(|spare| spare.still_holds(&bytes(to)));
        }
        let missing = self.0.iter().map(|(edit, spares)| (edit.clone(), SPARES.saturating_sub(spares.len())));
        missing.filter(|(_, missing)| *missing > 0).collect()
    }

    /// Adds a file, unless its edit was forgotten in the meantime.
    pub(super) fn add(&mut self, edit: &ListEdit, spare: Unfinished) {
        if let Some((_, spares)) = self.0.iter_mut().find(|(there, _)| there.is_for(edit)) {
            spares.push(spare);
        }
    }

    /// Finds a file that fits the live file's present text.
    pub(super) fn fitting(&self) -> Option<(&ListEdit, &Unfinished)> {
        self.0.iter().find_map(|(edit, spares)| {
            let spare = spares.iter().find(|spare| spare.still_holds(&bytes(&edit.to)))?;
            spare.would_replace(&bytes(&edit.from)).then_some((edit, spare))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_prepared_for_each_list_and_fits_only_that_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("10-a.conflist");
        let edit =
            |from: &str| ListEdit { path: path.clone(), from: from.to_owned(), to: format!("{from}+") };
        let mut prepared = Prepared::default();
        for from in ["a", "b", "a"] {
            prepared.expect(edit(from));
        }
        let missing: Vec<_> =
            prepared.missing().into_iter().map(|(edit, count)| (edit.from, count)).collect();
        assert_eq!(missing, [("b".to_owned(), 2), ("a".to_owned(), 2)]);
        fs::write(&path, "a").unwrap();
        assert!(prepared.fitting().is_none());
        prepared.add(&edit("a"), Unfinished::write(&path, b"a+", None, 0o600).unwrap());
        prepared.add(&edit("c"), Unfinished::write(&path, b"c+", None, 0o600).unwrap());
        assert_eq!(prepared.fitting().unwrap().0.from, "a");
        fs::write(&path, "b").unwrap();
        assert!(prepared.fitting().is_none());
        prepared.clear();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the files are removed too");
    }

    #[test]
    fn the_list_that_was_needed_longest_ago_is_forgotten_first() {
        let mut prepared = Prepared::default();
        for from in ["a", "b", "c", "d", "a", "e"] {
            prepared.expect(ListEdit { path: "/x".into(), from: from.to_owned(), to: String::new() });
        }
        let kept: Vec<_> = prepared.0.iter().map(|(edit, _)| edit.from.as_str()).collect();
        assert_eq!(kept, ["c", "d", "a", "e"]);
    }
}
