// SPDX-License-Identifier: Apache-2.0
//! Field-by-field merge of what several policies say of one thing: of each field, the most specific policy that says
//! anything decides.

/// A value that a less specific one fills up.
pub trait Merge: Sized {
    /// Returns this value, with what it leaves open taken from a less specific one.
    #[must_use]
    fn over(self, less_specific: Self) -> Self;
}

/// A field that is absent leaves itself open.
impl<T> Merge for Option<T> {
    fn over(self, less_specific: Self) -> Self {
        self.or(less_specific)
    }
}

/// A list is taken as a whole; an empty one leaves itself open.
impl<T> Merge for Vec<T> {
    fn over(self, less_specific: Self) -> Self {
        if self.is_empty() { less_specific } else { self }
    }
}

/// Merges values, the most specific first; `None` without any.
pub fn merged<T: Merge>(most_specific_first: impl IntoIterator<Item = T>) -> Option<T> {
    most_specific_first.into_iter().reduce(Merge::over)
}

/// Makes a struct [`Merge`] by all of its fields: one that is left out does not compile.
macro_rules! merge_fields {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::merge::Merge for $name {
            fn over(self, less_specific: Self) -> Self {
                let Self { $($field),* } = less_specific;
                Self { $($field: $crate::merge::Merge::over(self.$field, $field)),* }
            }
        }
    };
}
pub(crate) use merge_fields;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Limits {
        most: Option<u32>,
        ports: Vec<u16>,
    }

    merge_fields!(Limits { most, ports });

    #[test]
    fn the_most_specific_that_says_anything_decides_each_field() {
        let limits = |most, ports: &[u16]| Limits { most, ports: ports.into() };
        for (name, most_specific_first, expected) in [
            ("none", vec![], None),
            ("one", vec![limits(None, &[1])], Some(limits(None, &[1]))),
            ("apart", vec![limits(Some(1), &[]), limits(Some(2), &[2])], Some(limits(Some(1), &[2]))),
            (
                "lists are not joined",
                vec![limits(None, &[1]), limits(None, &[2, 3])],
                Some(limits(None, &[1])),
            ),
            (
                "the middle one",
                vec![limits(None, &[]), limits(Some(2), &[]), limits(Some(3), &[3])],
                Some(limits(Some(2), &[3])),
            ),
        ] {
            assert_eq!(merged(most_specific_first), expected, "{name}");
        }
    }
}
