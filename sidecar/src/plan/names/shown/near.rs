// SPDX-License-Identifier: Apache-2.0
//! Names that look like one that does not exist.

/// Names that are told.
const MOST: usize = 5;

/// Letters of the name for each letter more than one that may differ.
const LETTERS_PER_DIFFERENCE: usize = 8;
/// Letters that may differ at most: more are another word.
const MOST_DIFFERENCES: usize = 3;

/// Returns names that begin with all of the one asked for, that have the same first label, or in which few letters differ; the
/// nearest first. Of ten thousand names those of another length cost a comparison of lengths.
pub(super) fn names<'n>(asked: &str, all: impl Iterator<Item = &'n str>) -> Vec<String> {
    let most = (1 + asked.len() / LETTERS_PER_DIFFERENCE).min(MOST_DIFFERENCES);
    let label = asked.split('.').next();
    let mut near: Vec<(usize, &str)> = all
        .filter_map(|name| {
            let begins = name.strip_prefix(asked).is_some_and(|rest| rest.starts_with('.'));
            let distance = match begins {
                true => Some(0),
                false if name.split('.').next() == label => Some(1),
                false => distance(asked, name, most).map(|distance| distance + 1),
            };
            Some((distance?, name))
        })
        .collect();
    near.sort_unstable();
    near.truncate(MOST);
    near.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// Returns the number of letters to put in, take out or change between two texts; `None` where it is above `most`.
fn distance(one: &str, other: &str, most: usize) -> Option<usize> {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len().abs_diff(other.len()) > most {
        return None;
    }
    // The row of the table of all prefixes of `other`, for a prefix of `one`.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (done, letter) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = done + 1;
        for (at, same) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != same);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
        if row.iter().all(|distance| *distance > most) {
            return None;
        }
    }
    row.last().copied().filter(|distance| *distance <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_differ_are_counted_up_to_a_number() {
        for (one, other, most, expected) in [
            ("", "", 3, Some(0)),
            ("web", "web", 0, Some(0)),
            ("web", "wet", 1, Some(1)),
            ("web", "wb", 1, Some(1)),
            ("web", "weeb", 1, Some(1)),
            ("kitten", "sitting", 3, Some(3)),
            ("kitten", "sitting", 2, None),
            ("abc", "cab", 2, Some(2)),
            ("a", "abcde", 3, None),
        ] {
            assert_eq!(distance(one, other, most), expected, "{one} {other}");
            assert_eq!(distance(other, one, most), expected, "{other} {one}");
        }
    }

    #[test]
    fn the_nearest_come_first_and_only_a_few() {
        let all = [
            "backend.mesh",
            "backend.demo.svc.mesh.local",
            "backends.mesh",
            "frontend.mesh",
            "b.mesh",
            "web.mesh",
        ];
        for (asked, expected) in [
            ("backend", &["backend.demo.svc.mesh.local", "backend.mesh"][..]),
            ("bakend.mesh", &["backend.mesh", "backends.mesh"]),
            ("backend.mesh.local", &["backend.demo.svc.mesh.local", "backend.mesh"]),
            ("wab.mesh", &["web.mesh", "b.mesh"]),
            ("example.com", &[]),
            ("ack", &[]),
        ] {
            assert_eq!(names(asked, all.into_iter()), expected, "{asked}");
        }
        let many: Vec<_> = (0..100).map(|number| format!("web-{number:03}.mesh")).collect();
        let found = names("web-1000.mesh", many.iter().map(String::as_str));
        assert_eq!(found, ["web-000.mesh", "web-001.mesh", "web-002.mesh", "web-003.mesh", "web-004.mesh"]);
    }
}
