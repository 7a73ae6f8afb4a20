// SPDX-License-Identifier: Apache-2.0
//! An answer that is computed once, until it is forgotten.

use std::sync::atomic::{AtomicU64, Ordering};

/// A yes or no that costs something to find out. Read by each connection, forgotten by those that change it, on any worker.
#[derive(Debug, Default)]
pub(crate) struct Remembered(
    /// Two bits, known and yes, below a number that each [`Remembered::forget`] raises: so an answer that was being computed
    /// meanwhile is not kept.
    AtomicU64,
);

const YES: u64 = 0b01;
const KNOWN: u64 = 0b10;

impl Remembered {
    /// Forgets the answer. Changes that were made before are seen by the next that computes it.
    pub(crate) fn forget(&self) {
        let next = |word: u64| Some((word | KNOWN | YES).wrapping_add(1));
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Returns a number that is another one whenever an answer was forgotten since.
    pub(crate) fn age(&self) -> u64 {
        self.0.load(Ordering::Acquire) & !(KNOWN | YES)
    }

    /// Returns the answer of this age, which another value has; computed where it is not known.
    pub(crate) fn get_at(&self, age: u64, compute: impl FnOnce() -> bool) -> bool {
        let word = self.0.load(Ordering::Acquire);
        if word & KNOWN != 0 && word & !(KNOWN | YES) == age {
            return word & YES != 0;
        }
        let answer = compute();
        let known = age | KNOWN | u64::from(answer);
        let _ = self.0.compare_exchange(word, known, Ordering::AcqRel, Ordering::Acquire);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_computed_once_until_it_is_forgotten() {
        let (changes, remembered) = (Remembered::default(), Remembered::default());
        for answer in [true, false, true] {
            assert_eq!(remembered.get_at(changes.age(), || answer), answer);
            assert_eq!(remembered.get_at(changes.age(), || panic!("it is known")), answer);
            changes.forget();
        }
        let late = remembered.get_at(changes.age(), || {
            changes.forget();
            true
        });
        assert!(
            late && !remembered.get_at(changes.age(), || false),
            "what was forgotten meanwhile is not kept"
        );
    }
}
